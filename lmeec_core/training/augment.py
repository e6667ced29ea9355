"""Augmentation of clips: changes that all images of a clip share, and changes of single images.

An object must be mirrored in both views or in neither, or else the views no longer correspond.
Objects are told apart by colour, so large colour changes are the same in both views. On takes, one
random change applies to all images of a clip; its ranges are those of SAM 2.1's training
configuration, which the paper follows. Simulated scenes all look alike, so their clips are cropped
and changed much more, image by image.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lmeec_core.preprocessing import IMAGENET_MEAN

FILL = tuple(round(255 * value) for value in IMAGENET_MEAN)
"""Colour of the area outside a rotated image: 0 after normalisation."""
GREY = np.array((0.299, 0.587, 0.114), dtype=np.float32)
"""Luma weights (ITU-R BT.601)."""


class Augmentation(BaseModel):
    """Ranges of the random changes on takes; with all of them 0, nothing changes.

    Attributes:
        flip: probability of a horizontal flip, 0 .. 1.
        degrees: largest rotation either way.
        shear: largest horizontal shear either way, in degrees.
        brightness, contrast, saturation: largest deviation of each factor from 1.
        grey: probability that the image becomes greyscale, 0 .. 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flip: float = Field(0.5, ge=0, le=1)
    degrees: float = Field(25, ge=0, le=180)
    shear: float = Field(20, ge=0, lt=90)
    brightness: float = Field(0.1, ge=0, lt=1)
    contrast: float = Field(0.03, ge=0, lt=1)
    saturation: float = Field(0.03, ge=0, lt=1)
    grey: float = Field(0.05, ge=0, le=1)


class Change(NamedTuple):
    """The change applied to every image of a clip."""

    matrix: NDArray[np.float64] | None
    """(2, 3), maps old to new pixel coordinates; None leaves the geometry unchanged."""
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0


def draw_change(ranges: Augmentation, size: int, random: np.random.Generator) -> Change:
    """Draw a random change for images of ``size`` x ``size`` pixels."""
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
    """Apply a change to an image, RGB uint8 (S, S, 3); bilinear interpolation."""
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
    """Apply a change to a mask, bool (S, S); nearest neighbour, background outside."""
    if change.matrix is None:
        return mask.astype(bool)
    warped = cv2.warpAffine(
        mask.astype(np.uint8), change.matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST
    )
    return np.asarray(warped).astype(bool)


# -- simulated scenes --------------------------------------------------------------------------


def crop_matrix(
    centre: NDArray[np.float64], scale: float, flip: float, source: int, size: int,
    random: np.random.Generator,
) -> NDArray[np.float64]:  # fmt: skip
    """An affine map from the crop's pixels to the image's pixels: (2, 3).

    Args:
        centre: (2,) x and y of the crop's centre in the image, -1 .. 1.
        scale: side of the crop as a fraction of the image's side.
        flip: 1, or -1 to mirror the crop horizontally.
        source, size: sides of the image and of the crop, in pixels.
        random: draws a small rotation (standard deviation 5 degrees) and a change of the aspect
            ratio.
    """
    angle, aspect = math.radians(5) * random.normal(), math.exp(0.06 * random.normal())
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = scale / aspect * flip, scale * aspect
    linear = np.array([[cos * x, -sin * y], [sin * x, cos * y]])
    # The centre of pixel p of n is at (2 p + 1) / n - 1.
    corner = linear @ np.full(2, 1 / size - 1) + centre
    return np.column_stack((linear * source / size, (corner + 1) * source / 2 - 0.5))


def crop_image(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int
) -> NDArray[np.uint8]:
    """Cut a crop out of an image, uint8 (S, S, 3): bilinear, mirrored at the border."""
    cut = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    return np.asarray(cut, dtype=np.uint8)


def crop_labels(
    labels: NDArray[np.uint8], matrix: NDArray[np.float64], size: int
) -> NDArray[np.uint8]:
    """Cut the same crop out of a label image, uint8 (S, S): nearest neighbour, 0 outside."""
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(labels, matrix, (size, size), flags=flags), dtype=np.uint8)


def draw_colours(random: np.random.Generator) -> NDArray[np.float32]:
    """A colour transform (3, 3) for both views of a clip: hue, saturation (sometimes 0), gain."""
    matrix: NDArray[Any] = np.eye(3)
    if random.random() < 0.6:  # a rotation of RGB space about the grey axis (Rodrigues' formula)
        axis = np.full(3, random.uniform(0, 2 * math.pi) / math.sqrt(3))
        matrix = cv2.Rodrigues(axis)[0]
    saturation = random.uniform(0.5, 1.4) if random.random() > 0.05 else 0.0
    matrix = matrix @ (saturation * np.eye(3) + (1 - saturation) * np.full((3, 3), 1 / 3))
    return (matrix * random.uniform(0.7, 1.3)).astype(np.float32)


def change_colours(
    image: NDArray[np.uint8], matrix: NDArray[np.float32], random: np.random.Generator
) -> NDArray[np.uint8]:
    """Apply a shared colour transform, then jitter, gamma, blur and noise drawn for this image.

    Args:
        image: RGB uint8 (S, S, 3).
        matrix: from :func:`draw_colours`.
        random: draws what applies to this image alone.
    """
    jitter = random.uniform(0.88, 1.12, (3, 1)).astype(np.float32)
    moved = np.column_stack((matrix * jitter, np.full(3, random.uniform(-0.05, 0.05), np.float32)))
    x = np.clip(cv2.transform(image.astype(np.float32) / 255, moved), 1e-4, 1)
    x = cv2.pow(x, random.uniform(0.75, 1.25))
    if random.random() < 0.35:
        x = cv2.addWeighted(x, share := random.random(), cv2.blur(x, (3, 3)), 1 - share, 0)
    if random.random() < 0.5:
        noise = random.standard_normal(x.shape, dtype=np.float32)
        x = x + np.float32(random.uniform(0, 0.03)) * noise
    return np.asarray((x * 255).round().clip(0, 255), dtype=np.uint8)
