"""Takes and result files that `lmeec dataset` is tried on, and the command itself."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.takes import Results, TakeWriter, write_results

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
OBJECTS = ("cup/red", "knife", "bowl")
SIZES = {"aria01": (48, 64), "cam-1": (48, 64), "cam-2": (33, 41)}
FRAMES = range(0, 6 * 3, 3)  # 10 Hz


def blob(seed: int, size: tuple[int, int]) -> np.ndarray:
    """A mask of no regular shape."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[: size[0], : size[1]]
    middle = rng.uniform(0.3, 0.7, 2) * size
    turn = np.arctan2(rows - middle[0], columns - middle[1])
    radius = 0.15 * min(size) * (1.3 + np.sin(3 * turn + rng.uniform(0, 6)))
    return np.hypot(rows - middle[0], columns - middle[1]) < radius


def picture(seed: int, size: tuple[int, int]) -> np.ndarray:
    """An image of coloured squares, the same for the same seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    scale = np.ones((-(-size[0] // 4), -(-size[1] // 4), 1), np.uint8)
    return np.kron(coarse, scale)[: size[0], : size[1]]


def make_take(path: Path, frames: Any = FRAMES, lacking: tuple[str, int] | None = None) -> Path:
    """A take with three cameras; the bowl is only annotated in the target cameras."""
    with TakeWriter(path) as writer:
        for name in OBJECTS:
            writer.add_object(name)
        for frame in frames:
            for number, (camera, size) in enumerate(SIZES.items()):
                if (camera, frame) != lacking:
                    writer.image(camera, frame, picture(frame + number, size))
                for name in OBJECTS:
                    if (name == "bowl") != (camera == "aria01") and (frame + number) % 4:
                        writer.mask(name, camera, frame, blob(hash_of(name, camera, frame), size))
    return path


def hash_of(*what: Any) -> int:
    """A number that follows from some values, in every process."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:4], "big")


def predicted(name: str, camera: str, frame: int) -> tuple[np.ndarray, float]:
    """The prediction of an object: at the half size, sometimes empty, sometimes improbable."""
    height, width = SIZES[camera]
    seed = hash_of("p", name, camera, frame)
    mask = blob(seed, (height // 2 + height % 2, width // 2 + width % 2))
    if seed % 5 == 0:
        mask = np.zeros_like(mask)
    return mask, seed % 100 / 100


def make_results(path: Path, *takes: str, cameras: tuple[str, ...] = ("cam-1", "cam-2")) -> Path:
    """A result file with :func:`predicted` masks of all objects but the bowl."""
    found = Results("ego-exo")
    for take in takes:
        for name in OBJECTS:
            found.add_object(take, name)
        for name in OBJECTS[:2]:
            for camera in cameras:
                for frame in FRAMES:
                    mask, presence = predicted(name, camera, frame)
                    found.add(take, name, "aria01", camera, frame, mask, presence)
    write_results(path, found)
    return path


def export(*arguments: Any, code: int = 0) -> str:
    """Run `lmeec dataset`, which is to end with this code; what it says."""
    result = runner.invoke(app, ["dataset", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by their path in it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
