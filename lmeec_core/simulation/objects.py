"""Draws the objects of a scene and their look-alikes, with shape and appearance."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lmeec_core.simulation import textures
from lmeec_core.simulation.config import SimulationConfig
from lmeec_core.simulation.parts import Part, settle
from lmeec_core.simulation.shapes import make_parts, tickets

_OBJECT_FAMILIES = (
    "plain", "plain", "gradient", "noise", "wood", "checker", "stripes", "dots", "plaid",
    "marble", "tiles", "stains", "label", "label",
)  # fmt: skip
_COLOURS = {"accent": 2, "second": 3}
_VARIANTS = ("same", "recoloured", "rescaled", "retextured", "reshaped")


@dataclass(frozen=True)
class ObjectSpec:
    """One object: everything that determines its shape and appearance."""

    name: str
    kind: str
    scale: float
    numbers: NDArray[np.float64]  # (8,) proportions
    colours: NDArray[np.float64]  # (4, 3) RGB in [0, 255]
    family: str
    pattern: int
    paint_seed: int
    gloss: tuple[float, float]  # specular, shininess
    parts: list[Part] = field(default_factory=list)
    radius: float = 0.0  # metres, from the vertical axis
    height: float = 0.0

    def texture(self) -> NDArray[np.uint8]:
        """Texture (PIXELS, PIXELS, 3) of the parts with the paint `body`."""
        rng = np.random.default_rng(self.paint_seed)
        stops = [self.colours[0], self.colours[1]]
        if self.family in textures.MANY_COLOURED:
            stops = list(self.colours)
        return textures.paint(rng, self.family, self.pattern, stops)

    def flat_colour(self, paint: str) -> NDArray[np.float64]:
        """RGB in [0, 255] of parts with another paint than `body`."""
        if paint == "metal":
            return 150 + 0.3 * (self.colours[3] - 128) + 40 * (self.numbers[7] - 0.5)
        if paint == "dark":
            return 20 + 0.15 * self.colours[3]
        return self.colours[_COLOURS.get(paint, 0)]


def _shaped(spec: ObjectSpec) -> ObjectSpec:
    parts, radius, height = settle(make_parts(spec.kind, spec.numbers, spec.scale))
    return replace(spec, parts=parts, radius=radius, height=height)


def draw_object(rng: np.random.Generator, kind: str, split: str) -> ObjectSpec:
    """A random object of a kind, with a texture from the split's families."""
    names = textures.families(split, _OBJECT_FAMILIES)
    family = names[int(rng.integers(len(names)))]
    vivid = (0.2, 1.0) if rng.random() < 0.75 else (0.0, 0.3)
    colours = np.array([textures.colour(rng, vivid) for _ in range(4)])
    if family == "wood":
        colours[:2] = textures.wood_colours(rng)
    return _shaped(
        ObjectSpec(
            name="",
            kind=kind,
            scale=float(rng.uniform(0.85, 1.5)),
            numbers=rng.random(8),
            colours=colours,
            family=family,
            pattern=textures.draw_index(rng, split),
            paint_seed=int(rng.integers(2**31)),
            gloss=(float(rng.uniform(0.05, 0.8)), float(rng.uniform(0.1, 0.9))),
        )
    )


def draw_look_alike(rng: np.random.Generator, spec: ObjectSpec, split: str) -> ObjectSpec:
    """A twin of an object: identical, or with a different colour, size, texture or proportions."""
    how = _VARIANTS[int(rng.integers(len(_VARIANTS)))]
    if how == "recoloured":
        colours = np.clip(spec.colours + rng.normal(0, 55, (4, 3)), 0, 255)
        return replace(spec, colours=colours)
    if how == "rescaled":
        return _shaped(replace(spec, scale=spec.scale * float(rng.uniform(0.75, 1.25))))
    if how == "retextured":
        other = draw_object(rng, spec.kind, split)
        return replace(spec, family=other.family, pattern=other.pattern)
    if how == "reshaped":
        numbers = np.clip(spec.numbers + rng.normal(0, 0.35, 8), 0, 0.999)
        numbers[0] = spec.numbers[0]
        return _shaped(replace(spec, numbers=numbers))
    return spec


def draw_objects(
    rng: np.random.Generator, config: SimulationConfig, split: str
) -> tuple[list[ObjectSpec], int]:
    """All objects of a scene, and how many of them (the first ones) the person moves.

    Names are unique within the scene: the kind and a number, such as `mug_1`.
    """
    moved = int(rng.integers(config.moved[0], config.moved[1] + 1))
    order = list(rng.permutation(tickets(split)))
    found = [draw_object(rng, str(order[i % len(order)]), split) for i in range(moved)]
    for i in range(moved):
        for _ in range(int(rng.integers(config.look_alikes[0], config.look_alikes[1] + 1))):
            found.append(draw_look_alike(rng, found[i], split))
    others = int(rng.integers(config.distractors[0], config.distractors[1] + 1))
    for i in range(others):
        found.append(draw_object(rng, str(order[(moved + i) % len(order)]), split))
    counts: dict[str, int] = {}
    named = []
    for spec in found[: config.max_objects]:
        counts[spec.kind] = counts.get(spec.kind, 0) + 1
        named.append(replace(spec, name=f"{spec.kind}_{counts[spec.kind]}"))
    return named, min(moved, len(named))
