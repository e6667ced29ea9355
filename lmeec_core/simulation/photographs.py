"""Training scenes made of photographs: cut-out objects on backgrounds, seen by several cameras.

A scene is a background photograph with cut-out objects in front of it. A homography stands in for
each camera; objects move against the background, as parallax would move them, and cover one another
in the same order in all views. Masks are exact, and textures and outlines are real; shape in space
and light are not. Scenes are written as shards, like rendered ones (:mod:`.shards`).

``python -m lmeec_core.simulation.photographs OUT --backgrounds DIR --cutouts DIR --seeds 0:300``
makes scenes of the images below these folders: photographs, and images with an alpha channel.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.jobs import JobResult, run_jobs
from lmeec_core.simulation.render import SceneArrays
from lmeec_core.simulation.shards import shard_path, write_shard

Floats = NDArray[np.float64]
Image = NDArray[np.uint8]

SPLIT = "photographs"
CAMERAS = ("ego", "exo_0", "exo_1")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
LARGEST, LARGEST_CUT = 1280, 384
"""Longer side to which photographs and cut-outs are reduced when they are read, in pixels."""
LEAST = 40
"""Cut-outs with a shorter side, in pixels, are left out."""
SHOW_EVERY = 5.0
"""Seconds between lines that report progress."""
OPAQUE = 0.25
"""Cut-outs that fill less of their box than this are left out: light effects, thin drawings."""


@dataclass(frozen=True)
class PhotographJob:
    """One scene to make; see :func:`make_scene`."""

    seed: int
    backgrounds: tuple[Path, ...]
    cutouts: tuple[Path, ...]
    frames: int
    size: int
    out_dir: Path


@dataclass
class _Thing:
    """A cut-out in a scene; places are in units of the image's side, from its centre."""

    picture: NDArray[np.float32]  # (h, w, 4), colours multiplied by alpha, 0 .. 1
    name: str
    diameter: float
    place: Floats  # (2,)
    pace: Floats  # (2,) per frame
    turn: float  # in radians
    spin: float  # in radians per frame
    mirrored: bool


def list_images(folders: Sequence[Path], skip: Sequence[str] = ()) -> tuple[Path, ...]:
    """The images below folders, sorted; without those whose path contains a word of ``skip``.

    Raises:
        InputError: a folder has none.
    """
    found: list[Path] = []
    for folder in folders:
        images = [
            path for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and not any(word in str(path) for word in skip)
        ]  # fmt: skip
        if not images:
            raise InputError(f"{folder}: no image ({', '.join(SUFFIXES)}) found there")
        found += images
    return tuple(sorted(found))


@lru_cache(maxsize=256)
def _read(path: Path, largest: int = LARGEST) -> Image:
    """An image as uint8 (h, w, 4): red, green, blue, alpha."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError(f"{path}: not readable as an image")
    if image.dtype == np.uint16:
        image = (np.asarray(image, np.uint16) >> 8).astype(np.uint8)
    codes = {1: cv2.COLOR_GRAY2RGBA, 3: cv2.COLOR_BGR2RGBA, 4: cv2.COLOR_BGRA2RGBA}
    channels = 1 if image.ndim == 2 else image.shape[2]
    if image.dtype != np.uint8 or channels not in codes:
        raise InputError(
            f"{path}: {image.dtype} {image.shape} given, 1, 3 or 4 channels of 8 or 16 bits "
            "expected"
        )
    image = cv2.cvtColor(image, codes[channels])
    scale = min(1.0, largest / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


@lru_cache(maxsize=512)
def _cut(path: Path) -> NDArray[np.float32] | None:
    """A cut-out in its bounding box, with premultiplied alpha; None if it is not of use."""
    image = np.asarray(_read(path, LARGEST_CUT), np.float32) / np.float32(255)
    rows, columns = (np.flatnonzero((image[..., 3] > 0.5).any(axis=axis)) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return None
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    filled = float((image[..., 3] > 0.5).mean())
    if min(image.shape[:2]) < LEAST or not OPAQUE < filled < 0.999:
        return None
    image[..., :3] *= image[..., 3:]
    return image


def make_scene(
    seed: int, backgrounds: Sequence[Path], cutouts: Sequence[Path], frames: int, size: int
) -> SceneArrays:
    """Make one scene; the seed and the files decide everything.

    Args:
        seed: for all random choices.
        backgrounds, cutouts: files of photographs, and of images with an alpha channel.
        frames: F; cameras and some of the objects move steadily.
        size: S, side of the images in pixels.

    Raises:
        InputError: an image cannot be read, or no cut-out is of use.
    """
    random = np.random.default_rng((seed, 22))
    ground = _background(backgrounds, size, random)
    things = _things(backgrounds, cutouts, random)
    rigid = random.random() < 0.3  # one plane: the cameras differ by a homography alone
    rgb = np.empty((frames, len(CAMERAS), size, size, 3), np.uint8)
    labels = np.empty((frames, len(CAMERAS), size, size), np.uint8)
    for camera in range(len(CAMERAS)):
        first, drift = _homography(camera == 0, random), random.normal(0, 0.006, (3, 3))
        drift[2] *= 0.3
        drift[2, 2] = 0
        parallax = [np.eye(3) if rigid else _parallax(random) for _ in things]
        hidden = random.random(len(things)) < (0 if rigid else 0.12)
        shade = _shade(size, random)
        for t in range(frames):
            view = first + t * drift
            matrix = _pixels(view, ground.shape[:2], size, 1.6)
            canvas = _warp(ground, matrix, (size, size), cv2.BORDER_REFLECT)[..., :3]
            label = np.zeros((size, size), np.uint8)
            for number in np.flatnonzero(~hidden):
                placed = view @ _placed(things[number], t) @ parallax[number]
                _paint(canvas, label, things[number].picture, placed, int(number) + 1)
            rgb[t, camera] = (255 * (canvas * shade).clip(0, 1)).round()
            labels[t, camera] = label
    names = [f"{number}_{thing.name}" for number, thing in enumerate(things)]
    return SceneArrays(
        rgb, labels, list(range(frames)), names, [thing.name for thing in things],
        sum(bool(thing.pace.any()) for thing in things), list(CAMERAS), seed, SPLIT,
    )  # fmt: skip


def _background(files: Sequence[Path], size: int, random: np.random.Generator) -> Any:
    """A random part of a photograph, square, twice as large as the images; alpha 1."""
    image = _read(files[int(random.integers(len(files)))])
    side = int(min(image.shape[:2]) * random.uniform(0.5, 1.0))
    top, left = (int(random.integers(n - side + 1)) for n in image.shape[:2])
    part = image[top : top + side, left : left + side, :3]
    large = cv2.resize(part, (2 * size, 2 * size), interpolation=cv2.INTER_AREA)
    colours = large.astype(np.float32) / np.float32(255)
    return np.dstack((colours, np.ones(large.shape[:2], np.float32)))


def _things(
    backgrounds: Sequence[Path], cutouts: Sequence[Path], random: np.random.Generator
) -> list[_Thing]:
    """The objects from back to front; some are alike, some have a photograph as their surface."""
    things: list[_Thing] = []
    for _ in range(int(random.integers(7, 19))):
        alike = bool(things) and random.random() < 0.25
        if alike:
            model = things[int(random.integers(len(things)))]
            picture, name = model.picture, model.name
            diameter = model.diameter * math.exp(random.normal(0, 0.12))
        else:
            picture, name = _drawn(cutouts, random)
            diameter = math.exp(random.uniform(math.log(0.08), math.log(0.5)))
        if random.random() < (0.6 if alike else 0.35):
            picture = _surface(picture, backgrounds, random)
        moves = random.random() < 0.4
        place, pace = random.uniform(-0.42, 0.42, 2), random.normal(0, 0.02, 2) * moves
        upright = random.random() >= 0.5
        turn = random.normal(0, 0.2) if upright else random.uniform(-math.pi, math.pi)
        spin, mirrored = random.normal(0, 0.05) * moves, bool(random.random() < 0.5)
        things.append(_Thing(picture, name, diameter, place, pace, turn, spin, mirrored))
    return things


def _drawn(cutouts: Sequence[Path], random: np.random.Generator) -> Any:
    """A random cut-out of use, and its name."""
    for _ in range(50):
        path = cutouts[int(random.integers(len(cutouts)))]
        picture = _cut(path)
        if picture is not None:
            return picture, path.stem
    raise InputError(
        f"{path.parent}: 50 images tried, none has an alpha channel with an object of {LEAST} "
        "pixels or more"
    )


def _surface(
    picture: NDArray[np.float32], photographs: Sequence[Path], random: np.random.Generator
) -> NDArray[np.float32]:
    """The same shape with other colours: a part of a photograph, or its own colours changed."""
    alpha = picture[..., 3:]
    if random.random() < 0.5:
        matrix = cv2.Rodrigues(np.full(3, random.uniform(0.3, 5.9) / math.sqrt(3)))[0]
        colours = cv2.transform(np.ascontiguousarray(picture[..., :3]), matrix.astype(np.float32))
        return np.dstack((np.clip(colours, 0, 1) * alpha, alpha))
    image = _read(photographs[int(random.integers(len(photographs)))])
    side = int(min(image.shape[:2]) * random.uniform(0.15, 0.6))
    top, left = (int(random.integers(n - side + 1)) for n in image.shape[:2])
    part = image[top : top + side, left : left + side, :3]
    cover = cv2.resize(part, picture.shape[1::-1], interpolation=cv2.INTER_AREA) / np.float32(255)
    light = random.uniform(0, 0.6)  # keeps some of the object's own light and shadow
    grey = picture[..., :3].mean(axis=2, keepdims=True)
    return np.dstack((np.clip(cover * (1 - light + 2 * light * grey), 0, 1) * alpha, alpha))


def _homography(near: bool, random: np.random.Generator) -> Floats:
    """A camera: from places in the scene to places in its image, both in sides from the centre."""
    angle = math.radians(random.uniform(-35, 35) if random.random() < 0.5 else random.normal(0, 8))
    scale = math.exp(random.uniform(0.0, 0.6) if near else random.uniform(-0.35, 0.25))
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    stretch = np.diag((*np.exp(random.normal(0, 0.1, 2)), 1.0))
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]) @ stretch
    matrix[2, :2] = random.uniform(-0.35, 0.35, 2)
    matrix[:2, 2] = random.uniform(-0.15, 0.15, 2)
    return matrix


def _parallax(random: np.random.Generator) -> Floats:
    """An object's own change of aspect between cameras, in its own coordinates."""
    angle = math.radians(random.normal(0, 12))
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = np.exp(random.normal(0, 0.15, 2))
    matrix = np.array([[cos * x, -sin * y, 0], [sin * x, cos * y, 0], [0, 0, 1.0]])
    matrix[0, 1] += random.normal(0, 0.12)
    matrix[:2, 2] = random.normal(0, 0.3, 2)
    return matrix


def _placed(thing: _Thing, t: int) -> Floats:
    """From an object's coordinates (its longer side is 1) to places in the scene, on frame t."""
    angle = thing.turn + t * thing.spin
    cos, sin = thing.diameter * math.cos(angle), thing.diameter * math.sin(angle)
    flip = -1.0 if thing.mirrored else 1.0
    x, y = thing.place + t * thing.pace
    return np.array([[cos * flip, -sin, x], [sin * flip, cos, y], [0, 0, 1.0]])


def _pixels(matrix: Floats, shape: tuple[int, ...], size: int, side: float) -> Floats:
    """A matrix between places as one between pixels; the source's longer side is ``side``."""
    height, width = shape[:2]
    scale = side / max(height, width)
    source = np.array(
        [[scale, 0, -scale * (width - 1) / 2], [0, scale, -scale * (height - 1) / 2], [0, 0, 1.0]]
    )
    target = np.array([[size, 0, (size - 1) / 2], [0, size, (size - 1) / 2], [0, 0, 1.0]])
    return target @ matrix @ source


def _paint(canvas: Any, label: Image, picture: Any, placed: Floats, number: int) -> None:
    """Draw a cut-out into an image (S, S, 3) and its labels, in place."""
    size = len(label)
    height, width = picture.shape[:2]
    matrix = _pixels(placed, (height, width), size, 1.0)
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]) @ matrix.T
    if corners[:, 2].min() <= 0:  # partly behind the camera
        return
    corners = corners[:, :2] / corners[:, 2:]
    low = np.floor(corners.min(axis=0) - 1).clip(0, size).astype(int)
    high = np.ceil(corners.max(axis=0) + 2).clip(0, size).astype(int)
    if (high <= low).any():
        return
    matrix = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1.0]]) @ matrix
    layer = _warp(picture, matrix, tuple(high - low), cv2.BORDER_CONSTANT)
    part = np.s_[low[1] : high[1], low[0] : high[0]]
    canvas[part] = canvas[part] * (1 - layer[..., 3:]) + layer[..., :3]
    label[part][layer[..., 3] > 0.5] = number


def _warp(picture: Any, matrix: Floats, size: tuple[int, int], border: int) -> Any:
    """A picture (h, w, 4) as seen through a matrix. Reduced first, against aliasing.

    Args:
        size: width and height of the result.
        border: OpenCV's way to fill what is outside the picture.
    """
    height, width = picture.shape[:2]
    scale = min(1.0, 1.5 * math.sqrt(abs(np.linalg.det(matrix[:2, :2] / matrix[2, 2]))))
    if scale < 0.75:
        w, h = max(2, round(width * scale)), max(2, round(height * scale))
        picture = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)
        x, y = width / w, height / h
        matrix = matrix @ np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1.0]])
    return cv2.warpPerspective(picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border)


def _shade(size: int, random: np.random.Generator) -> Any:
    """Uneven light: a factor (S, S, 1) that changes slowly over the image."""
    coarse = np.exp(random.normal(0, 0.12, (3, 3))).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]


def write_scene(job: PhotographJob) -> None:
    """Make and write one scene."""
    arrays = make_scene(job.seed, job.backgrounds, job.cutouts, job.frames, job.size)
    write_shard(arrays, job.out_dir)


def make_many(
    seeds: Sequence[int],
    backgrounds: Sequence[Path],
    cutouts: Sequence[Path],
    frames: int,
    size: int,
    out: Path,
    workers: int,
    timeout: float = 120.0,
) -> Iterator[JobResult]:
    """Make scenes in parallel; yields a JobResult per scene. Scenes that exist are skipped."""
    out.mkdir(parents=True, exist_ok=True)
    jobs = (
        PhotographJob(seed, tuple(backgrounds), tuple(cutouts), frames, size, out)
        for seed in seeds
        if not shard_path(out, SPLIT, seed).exists()
    )
    yield from run_jobs(write_scene, jobs, workers, timeout)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make scenes of photographs for a range of seeds."""
    import argparse
    import os

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backgrounds", type=Path, nargs="+", required=True,
                        help="folders of photographs")  # fmt: skip
    parser.add_argument("--cutouts", type=Path, nargs="+", required=True,
                        help="folders of images with an alpha channel")  # fmt: skip
    parser.add_argument("--skip", nargs="*", default=[], metavar="WORD",
                        help="leave out files whose path contains one of these words")  # fmt: skip
    parser.add_argument("--seeds", default="0:100", help="first:end (end is excluded)")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(arguments)
    first, last = (int(v) for v in args.seeds.split(":"))
    backgrounds = list_images(args.backgrounds, args.skip)
    cutouts = list_images(args.cutouts, args.skip)
    seeds = range(first, last)
    exist = sum(shard_path(args.out, SPLIT, seed).exists() for seed in seeds)
    print(f"{len(backgrounds)} photographs, {len(cutouts)} images for cut-outs; "
          f"{exist} of {len(seeds)} scenes exist", flush=True)  # fmt: skip
    shown = time.monotonic()
    done = failed = 0
    for result in make_many(seeds, backgrounds, cutouts, args.frames, args.size, args.out,
                            args.workers):  # fmt: skip
        done, failed = done + 1, failed + (result.error is not None)
        if result.error is not None:
            print(f"seed {result.job.seed}: {result.error}", flush=True)
        if time.monotonic() - shown > SHOW_EVERY:
            shown = time.monotonic()
            print(f"{done} scenes, {failed} failed", flush=True)
    print(f"{done} scenes, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
