"""What a recipe supplies to the training loop: stages, clips, loss, rates, reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lmeec_core.errors import InputError
from lmeec_core.model import LMEEC
from lmeec_core.training.clips import Clips, stack

Figures = dict[str, Tensor]
"""Sums that a loss module reports along with the loss, by name, without gradients."""


@dataclass(frozen=True)
class Budget:
    """Length of a run: a number of steps, or minutes of training.

    Attributes:
        steps: number of optimisation steps; such a run can be repeated exactly.
        minutes: used if ``steps`` is None; pauses, rendering and scoring do not count.
    """

    steps: int | None = None
    minutes: float = 0.0

    def progress(self, step: int, seconds: float) -> float:
        """Fraction of the run that is done, 0 .. 1."""
        done, whole = (step, self.steps) if self.steps is not None else (seconds, 60 * self.minutes)
        return min(1.0, done / whole) if whole else 1.0


@dataclass(frozen=True)
class Every:
    """How often something happens: every ``steps`` steps, or every ``seconds`` of training."""

    steps: int | None = None
    seconds: float = 0.0

    def due(self, step: int, since: float) -> bool:
        """Whether it is due at this step, ``since`` seconds after the last time."""
        return since >= self.seconds if self.steps is None else step % self.steps == 0


class StageLike(Protocol):
    """What the training loop needs to know about a stage of a run."""

    @property
    def name(self) -> str:
        """Name of the stage in reports."""

    @property
    def batch(self) -> int:
        """Clips that a process computes at a time."""


class Recipe(ABC):
    """What a run trains, and how. :class:`NetworkRecipe` is the one for LM-EEC's networks.

    Attributes:
        loss: a module with the network as ``model`` and anything else that is trained; called
            with the stage, the number of objects to divide sums by, and a batch from
            :meth:`stack`; returns the loss and :data:`Figures`.
        clips: the data.
        budget: how long it trains.
        seed: for the random numbers in the loss.
        clip: largest norm of the gradient.
        average: decay of the averaged weights; None: no average.
        accumulate: batches per process and step.
        workers: processes that load clips.
        max_corrupt: share of the clips that may be unreadable.
        report, save, validation: how often to do so.
    """

    loss: nn.Module
    clips: Clips
    budget: Budget
    seed: int
    clip: float
    average: float | None = None
    accumulate: int = 1
    workers: int = 0
    max_corrupt: float = 0.0
    report = Every(seconds=10)
    save = Every(seconds=45)
    validation = Every(seconds=180)

    @property
    def model(self) -> nn.Module:
        """The network that is trained and saved."""
        model = self.loss.model
        assert isinstance(model, nn.Module)
        return model

    def stack(self, clips: Sequence[Any]) -> tuple[Tensor, ...]:
        """Clips as one batch, for the loss."""
        return stack(clips)

    @abstractmethod
    def stage(self, progress: float) -> StageLike:
        """The run's stage at a progress of 0 .. 1."""

    @abstractmethod
    def keys(self, numbers: range, stage: Any) -> list[Any]:
        """Keys of :attr:`clips` for these numbers; a key is, or begins with, the number."""

    @abstractmethod
    def make_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer for everything that is trained."""

    @abstractmethod
    def begin_step(self, optimizer: torch.optim.Optimizer, stage: Any, progress: float) -> float:
        """Set modes, frozen parameters and learning rates; returns the rate to report."""

    @abstractmethod
    def summary(self, sums: Mapping[str, float], steps: int) -> dict[str, float]:
        """Numbers to report, from :data:`Figures` summed over steps (and processes)."""

    def facts(self, world: int) -> dict[str, Any]:
        """Properties by name that must not change when resuming with ``world`` processes."""
        return {}

    def check_facts(self, before: Mapping[str, Any], path: Path, world: int) -> None:
        """Compare :meth:`facts` with those in a checkpoint.

        Raises:
            InputError: they differ; says what to do.
        """
        for name, now in self.facts(world).items():
            if before.get(name) != now:
                raise InputError(
                    f"{path}: {name}: this run began with {before.get(name)}, now it is {now}; "
                    "give the same to resume it, or use another folder"
                )

    def no_clip(self) -> str:
        """The error message for data with nothing to train on."""
        return "there is nothing to train on in the data"

    def validate(self, trainer: Any) -> dict[str, float]:
        """Score the current network, in every process; returns numbers for the curve."""
        return {}


class NetworkRecipe(Recipe):
    """A recipe that trains a network of LM-EEC."""

    @property
    def model(self) -> LMEEC:
        """The network that trains."""
        model = self.loss.model
        assert isinstance(model, LMEEC)
        return model
