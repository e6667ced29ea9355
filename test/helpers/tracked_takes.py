"""A small take with gaps, and `lmeec track` on it with a tiny network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.offline.units import Settings
from lmeec_core.takes import Take, TakeWriter

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
SETTINGS = Settings(preset="mini", seed=0, weights="seed:0")
MINI = ["--preset", "mini", "--seed", "0", "--device", "cpu"]


def picture(number: int, height: int, width: int) -> np.ndarray:
    """An image of coloured clouds, the same for the same number."""
    coarse = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def square(left: int, height: int = 48, width: int = 64) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[8:40, left : left + 30] = True
    return mask


def write_take(path: Path, frames: tuple[int, ...] = (0, 30, 60)) -> Take:
    """Two exo cameras, one of them portrait; cam-2 lacks frame 30, the knife is null at 60."""
    with TakeWriter(path) as take:
        take.add_object("never asked")
        for frame in frames:
            take.image("aria01", frame, picture(frame, 96, 128))
            take.image("cam-1", frame, picture(frame + 1, 60, 80))
            if frame != 30:
                take.image("cam-2", frame, picture(frame + 2, 80, 60))
            take.mask("cup/red", "aria01", frame, square(frame % 30))
            take.mask("cup/red", "cam-1", frame, square(5))
            take.mask("knife", "aria01", frame, None if frame == 60 else square(20))
        take.mask("knife", "cam-2", 0, square(10, 64, 48))
    return Take.open(path)


def track(source: Path, out: Path, *more: str) -> Any:
    """Run `lmeec track` in this process; its result."""
    arguments = ["track", str(source), "--out", str(out), *more]
    return runner.invoke(app, [*arguments, *([] if "--workers" in more else ["--workers", "1"])])


def command(take: Take, out: Path, *more: str) -> list[str]:
    """`lmeec track` as a process of its own."""
    begin = [sys.executable, "-P", "-m", "lmeec_core.cli", "track", str(take.path), *MINI]
    return [*begin, "--out", str(out), *more]
