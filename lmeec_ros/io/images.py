"""Convert sensor_msgs images to NumPy arrays, without a copy where possible.

The functions only read attributes (height, width, encoding, step, is_bigendian, data, format), so
they accept messages of rclpy as well as those of the rosbags library.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lmeec_core.depth.images import Depth, from_compressed, to_metres
from lmeec_core.errors import InputError
from lmeec_core.takes.images import (
    MAX_PIXELS,
    ImageReader,
    check_size,
    check_stream,
    decode_stream,
    is_png,
)
from lmeec_ros.parameters import video

Array = npt.NDArray[Any]

# encoding: (bytes per sample, samples per pixel)
_PLAIN = {
    "rgb8": (1, 3),
    "bgr8": (1, 3),
    "8UC3": (1, 3),
    "rgba8": (1, 4),
    "bgra8": (1, 4),
    "mono8": (1, 1),
    "8UC1": (1, 1),
    "mono16": (2, 1),
    "16UC1": (2, 1),
    "rgb16": (2, 3),
    "bgr16": (2, 3),
    "16UC3": (2, 3),
    "rgba16": (2, 4),
    "bgra16": (2, 4),
}
_BLUE_FIRST = ("bgr8", "8UC3", "bgr16", "16UC3", "bgra8", "bgra16")
_NUMBERS = re.compile(r"(8|16|32|64)[USF]C\d+")
"""Generic numeric encodings, which cv_bridge cannot convert to colours either."""
_WITH_CV_BRIDGE = (
    *(f"bayer_{order}{bits}" for bits in (8, 16) for order in ("rggb", "bggr", "gbrg", "grbg")),
    "yuv422", "yuv422_yuy2", "uyvy", "yuyv", "nv21", "nv24",
)  # fmt: skip
"""Encodings of sensor_msgs that the package cv_bridge converts to colours."""
_LABEL = ("8UC1", "mono8", "16UC1", "mono16")
_DEPTH = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
"""Encoding of a depth image to the NumPy type of its values."""


class ImageError(InputError):
    """An image that cannot be read; the text says what was given and what was expected."""


def to_rgb(msg: Any, max_pixels: int = MAX_PIXELS, reader: ImageReader | None = None) -> Array:
    """Return the pixels of a sensor_msgs/Image.

    For rgb8 and rgba8 the result is a view of the message's bytes; the others are converted. 8UC3
    and 16UC3 do not specify the channel order and are read as BGR, as in OpenCV.

    Args:
        msg: the image.
        max_pixels: refuse images with more pixels.
        reader: the camera's reader, which scales 16-bit values by the range seen so far. Without
            one, the range of this image is used.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: if the size, the step or the buffer is wrong, or the encoding is unknown
            (encodings outside `_PLAIN` need the package cv_bridge).
    """
    reader = reader or ImageReader("image")
    if msg.encoding not in _PLAIN:
        return reader.to_8_bits(_with_cv_bridge(msg, max_pixels))
    pixels = reader.to_8_bits(_plain_view(msg, max_pixels))  # (H, W, samples)
    samples = pixels.shape[2]
    if samples == 1:
        return np.repeat(pixels, 3, axis=2)
    if msg.encoding in _BLUE_FIRST:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if samples == 3 else cv2.COLOR_BGRA2RGB)
    return pixels[:, :, :3]


def compressed_to_rgb(
    msg: Any, max_pixels: int = MAX_PIXELS, reader: ImageReader | None = None
) -> Array:
    """Return the pixels of a sensor_msgs/CompressedImage (JPEG or PNG).

    Args:
        msg, max_pixels, reader: as for `to_rgb`.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: if the data is neither JPEG nor PNG, is damaged, or exceeds `max_pixels`.
    """
    try:
        return (reader or ImageReader("image")).decode(_bytes(msg), max_pixels)
    except InputError as error:
        hint = ""
        if video.is_video(msg.format):
            hint = f"; {video.remedy('<topic>', 'cameras.<name>.')}"
        raise ImageError(f"compressed image (format {msg.format!r}): {error}{hint}") from error


def to_labels(msg: Any, max_pixels: int = MAX_PIXELS) -> Array:
    """Return the labels of a label image (8UC1, mono8, 16UC1 or mono16).

    Returns:
        uint8 or uint16 (H, W), 0 = background.

    Raises:
        ImageError: as for `to_rgb`, or if the encoding is not one of label images.
    """
    if msg.encoding not in _LABEL:
        raise ImageError(
            f"label image: encoding {msg.encoding!r} given, one of {', '.join(_LABEL)} expected"
        )
    return _plain_view(msg, max_pixels)[:, :, 0]


def compressed_to_labels(msg: Any, max_pixels: int = MAX_PIXELS) -> Array:
    """Return the labels of a PNG label image with one channel of 8 or 16 bits.

    Returns:
        uint8 or uint16 (H, W), 0 = background.

    Raises:
        ImageError: as for `compressed_to_rgb`, or if the image is not a PNG (JPEG changes
            labels) or has several channels.
    """
    data = _bytes(msg)
    try:
        check_stream(data, max_pixels)
        if not is_png(data):
            raise InputError("JPEG given, PNG expected (JPEG does not keep labels)")
        depth, colour = data[24], data[25]
        # Fewer bits would be stretched to 8, which changes the values.
        if depth not in (8, 16) or colour != 0:
            raise InputError(
                f"PNG with {depth} bits and colour type {colour} given, one channel of 8 or 16 "
                "bits (colour type 0) expected"
            )
        decoded = decode_stream(data, cv2.IMREAD_UNCHANGED)
    except InputError as error:
        raise ImageError(f"label image (format {msg.format!r}): {error}") from error
    if decoded.ndim != 2 or decoded.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"label image: PNG of shape {decoded.shape} and type {decoded.dtype} given, one "
            "channel of 8 or 16 bits expected"
        )
    return decoded


def to_depth(msg: Any, transport: str, max_pixels: int = MAX_PIXELS) -> Depth:
    """Return the depth image of a message in metres, NaN where the depth is unknown.

    Args:
        msg: sensor_msgs/Image (16UC1 or mono16, millimetres; 32FC1, metres), or CompressedImage.
        transport: raw or compressedDepth.
        max_pixels: refuse images with more pixels.

    Returns:
        float32 (H, W).

    Raises:
        ImageError: as for `to_rgb`, if the encoding is not one of depth images, or if
            `from_compressed` refuses the data.
    """
    try:
        if transport != "raw":
            return from_compressed(_bytes(msg), msg.format, max_pixels)
        if msg.encoding not in _DEPTH:
            raise InputError(f"encoding {msg.encoding!r} given, {', '.join(_DEPTH)} expected")
        return to_metres(_plain_view(msg, max_pixels)[:, :, 0])
    except InputError as error:
        raise ImageError(f"depth image: {error}") from error


def _check_size(msg: Any, max_pixels: int) -> None:
    try:
        check_size(int(msg.width), int(msg.height), max_pixels)
    except InputError as error:
        raise ImageError(str(error)) from error


def _plain_view(msg: Any, max_pixels: int) -> Array:
    """View the bytes of an image with a plain encoding as (H, W, samples)."""
    width, height, step = int(msg.width), int(msg.height), int(msg.step)
    _check_size(msg, max_pixels)
    kind, samples = _DEPTH.get(msg.encoding), 1
    if kind is None:
        sample_bytes, samples = _PLAIN[msg.encoding]
        kind = f"u{sample_bytes}"
    order = ">" if msg.is_bigendian else "<"
    dtype = np.dtype(f"{order}{kind}")
    sample_bytes = dtype.itemsize
    row = width * sample_bytes * samples
    if step < row:
        raise ImageError(
            f"image {width} x {height} {msg.encoding}: step {step} given, at least {row} expected"
        )
    data = np.frombuffer(msg.data, np.uint8)
    if data.size != step * height:
        kind = "truncated" if data.size < step * height else "oversized"
        raise ImageError(
            f"image {width} x {height} {msg.encoding}: {kind} buffer, {data.size} bytes given, "
            f"{step * height} expected (step {step} x height {height})"
        )
    pixel = sample_bytes * samples
    view: Array = np.ndarray(
        (height, width, samples), dtype, data.data, 0, (step, pixel, sample_bytes)
    )
    return view


def _with_cv_bridge(msg: Any, max_pixels: int) -> Array:
    """RGB pixels: uint16 for 16-bit Bayer patterns (as rgb8, only their upper 8 bits would remain),
    else uint8."""
    _check_size(msg, max_pixels)
    if _NUMBERS.fullmatch(msg.encoding):
        raise ImageError(
            f"image encoding {msg.encoding!r} given, which does not hold colours; one of "
            f"{', '.join(_PLAIN)} expected (publish depth in metres as 16UC1, in millimetres)"
        )
    try:
        from cv_bridge import CvBridge
    except ImportError as error:
        raise ImageError(_refusal(msg)) from error
    wanted = "rgb16" if re.fullmatch(r"bayer_.*16", msg.encoding) else "rgb8"
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(msg, desired_encoding=wanted))
    except Exception as error:  # cv_bridge raises errors of several libraries
        known = "" if msg.encoding in _WITH_CV_BRIDGE else f"{_refusal(msg)}; "
        raise ImageError(
            f"{known}image encoding {msg.encoding!r}: cv_bridge failed: {error}"
        ) from error


def _refusal(msg: Any) -> str:
    """Why an encoding cannot be read without cv_bridge, and what may help."""
    given = f"image encoding {msg.encoding!r} given"
    if msg.encoding in _WITH_CV_BRIDGE:
        return (
            f"{given}, which needs the ROS package cv_bridge (not installed); without it, one of "
            f"{', '.join(_PLAIN)} expected"
        )
    meant = _meant(msg)
    if meant:
        meant = f" (the publisher should probably set {meant})"
    text = f"{given}, which is unknown{meant}; one of {', '.join(_PLAIN)}"
    others = "" if meant else f" or, with cv_bridge, {', '.join(_WITH_CV_BRIDGE)}"
    return f"{text}{others} expected"


def _meant(msg: Any) -> str:
    """The encoding probably meant by an unknown one, quoted; empty if none is likely."""
    name = msg.encoding.strip().lower()
    known = {one.lower(): one for one in (*_PLAIN, *_WITH_CV_BRIDGE)}
    alike = get_close_matches(name, known, 1, cutoff=0.75)
    if alike:
        return repr(known[alike[0]])
    by_bytes = {1: "'mono8'", 2: "'mono16'", 3: "'rgb8' or 'bgr8'", 4: "'rgba8' or 'bgra8'"}
    width, step = int(msg.width), int(msg.step)
    return by_bytes.get(step // width, "") if width > 0 and step % width == 0 and not name else ""


def _bytes(msg: Any) -> bytes:
    return np.frombuffer(msg.data, np.uint8).tobytes()
