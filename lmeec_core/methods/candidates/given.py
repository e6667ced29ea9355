"""Candidates from another program that arrive with the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from lmeec_core.correspondence import Mask
from lmeec_core.errors import InputError
from lmeec_core.methods.candidates.limits import CandidateLimits


@runtime_checkable
class TakesCandidates(Protocol):
    """A tracker that chooses among given masks."""

    def offer(self, candidates: Mapping[str, Mask]) -> None:
        """The candidates (N, h, w) of the next step's targets, by camera."""


def label_masks(labels: npt.NDArray[Any], image: tuple[int, int], limits: CandidateLimits) -> Mask:
    """Candidates (N, h, w) from a label image: one for each label except 0, in increasing order.

    Args:
        labels: (h, w), at the image's size or smaller.
        image: (height, width) of the image.
        limits: which candidates are kept; lower labels count as better.

    Raises:
        InputError: the aspect ratios differ, or there are more labels than `limits` allows.
    """
    height, width = labels.shape
    # A smaller one is rounded to whole pixels.
    if abs(height * image[1] - width * image[0]) > max(image):
        raise InputError(
            f"candidates of {width} x {height} pixels given, {image[1]} x {image[0]} like the "
            "image, or smaller with the same aspect ratio, expected"
        )
    found = np.unique(labels)
    found = found[found > 0]
    if len(found) > limits.most:
        raise InputError(
            f"{len(found)} candidates given, at most {limits.most} (candidates.most) expected"
        )
    masks = np.asarray(labels[None] == found[:, None, None])
    return limits.keep(masks, -np.arange(len(found), dtype=np.float32))
