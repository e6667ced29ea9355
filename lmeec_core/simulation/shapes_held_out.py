"""Kinds of objects that only the `test` split draws, so that trained models have not seen them."""

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


def _teapot(u: Numbers, s: float) -> list[Part]:
    radius, height = (0.05 + 0.015 * u[1]) * s, (0.075 + 0.03 * u[2]) * s
    t = np.linspace(0, 1, 8)
    wide = radius * (0.55 + 0.45 * np.sin(np.pi * (0.1 + 0.75 * t)))
    spout = rod(0.009 * s, (-radius * 0.7, 0, height * 0.4), (-radius * 1.6, 0, height * 0.95))
    lid = egg((radius * 0.6, radius * 0.6, 0.012 * s), (0, 0, height), "accent")
    knob = ball(0.01 * s, (0, 0, height + 0.018 * s), "accent")
    grip = handle(radius * 0.8, height * 0.2, height * 0.85, radius * 0.8, 0.007 * s, "accent")
    return [
        lathe([(0, 0), *zip(wide, height * t, strict=True), (0, height)]),
        spout,
        lid,
        knob,
        *grip,
    ]


def _goblet(u: Numbers, s: float) -> list[Part]:
    radius, height = (0.03 + 0.012 * u[1]) * s, (0.13 + 0.05 * u[2]) * s
    stem = 0.3 + 0.25 * u[3]
    foot = [(0, 0), (radius * 0.9, 0), (radius * 0.8, 0.005), (0.005, 0.012)]
    cup = [(0.005, height * stem), (radius * 0.8, height * (stem + 0.12)), (radius, height * 0.8)]
    rim = [(radius * 0.9, height), (radius * 0.84, height), (radius * 0.7, height * (stem + 0.16))]
    return [lathe([*foot, *cup, *rim, (0, height * (stem + 0.06))])]


def _dumbbell(u: Numbers, s: float) -> list[Part]:
    length, weight = (0.05 + 0.03 * u[1]) * s, (0.022 + 0.015 * u[2]) * s
    thick = (0.012 + 0.014 * u[3]) * s
    parts = [tube(0.008 * s, (-length, 0, weight), (length, 0, weight), "metal")]
    for side in (-1, 1):
        x = side * length
        parts.append(tube(weight, (x - thick, 0, weight), (x + thick, 0, weight)))
    return parts


def _drill(u: Numbers, s: float) -> list[Part]:
    length, height = (0.07 + 0.02 * u[1]) * s, (0.1 + 0.03 * u[2]) * s
    body = tube(0.022 * s, (-length, 0, height), (length * 0.5, 0, height))
    chuck = tube(0.013 * s, (length * 0.5, 0, height), (length * 0.9, 0, height), "dark")
    bit = tube(0.004 * s, (length * 0.9, 0, height), (length * 1.5, 0, height), "metal")
    grip = box((0.014 * s, 0.013 * s, height * 0.45), (-length * 0.5, 0, height * 0.5), "second")
    battery = box((0.03 * s, 0.02 * s, 0.014 * s), (-length * 0.5, 0, 0.014 * s), "accent")
    return [body, chuck, bit, grip, battery]


def _car(u: Numbers, s: float) -> list[Part]:
    a, b, wheel = (0.05 + 0.02 * u[1]) * s, (0.024 + 0.008 * u[2]) * s, 0.016 * s
    parts = [
        box((a, b, 0.014 * s), (0, 0, wheel + 0.012 * s)),
        box(
            (a * 0.5, b * 0.85, 0.013 * s), (a * (0.4 * u[3] - 0.2), 0, wheel + 0.038 * s), "accent"
        ),
    ]
    for x in (-0.6, 0.6):
        for y in (-1, 1):
            at = (x * a, y * b, wheel)
            parts.append(tube(wheel, at, (x * a, y * (b + 0.008 * s), wheel), "dark"))
    return parts


def _camera(u: Numbers, s: float) -> list[Part]:
    a, b, c = (0.045 + 0.015 * u[1]) * s, 0.018 * s, (0.03 + 0.01 * u[2]) * s
    lens = (0.02 + 0.006 * u[3]) * s
    return [
        box((a, b, c), (0, 0, c)),
        tube(lens, (a * 0.2, b, c), (a * 0.2, b + (0.025 + 0.03 * u[4]) * s, c), "dark"),
        tube(lens * 0.8, (a * 0.2, b, c), (a * 0.2, b + (0.03 + 0.032 * u[4]) * s, c), "metal"),
        box((a * 0.3, b * 0.8, 0.007 * s), (a * 0.2, 0, 2 * c + 0.006 * s), "accent"),
        tube(0.007 * s, (-a * 0.6, 0, 2 * c), (-a * 0.6, 0, 2 * c + 0.008 * s), "metal"),
    ]


def _pail(u: Numbers, s: float) -> list[Part]:
    radius, height = (0.045 + 0.02 * u[1]) * s, (0.08 + 0.04 * u[2]) * s
    base = radius * (0.6 + 0.2 * u[3])
    outline = [
        (0, 0),
        (base, 0),
        (radius, height),
        (radius * 1.06, height),
        (radius * 0.95, height),
    ]
    bow = []
    angles = np.linspace(0, math.pi, 6)
    for a, b in zip(angles[:-1], angles[1:], strict=True):
        ends = [(0.0, radius * math.cos(v), height + radius * 0.9 * math.sin(v)) for v in (a, b)]
        bow.append(rod(0.003 * s, ends[0], ends[1], "metal"))
    return [lathe([*outline, (base * 0.9, 0.006), (0, 0.006)]), *bow]


def _mushroom(u: Numbers, s: float) -> list[Part]:
    stem, height = (0.012 + 0.008 * u[1]) * s, (0.05 + 0.05 * u[2]) * s
    cap = (0.035 + 0.025 * u[3]) * s
    t = np.linspace(0, np.pi / 2, 6)
    dome = list(zip(cap * np.cos(t), height + cap * 0.7 * np.sin(t), strict=True))
    return [tube(stem, (0, 0, 0), (0, 0, height), "accent"), lathe([(stem, height), *dome])]


def _spatula(u: Numbers, s: float) -> list[Part]:
    length, width = (0.09 + 0.04 * u[1]) * s, (0.024 + 0.012 * u[2]) * s
    blade = box((0.04 * s, width, 0.002), (length + 0.03 * s, 0, 0.012 * s), "metal")
    stem = rod(0.005 * s, (0, 0, 0.012 * s), (length, 0, 0.012 * s), "metal")
    return [rod(0.011 * s, (-length, 0, 0.012 * s), (0, 0, 0.012 * s)), stem, blade]


HELD_OUT: dict[str, Maker] = {
    "teapot": _teapot, "goblet": _goblet, "dumbbell": _dumbbell, "drill": _drill, "car": _car,
    "camera": _camera, "pail": _pail, "mushroom": _mushroom, "spatula": _spatula,
}  # fmt: skip
HELD_OUT_KINDS = tuple(HELD_OUT)
