"""Trains the weights of the fusion variants, each for the same number of steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lmeec_core.checkpoint import read_state_dict
from lmeec_core.config import Fusion, preset
from lmeec_core.networks import build_model
from lmeec_core.training.distributed import Processes
from lmeec_core.training.loop import Trainer
from lmeec_core.training.output import export
from lmeec_core.training.recipe import Every
from lmeec_core.training.recipes.nano import NanoRecipe
from lmeec_core.training.stages import CPU_STAGES, Schedule
from lmeec_core.training.store import SceneStore

RATE = 3e-4
STAGE = replace(CPU_STAGES[-1], share=1.0, size=192, crop=(0.55, 0.8))
"""Clips long enough to fill the memory; the image encoder is frozen. Crops at two thirds of the
network's image size show objects as large as whole images do, in a fraction of the time."""
BATCH = {"cpu": 1, "cuda": 4}
"""Clips per step, by device."""
FRESH = "MV_MoE."


def start_weights(checkpoint: Path, seed: int) -> dict[str, Tensor]:
    """The given weights with a new MV-MoE, so that no variant starts with a trained fusion."""
    torch.manual_seed(seed)
    state = read_state_dict(checkpoint)
    fresh = build_model(preset("nano")).state_dict()
    return {n: fresh[n] if n.startswith(FRESH) else v.to(fresh[n].dtype) for n, v in state.items()}


@dataclass(frozen=True)
class Training:
    """The training of one variant.

    Attributes:
        checkpoint: weights to start from.
        fusion, seed, steps: what to train, and how long.
        scenes, count: folder of the training scenes, and how many of them to use.
        folder: folder of the run; resumed from the checkpoint in it, finished weights are reused.
        device: where to train. threads: number of torch threads on a CPU.
    """

    checkpoint: Path
    fusion: Fusion
    seed: int
    steps: int
    scenes: Path
    count: int
    folder: Path
    device: str
    threads: int

    @property
    def weights(self) -> Path:
        """Path of the trained weights."""
        return self.folder / f"weights_{self.steps}.safetensors"


def train_fusion(training: Training) -> str:
    """Train one variant, or resume its training; returns the path of its weights."""
    if training.weights.is_file():
        return str(training.weights)
    torch.set_num_threads(training.threads)
    device = torch.device(training.device)
    store = SceneStore(training.scenes, training.count)
    store.refresh()
    stage = replace(STAGE, batch=BATCH[device.type])
    schedule = Schedule(
        (stage,), 1.0, RATE, ema=0.97, fusion=training.fusion, seed=training.seed,
        steps=training.steps,
    )  # fmt: skip
    start = start_weights(training.checkpoint, training.seed)
    recipe = NanoRecipe(preset("nano"), schedule, store, device, start)
    recipe.report = Every(seconds=float("inf"))
    folder = training.folder / f"run_{training.steps}"
    trainer = Trainer(recipe, folder, Processes(0, 1, device))
    trainer.run()
    facts = {
        "preset": "nano", "fusion": training.fusion, "seed": str(training.seed),
        "steps": str(training.steps), "batch": str(stage.batch),
    }  # fmt: skip
    export(trainer.trained, training.weights, facts)
    return str(training.weights)
