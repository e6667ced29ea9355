"""Weights for the fusion variants: each is trained for the same number of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lmeec_core.checkpoint import read_state_dict
from lmeec_core.config import Fusion, preset
from lmeec_core.model import build_model
from lmeec_core.training.nano import export
from lmeec_core.training.stages import CPU_STAGES
from lmeec_core.training.store import SceneStore
from lmeec_core.training.trainer import Schedule, Trainer

RATE = 3e-4
STAGE = replace(CPU_STAGES[-1], share=1.0)
"""Clips of four frames with memory; the image encoder stays as it is."""
FRESH = "MV_MoE."


def start_weights(checkpoint: Path, seed: int) -> dict[str, Tensor]:
    """The given weights with a new MV-MoE, so that no variant starts with a trained fusion."""
    torch.manual_seed(seed)
    state = read_state_dict(checkpoint)
    fresh = build_model(preset("nano")).state_dict()
    return {n: fresh[n] if n.startswith(FRESH) else v.to(fresh[n].dtype) for n, v in state.items()}


def train_fusion(
    checkpoint: Path,
    fusion: Fusion,
    seed: int,
    steps: int,
    store: SceneStore,
    folder: Path,
    report: Callable[[float], None],
) -> Path:
    """Train one variant, or go on with it; returns the path of its weights.

    Args:
        checkpoint: weights to start from.
        fusion, seed, steps: what to train, and how long.
        store: training scenes.
        folder: of the run; its checkpoint is continued, finished weights are kept.
        report: called with the share that is done.
    """
    weights = folder / f"weights_{steps}.safetensors"
    if weights.is_file():
        report(1.0)
        return weights
    schedule = Schedule((STAGE,), 1.0, RATE, ema=0.97, fusion=fusion, seed=seed, steps=steps)
    trainer = Trainer(
        preset("nano"), schedule, store, folder / f"run_{steps}", torch.device("cpu"),
        start=start_weights(checkpoint, seed),
    )  # fmt: skip
    while not trainer.run(0.25, report_every=1e9):
        report(trainer.progress)
    facts = {"preset": "nano", "fusion": fusion, "seed": str(seed), "steps": str(steps)}
    export(trainer.averaged, weights, facts)
    report(1.0)
    return weights
