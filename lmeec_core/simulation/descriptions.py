"""Describes a simulated object in words: its colours, pattern and kind."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.simulation.objects import ObjectSpec
from lmeec_core.simulation.parts import extent

_PATTERNS = {
    "checker": "chequered", "stripes": "striped", "dots": "dotted", "plaid": "plaid",
    "marble": "marbled", "wood": "wooden", "tiles": "tiled", "stains": "stained",
}  # fmt: skip
_NOUNS = {"turned": "turned piece", "pliers": "pair of pliers"}
"""Nouns for kinds whose name is not a suitable noun."""
_HUES = ((8, "red"), (22, "orange"), (34, "yellow"), (80, "green"), (98, "turquoise"),
         (130, "blue"), (150, "purple"), (170, "pink"), (180, "red"))  # fmt: skip
"""Upper limits of hues (0 .. 179, as in OpenCV) and their names."""
COLOURS = ("black", "grey", "white", "brown", *dict.fromkeys(name for _, name in _HUES))
SECOND = 0.3
"""Least share of an object for its second colour to be named."""


def describe(spec: ObjectSpec) -> str:
    """A description as a person might give, such as "a blue and white striped mug"."""
    shares, body = dict.fromkeys(COLOURS, 0.0), 0.0
    for part in spec.parts:
        low, high = extent(part)
        sides = np.sort(high - low)
        area = float(sides[1] * sides[2] + sides[0] * sides[2])
        body += area if part.paint == "body" else 0.0
        if part.paint != "body":
            shares[_name(spec.flat_colour(part.paint))] += area
    if body:
        texture = spec.texture()[::8, ::8].reshape(-1, 3)
        for pixel in texture:
            shares[_name(pixel)] += body / len(texture)
    whole = sum(shares.values())
    first, second = sorted(COLOURS, key=lambda name: -shares[name])[:2]
    words = [first]
    if shares[second] >= SECOND * whole:
        words += ["and", second]
    if body > whole / 2 and spec.family in _PATTERNS:
        words.append(_PATTERNS[spec.family])
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join((article, *words, _NOUNS.get(spec.kind, spec.kind)))


def _name(rgb: NDArray[np.generic]) -> str:
    """The name of a colour, RGB in 0 .. 255."""
    pixel = np.clip(rgb, 0, 255).astype(np.uint8).reshape(1, 1, 3)
    hue, saturation, value = (int(v) for v in cv2.cvtColor(pixel, cv2.COLOR_RGB2HSV)[0, 0])
    if value < 45:
        return "black"
    if saturation < 40:
        return "white" if value > 190 else "grey"
    name = next(name for limit, name in _HUES if hue < limit)
    if name in ("red", "orange", "yellow") and value < 150 and saturation < 200:
        return "brown"
    return "pink" if name == "red" and saturation < 130 and value > 180 else name
