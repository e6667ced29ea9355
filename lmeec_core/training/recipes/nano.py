"""The small network on simulated scenes: a curriculum, while scenes are rendered beside it.

Afterwards the masks' threshold is picked on validation scenes, the presence verdict is fitted to
what the tracker finds in scenes the network was not trained on, its threshold is picked, and the
network is scored on held-out scenes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from lmeec_core.checkpoint import CheckpointError, bundled_weights, read_state_dict
from lmeec_core.compact.conv_trunk import frozen_norms
from lmeec_core.config import ModelConfig, Precision, preset
from lmeec_core.errors import ExplainedError, InputError
from lmeec_core.model import LMEEC
from lmeec_core.networks import build_model
from lmeec_core.training.distributed import Processes, processes
from lmeec_core.training.evaluate import (
    balanced_accuracy,
    best_mask_bias,
    best_threshold,
    evaluate_pairs,
    evaluate_tracker,
    scores,
    shift_masks,
    shift_presence,
    summary,
)
from lmeec_core.training.loop import Trainer
from lmeec_core.training.monitor import Monitor, RunMonitor, example_sheet, results_table
from lmeec_core.training.nano_loss import NanoLoss
from lmeec_core.training.optimizer import cosine
from lmeec_core.training.output import (
    METRICS,
    export,
    log_to,
    machine,
    run_header,
    write_json,
)
from lmeec_core.training.parts import initialise
from lmeec_core.training.presence import check_length, fit_presence
from lmeec_core.training.recipe import Budget, Every, NetworkRecipe
from lmeec_core.training.rendering import PRESENCE, check_presence_scenes, start_rendering
from lmeec_core.training.scene_clips import SceneClips, SceneKey
from lmeec_core.training.settings import TrainConfig, remember
from lmeec_core.training.stages import STAGES, Schedule, Stage, stage_at
from lmeec_core.training.store import SceneStore

logger = logging.getLogger(__name__)

LOG, DONE, WEIGHTS = "nano.log", "done.json", "nano.safetensors"
LOOK_AFTER = 2.0
"""Seconds between looks for new scenes."""
FIGURES = {"overlap": "iou", "right": "presence accuracy", "hit": "hit"}
"""What is reported beside the losses, by its name in the loss."""


class NanoRecipe(NetworkRecipe):
    """A run on simulated scenes, in one process.

    Args:
        config: the network; it needs matching.
        schedule: see :class:`Schedule`.
        store: training scenes; may grow while training goes on.
        device: where to train.
        start: weights to begin with; None trains from scratch.
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
        """See :class:`Recipe`; scenes are drawn among those that are there.

        A run of steps keeps to those that it began with.
        """
        if self.budget.steps is None and time.monotonic() > self._looked + LOOK_AFTER:
            self.store.refresh()
            self._looked = time.monotonic()
        paths, attempts = self.store.paths, self.clips.attempts
        keys = []
        for number in numbers:
            random = np.random.default_rng((self.seed, number, attempts))  # as no attempt's
            drawn = random.integers(len(paths), size=attempts)
            keys.append(SceneKey(number, tuple(paths[i] for i in drawn), stage))
        return keys

    def make_optimizer(self) -> torch.optim.AdamW:
        """See :class:`Recipe`; each group has its share of the rate, and whether it encodes."""
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
        """See :class:`Recipe`; a run of steps needs the same scenes."""
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


class SceneRun(NanoRecipe):
    """A whole run of `lmeec train`: the recipe with its validation and its files.

    Args:
        settings: see configs/nano_sim.yaml.
        work, out: folders of the run, and of weights and numbers.
        device: where to train.
        monitor: told what happens.
    """

    def __init__(
        self, settings: TrainConfig, work: Path, out: Path, device: torch.device, monitor: Monitor
    ) -> None:
        start = start_weights(settings.start)
        name: str = settings.stages
        if name == "auto":
            name = ("cpu" if device.type == "cpu" else "gpu") + ("" if start is None else "_more")
        # Small batches on weights that are good already: a smaller rate. Fewer steps: a shorter
        # mean. On a CPU the backward pass of long clips' attention is slower in bfloat16.
        schedule = Schedule(
            STAGES[name], settings.minutes,
            settings.rate or {"cpu_more": 1e-3, "cpu_clips": 2e-4}.get(name, 1.5e-3),
            ema={"gpu": 0.998, "gpu_more": 0.99, "cpu_clips": 0.98}.get(name, 0.995),
            bf16=name != "cpu_clips", seed=settings.seed, steps=settings.steps,
        )  # fmt: skip
        counts = {"train": settings.scenes, "val": settings.val_scenes,
                  "test": settings.test_scenes, PRESENCE: settings.presence_scenes}  # fmt: skip
        self.stores = {split: SceneStore(work / split, n) for split, n in counts.items()}
        super().__init__(preset("nano"), schedule, self.stores["train"], device, start)
        self.settings, self.out, self.device, self.monitor = settings, out, device, monitor
        self._check_length(settings.frames, "frames")
        if settings.presence_scenes:
            check_length(settings.frames, "frames")
        self.report = Every(seconds=settings.report_every)
        self.validation = Every(seconds=60 * settings.evaluate_every)
        self.workers = 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)

    def _check_length(self, frames: int, where: str) -> None:
        """Raise InputError where scenes of so many frames are too short for the stages."""
        longest = max(stage.times for stage in self.schedule.stages)
        if frames < longest:
            raise InputError(
                f"{where}: {frames} given, the stages train on clips of {longest} frames; render "
                f"as many or more (--set frames={longest}), or choose other stages"
            )

    def validate(self, trainer: Trainer) -> dict[str, float]:
        """Score a few validation scenes, frame by frame; also writes the weights so far."""
        self.write(trainer, None)
        val = self.stores["val"]
        val.refresh()
        scenes, step = (4, 8) if self.device.type == "cpu" else (20, 4)
        rows = evaluate_pairs(trained(trainer), val, scenes, step)
        sheet = example_sheet(trained(trainer), val)
        if sheet is not None:
            self.monitor.picture(sheet, trainer.step)
        return summary(rows) if rows else {}

    def write(self, trainer: Trainer, report: dict[str, Any] | None) -> None:
        """Write weights and numbers so far."""
        facts = {"preset": "nano"} | run_header(
            trainer.step, trainer.spent / 60, start_path(self.settings.start)
        )
        export(trained(trainer), self.out / WEIGHTS, facts)
        content = {
            "minutes": trainer.spent / 60, "steps": trainer.step, "scenes": self.store.count,
            "size": self.store.size, "rejected scenes": self.store.rejected,
            "machine": machine(self.device), "settings": self.settings.model_dump(),
            "schedule": asdict(self.schedule), "results": report, "history": trainer.history,
        }  # fmt: skip
        write_json(self.out / METRICS, content)

    def wait_for_scenes(self, renderer: subprocess.Popen[bytes] | None, log: Path) -> None:
        """Wait for the scenes that training starts with: all of them for a run of steps.

        Raises:
            ExplainedError: hardly any came, within five minutes or at all.
            InputError: they are too short for the stages.
        """
        everything = self.settings.scenes
        exact = self.settings.steps is not None
        wanted = everything if exact else min(self.settings.start_at, everything)
        end = math.inf if exact else time.monotonic() + 300
        while not (ready := self.store.wait_for(wanted, 0 if renderer is None else 5)):
            self.monitor.scenes(self.store.count, wanted)
            if renderer is None or renderer.poll() is not None or time.monotonic() > end:
                self.store.refresh()
                break
        if not ready and self.store.count < min(wanted, 8):
            raise ExplainedError(f"only {self.store.count} scenes; see {log}")
        self._check_length(self.store.run, f"frames without a jump in {self.store.folder}")
        for name, reason in self.store.rejected.items():
            self.monitor.note(f"skipped: {name}: {reason}")

    def finish(self, trainer: Trainer) -> None:
        """Calibrate and score the trained network, and write everything."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # for the processes that track
        for store in self.stores.values():
            store.refresh()
        settings, monitor, model = self.settings, self.monitor, trained(trainer)
        val, test = self.stores["val"], self.stores["test"]
        monitor.phase("mask threshold")
        bias = best_mask_bias(model, val, settings.val_scenes)
        shift_masks(model, bias)
        logger.info("calibration: mask logits %+.1f", bias)
        report: dict[str, Any] = {"calibration": {"mask shift": bias}}
        if settings.presence_scenes:  # what it is fitted to has those masks
            monitor.phase("presence")
            precision: Precision = "bf16" if self.schedule.bf16 else "fp32"
            report["presence"] = fit_presence(
                model, self.stores[PRESENCE], settings.presence_scenes, settings.seed, precision,
                monitor.part,
            )  # fmt: skip
        report["calibration"] |= calibrate_presence(model, val, monitor)
        monitor.phase("held-out scenes, single frames")
        rows = evaluate_pairs(model, test, settings.test_scenes, step=4)
        report["test single frame"] = scores(rows)
        self.write(trainer, report)
        monitor.phase("held-out scenes, tracker")
        rows = evaluate_tracker(model, test, settings.test_scenes, report=monitor.part)
        report["test tracker"] = scores(rows)
        logger.info("test %s", json.dumps(report))
        self.write(trainer, report)
        write_json(self.out / DONE, report)


def trained(trainer: Trainer) -> LMEEC:
    """The network that a run is for."""
    model = trainer.trained
    assert isinstance(model, LMEEC)
    return model


def calibrate_presence(model: LMEEC, store: SceneStore, monitor: Monitor) -> dict[str, Any]:
    """Shift presence logits to what is best on validation scenes."""
    monitor.phase("presence threshold")
    shifts, report = [], {}
    for _ in range(2):  # the threshold changes what is remembered, hence twice
        rows = evaluate_tracker(model, store, store.count, report=monitor.part)
        if not rows:
            break
        threshold = best_threshold(rows)
        before, after = balanced_accuracy(rows), balanced_accuracy(rows, threshold)
        report = {"before the last shift": summary(rows)}
        shift_presence(model, threshold)
        shifts.append(threshold)
        logger.info("calibration: %.3f at 0, %.3f at %.3f", before, after, threshold)
    return {"presence shifts": shifts} | report


def start_path(name: str | None) -> Path | None:
    """The file of the weights to begin with: none, a file, or those that come with the package.

    Raises:
        lmeec_core.CheckpointError: none come with it.
    """
    path = bundled_weights("nano") if name == "bundled" else name
    if name is not None and path is None:
        raise CheckpointError("start: bundled given, but no weights come with this package")
    return None if path is None else Path(path)


def start_weights(name: str | None) -> dict[str, Tensor] | None:
    """Weights to begin with, as float32; see :func:`start_path`.

    Raises:
        lmeec_core.CheckpointError: there are none, or they cannot be read.
    """
    path = start_path(name)
    if path is None:
        return None
    return {k: v.float() if v.is_floating_point() else v for k, v in read_state_dict(path).items()}


def train(settings: TrainConfig, work: Path, out: Path) -> bool:
    """Render, train, calibrate and score, or go on with it.

    Args:
        settings: see configs/nano_sim.yaml.
        work: folder of the run: scenes, checkpoint, settings, log, TensorBoard.
        out: folder of weights and numbers.

    Returns:
        whether all is done; if not, the session's time is up.

    Raises:
        InputError: settings, weights or checkpoint do not fit; says which.
        ExplainedError: there are not enough scenes.
    """
    console, board = Console(), work / "tensorboard"
    with processes(settings.device) as who:
        if who.world > 1:
            raise InputError(
                f"recipe simulation trains in one process, {who.world} given: start it without "
                "torchrun"
            )
        work.mkdir(parents=True, exist_ok=True)
        remember(settings, work)
        if not (out / DONE).is_file():
            shown = RunMonitor(console, board if settings.tensorboard else None)
            with log_to(work / LOG), shown as monitor:
                _train(settings, work, out, who, monitor)
    if not (out / DONE).is_file():
        console.print("time is up for now; the same command goes on", highlight=False)
        return False
    console.print(results_table(json.loads((out / DONE).read_text())))
    console.print(f"weights: {out / WEIGHTS}", highlight=False, soft_wrap=True)
    return True


def _train(settings: TrainConfig, work: Path, out: Path, who: Processes, monitor: Monitor) -> None:
    begun = time.monotonic()
    device = who.device
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    recipe = SceneRun(settings, work, out, device, monitor)
    check_presence_scenes(settings, work)
    renderer = start_rendering(work, work / LOG) if settings.render else None
    try:
        recipe.wait_for_scenes(renderer, work / LOG)
        trainer = Trainer(recipe, work, who, monitor)
        stages = [s.name for s in recipe.schedule.stages]
        logger.info("%s, %d scenes, stages %s", device, recipe.store.count, stages)
        session = 60 * (settings.session_minutes or math.inf)
        over = trainer.run(session - (time.monotonic() - begun))
        recipe.write(trainer, None)
        if over:
            _stop(renderer)
            recipe.finish(trainer)
    finally:
        _stop(renderer)


def _stop(renderer: subprocess.Popen[bytes] | None) -> None:
    if renderer is not None:
        renderer.terminate()
        renderer.wait(20)
