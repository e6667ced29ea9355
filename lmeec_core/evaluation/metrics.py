"""The measures of the EgoExo4D correspondence benchmark, as its evaluation code computes them.

All take a predicted and a true mask of the same shape (H, W), bool.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

LOCATION_SIZE = (480, 480)
CONTOUR_TOLERANCE = 0.008  # share of the image diagonal, DAVIS
ASSOCIATION_IOU = 0.5


class MaskMetrics(NamedTuple):
    """Agreement of one predicted mask with the truth.

    Attributes:
        iou: intersection over union, [0, 1].
        contour: boundary F-measure, [0, 1].
        location: distance of the bounding boxes' midpoints as a share of the diagonal of the
            location size; 0 is best.
        existence: whether both masks are empty or both are not.
    """

    iou: float
    contour: float
    location: float
    existence: bool


def mask_metrics(
    prediction: NDArray[Any], truth: NDArray[Any], location_size: tuple[int, int] = LOCATION_SIZE
) -> MaskMetrics:
    """All measures of one pair of masks.

    Args:
        prediction: (H, W), nonzero = object.
        truth: (H, W), same shape.
        location_size: (height, width) whose diagonal normalises the location error; the benchmark
            uses 480 x 480, whatever the masks' shape.

    Raises:
        ValueError: the shapes differ or are not two-dimensional.
    """
    if prediction.shape != truth.shape or prediction.ndim != 2 or prediction.size == 0:
        raise ValueError(
            f"masks of shapes {prediction.shape} (prediction) and {truth.shape} (truth) were "
            "given, expected the same (H, W)"
        )
    predicted, true = prediction != 0, truth != 0
    return MaskMetrics(
        iou=iou(predicted, true),
        contour=contour_accuracy(predicted, true),
        location=location_error(predicted, true, location_size),
        existence=bool(predicted.any()) == bool(true.any()),
    )


def iou(prediction: Mask, truth: Mask) -> float:
    """Intersection / (union + 1e-7); 1 if both masks are empty."""
    union = int(np.count_nonzero(prediction | truth))
    if union == 0:
        return 1.0
    return int(np.count_nonzero(prediction & truth)) / (union + 1e-7)


def contour_accuracy(prediction: Mask, truth: Mask) -> float:
    """DAVIS' boundary F-measure (Perazzi et al., CVPR 2016, section 4).

    Precision is the share of the predicted boundary within a disk of radius
    ceil(0.008 x diagonal) of the true one, recall the reverse. Without a
    boundary in one of the masks: 1 if the other has none either, else 0.
    """
    boundary, true_boundary = _boundary(prediction), _boundary(truth)
    count, true_count = cv2.countNonZero(boundary), cv2.countNonZero(true_boundary)
    if count == 0 or true_count == 0:
        return float(count == true_count)
    disk = _disk(int(np.ceil(CONTOUR_TOLERANCE * np.linalg.norm(prediction.shape))))
    matched = cv2.countNonZero(cv2.bitwise_and(boundary, cv2.dilate(true_boundary, disk)))
    true_matched = cv2.countNonZero(cv2.bitwise_and(true_boundary, cv2.dilate(boundary, disk)))
    precision, recall = matched / count, true_matched / true_count
    if precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def location_error(
    prediction: Mask, truth: Mask, location_size: tuple[int, int] = LOCATION_SIZE
) -> float:
    """Distance of the bounding boxes' midpoints / diagonal of ``location_size`` (height, width)."""
    (x, y), (true_x, true_y) = _midpoint(prediction), _midpoint(truth)
    return float(np.hypot(x - true_x, y - true_y) / np.hypot(*location_size))


def _midpoint(mask: Mask) -> tuple[int, int]:
    """Midpoint (x, y) of the bounding box, in the frame of the mask padded by H on every side."""
    height, width = mask.shape
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        # The benchmark's code returns (row, column) of the padded image's centre here, but uses it
        # as (x, y); to keep scores comparable, this does the same.
        return 3 * height // 2, (width + 2 * height) // 2
    columns = np.flatnonzero(mask.any(axis=0))
    x = int(columns[0] + columns[-1] + 2 * height) // 2
    y = int(rows[0] + rows[-1] + 2 * height) // 2
    return x, y


def _boundary(mask: Mask) -> NDArray[np.uint8]:
    """Boundary pixels (0 or 1): those that differ from a neighbour to the right or below."""
    here = mask.astype(np.uint8)
    boundary = np.zeros_like(here)
    boundary[:, :-1] |= here[:, :-1] ^ here[:, 1:]
    boundary[:-1, :] |= here[:-1, :] ^ here[1:, :]
    boundary[:-1, :-1] |= here[:-1, :-1] ^ here[1:, 1:]
    return boundary


@lru_cache(maxsize=16)
def _disk(radius: int) -> NDArray[np.uint8]:
    """Disk of pixels at distance <= radius, (2 radius + 1) squared."""
    axis = np.arange(-radius, radius + 1)
    inside = axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2
    return np.asarray(inside, dtype=np.uint8)
