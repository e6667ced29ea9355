"""Augmentation of a clip: one draw that every frame of both views shares.

A mirrored or turned object must be so in every image, or there is nothing to correspond. Ranges
are those of SAM 2.1's training configuration, which the paper follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.preprocessing import IMAGENET_MEAN

FILL = tuple(round(255 * value) for value in IMAGENET_MEAN)
"""Colour outside a turned image: 0 after normalisation."""
GREY = np.array((0.299, 0.587, 0.114), dtype=np.float32)
"""Luma weights (ITU-R BT.601)."""


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; all zero changes nothing.

    Attributes:
        flip: probability of a horizontal flip, 0 .. 1.
        degrees: largest rotation either way.
        shear: largest horizontal shear either way, in degrees.
        brightness, contrast, saturation: largest change of each factor around 1.
        grey: probability that colours go, 0 .. 1.
    """

    flip: float = 0.5
    degrees: float = 25.0
    shear: float = 20.0
    brightness: float = 0.1
    contrast: float = 0.03
    saturation: float = 0.03
    grey: float = 0.05


class Change(NamedTuple):
    """What is done to every image of a clip."""

    matrix: NDArray[np.float64] | None
    """(2, 3) from old to new pixel coordinates; None leaves the geometry as it is."""
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0


def draw_change(ranges: Augmentation, size: int, random: np.random.Generator) -> Change:
    """Draw a change for images of ``size`` x ``size`` pixels."""
    flip = -1.0 if random.random() < ranges.flip else 1.0
    angle = math.radians(random.uniform(-ranges.degrees, ranges.degrees))
    shear = math.tan(math.radians(random.uniform(-ranges.shear, ranges.shear)))
    factors = [
        1 + random.uniform(-width, width)
        for width in (ranges.brightness, ranges.contrast, ranges.saturation)
    ]
    if random.random() < ranges.grey:
        factors[2] = 0.0
    cos, sin = math.cos(angle), math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) @ [[1, shear], [0, 1]] @ [[flip, 0], [0, 1]]
    if np.allclose(linear, np.eye(2)):
        return Change(None, *factors)
    centre = np.full(2, (size - 1) / 2)
    return Change(np.column_stack((linear, centre - linear @ centre)), *factors)


def change_image(image: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
    """Change an image, RGB uint8 (S, S, 3); bilinear."""
    if change.matrix is not None:
        warped = cv2.warpAffine(
            image, change.matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR, borderValue=FILL
        )
        image = np.asarray(warped, dtype=np.uint8)
    if change[1:] == (1.0, 1.0, 1.0):
        return image
    x = image.astype(np.float32) * change.brightness
    middle = float((x @ GREY).mean())
    x = (x - middle) * change.contrast + middle
    grey = (x @ GREY)[..., None]
    x = (x - grey) * change.saturation + grey
    return x.round().clip(0, 255).astype(np.uint8)


def change_mask(mask: NDArray[Any], change: Change) -> NDArray[np.bool_]:
    """Change a mask, bool (S, S); nearest neighbour, outside is background."""
    if change.matrix is None:
        return mask.astype(bool)
    warped = cv2.warpAffine(
        mask.astype(np.uint8), change.matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST
    )
    return np.asarray(warped).astype(bool)
