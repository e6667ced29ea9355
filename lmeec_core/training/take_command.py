"""Training on takes as the command runs it: weights to start from, run, scores, files."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file

from lmeec_core.checkpoint import bundled_weights, load_weights, read_state_dict, seeded_model
from lmeec_core.config import preset
from lmeec_core.errors import InputError
from lmeec_core.files import replacing
from lmeec_core.model import LMEEC
from lmeec_core.training.distributed import Processes, processes
from lmeec_core.training.monitor import Monitor, RunMonitor
from lmeec_core.training.nano import METRICS, machine, write_json
from lmeec_core.training.parts import initialise
from lmeec_core.training.take_clips import TakeClips, list_takes
from lmeec_core.training.take_settings import TakeTrainConfig
from lmeec_core.training.take_validation import Validation, scores_table, validate
from lmeec_core.training.takes_trainer import TakeTrainer

LOG = "train.log"


def train_on_takes(settings: TakeTrainConfig, work: Path, out: Path) -> None:
    """Train, or go on, and write weights and scores; every process of a torchrun calls this.

    Args:
        settings: see configs/egoexo4d.yaml.
        work: folder of the run: checkpoint, settings, log, TensorBoard. Rank 0 alone writes.
        out: folder of the weights and the curve.

    Raises:
        InputError: settings, checkpoint or data do not fit; says which.
        RuntimeError: too many broken files, or a loss that is not finite.
    """
    with processes(settings.device) as who:
        if not who.first:
            run(settings, work, out, who, Monitor())
            return
        from lmeec_core.training.command import log_to, remember

        work.mkdir(parents=True, exist_ok=True)
        remember(settings, work)
        console = Console()
        log = log_to(work / LOG)
        try:
            folder = work / "tensorboard" if settings.tensorboard else None
            with RunMonitor(console, folder) as monitor:
                trainer = run(settings, work, out, who, monitor)
        finally:
            logging.getLogger("lmeec_core").removeHandler(log)
            log.close()
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
        console.print(f"weights: {weights_path(settings, out)}", highlight=False, soft_wrap=True)


def weights_path(settings: TakeTrainConfig, out: Path) -> Path:
    """Where a run's weights go."""
    return out / f"{settings.preset}.safetensors"


def run(
    settings: TakeTrainConfig, work: Path, out: Path, who: Processes, monitor: Monitor
) -> TakeTrainer:
    """One process's part of a run; returns its trainer, which is done."""
    config = settings.network()
    if who.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    model = start_model(settings, monitor).to(who.device)
    ranges = settings.augment.ranges() if settings.augment else None
    clips = TakeClips(
        settings.folder(settings.train_split), config.image_size, settings.frames,
        settings.objects, ranges, settings.seed,
    )  # fmt: skip
    check_takes(settings, clips, monitor)
    takes: list[Path] = []
    if settings.val_split is not None and settings.val_takes:
        takes = list_takes(settings.folder(settings.val_split))[: settings.val_takes]

    def check(network: LMEEC) -> dict[str, float]:
        network.precision = "bf16" if settings.bf16 and who.device.type == "cuda" else "fp32"
        whole = Validation()
        for part in who.gather(validate(network, takes[who.rank :: who.world])):
            whole.add(part)
        for error in whole.errors:
            monitor.note(f"not scored: {error}")
        sheet = whole.sheet()
        if sheet is not None:
            monitor.picture(sheet, trainer.step)
        if who.first:
            export(trainer, settings, out)
        return whole.numbers()

    trainer = TakeTrainer(model, settings, clips, work, who, check if takes else None, monitor)
    trainer.run()
    if who.first:
        export(trainer, settings, out)
    return trainer


def check_takes(settings: TakeTrainConfig, clips: TakeClips, monitor: Monitor) -> None:
    """Report takes that cannot be used at all.

    Raises:
        InputError: they are a larger share than the settings allow.
    """
    for error in clips.errors:
        monitor.note(f"skipped: {error}")
    broken, count = len(clips.errors), len(clips.errors) + len(clips.takes)
    if broken > settings.max_corrupt * max(count, 100):
        raise InputError(
            f"{broken} of {count} takes cannot be used, more than the share max_corrupt = "
            f"{settings.max_corrupt} allows: {'; '.join(clips.errors[:3])}"
        )


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


def export(trainer: TakeTrainer, settings: TakeTrainConfig, out: Path) -> None:
    """Write weights (float32: the last steps change less than half precision holds) and curve."""
    out.mkdir(parents=True, exist_ok=True)
    path = weights_path(settings, out)
    state = {name: value.cpu().contiguous() for name, value in trainer.model.state_dict().items()}
    with replacing(path) as partial:
        save_file(state, partial, {"preset": settings.preset, "steps": str(trainer.step)})
    content = {
        "settings": settings.model_dump(), "steps": trainer.step, "minutes": trainer.spent / 60,
        "processes": trainer.processes.world, "machine": machine(trainer.processes.device),
        "history": trainer.history,
    }  # fmt: skip
    write_json(out / METRICS, content)
