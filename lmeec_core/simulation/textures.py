"""Procedural textures: a pool of greyscale patterns, coloured with random palettes in each scene.

A pattern is a (PIXELS, PIXELS) uint8 map that depends only on (family, index), so it is the same in
every process and computed only once in each. Colouring it is a table look-up, so textures are cheap
and unlimited in colour.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

PIXELS = 128
"""Side of a pattern in pixels; large surfaces repeat it."""

PER_FAMILY = 16
"""`test` draws patterns of a family below this index; training also draws later ones."""

_TEST_FROM = 12  # in shared families, `test` owns the indices from here to PER_FAMILY
_TRAINING_PATTERNS = 240

Array = NDArray[np.floating[Any]]
Image = NDArray[np.uint8]


def value_noise(
    rng: np.random.Generator, coarse: int = 4, octaves: int = 4, stretch: tuple[int, int] = (1, 1)
) -> Array:
    """Sum of smoothed random grids, not periodic, (PIXELS, PIXELS) in [0, 1]."""
    out = np.zeros((PIXELS, PIXELS), np.float32)
    for octave in range(octaves):
        rows = min(PIXELS, max(2, coarse * 2**octave * stretch[0]))
        columns = min(PIXELS, max(2, coarse * 2**octave * stretch[1]))
        grid = rng.random((rows, columns), np.float32)
        out += 0.55**octave * cv2.resize(grid, (PIXELS, PIXELS), interpolation=cv2.INTER_CUBIC)
    out -= out.min()
    return out / max(float(out.max()), 1e-6)


def _axes() -> tuple[Array, Array]:
    y, x = np.mgrid[0:PIXELS, 0:PIXELS].astype(np.float32) / PIXELS
    return x, y


def _plain(rng: np.random.Generator) -> Array:
    return 0.15 * value_noise(rng, 8, 3)


def _gradient(rng: np.random.Generator) -> Array:
    x, y = _axes()
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * x + np.sin(angle) * y
    return (ramp - ramp.min()) / (ramp.max() - ramp.min())


def _noise(rng: np.random.Generator) -> Array:
    return value_noise(rng, int(rng.integers(2, 9)), 5)


def _wood(rng: np.random.Generator) -> Array:
    field = value_noise(rng, 2, 5, (1, 8))
    return 0.5 + 0.5 * np.sin(field * rng.uniform(12, 40))


def _brick(rng: np.random.Generator) -> Array:
    x, y = _axes()
    count = int(rng.integers(3, 9))
    row = np.floor(y * 2 * count).astype(int)
    shifted = x * count + 0.5 * (row % 2)
    shade = 0.4 + 0.6 * rng.random((2 * count, count + 1), np.float32)
    out = shade[row, np.floor(shifted).astype(int) % (count + 1)]
    out[(shifted % 1 < 0.06) | (y * 2 * count % 1 < 0.1)] = 0
    return out


def _checker(rng: np.random.Generator) -> Array:
    x, y = _axes()
    count = int(rng.integers(2, 9))
    return ((np.floor(x * count) + np.floor(y * count)) % 2).astype(np.float32)


def _stripes(rng: np.random.Generator) -> Array:
    x, y = _axes()
    wave = np.sin((x + int(rng.integers(0, 2)) * y) * 2 * np.pi * int(rng.integers(2, 10)))
    return (wave > rng.uniform(-0.6, 0.6)).astype(np.float32)


def _dots(rng: np.random.Generator) -> Array:
    x, y = _axes()
    count = int(rng.integers(3, 11))
    radius = (x * count % 1 - 0.5) ** 2 + (y * count % 1 - 0.5) ** 2
    return (radius < rng.uniform(0.03, 0.16)).astype(np.float32)


def _plaid(rng: np.random.Generator) -> Array:
    x, y = _axes()
    k1, k2 = rng.integers(2, 7, 2)
    a = (np.sin(2 * np.pi * k1 * x) > rng.uniform(-0.3, 0.7)).astype(np.float32)
    b = (np.sin(2 * np.pi * k2 * y) > rng.uniform(-0.3, 0.7)).astype(np.float32)
    return 0.45 * a + 0.55 * b


def _marble(rng: np.random.Generator) -> Array:
    x, y = _axes()
    field = value_noise(rng, 3, 5)
    return np.abs(np.sin((x + y * rng.uniform(-1, 1)) * 6 + field * rng.uniform(6, 14)))


def _tiles(rng: np.random.Generator) -> Array:
    x, y = _axes()
    count = int(rng.integers(3, 9))
    shade = 0.35 + 0.65 * rng.random((count, count), np.float32)
    out = shade[np.floor(y * count).astype(int), np.floor(x * count).astype(int)]
    out[(x * count % 1 < 0.06) | (y * count % 1 < 0.06)] = 0
    return out


def _stains(rng: np.random.Generator) -> Array:
    return np.digitize(value_noise(rng, int(rng.integers(2, 6)), 3), [0.35, 0.5, 0.65]) / 3.0


def _label(rng: np.random.Generator) -> Array:
    """Blocks, discs and lines of text, like the print on a package."""
    out = np.zeros((PIXELS, PIXELS), np.uint8)
    for _ in range(int(rng.integers(3, 8))):
        a, b, c, d = (int(v) for v in rng.integers(0, PIXELS, 4))
        shade = int(rng.integers(30, 256))
        if rng.random() < 0.65:
            cv2.rectangle(out, (a, b), (c, d), shade, -1)
        else:
            cv2.circle(out, (a, b), 6 + c // 5, shade, -1)
    for _ in range(int(rng.integers(3, 9))):
        text = "".join(chr(int(v)) for v in rng.integers(65, 91, int(rng.integers(3, 9))))
        at = (int(rng.integers(-10, PIXELS - 20)), int(rng.integers(10, PIXELS)))
        size, shade = float(rng.uniform(0.35, 1.3)), int(rng.integers(0, 256))
        cv2.putText(out, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, shade, 1 + (size > 0.8))
    return out.astype(np.float32) / 255


def _hexagons(rng: np.random.Generator) -> Array:
    x, y = _axes()
    count = int(rng.integers(3, 8))
    centres = []
    for row in range(-1, 2 * count + 2):
        centres += [
            ((c + 0.5 * (row % 2)) / count, row / (2.0 * count) * 1.155)
            for c in range(-1, count + 2)
        ]
    distance, shade = np.full((PIXELS, PIXELS), 9.0, np.float32), np.zeros((PIXELS, PIXELS))
    second = distance.copy()
    for cx, cy in centres:
        d = np.hypot(x - cx, (y - cy) * 1.0).astype(np.float32)
        near = d < distance
        second = np.where(near, distance, np.minimum(second, d))
        shade = np.where(near, 0.3 + 0.7 * rng.random(), shade)
        distance = np.minimum(distance, d)
    return np.where(second - distance < 0.12 / count, 0.0, shade).astype(np.float32)


def _zigzag(rng: np.random.Generator) -> Array:
    x, y = _axes()
    teeth, bands = int(rng.integers(2, 7)), int(rng.integers(2, 6))
    bent = y + rng.uniform(0.05, 0.2) * np.abs(x * teeth % 1 - 0.5) * 2
    return (np.floor(bent * bands * 2) % int(rng.integers(2, 4)) / 2).astype(np.float32)


def _rings(rng: np.random.Generator) -> Array:
    x, y = _axes()
    cx, cy = rng.uniform(0.2, 0.8, 2)
    wave = np.sin(np.hypot(x - cx, y - cy) * 2 * np.pi * rng.uniform(3, 11))
    return (wave > rng.uniform(-0.4, 0.4)).astype(np.float32)


def _terrazzo(rng: np.random.Generator) -> Array:
    out = np.zeros((PIXELS, PIXELS), np.uint8)
    for _ in range(int(rng.integers(40, 130))):
        centre = rng.uniform(0, PIXELS, 2)
        angles = np.sort(rng.uniform(0, 2 * np.pi, 5))
        radii = rng.uniform(2, 9, 5)
        points = centre + np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
        cv2.fillPoly(out, [points.astype(np.int32)], int(rng.integers(60, 256)))
    return out.astype(np.float32) / 255


def _basic(rng: np.random.Generator) -> Array:
    """A new pattern from a random training family that is neither plain nor composed."""
    names = [f for f in TRAINING_TEXTURES if f not in ("plain", *COMPOSED_TEXTURES)]
    return np.asarray(_FAMILIES[names[int(rng.integers(len(names)))]](rng), np.float32)


def _mixed(rng: np.random.Generator) -> Array:
    """Two patterns combined in bands or patches, or blended."""
    first, second = _basic(rng), _basic(rng)
    how = rng.integers(3)
    if how == 0:  # bands
        x, y = _axes()
        edge = np.sort(rng.uniform(0.1, 0.9, 2))
        along = x if rng.random() < 0.5 else y
        share = ((along > edge[0]) & (along < edge[1])).astype(np.float32)
    elif how == 1:  # patches with soft outlines
        share = (value_noise(rng, int(rng.integers(2, 5)), 2) > 0.5).astype(np.float32)
    else:
        share = np.full_like(first, rng.uniform(0.3, 0.7))
    return share * first + (1 - share) * rng.uniform(0.4, 1.0) * second


def _bent(rng: np.random.Generator) -> Array:
    """A pattern rotated, scaled and bent, so that its lines run in any direction."""
    x, y = _axes()
    angle, scale = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 2.0)
    bend = rng.uniform(0, 0.25)
    u = x + bend * (value_noise(rng, 2, 2) - 0.5)
    v = y + bend * (value_noise(rng, 2, 2) - 0.5)
    columns = (math.cos(angle) * u - math.sin(angle) * v) * scale % 1 * PIXELS
    rows = (math.sin(angle) * u + math.cos(angle) * v) * scale % 1 * PIXELS
    at = columns.astype(np.float32), rows.astype(np.float32)
    out = cv2.remap(_basic(rng), at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(out, np.float32)


def _scattered(rng: np.random.Generator) -> Array:
    """Strokes, triangles or squares with random position, angle, size and shade."""
    out = np.full((PIXELS, PIXELS), int(rng.integers(0, 120)), np.uint8)
    corners, large = int(rng.integers(2, 5)), float(rng.uniform(6, 26))
    for _ in range(int(rng.integers(8, 60))):
        centre, start = rng.uniform(0, PIXELS, 2), rng.uniform(0, 2 * np.pi)
        angles = start + np.arange(corners) * 2 * np.pi / corners
        radii = large * rng.uniform(0.5, 1.0, corners)
        points = (centre + np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)).astype(
            np.int32
        )
        shade, width = int(rng.integers(60, 256)), int(rng.integers(1, 4))
        if rng.random() < 0.5:
            cv2.fillPoly(out, [points], shade)
        else:
            cv2.polylines(out, [points], True, shade, width)
    return out.astype(np.float32) / 255


_FAMILIES: dict[str, Callable[[np.random.Generator], Array]] = {
    "plain": _plain, "gradient": _gradient, "noise": _noise, "wood": _wood, "brick": _brick,
    "checker": _checker, "stripes": _stripes, "dots": _dots, "plaid": _plaid, "marble": _marble,
    "tiles": _tiles, "stains": _stains, "label": _label, "hexagons": _hexagons,
    "zigzag": _zigzag, "rings": _rings, "terrazzo": _terrazzo, "mixed": _mixed, "bent": _bent,
    "scattered": _scattered,
}  # fmt: skip
HELD_OUT_TEXTURES = ("hexagons", "zigzag", "rings", "terrazzo")
"""Families that only the `test` split draws."""

SHARED_TEXTURES = ("plain", "gradient", "noise", "wood", "brick")
"""Families that every split draws; `test` uses separate patterns."""

COMPOSED_TEXTURES = ("mixed", "bent", "scattered")
"""Families that `train` and `val` always include; too varied to be memorised."""

TRAINING_TEXTURES = tuple(f for f in _FAMILIES if f not in HELD_OUT_TEXTURES)


MANY_COLOURED = ("label", "terrazzo", "stains", "tiles", *COMPOSED_TEXTURES)
"""Families that use more than two colours."""


def families(split: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of the wanted families that the split may draw.

    For `test` the held-out families are added, for the other splits the composed ones.
    """
    if split != "test":
        return tuple(f for f in wanted if f in TRAINING_TEXTURES) + COMPOSED_TEXTURES
    return tuple(f for f in wanted if f in SHARED_TEXTURES) + HELD_OUT_TEXTURES


@lru_cache(maxsize=1024)
def pattern(family: str, index: int) -> Image:
    """Pattern `index` (from 0) of a family: (PIXELS, PIXELS) uint8, read-only."""
    rng = np.random.default_rng([list(_FAMILIES).index(family), index, 77])
    out = np.clip(_FAMILIES[family](rng) * 255, 0, 255).astype(np.uint8)
    out.setflags(write=False)
    return out


@lru_cache(maxsize=8)
def _grain(index: int) -> Image:
    rng = np.random.default_rng([index, 78])
    soft = value_noise(rng, 8, 4) - 0.5
    fine = rng.normal(0, 0.08, (PIXELS, PIXELS))
    return np.clip(128 + 127 * (0.6 * soft + fine), 0, 255).astype(np.uint8)


def draw_index(rng: np.random.Generator, split: str) -> int:
    """Index of a pattern that the split may use."""
    if split == "test":
        return int(rng.integers(_TEST_FROM, PER_FAMILY))
    index = int(rng.integers(_TRAINING_PATTERNS))
    return index if index < _TEST_FROM else index + PER_FAMILY - _TEST_FROM


def colour(
    rng: np.random.Generator,
    saturation: tuple[float, float] = (0.05, 0.9),
    value: tuple[float, float] = (0.15, 0.97),
    hue: float | None = None,
) -> NDArray[np.float64]:
    """A random colour, (3,) RGB in [0, 255]."""
    hue = rng.random() if hue is None else hue % 1
    return 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(*saturation), rng.uniform(*value)))


def wood_colours(rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Two shades of brown."""
    light = colour(rng, (0.25, 0.65), (0.35, 0.9), rng.uniform(0.05, 0.12))
    return [light, light * rng.uniform(0.45, 0.8)]


def paint(
    rng: np.random.Generator, family: str, index: int, colours: Sequence[NDArray[np.float64]]
) -> Image:
    """Colour a pattern: (PIXELS, PIXELS, 3) uint8 RGB.

    Levels 0..255 of the pattern are mapped to `colours` by interpolation. Some grain is added, and
    half of the patterns (except gradients and labels) are transposed, so that repeats differ.
    """
    stops = np.linspace(0, 255, len(colours))
    table = np.stack(
        [np.interp(np.arange(256), stops, [c[k] for c in colours]) for k in range(3)], axis=1
    )
    index_map = pattern(family, index)
    if family not in ("gradient", "label") and rng.random() < 0.5:
        index_map = index_map.T
    image = table.astype(np.float32)[index_map]
    grain = _grain(int(rng.integers(8))).astype(np.float32)
    strength = float(rng.uniform(0.02, 0.25))
    image *= (1 + strength * (grain - 128) / 128)[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)


def draw_texture(
    rng: np.random.Generator,
    split: str,
    wanted: Sequence[str],
    saturation: tuple[float, float] = (0.05, 0.9),
    value: tuple[float, float] = (0.15, 0.97),
) -> Image:
    """A texture from one of the wanted families in random colours, for rooms and clothes."""
    names = families(split, wanted)
    family = names[int(rng.integers(len(names)))]
    count = int(rng.integers(2, 5)) if family in MANY_COLOURED else 2
    colours = [colour(rng, saturation, value) for _ in range(count)]
    if family == "wood" and rng.random() < 0.8:
        colours = wood_colours(rng)
    if family != "label" and rng.random() < 0.4:  # subtle: similar colours
        colours = [colours[0] + math.exp(-1.5) * (c - colours[0]) for c in colours]
    return paint(rng, family, draw_index(rng, split), colours)
