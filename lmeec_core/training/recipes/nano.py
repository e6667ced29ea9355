"""The small network's recipe on simulated scenes: a curriculum, while scenes are rendered."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmeec_core.compact.conv_trunk import frozen_norms
from lmeec_core.config import ModelConfig
from lmeec_core.errors import InputError
from lmeec_core.networks import build_model
from lmeec_core.training.nano_loss import NanoLoss
from lmeec_core.training.optimizer import cosine
from lmeec_core.training.parts import initialise
from lmeec_core.training.recipe import Budget, NetworkRecipe
from lmeec_core.training.scene_clips import SceneClips, SceneKey
from lmeec_core.training.stages import Schedule, Stage, stage_at
from lmeec_core.training.store import SceneStore

LOOK_AFTER = 2.0
"""Seconds between checks for new scenes."""
FIGURES = {"overlap": "iou", "right": "presence accuracy", "hit": "hit"}
"""Figures reported besides the losses: name in the loss to name in the report."""


class NanoRecipe(NetworkRecipe):
    """A run on simulated scenes, in one process.

    Args:
        config: the network; must have ``matching``.
        schedule: see :class:`Schedule`.
        store: training scenes; may grow during training.
        device: where to train.
        start: initial weights; None: train from scratch.
    """

    def __init__(
        self,
        config: ModelConfig,
        schedule: Schedule,
        store: SceneStore,
        device: torch.device,
        start: dict[str, Tensor] | None = None,
    ) -> None:
        if config.matching is None:
            raise InputError("config.matching: None given; this recipe trains the embedding")
        torch.manual_seed(schedule.seed)
        model = build_model(config)
        initialise(model)
        if start is not None:
            model.load_state_dict(start)
        self.loss = NanoLoss(model, schedule.fusion, schedule.bf16).to(device)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.schedule, self.store, self.clips = schedule, store, SceneClips(schedule.seed)
        self.budget = Budget(schedule.steps, schedule.minutes)
        self.seed, self.clip, self.average = schedule.seed, schedule.clip, schedule.ema
        self._looked = float("-inf")

    def stage(self, progress: float) -> Stage:
        """See :class:`Recipe`."""
        return stage_at(self.schedule.stages, progress)

    def keys(self, numbers: range, stage: Stage) -> list[SceneKey]:
        """See :class:`Recipe`; scenes are drawn from those rendered so far.

        A run with a fixed number of steps uses only the scenes it began with.
        """
        if self.budget.steps is None and time.monotonic() > self._looked + LOOK_AFTER:
            self.store.refresh()
            self._looked = time.monotonic()
        paths, attempts = self.store.paths, self.clips.attempts
        keys = []
        for number in numbers:
            random = np.random.default_rng((self.seed, number, attempts))  # unlike any attempt's
            drawn = random.integers(len(paths), size=attempts)
            keys.append(SceneKey(number, tuple(paths[i] for i in drawn), stage))
        return keys

    def make_optimizer(self) -> torch.optim.AdamW:
        """See :class:`Recipe`; groups also have a factor on the rate and an encoder flag."""
        groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.loss.named_parameters():
            encoder = name.startswith("model.image_encoder.")
            key = (parameter.ndim > 1, "log_temperature" in name, encoder)
            groups.setdefault(key, []).append(parameter)
        settings = [
            {
                "params": members,
                "weight_decay": self.schedule.decay if matrix else 0.0,
                "factor": 10.0 if temperature else 1.0,
                "encoder": encoder,
            }
            for (matrix, temperature, encoder), members in groups.items()
        ]
        return torch.optim.AdamW(settings, lr=self.schedule.rate, betas=(0.9, 0.98), fused=True)

    def begin_step(self, optimizer: torch.optim.Optimizer, stage: Stage, progress: float) -> float:
        """See :class:`Recipe`."""
        model = self.loss.sized(stage.size).train()  # type: ignore[operator]
        model.image_encoder.requires_grad_(stage.encoder_rate > 0)
        matching, decoder = model.matching, model.sam_mask_decoder
        for layer in (matching.embed_middle, matching.embed_top, decoder.conv_s0, decoder.conv_s1):
            layer.requires_grad_(not stage.fixed_views)
        if stage.fixed_norms:
            frozen_norms(model)
        warmup = self.schedule.warmup
        after = max(0.0, (progress - warmup) / (1 - warmup))
        rate = self.schedule.rate * min(1.0, (progress + 1e-3) / warmup)
        rate *= cosine(after, self.schedule.floor)
        for group in optimizer.param_groups:
            encoder = stage.encoder_rate if group["encoder"] else 1.0
            group["lr"] = max(rate, 1e-6) * group["factor"] * encoder
        return rate

    def facts(self, world: int) -> dict[str, Any]:
        """See :class:`Recipe`; a run with a fixed number of steps needs the same scenes."""
        if self.budget.steps is None:
            return {}
        names = " ".join(path.name for path in self.store.paths)
        digest = hashlib.sha256(names.encode()).hexdigest()[:12]
        return {"scenes": f"{self.store.count} ({digest})"}

    def summary(self, sums: Mapping[str, float], steps: int) -> dict[str, float]:
        """See :class:`Recipe`."""
        terms = {name: value / steps for name, value in sums.items() if name not in FIGURES}
        found = {told: sums[name] / steps for name, told in FIGURES.items() if name in sums}
        return {"scenes": self.store.count, "loss": sum(terms.values())} | terms | found
