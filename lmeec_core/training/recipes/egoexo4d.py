"""The paper's recipe (section 4.3) on takes: initial weights, rates, reports, output files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lmeec_core.checkpoint import bundled_weights, load_weights, read_state_dict, seeded_model
from lmeec_core.compact.conv_trunk import frozen_norms
from lmeec_core.config import preset
from lmeec_core.errors import InputError
from lmeec_core.model import LMEEC
from lmeec_core.training.distributed import Processes, processes
from lmeec_core.training.loop import Trainer
from lmeec_core.training.losses import LossWeights
from lmeec_core.training.monitor import Monitor, RunMonitor
from lmeec_core.training.optimizer import cosine, freeze_idle, make_optimizer, set_rates
from lmeec_core.training.output import (
    METRICS,
    export,
    log_to,
    machine,
    run_header,
    write_json,
)
from lmeec_core.training.parts import initialise
from lmeec_core.training.recipe import Budget, Every, NetworkRecipe
from lmeec_core.training.settings import TakeTrainConfig, remember
from lmeec_core.training.take_clips import TakeClips, list_takes
from lmeec_core.training.take_loss import TERMS, ClipLoss
from lmeec_core.training.take_validation import Validation, scores_table, validate

LOG = "train.log"


@dataclass(frozen=True)
class TakeStage:
    """The one stage of a run; see :class:`lmeec_core.training.recipe.StageLike`."""

    batch: int
    name: str = "takes"


class TakeRecipe(NetworkRecipe):
    """One process's part of a run on takes.

    Args:
        settings: see configs/egoexo4d.yaml.
        out: folder for the weights and the curve.
        who: the processes that train together.
        monitor: notified of progress.

    Raises:
        InputError: settings, weights or data do not fit, or the processes see different takes.
    """

    def __init__(
        self, settings: TakeTrainConfig, out: Path, who: Processes, monitor: Monitor
    ) -> None:
        self.settings, self.out, self.who, self.monitor = settings, out, who, monitor
        model = start_model(settings, monitor).to(who.device)
        self.folder = settings.folder(settings.train_split)
        size, ranges = model.config.image_size, settings.augment
        self.clips: TakeClips = TakeClips(
            self.folder, size, settings.frames, settings.objects, ranges, settings.seed
        )
        self._check_takes()
        self.takes: list[Path] = []
        if settings.val_split is not None and settings.val_takes:
            self.takes = list_takes(settings.folder(settings.val_split))[: settings.val_takes]
        freeze_idle(model, settings.fusion)
        self.loss = ClipLoss(
            model, LossWeights(**settings.loss.model_dump()), settings.capacity, settings.fusion,
            settings.bf16, settings.recompute,
        )  # fmt: skip
        epochs = settings.epochs * len(self.clips.pairs)
        self.budget = Budget(settings.steps or math.ceil(epochs / self._step_clips(who.world)))
        self.seed, self.clip, self.accumulate = settings.seed, settings.clip, settings.accumulate
        self.workers, self.max_corrupt = settings.workers, settings.max_corrupt
        self.report, self.save = Every(settings.report_steps), Every(settings.save_steps)
        self.validation = Every(settings.validate_steps)

    def _check_takes(self) -> None:
        """Report takes that cannot be used.

        Raises:
            InputError: there are more of them than the settings allow, or the other processes see
                different takes.
        """
        settings, errors = self.settings, self.clips.errors
        for error in errors:
            self.monitor.note(f"skipped: {error}")
        broken, count = len(errors), len(errors) + len(self.clips.takes)
        if broken > settings.max_corrupt * max(count, 100):
            raise InputError(
                f"{broken} of {count} takes cannot be used, more than the share max_corrupt = "
                f"{settings.max_corrupt} allows: {'; '.join(errors[:3])}"
            )
        if len(set(self.who.gather(self.clips.digest))) > 1:
            raise InputError(
                f"{self.folder}: the takes in it differ from machine to machine; all need the "
                "same ones"
            )

    def _step_clips(self, world: int) -> int:
        return self.settings.batch * self.settings.accumulate * world

    def stage(self, progress: float) -> TakeStage:
        """See :class:`Recipe`."""
        return TakeStage(self.settings.batch)

    def keys(self, numbers: range, stage: TakeStage) -> list[int]:
        """See :class:`Recipe`."""
        return list(numbers)

    def make_optimizer(self) -> torch.optim.AdamW:
        """See :class:`Recipe`."""
        settings = self.settings
        return make_optimizer(
            self.model, settings.rate, settings.encoder_rate, settings.layer_decay,
            settings.weight_decay,
        )  # fmt: skip

    def begin_step(
        self, optimizer: torch.optim.Optimizer, stage: TakeStage, progress: float
    ) -> float:
        """See :class:`Recipe`."""
        frozen_norms(self.model)
        factor = cosine(progress, self.settings.floor)
        set_rates(optimizer, factor)
        return self.settings.rate * factor

    def summary(self, sums: Mapping[str, float], steps: int) -> dict[str, float]:
        """See :class:`Recipe`."""
        terms = {f"{name} loss": sums[name] / steps for name in TERMS}
        return {
            "loss": sum(terms.values()), **terms,
            "iou": sums["overlap"] / max(sums["present"], 1),
            "presence accuracy": sums["right"] / max(sums["counted"], 1),
        }  # fmt: skip

    def facts(self, world: int) -> dict[str, Any]:
        """See :class:`Recipe`."""
        return {"clips per step": self._step_clips(world), "clips": self.clips.digest}

    def check_facts(self, before: Mapping[str, Any], path: Path, world: int) -> None:
        """See :class:`Recipe`."""
        settings, now = self.settings, self.facts(world)
        wanted = before.get("clips per step")
        if wanted != now["clips per step"]:
            raise InputError(
                f"{path}: this run takes {wanted} clips per step; now it is batch "
                f"{settings.batch} x accumulate {settings.accumulate} x {world} processes = "
                f"{now['clips per step']}; set batch and accumulate so that the product is {wanted}"
            )
        if before.get("clips") != now["clips"]:
            raise InputError(
                f"{path}: this run began with other takes than those that now are in "
                f"{self.folder}; bring those back, or start a run in another folder from this "
                "one's weights (--set checkpoint=...)"
            )

    def no_clip(self) -> str:
        """See :class:`Recipe`."""
        return (
            f"{self.folder}: takes without a clip of {self.settings.frames} annotated frames with "
            "a query mask on the first and an annotated target; take them out, or --set frames to "
            "fewer"
        )

    def validate(self, trainer: Trainer) -> dict[str, float]:
        """Score validation takes, divided among the processes; also writes the current weights."""
        if not self.takes:
            return {}
        who, network = self.who, self.model
        network.precision = "bf16" if self.settings.bf16 and who.device.type == "cuda" else "fp32"
        whole = Validation()
        for part in who.gather(validate(network, self.takes[who.rank :: who.world])):
            whole.add(part)
        for error in whole.errors:
            self.monitor.note(f"not scored: {error}")
        sheet = whole.sheet()
        if sheet is not None:
            self.monitor.picture(sheet, trainer.step)
        self.write(trainer)
        return whole.numbers()

    @property
    def weights(self) -> Path:
        """Path of the weights file."""
        return self.out / f"{self.settings.preset}.safetensors"

    def write(self, trainer: Trainer) -> None:
        """Write the weights and the curve, in rank 0.

        The weights are float32: the last steps change them by less than half precision can store.
        """
        if not self.who.first:
            return
        facts = {"preset": self.settings.preset} | run_header(trainer.step, trainer.spent / 60)
        export(self.model, self.weights, facts, half=False)
        content = {
            "settings": self.settings.model_dump(), "steps": trainer.step,
            "minutes": trainer.spent / 60, "processes": self.who.world,
            "machine": machine(self.who.device), "history": trainer.history,
        }  # fmt: skip
        write_json(self.out / METRICS, content)


def start_model(settings: TakeTrainConfig, monitor: Monitor) -> LMEEC:
    """The network with the weights that training starts from.

    Raises:
        InputError: the checkpoint does not fit, or there is no such preset.
    """
    config = settings.network()
    model = seeded_model(config, settings.seed)
    path = Path(settings.checkpoint) if settings.checkpoint else None
    alike = config.model_copy(update={"image_size": preset(settings.preset).image_size})
    if path is None and alike == preset(settings.preset):
        path = bundled_weights(settings.preset)
    if path is None:
        initialise(model)
        monitor.note("no checkpoint: training starts from random weights")
    else:
        load_weights(model, read_state_dict(path), str(path), require_mv_moe=False)
        monitor.note(f"training starts from {path}")
    return model


def train(settings: TakeTrainConfig, work: Path, out: Path) -> bool:
    """Train or resume, and write weights and scores; called by every process under torchrun.

    Args:
        settings: see configs/egoexo4d.yaml.
        work: folder of the run: checkpoint, settings, log, TensorBoard. Only rank 0 writes to it.
        out: folder for the weights and the curve.

    Returns:
        True: the run is complete.

    Raises:
        InputError: settings, checkpoint or data do not fit; says which.
        ExplainedError: too many broken files, or a loss that is not finite.
    """
    with processes(settings.device) as who:
        if not who.first:
            _train(settings, work, out, who, Monitor())
            return True
        work.mkdir(parents=True, exist_ok=True)
        remember(settings, work)
        console, board = Console(), work / "tensorboard"
        shown = RunMonitor(console, board if settings.tensorboard else None)
        with log_to(work / LOG), shown as monitor:
            trainer = _train(settings, work, out, who, monitor)
    numbers = {
        name.removeprefix("eval "): value
        for record in trainer.history
        for name, value in record.items()
        if name.startswith("eval ")
    }
    if numbers:
        console.print(scores_table(numbers, f"{settings.val_split} takes"))
    last = next(r for r in reversed(trainer.history) if "draws" in r)
    told = f"{last['unreadable']:.0f} of {last['draws']:.0f} clips could not be read"
    console.print(f"step {trainer.step}; {told}", highlight=False)
    weights = out / f"{settings.preset}.safetensors"
    console.print(f"weights: {weights}", highlight=False, soft_wrap=True)
    return True


def _train(
    settings: TakeTrainConfig, work: Path, out: Path, who: Processes, monitor: Monitor
) -> Trainer:
    """One process's part of a run; returns the trainer when training is complete."""
    if who.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    recipe = TakeRecipe(settings, out, who, monitor)
    trainer = Trainer(recipe, work, who, monitor)
    trainer.run()
    recipe.write(trainer)
    return trainer
