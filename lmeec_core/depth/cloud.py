"""The point cloud of an object in one camera: the depth inside its mask, without outliers.

Depth is unreliable at the edge of a mask: sensors mix the near and the far side of an edge ("flying
pixels"), and masks may be a pixel or two too large. So the rim of the mask is left out first, then
pixels next to a depth discontinuity, and finally all but the largest group of depths.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.depth.images import Depth
from lmeec_core.errors import InputError
from lmeec_core.geometry import GeometryError, Intrinsics, Pose, Vector
from lmeec_core.takes import resize_mask
from lmeec_core.takes.rle import check_aspect

RIM = 2
"""Width of the mask's rim that is left out, in pixels, if the object is large enough."""
INNER = 0.25
"""Minimum share of a mask's pixels that must remain without its rim; else a thinner rim is used."""
LEAST = 12
"""Minimum number of pixels with depth for a cloud."""
JUMP, LEAST_JUMP = 0.03, 0.02
"""Depth discontinuity between neighbouring pixels: a share of the depth, and metres; the larger one
applies."""
GAP, LEAST_GAP = 0.05, 0.05
"""Gap between two groups of depths, in the same way."""
MOST_POINTS = 20_000
TRIM = 1.0
"""Percentage of points left out on each side when the extent is measured."""


@dataclass(frozen=True)
class DepthView:
    """A camera's depth image, lens and pose.

    Attributes:
        depth: float32 (H, W), metres along the camera's axis, NaN for no value.
        lens: intrinsics of the colour image, which the depth is aligned with.
        pose: in the common frame, whose unit is the metre.
    """

    depth: Depth
    lens: Intrinsics
    pose: Pose


@dataclass(frozen=True)
class Cloud:
    """The visible surface of an object, from one camera or several.

    Attributes:
        points: (N, 3), common frame, metres.
        pixels: int (N, 2), x and y of each point in the depth image; empty for several cameras.
        given: number of the mask's pixels in the depth image.
    """

    points: Vector
    pixels: NDArray[np.int64]
    given: int

    @property
    def centre(self) -> Vector:
        """Centre of the box (3,). The mean of the points would be closer to the cameras."""
        low, high = self.box
        middle: Vector = (low + high) / 2
        return middle

    @cached_property
    def box(self) -> tuple[Vector, Vector]:
        """Lowest and highest x, y and z (3,) each, without the outermost :data:`TRIM` per cent."""
        low, high = np.percentile(self.points, (TRIM, 100 - TRIM), axis=0)
        return low, high

    @property
    def extent(self) -> Vector:
        """Size of the box (3,), along the axes of the common frame."""
        low, high = self.box
        size: Vector = high - low
        return size


def object_cloud(mask: NDArray[np.bool_], view: DepthView, most: int = MOST_POINTS) -> Cloud:
    """The points on the surface of an object that a camera sees.

    Args:
        mask: bool (H, W), of the colour image; may have another resolution, with the same aspect
            ratio.
        view: the camera.
        most: maximum number of points; if there are more, they are subsampled evenly.

    Raises:
        GeometryError: of kind "no_depth": too few of the mask's pixels have depth; of kind
            "calibration": the lens is for an image with another aspect ratio.
        InputError: the mask is not a bool (H, W) array, or has another aspect ratio.
    """
    depth = view.depth
    if mask.ndim != 2 or mask.dtype != np.bool_ or depth.ndim != 2:
        raise InputError(
            f"mask of shape {mask.shape} and type {mask.dtype}, depth of shape {depth.shape} "
            "given; a bool mask (H, W) and a depth image (H, W) expected"
        )
    size = (depth.shape[0], depth.shape[1])
    check_aspect(mask.shape, size)
    inside = resize_mask(mask, size)
    kept = kept_pixels(inside, depth)
    rows, columns = np.nonzero(kept)
    if len(rows) < LEAST:
        raise GeometryError(
            "no_depth",
            f"{len(rows)} of the mask's {int(inside.sum())} pixels have a usable depth, {LEAST} "
            "or more expected",
        )
    if len(rows) > most:
        chosen = np.linspace(0, len(rows) - 1, most).astype(int)
        rows, columns = rows[chosen], columns[chosen]
    pixels = np.stack([columns, rows], axis=1)
    moved = view.lens.scaled(pixels.astype(np.float64), (size[1], size[0]))
    rays = view.lens.rays(moved)
    in_camera = rays / rays[:, 2:] * depth[rows, columns, None].astype(np.float64)
    points = in_camera @ view.pose.rotation.T + view.pose.position
    return Cloud(points, pixels, int(inside.sum()))


def kept_pixels(mask: NDArray[np.bool_], depth: Depth) -> NDArray[np.bool_]:
    """The pixels of a mask whose depth is used for the object.

    Args:
        mask: bool (H, W).
        depth: float32 (H, W), metres; NaN for no value.
    """
    kept = np.zeros_like(mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return kept
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inner, near = _without_rim(mask[part]), depth[part]
    inner &= np.isfinite(near)
    inner &= ~_beside_jumps(inner, near)
    inner[inner] = _largest_group(near[inner])
    kept[part] = inner
    return kept


def _without_rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its rim, as wide as the object allows; the image's edge counts as rim."""
    padded = np.pad(mask, 1).astype(np.uint8)
    for width in range(RIM, 0, -1):
        kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
        found = cv2.erode(padded, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        inner = found[1:-1, 1:-1].astype(bool)
        if inner.sum() >= max(LEAST, INNER * mask.sum()):
            return inner
    return mask.copy()


def _beside_jumps(inner: NDArray[np.bool_], depth: Depth) -> NDArray[np.bool_]:
    """Pixels next to a depth discontinuity inside the mask."""
    kernel = np.ones((3, 3), np.uint8)
    low = np.where(inner, depth, np.float32(np.inf)).astype(np.float32)
    high = np.where(inner, depth, np.float32(-np.inf)).astype(np.float32)
    nearest = cv2.erode(low, kernel, borderType=cv2.BORDER_REPLICATE)
    farthest = cv2.dilate(high, kernel, borderType=cv2.BORDER_REPLICATE)
    limit = np.maximum(JUMP * np.nan_to_num(depth), LEAST_JUMP)
    with np.errstate(invalid="ignore"):
        jumps: NDArray[np.bool_] = inner & (farthest - nearest > limit)
    return jumps


def _largest_group(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which depths belong to the largest group without gaps."""
    if not len(values):
        return np.zeros(0, bool)
    order = np.argsort(values)
    ordered = values[order]
    apart = np.diff(ordered) > np.maximum(GAP * ordered[:-1], LEAST_GAP)
    group = np.concatenate([[0], np.cumsum(apart)])
    found = np.zeros(len(values), bool)
    found[order] = group == np.bincount(group).argmax()
    return found
