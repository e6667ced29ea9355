"""Renders training, validation and test scenes in separate processes during training.

``python -m lmeec_core.training.rendering WORK`` renders the scenes that WORK/train.yaml asks for.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from lmeec_core.errors import ExplainedError
from lmeec_core.simulation.config import training_config
from lmeec_core.simulation.sets import SETS, SetName
from lmeec_core.simulation.shards import render_many
from lmeec_core.training.settings import SETTINGS, TrainConfig, read_config

logger = logging.getLogger(__name__)

PRESENCE = "presence"
"""Name of the scenes that are like training scenes but not trained on."""
SET_OF: dict[str, SetName] = {
    "train": "training", PRESENCE: "fitting_presence", "val": "fitting", "test": "development",
}  # fmt: skip
"""The set of seeds behind each folder of scenes."""
EXO_CAMERAS = 2
STRIDE = 3
"""Motion steps between frames; all frames of a scene form one run without a jump in time."""
RESERVE = 2 * 2**30
"""Disk space that rendering leaves free, in bytes."""


def render(settings: TrainConfig, work: Path) -> None:
    """Render, in order, validation, test, initial training, presence and other training scenes.

    Stops early when the parent process has ended or the disk is nearly full.
    """
    parent = os.getppid()
    workers = settings.workers or max(1, (os.cpu_count() or 2) - 1)
    first = min(settings.start_at, settings.scenes)
    wanted = [
        ("val", range(settings.val_scenes)), ("test", range(settings.test_scenes)),
        ("train", range(first)), (PRESENCE, range(settings.presence_scenes)),
        ("train", range(first, settings.scenes)),
    ]  # fmt: skip
    for name, numbers in wanted:
        scenes = SETS[SET_OF[name]]
        done = failed = 0
        start = time.monotonic()
        seeds = scenes.seeds(numbers.stop, numbers.start)
        results = render_many(
            seeds, training_config(EXO_CAMERAS), settings.frames, settings.size, scenes.split,
            work / name, workers, clip=settings.frames, stride=STRIDE,
        )  # fmt: skip
        for result in results:
            done, failed = done + 1, failed + (result.error is not None)
            if result.error is not None and failed < 20:
                logger.warning("render %s seed %d: %s", name, result.job.seed, result.error)
            if done in (10, 100) or done % 500 == 0:
                speed = done / (time.monotonic() - start)
                logger.info("render %s: %d scenes, %d failed, %.2f/s", name, done, failed, speed)
            if os.getppid() != parent:  # the trainer is gone
                return
            if shutil.disk_usage(work).free < RESERVE:
                logger.warning("the disk is nearly full: no more scenes after %d of %s", done, name)
                return


def start_rendering(work: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start rendering in a separate process; its output is appended to the log."""
    command = [sys.executable, "-m", "lmeec_core.training.rendering", str(work)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
    with open(log, "ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def check_presence_scenes(settings: TrainConfig, work: Path) -> None:
    """Check that scenes for fitting the presence verdict exist or will be rendered.

    Raises:
        ExplainedError: they are needed but missing, and rendering is off; says how to render
            them.
    """
    folder, count = work / PRESENCE, settings.presence_scenes
    if settings.render or not count or any(folder.glob("*.npy")):
        return
    first = SETS[SET_OF[PRESENCE]].first
    raise ExplainedError(
        f"{folder} holds no scenes, {count} expected to fit the presence verdict to; render them: "
        f"python -m lmeec_core.simulation.shards {folder} --seeds {first}:{first + count} "
        f"--split train --frames {settings.frames} --size {settings.size} --clip "
        f"{settings.frames} --stride {STRIDE}; or "
        "set presence_scenes to 0, which leaves the verdict as it is"
    )


def main(arguments: list[str]) -> int:
    """Entry point; the exit code is 0 when all scenes have been rendered or tried."""
    os.nice(5)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    work = Path(arguments[0])
    settings = read_config(work / SETTINGS)
    assert isinstance(settings, TrainConfig)
    render(settings, work)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
