"""Simulated ego-exo takes: procedural scenes rendered with MuJoCo, with exact masks.

`render_scene` returns arrays, `render_many` writes shards for training, `generate_takes` writes
takes in the processed EgoExo4D layout. MuJoCo is imported only when it is needed.
"""

from __future__ import annotations

from lmeec_core.simulation.config import LEVELS, SPLITS, SimulationConfig, level, training_config

__all__ = ["LEVELS", "SPLITS", "SimulationConfig", "level", "training_config"]
