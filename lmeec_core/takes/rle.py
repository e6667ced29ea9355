"""Masks as COCO compressed run lengths (column-major, size [H, W]).

pycocotools encodes the masks, but does not decode them: for run lengths that do not fill the mask
it returns uninitialised memory, whereas broken files have to be detected.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.takes.images import MAX_PIXELS, check_size

Rle = dict[str, Any]
Size = tuple[int, int] | Callable[[int, int], tuple[int, int]]


def encode_mask(mask: NDArray[Any]) -> Rle:
    """Encode a mask.

    Args:
        mask: (H, W), bool or number; nonzero pixels belong to the object.

    Returns:
        ``{"size": [H, W], "counts": str}``, ready for JSON.

    Raises:
        InputError: the array is not two-dimensional, or is empty.
    """
    from pycocotools import mask as coco

    if mask.ndim != 2 or mask.size == 0:
        raise InputError(f"a mask of shape {mask.shape} was given, expected (H, W) with H, W > 0")
    rle = coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_mask(
    rle: Rle,
    size: Size | None = None,
    max_pixels: int = MAX_PIXELS,
    image: tuple[int, int] | None = None,
) -> NDArray[np.bool_]:
    """Decode a mask, (H, W) bool.

    Args:
        rle: ``size`` [H, W] and ``counts``, compressed (str or bytes) or a list of run lengths.
        size: (height, width) to resize the mask to, as in :func:`resize_mask`, or a function that
            computes it from the mask's own height and width. Smaller masks are made directly from
            the run lengths.
        max_pixels: masks with more pixels are rejected before memory is allocated.
        image: (height, width) of the image, if known, to check the aspect ratio of a mask that is
            not empty; see :func:`check_aspect`.

    Raises:
        InputError: the dictionary has another format, its run lengths do not fill H x W pixels,
            there are more than ``max_pixels``, or the aspect ratios differ.
    """
    check_form(rle)
    height, width = mask_size(rle)
    try:
        check_size(width, height, max_pixels)
    except ValueError as error:
        raise InputError(f"a mask: {error}") from error
    runs = _checked_runs(rle["counts"], height * width)
    if int(runs.sum()) != height * width:
        raise InputError(f"the runs of a mask fill {int(runs.sum())} pixels, not {height}x{width}")
    if image is not None and runs[1::2].any():
        check_aspect((height, width), image)
    if callable(size):
        size = size(height, width)
    if size is None or size == (height, width):
        return _filled(runs, (height, width))
    if size[0] > height or size[1] > width:
        return resize_mask(_filled(runs, (height, width)), size)
    return _filled(_shrunk(runs, (height, width), size), size)


def mask_size(rle: Rle) -> tuple[int, int]:
    """(height, width) of a mask, without decoding it.

    Raises:
        InputError: there is no ``size`` of two integers.
    """
    size = rle.get("size") if isinstance(rle, dict) else None
    whole = isinstance(size, list | tuple) and [type(n) for n in size] == [int, int]
    if not whole:
        raise InputError(
            f"not a mask in COCO run lengths: {reprlib.repr(rle)} given, "
            '{"size": [H, W], "counts": text} expected'
        )
    return size[0], size[1]  # type: ignore[index]


def check_form(rle: Rle) -> None:
    """Check the format of a mask in run lengths, without decoding it.

    Raises:
        InputError: ``size`` or ``counts`` have a wrong format; shows them.
    """
    mask_size(rle)
    counts = rle.get("counts")
    if not isinstance(counts, str | bytes | list):
        raise InputError(f"counts of a mask are {reprlib.repr(counts)}, a text expected")
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"'):
        raise InputError(
            f"counts of a mask are the repr of Python bytes, {reprlib.repr(counts)}; write the "
            'text itself, counts.decode("ascii")'
        )


def _checked_runs(counts: str | bytes | list[Any], pixels: int) -> NDArray[np.int64]:
    """Run lengths, each from 0 to ``pixels``, so that their sum cannot overflow."""
    if isinstance(counts, list):
        if not all(type(n) is int and 0 <= n <= pixels for n in counts):
            raise InputError(f"the runs of a mask are not integers from 0 to {pixels}")
        return np.asarray(counts, dtype=np.int64)
    runs = _runs(counts.encode("ascii", "replace") if isinstance(counts, str) else counts)
    if int(runs.min()) < 0 or int(runs.max()) > pixels:
        raise InputError(f"the runs of a mask are not from 0 to {pixels}")
    return runs


def check_aspect(mask: tuple[int, int], image: tuple[int, int]) -> None:
    """Reject a mask whose aspect ratio differs from the image's: it would be distorted.

    Sides may differ by 2 % (networks round to multiples of 14 or 32), or by a pixel of the smaller
    one of the two (rounding).

    Args:
        mask: (height, width) of the mask.
        image: (height, width) of the image, or of another mask of it.

    Raises:
        InputError: names both sizes.
    """
    (height, width), (rows, columns) = mask, image
    off = abs(height * columns - width * rows)
    if off > max(height + width, rows + columns, 0.02 * height * columns):
        raise InputError(
            f"mask of {width} x {height} given for {columns} x {rows}, which has another aspect "
            "ratio; a mask of the same size, or of the whole image at another scale, expected"
        )


def resize_mask(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize a mask (H, W) to ``size`` = (height, width) by nearest neighbour (OpenCV's)."""
    if mask.shape == tuple(size):
        return mask.astype(bool)
    resized = cv2.resize(
        (mask != 0).astype(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_NEAREST
    )
    return np.asarray(resized).astype(bool)


def _filled(runs: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.bool_]:
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(size, order="F"))


def _shrunk(
    runs: NDArray[np.int64], old: tuple[int, int], new: tuple[int, int]
) -> NDArray[np.int64]:
    """Run lengths after downsampling to the pixels that OpenCV's nearest neighbour selects."""
    rows, columns = (_nearest(a, b) for a, b in zip(old, new, strict=True))
    column, row = np.divmod(np.cumsum(runs), old[0])  # of the first pixel after each run
    place = np.searchsorted(columns, column)  # number of new columns before it
    taken = columns[np.minimum(place, new[1] - 1)] == column
    ends = place * new[0] + np.where(taken, np.searchsorted(rows, row), 0)
    return np.diff(ends, prepend=0)


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    """Index of the old pixel for every new one along an axis, as OpenCV rounds."""
    step = 1 / (new / old)
    return np.minimum(np.floor(np.arange(new) * step).astype(np.int64), old - 1)


def _runs(counts: bytes) -> NDArray[np.int64]:
    """Run lengths of COCO's compressed string: 5 bits per character, stored as differences from the
    run two before.

    Raises:
        InputError: a character is out of range, or the last number is truncated.
    """
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        raise InputError("the counts of a mask are not COCO compressed run lengths")
    last = (codes & 0x20) == 0
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if int((ends - starts).max()) > 6:
        raise InputError("the counts of a mask hold a number that is too long")
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    lengths = 5 * (ends - starts + 1)
    numbers = np.where(codes[ends] & 0x10, numbers - (1 << lengths), numbers)
    if numbers.size > 3:  # from the fourth run on, each is stored as a difference
        numbers[1::2] = np.cumsum(numbers[1::2])
        numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
