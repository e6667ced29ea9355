"""Kinds of objects. Each kind makes a list of parts from eight random numbers and a scale.

The splits train and val draw `TRAINING_KINDS`; test draws only `HELD_OUT_KINDS`.
"""

from __future__ import annotations

import math

import numpy as np

from lmeec_core.simulation.parts import (
    Maker,
    Numbers,
    Part,
    ball,
    box,
    egg,
    handle,
    lathe,
    rod,
    tube,
)
from lmeec_core.simulation.shapes_random import RANDOM


def _mug(u: Numbers, s: float) -> list[Part]:
    radius, height, wall = (0.034 + 0.01 * u[1]) * s, (0.07 + 0.04 * u[2]) * s, 0.004
    outline = [(0, 0), (radius * 0.95, 0), (radius, 0.008), (radius, height)]
    inside = [(radius - wall, height), (radius - wall, wall), (0, wall)]
    grip = handle(radius, height * 0.22, height * 0.82, 0.026 * s, 0.005 * s, "accent")
    return [lathe(outline + inside), *grip]


def _bottle(u: Numbers, s: float) -> list[Part]:
    radius, height = (0.028 + 0.012 * u[1]) * s, (0.16 + 0.08 * u[2]) * s
    neck, shoulder = radius * (0.3 + 0.2 * u[3]), 0.5 + 0.2 * u[4]
    side = [(0, 0), (radius * 0.95, 0), (radius, 0.006), (radius, height * shoulder)]
    top = [(neck, height * (shoulder + 0.16)), (neck, height * 0.93), (0, height * 0.93)]
    cap = tube(neck * 1.15, (0, 0, height * 0.92), (0, 0, height), "accent")
    return [lathe(side + top), cap]


def _jar(u: Numbers, s: float) -> list[Part]:
    radius, height = (0.03 + 0.015 * u[1]) * s, (0.07 + 0.05 * u[2]) * s
    side = [(0, 0), (radius * 0.9, 0), (radius, 0.008), (radius, height * 0.75)]
    top = [(radius * 0.85, height * 0.84), (0, height * 0.84)]
    return [lathe(side + top), tube(radius * 0.9, (0, 0, height * 0.84), (0, 0, height), "accent")]


def _bowl(u: Numbers, s: float) -> list[Part]:
    radius, height = (0.055 + 0.03 * u[1]) * s, (0.04 + 0.03 * u[2]) * s
    t = np.linspace(0, 1, 6)
    wide = radius * (0.45 + 0.55 * t**0.6)
    outer = list(zip(wide, height * t, strict=True))
    inner = list(zip(wide[::-1] - 0.004, (height * t + 0.003 * (1 - t))[::-1], strict=True))
    return [lathe([(radius * 0.45, 0), *outer, *inner, (0, 0.004)])]


def _can(u: Numbers, s: float) -> list[Part]:
    radius, height = (0.028 + 0.012 * u[1]) * s, (0.07 + 0.06 * u[2]) * s
    body = tube(radius, (0, 0, 0), (0, 0, height))
    return [body, tube(radius * 0.93, (0, 0, height), (0, 0, height + 0.002), "metal")]


def _carton(u: Numbers, s: float) -> list[Part]:
    size = ((0.03 + 0.05 * u[1]) * s, (0.02 + 0.03 * u[2]) * s, (0.03 + 0.06 * u[3]) * s)
    return [box(size, (0, 0, size[2]))]


def _sponge(u: Numbers, s: float) -> list[Part]:
    a, b, c = 0.05 * s, (0.028 + 0.01 * u[1]) * s, 0.012 * s
    return [box((a, b, c), (0, 0, c)), box((a, b, c * 0.35), (0, 0, c * 2.3), "accent")]


def _sphere(u: Numbers, s: float) -> list[Part]:
    radius = (0.024 + 0.02 * u[1]) * s
    return [ball(radius, (0, 0, radius))]


def _hammer(u: Numbers, s: float) -> list[Part]:
    length, q = (0.09 + 0.03 * u[1]) * s, 0.012 * s
    head = box((0.014 * s, (0.035 + 0.015 * u[2]) * s, 0.014 * s), (length, 0, q), "metal")
    return [rod(q, (-length, 0, q), (length, 0, q)), head]


def _screwdriver(u: Numbers, s: float) -> list[Part]:
    length, q = (0.075 + 0.03 * u[1]) * s, 0.014 * s
    shaft = tube(0.0035 * s, (0, 0, q), (length, 0, q), "metal")
    return [rod(q, (-length, 0, q), (0, 0, q)), shaft]


def _wrench(u: Numbers, s: float) -> list[Part]:
    length = (0.07 + 0.03 * u[1]) * s
    ends = [(length, 0.022), (-length, 0.017)]
    rings = [tube(r * s, (x, 0, 0), (x, 0, 0.012), "metal") for x, r in ends]
    return [box((length, 0.01 * s, 0.004), (0, 0, 0.006), "metal"), *rings]


def _knife(u: Numbers, s: float) -> list[Part]:
    length = (0.1 + 0.03 * u[1]) * s
    blade = box((length * 0.6, 0.015 * s, 0.0012), (length * 0.5, 0, 0.008), "metal")
    return [blade, box((length * 0.4, 0.011 * s, 0.007), (-length * 0.45, 0, 0.008))]


def _pan(u: Numbers, s: float) -> list[Part]:
    radius, height = (0.075 + 0.03 * u[1]) * s, (0.02 + 0.02 * u[2]) * s
    outline = [(0, 0), (radius * 0.85, 0), (radius, height), (radius * 0.95, height)]
    stick = rod(
        0.009 * s, (radius, 0, height * 0.8), (radius + 0.13 * s, 0, height * 1.1), "accent"
    )
    return [lathe([*outline, (radius * 0.82, 0.004), (0, 0.004)]), stick]


def _plate(u: Numbers, s: float) -> list[Part]:
    radius, height = (0.07 + 0.04 * u[1]) * s, 0.016 * s
    outline = [(0, 0), (radius * 0.6, 0), (radius, height), (radius * 0.98, height + 0.002)]
    return [lathe([*outline, (radius * 0.6, 0.005), (0, 0.005)])]


def _book(u: Numbers, s: float) -> list[Part]:
    a, b, c = (0.07 + 0.03 * u[1]) * s, (0.05 + 0.02 * u[2]) * s, (0.008 + 0.014 * u[3]) * s
    pages = box((a * 0.97, b * 0.98, c * 0.8), (a * 0.02, 0, c), "accent")
    covers = [box((a, b, c * 0.12), (0, 0, z * c)) for z in (0.12, 1.88)]
    return [*covers, pages, box((a * 0.03, b, c), (-a, 0, c))]


def _vase(u: Numbers, s: float) -> list[Part]:
    height = (0.13 + 0.08 * u[1]) * s
    t = np.linspace(0, 1, 10)
    belly = 0.035 + 0.018 * np.sin(np.pi * (t * (1 + u[2]) + 0.3 * u[3])) * (1 - 0.3 * t)
    outer = list(zip(belly * s, height * t, strict=True))
    return [lathe([(0, 0), *outer, (belly[-1] * s - 0.004, height), (0.01, height * 0.4)])]


def _spoon(u: Numbers, s: float) -> list[Part]:
    length = (0.08 + 0.05 * u[1]) * s
    paint = "metal" if u[2] < 0.6 else "body"
    stem = rod(0.005 * s, (-length, 0, 0.006), (length * 0.6, 0, 0.006), paint)  # type: ignore[arg-type]
    return [stem, egg((0.033 * s, 0.023 * s, 0.009), (length * 0.8, 0, 0.009), paint)]  # type: ignore[arg-type]


def _tape(u: Numbers, s: float) -> list[Part]:
    outer, width = (0.038 + 0.015 * u[1]) * s, (0.018 + 0.02 * u[2]) * s
    hole = outer * (0.45 + 0.25 * u[3])
    ring = [(hole, 0), (outer, 0), (outer, width), (hole, width), (hole, 0)]
    return [lathe(ring)]


def _brush(u: Numbers, s: float) -> list[Part]:
    length, width = (0.06 + 0.03 * u[1]) * s, (0.012 + 0.02 * u[2]) * s
    ferrule = box((0.012 * s, width, 0.007 * s), (length, 0, 0.008 * s), "metal")
    bristle = box((0.022 * s, width * 0.95, 0.006 * s), (length + 0.03 * s, 0, 0.008 * s), "accent")
    return [rod(0.008 * s, (-length, 0, 0.008 * s), (length, 0, 0.008 * s)), ferrule, bristle]


def _torch(u: Numbers, s: float) -> list[Part]:
    length, q = (0.06 + 0.03 * u[1]) * s, (0.014 + 0.005 * u[2]) * s
    z = q * 1.5
    return [
        tube(q, (-length, 0, z), (length * 0.5, 0, z)),
        tube(q * 1.5, (length * 0.5, 0, z), (length * 0.85, 0, z), "accent"),
        tube(q * 1.3, (length * 0.85, 0, z), (length * 0.88, 0, z), "metal"),
    ]


def _remote(u: Numbers, s: float) -> list[Part]:
    length, width = (0.06 + 0.03 * u[1]) * s, (0.018 + 0.01 * u[2]) * s
    parts = [box((length, width, 0.009 * s), (0, 0, 0.009 * s), "dark" if u[3] < 0.5 else "body")]
    for row in range(3 + int(3 * u[4])):
        x = length * (0.75 - 0.35 * row)
        parts += [
            tube(width * 0.22, (x, y, 0), (x, y, 0.02 * s), "accent")
            for y in (-width * 0.5, width * 0.5)
        ]
    return parts


def _pliers(u: Numbers, s: float) -> list[Part]:
    length, angle = (0.08 + 0.02 * u[1]) * s, 0.12 + 0.3 * u[2]
    parts = []
    for side in (-1, 1):
        dx, dy = math.cos(angle), side * math.sin(angle)
        grip = (-length * dx, length * dy, 0.009)
        parts.append(rod(0.008 * s, grip, (-0.01, 0, 0.009)))
        parts.append(
            rod(0.006 * s, (0, 0, 0.009), (length * 0.5 * dx, -length * 0.4 * dy, 0.009), "metal")
        )
    return [*parts, tube(0.013 * s, (0, 0, 0.002), (0, 0, 0.016), "metal")]


def _fruit(u: Numbers, s: float) -> list[Part]:
    a, b = (0.028 + 0.012 * u[1]) * s, 1 + 1.2 * u[2]
    flesh = egg((a * b, a, a), (0, 0, a))
    return [flesh, rod(0.003 * s, (a * b * 0.9, 0, a), (a * b * 1.15, 0, a * 1.3), "dark")]


def _stool(u: Numbers, s: float) -> list[Part]:
    """A trivet or small rack: a slab on four feet."""
    a, b, h = (0.05 + 0.03 * u[1]) * s, (0.04 + 0.03 * u[2]) * s, (0.03 + 0.05 * u[3]) * s
    feet = [
        box((0.006, 0.006, h / 2), (x * a * 0.85, y * b * 0.85, h / 2), "accent")
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    return [box((a, b, 0.008), (0, 0, h)), *feet]


_TRAINING: dict[str, Maker] = {
    "mug": _mug, "bottle": _bottle, "jar": _jar, "bowl": _bowl, "can": _can, "carton": _carton,
    "sponge": _sponge, "ball": _sphere, "hammer": _hammer, "screwdriver": _screwdriver,
    "wrench": _wrench, "knife": _knife, "pan": _pan, "plate": _plate, "book": _book,
    "vase": _vase, "spoon": _spoon, "tape": _tape, "brush": _brush, "torch": _torch,
    "remote": _remote, "pliers": _pliers, "fruit": _fruit, "rack": _stool,
}  # fmt: skip
TRAINING_KINDS = (*_TRAINING, *RANDOM)

_RANDOM_TICKETS = 5
"""Weight of each kind of random shape in training; other kinds have weight 1."""


def _makers() -> dict[str, Maker]:
    from lmeec_core.simulation.shapes_held_out import HELD_OUT

    return {**_TRAINING, **RANDOM, **HELD_OUT}


def make_parts(kind: str, numbers: Numbers, scale: float) -> list[Part]:
    """Parts of one object; `numbers` (8,) in [0, 1) determine its proportions.

    Raises ValueError for an unknown kind.
    """
    makers = _makers()
    if kind not in makers:
        raise ValueError(f"unknown kind {kind!r}, expected one of {', '.join(makers)}")
    return makers[kind](numbers, scale)


def kinds(split: str) -> tuple[str, ...]:
    """Kinds that a split draws from."""
    from lmeec_core.simulation.shapes_held_out import HELD_OUT_KINDS

    return HELD_OUT_KINDS if split == "test" else TRAINING_KINDS


def tickets(split: str) -> tuple[str, ...]:
    """The split's kinds, each repeated by its weight.

    Random shapes have more weight in training: a model trained only on a few dozen kinds does
    not generalise to unseen kinds.
    """
    if split == "test":
        return kinds(split)
    return tuple(_TRAINING) + tuple(RANDOM) * _RANDOM_TICKETS
