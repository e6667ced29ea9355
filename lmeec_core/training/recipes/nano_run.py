"""The small network's run on simulated scenes, which are rendered while it trains.

After training, the mask threshold is chosen on validation scenes, the presence verdict is fitted to
the tracker's output on scenes that the network was not trained on, the presence threshold is
chosen, and the network is scored on held-out scenes.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from lmeec_core.checkpoint import CheckpointError, bundled_weights, read_state_dict
from lmeec_core.config import Precision, preset
from lmeec_core.engine.precision import bf16_is_faster
from lmeec_core.errors import ExplainedError, InputError
from lmeec_core.model import LMEEC
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
from lmeec_core.training.output import (
    METRICS,
    export,
    log_to,
    machine,
    run_header,
    write_json,
)
from lmeec_core.training.presence import check_length, fit_presence
from lmeec_core.training.recipe import Every
from lmeec_core.training.recipes.nano import NanoRecipe
from lmeec_core.training.rendering import PRESENCE, check_presence_scenes, start_rendering
from lmeec_core.training.settings import TrainConfig, remember
from lmeec_core.training.stages import STAGES, Schedule
from lmeec_core.training.store import SceneStore

logger = logging.getLogger(__name__)

LOG, DONE, WEIGHTS = "nano.log", "done.json", "nano.safetensors"

RATES = {
    "gpu": 1.5e-3, "gpu_more": 1.5e-3,
    "cpu": 1.5e-3, "cpu_more": 1e-3, "cpu_clips": 2e-4, "cpu_pairs": 4e-4,
}  # fmt: skip
"""Peak learning rate of each curriculum; small batches on trained weights need a smaller one."""
AVERAGES = {
    "gpu": 0.998, "gpu_more": 0.99,
    "cpu": 0.995, "cpu_more": 0.995, "cpu_clips": 0.98, "cpu_pairs": 0.99,
}  # fmt: skip
"""Decay of the averaged weights in each curriculum; fewer steps need a shorter average."""


class SceneRun(NanoRecipe):
    """A whole run of `lmeec train`: the recipe with validation and output files.

    Args:
        settings: see configs/nano_sim.yaml.
        work, out: folder of the run; folder for weights and metrics.
        device: where to train.
        monitor: notified of progress.
    """

    def __init__(
        self, settings: TrainConfig, work: Path, out: Path, device: torch.device, monitor: Monitor
    ) -> None:
        start = start_weights(settings.start)
        name: str = settings.stages
        if name == "auto":
            name = ("cpu" if device.type == "cpu" else "gpu") + ("" if start is None else "_more")
        # On a CPU the backward pass of attention over long clips is slower in bfloat16, and on
        # many CPUs everything is.
        half = device.type == "cuda" or (name != "cpu_clips" and bf16_is_faster(device))
        schedule = Schedule(
            STAGES[name], settings.minutes,
            settings.rate or RATES[name], ema=AVERAGES[name],
            bf16=half, seed=settings.seed, steps=settings.steps,
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
        """Raise InputError if scenes of ``frames`` frames are too short for the stages."""
        longest = max(stage.times for stage in self.schedule.stages)
        if frames < longest:
            raise InputError(
                f"{where}: {frames} given, the stages train on clips of {longest} frames; render "
                f"as many or more (--set frames={longest}), or choose other stages"
            )

    def validate(self, trainer: Trainer) -> dict[str, float]:
        """Score a few validation scenes, frame by frame; also writes the current weights."""
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
        """Write the current weights and metrics."""
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
        """Wait for the scenes that training starts with: all, if the number of steps is fixed.

        Raises:
            ExplainedError: hardly any were rendered, within five minutes or at all.
            InputError: the scenes are too short for the stages.
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
        """Calibrate and score the trained network, and write all results."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # free memory for the tracking processes
        for store in self.stores.values():
            store.refresh()
        settings, monitor, model = self.settings, self.monitor, trained(trainer)
        val, test = self.stores["val"], self.stores["test"]
        monitor.phase("mask threshold")
        bias = best_mask_bias(model, val, settings.val_scenes)
        shift_masks(model, bias)
        logger.info("calibration: mask logits %+.1f", bias)
        report: dict[str, Any] = {"calibration": {"mask shift": bias}}
        if settings.presence_scenes:  # after the mask threshold, as masks affect presence
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
    """The network that a run produces."""
    model = trainer.trained
    assert isinstance(model, LMEEC)
    return model


def calibrate_presence(model: LMEEC, store: SceneStore, monitor: Monitor) -> dict[str, Any]:
    """Shift the presence logits to the best threshold on validation scenes."""
    monitor.phase("presence threshold")
    shifts, report = [], {}
    for _ in range(2):  # twice, because the threshold changes the memory
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
    """The file of the initial weights: None, a given file, or the bundled weights.

    Raises:
        lmeec_core.CheckpointError: the package has no bundled weights.
    """
    path = bundled_weights("nano") if name == "bundled" else name
    if name is not None and path is None:
        raise CheckpointError("start: bundled given, but no weights come with this package")
    return None if path is None else Path(path)


def start_weights(name: str | None) -> dict[str, Tensor] | None:
    """The initial weights as float32, or None; see :func:`start_path`.

    Raises:
        lmeec_core.CheckpointError: there are no bundled weights, or the file cannot be read.
    """
    path = start_path(name)
    if path is None:
        return None
    return {k: v.float() if v.is_floating_point() else v for k, v in read_state_dict(path).items()}


def train(settings: TrainConfig, work: Path, out: Path) -> bool:
    """Render, train, calibrate and score, or resume doing so.

    Args:
        settings: see configs/nano_sim.yaml.
        work: folder of the run: scenes, checkpoint, settings, log, TensorBoard.
        out: folder for weights and metrics.

    Returns:
        True if the run is complete; False if the session's time is up.

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
        console.print("time is up for now; run the same command again to resume", highlight=False)
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
