"""Depth images as metres: 16-bit millimetres, 32-bit metres, and image_transport's compressedDepth.

A depth image is aligned: its pixels are those of the camera's colour image, at the same or another
resolution. Its values are distances along the camera's axis, as in REP 118.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.takes.images import MAX_PIXELS, check_stream, decode_stream, is_png

Depth = NDArray[np.float32]

HEADER = struct.Struct("<iff")
"""Header before the PNG of a compressedDepth message: kind of compression, and two parameters."""
MILLIMETRES = ("16UC1", "mono16")
METRES = ("32FC1",)
FARTHEST_MM = 65535


class DepthImageError(InputError):
    """A depth image that cannot be read; the text says what was given and what was expected."""


def to_metres(pixels: NDArray[Any]) -> Depth:
    """Depth values in metres, NaN for no value.

    Args:
        pixels: uint16 (H, W), millimetres, 0 for no value; or float32 or float64 (H, W), metres,
            with no value where a number is not finite or not above 0 (REP 118).

    Returns:
        float32 (H, W).

    Raises:
        DepthImageError: another shape or type.
    """
    if pixels.ndim != 2 or not pixels.size:
        raise DepthImageError(
            f"depth image of shape {pixels.shape} given, one channel (height, width) expected"
        )
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        found = pixels.astype(np.float32) / np.float32(1000)
    elif pixels.dtype.kind == "f":
        found = pixels.astype(np.float32)
    else:
        raise DepthImageError(
            f"depth image of type {pixels.dtype} given; uint16 (millimetres) or float32 (metres) "
            "expected: an image of 8 bits is a picture of depth, not depth"
        )
    with np.errstate(invalid="ignore"):
        found[~(np.isfinite(found) & (found > 0))] = np.nan
    return found


def from_png(data: bytes, max_pixels: int = MAX_PIXELS) -> Depth:
    """Depth in metres from a PNG with one 16-bit channel, millimetres.

    Raises:
        DepthImageError: damaged, too large, or another kind of image.
    """
    return to_metres(_png(data, max_pixels))


def from_compressed(data: bytes, kind: str, max_pixels: int = MAX_PIXELS) -> Depth:
    """Depth in metres from a compressedDepth message of compressed_depth_image_transport.

    16UC1 images are stored as PNG; 32FC1 images as PNG of quantised inverse depth, with two
    parameters in the header. The format RVL is not supported.

    Args:
        data: the message's bytes: 12 bytes of header, then the PNG.
        kind: the message's format, for example "16UC1; compressedDepth png"; older publishers omit
            the last word.
        max_pixels: larger images are rejected.

    Raises:
        DepthImageError: the message has another format, or is damaged.
    """
    encoding, _, rest = (part.strip() for part in kind.partition(";"))
    words = rest.split()
    if words[:1] != ["compressedDepth"] or encoding not in (*MILLIMETRES, *METRES):
        hint = ""
        if "jpeg" in kind.lower() or "png" in kind.lower():
            hint = "; this one is of a picture: take the topic .../compressedDepth"
        raise DepthImageError(
            f"compressed depth of format {kind!r} given, '16UC1; compressedDepth png' or "
            f"'32FC1; compressedDepth png' expected{hint}"
        )
    if words[1:] not in ([], ["png"]):
        raise DepthImageError(
            f"compressed depth of format {kind!r} given: {' '.join(words[1:])} is not read, only "
            "png; set the publisher's parameter <topic>.compressedDepth.format to png"
        )
    if len(data) <= HEADER.size:
        raise DepthImageError(
            f"compressed depth of {len(data)} bytes given, a header of {HEADER.size} bytes and a "
            "PNG expected"
        )
    values = _png(data[HEADER.size :], max_pixels)
    if encoding in MILLIMETRES:
        return to_metres(values)
    _, a, b = HEADER.unpack_from(data)
    if not np.isfinite([a, b]).all() or a <= 0:
        raise DepthImageError(
            f"compressed depth with the quantisation {a:g}, {b:g} in its header given; two finite "
            "numbers, the first above 0, expected"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = np.float32(a) / (values.astype(np.float32) - np.float32(b))
    metres[values == 0] = np.nan
    return to_metres(metres)


def read_depth(path: Path) -> Depth:
    """Depth in metres from a file: PNG with one 16-bit channel, millimetres.

    Raises:
        DepthImageError: no such file, or another kind of image; names it.
    """
    try:
        return from_png(path.read_bytes())
    except (OSError, DepthImageError) as error:
        raise DepthImageError(f"{path}: depth cannot be read: {error}") from error


def encode_depth(metres: NDArray[np.floating[Any]]) -> bytes:
    """A depth image as PNG, 16 bits, whole millimetres.

    Args:
        metres: (H, W); values that are not finite, not above 0, or too large for 16 bits
            (65.535 m) become 0, no value.
    """
    with np.errstate(invalid="ignore"):
        rounded = np.rint(np.asarray(metres, np.float64) * 1000)
        rounded[~(rounded <= FARTHEST_MM) | (rounded < 0)] = 0
    done, data = cv2.imencode(".png", rounded.astype(np.uint16))
    if not done:
        raise DepthImageError(f"a depth image of shape {metres.shape} cannot be encoded as PNG")
    return bytes(data)


def _png(data: bytes, max_pixels: int) -> NDArray[np.uint16]:
    try:
        check_stream(data, max_pixels)
        if not is_png(data):
            raise InputError("JPEG given, PNG expected (JPEG changes the values)")
        bits, colour = data[24], data[25]
        if bits != 16 or colour != 0:
            raise InputError(
                f"PNG with {bits} bits and colour type {colour} given, one channel of 16 bits "
                "(colour type 0) expected"
            )
        found = decode_stream(data, cv2.IMREAD_UNCHANGED)
    except InputError as error:
        raise DepthImageError(f"depth image: {error}") from error
    if found.ndim != 2 or found.dtype != np.uint16:
        raise DepthImageError(
            f"depth image: PNG of shape {found.shape} and type {found.dtype} given, one channel of "
            "16 bits expected"
        )
    return found
