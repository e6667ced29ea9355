"""O-MaMa's recipe (ICCV 2025): trains the matcher on the candidates of one image at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from lmeec_core.checkpoint import check_weights, read_state_dict
from lmeec_core.errors import InputError
from lmeec_core.methods.candidates.regions import Regions
from lmeec_core.methods.omama.features import Features
from lmeec_core.methods.omama.network import OMaMa
from lmeec_core.methods.omama.sources import load_features
from lmeec_core.training.distributed import Processes, processes
from lmeec_core.training.loop import Trainer
from lmeec_core.training.match_clips import MatchClip, MatchClips, stack_matches
from lmeec_core.training.match_loss import MatchLoss, choices, scores
from lmeec_core.training.match_views import Candidates, DescribedViews
from lmeec_core.training.monitor import Monitor, RunMonitor
from lmeec_core.training.optimizer import cosine, set_rates
from lmeec_core.training.output import METRICS, export, log_to, machine, write_json
from lmeec_core.training.recipe import Budget, Every, Recipe
from lmeec_core.training.recipes.egoexo4d import LOG, TakeStage
from lmeec_core.training.settings import MatchTrainConfig, remember
from lmeec_core.training.take_clips import list_takes

WEIGHTS = "omama.safetensors"


class MatchRecipe(Recipe):
    """A run of the matcher, in one process.

    Args:
        settings: see configs/omama.yaml.
        work, out: folder of the run; folder for weights and metrics.
        device: where to train.
        monitor: notified of progress.
        features: the frozen features; None: load those named in the settings.
        candidates: makes the candidate masks; None: :class:`Regions`.

    Raises:
        InputError: settings, weights or data do not fit.
    """

    def __init__(
        self,
        settings: MatchTrainConfig,
        work: Path,
        out: Path,
        device: torch.device,
        monitor: Monitor,
        features: Features | None = None,
        candidates: Candidates | None = None,
    ) -> None:
        self.settings, self.out, self.device, self.monitor = settings, out, device, monitor
        features = features or load_features(settings.features, settings.weights, str(device))
        self.features = features.fingerprint
        folder = Path(settings.views) if settings.views else work / "views"
        self.views = DescribedViews(folder / self.features, features, candidates or Regions())
        self.clips: MatchClips = MatchClips(
            settings.folder(settings.train_split), self.views, settings.candidates,
            settings.direction, settings.seed,
        )  # fmt: skip
        self.takes: list[Path] = []
        if settings.val_split is not None and settings.val_takes:
            self.takes = list_takes(settings.folder(settings.val_split))[: settings.val_takes]
        for error in self.clips.errors:
            monitor.note(f"skipped: {error}")
        model = start_matcher(settings, features).to(device)
        self.loss = MatchLoss(model, settings.temperature, settings.none, settings.align)
        self.budget = Budget(settings.steps)
        self.seed, self.clip = settings.seed, settings.clip
        self.workers, self.max_corrupt = settings.workers, settings.max_corrupt
        self.report, self.save = Every(settings.report_steps), Every(settings.save_steps)
        self.validation = Every(settings.validate_steps)

    @property
    def model(self) -> OMaMa:
        """See :class:`Recipe`."""
        model = self.loss.model
        assert isinstance(model, OMaMa)
        return model

    def stack(self, clips: Sequence[MatchClip]) -> tuple[Tensor, ...]:
        """See :class:`Recipe`."""
        return stack_matches(clips)

    def stage(self, progress: float) -> TakeStage:
        """See :class:`Recipe`."""
        return TakeStage(self.settings.batch, "matcher")

    def keys(self, numbers: range, stage: TakeStage) -> list[int]:
        """See :class:`Recipe`."""
        return list(numbers)

    def make_optimizer(self) -> torch.optim.AdamW:
        """See :class:`Recipe`."""
        settings = self.settings
        group = {"params": list(self.model.parameters()), "top": settings.rate}
        return torch.optim.AdamW([group], lr=settings.rate, weight_decay=settings.weight_decay)

    def begin_step(
        self, optimizer: torch.optim.Optimizer, stage: TakeStage, progress: float
    ) -> float:
        """See :class:`Recipe`."""
        factor = cosine(progress, self.settings.floor)
        set_rates(optimizer, factor)
        return self.settings.rate * factor

    def summary(self, sums: Mapping[str, float], steps: int) -> dict[str, float]:
        """See :class:`Recipe`."""
        objects = max(sums["objects"], 1)
        return {
            "loss": sums["loss"] / objects,
            "right": sums["right"] / max(sums["there"], 1),
            "presence accuracy": sums["accepted"] / objects,
        }

    def facts(self, world: int) -> dict[str, Any]:
        """See :class:`Recipe`."""
        return {"clips": self.clips.digest, "features": self.features}

    def no_clip(self) -> str:
        """See :class:`Recipe`."""
        return (
            f"{self.clips.folder}: no object with a query mask, an annotated target and candidates "
            "beside it was found in many draws; --set direction or data to others"
        )

    def validate(self, trainer: Trainer) -> dict[str, float]:
        """Score validation takes; also writes the current weights."""
        self.write(trainer)
        errors: list[str] = []
        found = choices(self.model.eval(), self.takes, self.views, self.settings.direction, errors)
        numbers = scores(found)
        for error in errors:
            self.monitor.note(f"not scored: {error}")
        return numbers

    def write(self, trainer: Trainer) -> None:
        """Write the weights and the curve."""
        settings = self.settings
        facts = {"features": settings.features, "fingerprint": self.features,
                 "direction": settings.direction, "none": str(settings.none),
                 "steps": str(trainer.step)}  # fmt: skip
        export(self.model, self.out / WEIGHTS, facts, half=settings.features == "nano")
        content = {
            "settings": settings.model_dump(), "steps": trainer.step,
            "minutes": trainer.spent / 60, "machine": machine(self.device),
            "history": trainer.history,
        }  # fmt: skip
        write_json(self.out / METRICS, content)


def start_matcher(settings: MatchTrainConfig, features: Features) -> OMaMa:
    """The matcher that training starts from.

    Raises:
        lmeec_core.CheckpointError: the checkpoint does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = OMaMa(features.layout(settings.direction != "ego-exo"))
    if settings.start is not None:
        state = {k: v.float() for k, v in read_state_dict(Path(settings.start)).items()}
        check_weights(model, state, settings.start)
        model.load_state_dict(state)
    return model


def train(settings: MatchTrainConfig, work: Path, out: Path) -> bool:
    """Train or resume, and write weights and scores.

    Args:
        settings: see configs/omama.yaml.
        work: folder of the run: checkpoint, settings, descriptions of images, log, TensorBoard.
        out: folder for the weights and the curve.

    Returns:
        True: the run is complete.

    Raises:
        InputError: settings, checkpoint or data do not fit; says which.
        ExplainedError: too many broken files.
    """
    console, board = Console(), work / "tensorboard"
    with processes(settings.device) as who:
        if who.world > 1:
            raise InputError(
                f"recipe omama trains in one process, {who.world} given: start it without torchrun"
            )
        work.mkdir(parents=True, exist_ok=True)
        remember(settings, work)
        shown = RunMonitor(console, board if settings.tensorboard else None)
        with log_to(work / LOG), shown as monitor:
            recipe = MatchRecipe(settings, work, out, who.device, monitor)
            trainer = run(recipe, work, who, monitor)
    for name, value in (trainer.history[-1] if recipe.takes else {}).items():
        if name.startswith("eval "):
            console.print(f"{name.removeprefix('eval ')}: {value:.3f}", highlight=False)
    console.print(f"weights: {out / WEIGHTS}", highlight=False, soft_wrap=True)
    return True


def run(recipe: MatchRecipe, work: Path, who: Processes, monitor: Monitor) -> Trainer:
    """Train to the end; returns the trainer."""
    trainer = Trainer(recipe, work, who, monitor)
    trainer.run()
    recipe.write(trainer)
    return trainer
