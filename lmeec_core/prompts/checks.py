"""Checks of prompts. Each error says what was given and what is expected."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lmeec_core.correspondence import Mask
from lmeec_core.errors import InputError
from lmeec_core.preprocessing import check_mask

Spots = npt.NDArray[np.float64]


class Marked(NamedTuple):
    """A checked prompt: points and a box, or a mask."""

    points: Spots
    """(n, 2), x and y in pixels of the image."""
    labels: tuple[int, ...]
    """For each point 1 (on the object) or 0 (not on it)."""
    box: Spots | None
    """(2, 2), the upper left and the lower right corner."""
    mask: Mask | None


def check_limits(**numbers: int | None) -> None:
    """Check settings of a tracker, each of which must be None or at least 1.

    Raises:
        InputError: a number is below 1.
    """
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise InputError(f"{name}: {value} given, at least 1 expected")


def check_room(object_id: Any, objects: Collection[str], max_objects: int) -> None:
    """Check that an object can be marked.

    Raises:
        InputError: the id is empty or not a string, or there are too many objects.
    """
    if not isinstance(object_id, str) or not object_id:
        raise InputError(f"object id {object_id!r}: a non-empty string expected")
    if object_id not in objects and len(objects) >= max_objects:
        raise InputError(
            f"{len(objects) + 1} objects, at most {max_objects} expected; forget "
            "some, or raise max_objects"
        )


def check_frame(object_id: str, frame: int | None, held: Sequence[int]) -> int:
    """The number of the frame to prompt; None means the last one.

    Raises:
        InputError: there is no frame yet, or the frame is no longer held.
    """
    if not held:
        raise InputError(f"prompt for {object_id!r}: no frame yet; call step(image) first")
    if frame is not None and frame not in held:
        raise InputError(
            f"prompt for {object_id!r}: frame {frame} is not held; one of {list(held)} expected"
        )
    return held[-1] if frame is None else frame


def check_prompt(
    object_id: str, points: Any, labels: Any, box: Any, mask: Any, size: tuple[int, int]
) -> Marked:
    """Check a prompt on an image of a size (height, width).

    Raises:
        InputError: nothing is marked, a mask is combined with points or a box, or a shape or value
            is wrong.
    """
    if mask is not None and (points is not None or box is not None):
        raise InputError(
            f"prompt for {object_id!r}: a mask must be given alone, without points or a box"
        )
    if labels is not None and points is None:
        raise InputError(f"prompt for {object_id!r}: labels without points given")
    if mask is not None:
        return Marked(np.zeros((0, 2)), (), None, check_mask(object_id, mask, size))
    if points is None and box is None:
        raise InputError(f"prompt for {object_id!r}: points, a box or a mask expected")
    own, corners = np.zeros((0, 2)), None
    kinds: tuple[int, ...] = ()
    if box is not None:
        corners = _numbers("box", box, (4,)).reshape(2, 2)
        if not (corners[0] < corners[1]).all():
            raise InputError(f"box {corners.ravel().tolist()}: x0 < x1 and y0 < y1 expected")
    if points is not None:
        own = _numbers("points", points, (-1, 2))
        given = [1] * len(own) if labels is None else list(labels)
        if len(given) != len(own) or not set(given) <= {0, 1}:
            raise InputError(f"labels {given}: 0 or 1 for each of {len(own)} points expected")
        kinds = tuple(int(k) for k in given)
    height, width = size
    spots = own if corners is None else np.concatenate((corners, own))
    if not len(spots) or ((spots < 0) | (spots > (width, height))).any():
        raise InputError(
            f"points {spots.tolist()}: one or more within the image of {width} x {height} "
            "pixels expected"
        )
    return Marked(own, kinds, corners, None)


def _numbers(name: str, values: Any, shape: tuple[int, ...]) -> Spots:
    """An array of finite numbers with a shape (-1: any length)."""
    expected = "x0, y0, x1, y1" if shape == (4,) else "pairs of x and y"
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.full(0, np.nan)
    right_shape = array.ndim == len(shape) and all(
        want in (-1, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if not right_shape or not np.isfinite(array).all():
        raise InputError(f"{name} {values!r}: {expected} in pixels expected")
    return array
