"""Engines: the backends that run the network's stages (:mod:`lmeec_core.model.stages`).

A tracker calls the stages through one :class:`Runner` and does not know which engine is behind it.
An engine builds a function for each call (a stage with the shapes of its inputs); calls that it
does not offer fall back to eager torch.
"""

from lmeec_core.engine.base import ENGINES, Engine, EngineError, EngineName, StageFunction
from lmeec_core.engine.calls import StageCall, step_calls
from lmeec_core.engine.improvement import Improvement, make_first
from lmeec_core.engine.precision import choose_precision
from lmeec_core.engine.runner import Runner, engines_in_use
from lmeec_core.engine.select import chosen_engines, make_engine, use_engine

__all__ = [
    "ENGINES",
    "Engine",
    "EngineError",
    "EngineName",
    "Improvement",
    "Runner",
    "StageCall",
    "StageFunction",
    "choose_precision",
    "chosen_engines",
    "engines_in_use",
    "make_engine",
    "make_first",
    "step_calls",
    "use_engine",
]
