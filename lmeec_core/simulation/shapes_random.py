"""Kinds with a random shape for every object: no two vessels or gadgets are alike.

Only `train` and `val` draw them. Like everyday things they consist of a body, handles, lids, feet
and knobs in different colours, so that a model learns which parts belong to one object rather than
a fixed set of kinds.
"""

from __future__ import annotations

import math

import numpy as np

from lmeec_core.simulation.parts import (
    Maker,
    Numbers,
    Paint,
    Part,
    Vector,
    box,
    egg,
    handle,
    lathe,
    rod,
    tube,
)

_PAINTS: tuple[Paint, ...] = ("accent", "second", "body", "metal", "dark")


def _rng(u: Numbers, kind: int) -> np.random.Generator:
    return np.random.default_rng(int(u[0] * 1e9) + kind)


def _paint(rng: np.random.Generator) -> Paint:
    return _PAINTS[int(rng.integers(len(_PAINTS)))]


def _outline(
    rng: np.random.Generator, height: float, low: float, high: float
) -> list[tuple[float, float]]:
    """Seven radii and heights of a smooth random outline."""
    radii = np.convolve(rng.uniform(low, high, 9), [0.3, 0.4, 0.3], "valid")
    heights = np.linspace(0, height, len(radii))
    return [(float(r), float(z)) for r, z in zip(radii, heights, strict=True)]


def _turned(u: Numbers, s: float) -> list[Part]:
    """A body of revolution with a random outline."""
    rng = _rng(u, 0)
    height = rng.uniform(0.05, 0.2) * s
    return [lathe([(0, 0), *_outline(rng, height, 0.008 * s, 0.06 * s), (0, height)])]


def _assembly(u: Numbers, s: float) -> list[Part]:
    """Two to seven random primitives attached to each other."""
    rng = _rng(u, 1)
    parts: list[Part] = []
    centre = np.zeros(3)
    for number in range(int(rng.integers(2, 8))):
        size = rng.uniform(0.012, 0.045, 3) * s
        at = (float(centre[0]), float(centre[1]), float(centre[2]))
        paint: Paint = _paint(rng) if number else "body"
        choice = rng.integers(4)
        extent = (float(size[0]), float(size[1]), float(size[2]))
        if choice == 0:
            parts.append(box(extent, at, paint))
        elif choice == 1:
            parts.append(egg(extent, at, paint))
        else:
            x, y, z = (float(v) for v in centre + rng.normal(0, 0.05, 3) * s)
            make = rod if choice == 2 else tube
            parts.append(make(extent[0] * 0.6, at, (x, y, z), paint))
        centre = centre + rng.normal(0, 1, 3) * size * 1.1
    return parts


def _vessel(u: Numbers, s: float) -> list[Part]:
    """A random body of revolution, sometimes with a lid, a handle, a spout or a band."""
    rng = _rng(u, 2)
    height = float(rng.uniform(0.05, 0.16) * s)
    outline = _outline(rng, height, 0.018 * s, 0.062 * s)
    top, middle = outline[-1][0], outline[3][0]
    parts = [lathe([(0, 0), *outline, (0, height)])]
    if rng.random() < 0.5:
        paint, thick = _paint(rng), float(rng.uniform(0.004, 0.03) * s)
        wide = top * float(rng.uniform(0.6, 1.15))
        if rng.random() < 0.5:
            parts.append(tube(wide, (0, 0, height), (0, 0, height + thick), paint))
        else:
            parts.append(egg((wide, wide, thick), (0, 0, height), paint))
    grip, paint = float(rng.uniform(0.004, 0.009) * s), _paint(rng)
    if rng.random() < 0.4:
        reach = float(rng.uniform(0.015, 0.04) * s)
        parts += handle(middle * 0.9, height * 0.2, height * 0.8, reach, grip, paint)
    if rng.random() < 0.3:
        z, reach = height * float(rng.uniform(0.4, 0.9)), float(rng.uniform(0.03, 0.12) * s)
        rise = height * float(rng.uniform(-0.1, 0.4))
        parts.append(rod(grip, (-middle * 0.8, 0, z), (-middle - reach, 0, z + rise), _paint(rng)))
    if rng.random() < 0.4:
        index = int(rng.integers(1, 5))
        wide, low = max(outline[index][0], outline[index + 1][0]) * 1.03, outline[index][1]
        parts.append(tube(wide, (0, 0, low), (0, 0, low + height / 8), _paint(rng)))
    return parts


def _gadget(u: Numbers, s: float) -> list[Part]:
    """A box or an egg with knobs, tubes and plates on its sides."""
    rng = _rng(u, 3)
    a, b, c = (float(v) for v in rng.uniform(0.018, 0.06, 3) * s)
    body = box((a, b, c), (0, 0, 0)) if rng.random() < 0.7 else egg((a, b, c), (0, 0, 0))
    parts = [body]
    for _ in range(int(rng.integers(1, 6))):
        side, sign = int(rng.integers(3)), 1 if rng.random() < 0.7 else -1
        normal, extent = np.zeros(3), np.array([a, b, c])
        normal[side] = sign
        start = extent * (normal + (1 - np.abs(normal)) * rng.uniform(-0.6, 0.6, 3))
        out = rng.uniform(0.004, 0.05) * s
        first: Vector = tuple(float(v) for v in start)  # type: ignore[assignment]
        last: Vector = tuple(float(v) for v in start + normal * out)  # type: ignore[assignment]
        wide = float(np.delete(extent, side).min() * rng.uniform(0.1, 0.8))
        choice, paint = rng.integers(3), _paint(rng)
        if choice == 0:
            parts.append(tube(wide, first, last, paint))
        elif choice == 1:
            parts.append(rod(wide * 0.5, first, last, paint))
        else:
            half = np.full(3, wide)
            half[side] = out / 2
            size: Vector = tuple(float(v) for v in half)  # type: ignore[assignment]
            at: Vector = tuple(float(v) for v in start + normal * out / 2)  # type: ignore[assignment]
            parts.append(box(size, at, paint))
    return parts


def _implement(u: Numbers, s: float) -> list[Part]:
    """A grip with one to three heads of random shape, like an unknown tool."""
    rng = _rng(u, 4)
    length, q = float(rng.uniform(0.04, 0.12) * s), float(rng.uniform(0.005, 0.016) * s)
    make = rod if rng.random() < 0.6 else tube
    parts = [make(q, (-length, 0, 0), (length * float(rng.uniform(-0.3, 0.8)), 0, 0))]
    end = length * float(rng.uniform(0.3, 1.0))
    if rng.random() < 0.5:
        parts.append(tube(q * float(rng.uniform(0.3, 0.8)), (0, 0, 0), (end, 0, 0), _paint(rng)))
    for _ in range(int(rng.integers(1, 4))):
        at = (end * float(rng.uniform(0.7, 1.1)), float(rng.normal(0, 0.008) * s), 0.0)
        x, y, z = (float(v) for v in rng.uniform(0.004, 0.04, 3) * s)
        paint = _paint(rng)
        turn = (0.0, 0.0, float(rng.uniform(-40, 40)))
        if rng.random() < 0.5:
            parts.append(box((x, y, z * 0.5), at, paint, turn))
        else:
            parts.append(egg((x, y, z * 0.5), at, paint, turn))
    return parts


def _stand(u: Numbers, s: float) -> list[Part]:
    """A foot, a stem and something on top, or a plate on legs."""
    rng = _rng(u, 5)
    if rng.random() < 0.5:
        height, wide = float(rng.uniform(0.06, 0.18) * s), float(rng.uniform(0.02, 0.05) * s)
        foot = tube(wide, (0, 0, 0), (0, 0, float(rng.uniform(0.004, 0.02) * s)), _paint(rng))
        stem = tube(float(rng.uniform(0.003, 0.015) * s), (0, 0, 0), (0, 0, height), _paint(rng))
        x, y, z = (float(v) for v in rng.uniform(0.015, 0.05, 3) * s)
        top = (box if rng.random() < 0.5 else egg)((x, y, z), (0, 0, height + z))
        return [foot, stem, top]
    a, b, h = (float(v) for v in rng.uniform((0.03, 0.02, 0.01), (0.08, 0.05, 0.07)) * s)
    thick, paint = float(rng.uniform(0.004, 0.025) * s), _paint(rng)
    parts = [box((a, b, thick), (0, 0, h + thick))]
    wide = float(rng.uniform(0.003, 0.014) * s)
    for x in (-0.8 * a, 0.8 * a):
        for y in (-0.8 * b, 0.8 * b):
            parts.append(tube(wide, (x, y, 0), (x, y, h), paint))
    if rng.random() < 0.5:
        x, y, z = (float(v) for v in rng.uniform(0.01, 0.03, 3) * s)
        at = (a * math.cos(rng.uniform(0, 3.1)) * 0.5, 0.0, h + 2 * thick + z)
        parts.append((box if rng.random() < 0.5 else egg)((x, y, z), at, _paint(rng)))
    return parts


RANDOM: dict[str, Maker] = {
    "turned": _turned, "assembly": _assembly, "vessel": _vessel, "gadget": _gadget,
    "implement": _implement, "stand": _stand,
}  # fmt: skip
"""Kinds of random shapes, with the functions that make them."""
