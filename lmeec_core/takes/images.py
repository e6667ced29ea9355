"""Converts images to 8-bit RGB arrays and back; checks for damage and excessive sizes first.

Takes, bags and the node read through the same code. Pixels are used as they are stored, as in SAM
2, the LM-EEC release and image_transport; any change is logged.
"""

from __future__ import annotations

import io
import logging
import re
import struct
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from lmeec_core.errors import InputError

MAX_PIXELS = 64_000_000
"""Default limit of width * height; larger images are rejected before memory is allocated."""
MAX_SCANS = 100
"""Maximum number of scans of a progressive JPEG (ten are usual); decoding each takes as long as a
whole image."""
BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Bit depths of sensors whose values are stored in 16 bits."""
ORIENTATION = 0x112
"""The EXIF tag for the orientation of an image: 1 as stored, 2 to 8 rotated or mirrored."""
_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_log = logging.getLogger(__name__)
_DAMAGE = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker (0x\w+)")
_FEW_BYTES = 16
"""Maximum number of extra bytes before a marker that is accepted; webcams write some."""
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # JPEG markers without a length
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Check an image size.

    Raises:
        InputError: there is no pixel, or more than ``max_pixels``.
    """
    if width < 1 or height < 1:
        raise InputError(f"image size {width} x {height} given, at least 1 x 1 expected")
    if width * height > max_pixels:
        raise InputError(
            f"image size {width} x {height} given, at most {max_pixels} pixels accepted "
            "(max_image_pixels)"
        )


def is_png(data: bytes) -> bool:
    """Whether data begin like a PNG."""
    return data[:8] == b"\x89PNG\r\n\x1a\n"


def check_stream(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Check the header and the end of a JPEG or PNG, without decoding it.

    Returns:
        (width, height) from the header.

    Raises:
        InputError: the data are neither JPEG nor PNG, are truncated, or have more than
            ``max_pixels``.
    """
    if is_png(data):
        if len(data) < 33 or data[12:16] != b"IHDR" or data.rfind(b"IEND") < 0:
            raise InputError(f"PNG of {len(data)} bytes is truncated")
        width, height = struct.unpack(">II", data[16:24])
    elif data[:3] == b"\xff\xd8\xff":
        width, height, scan = _jpeg_header(data)
        # OpenCV fills a truncated JPEG with grey and only prints a warning.
        if scan is None or data.rfind(b"\xff\xd9") < max(scan, data.rfind(b"\xff\xda")):
            raise InputError(f"JPEG of {len(data)} bytes is truncated (no end marker)")
        scans = data.count(b"\xff\xda")
        if scans > MAX_SCANS:
            raise InputError(f"JPEG with {scans} scans given, at most {MAX_SCANS} accepted")
    else:
        raise InputError(
            f"{len(data)} bytes that begin with {data[:4].hex() or 'nothing'} given, JPEG or PNG "
            "image expected"
        )
    check_size(width, height, max_pixels)
    return width, height


class ImageReader:
    """Reads the images of one source (a camera of a take, a bag or the node) in order.

    Two properties are logged once per source:

    - An EXIF orientation is not applied, because masks belong to the pixels as stored.
    - 16-bit values are scaled to 8 bits by the bit depth that the source has used so far, one of
      :data:`BIT_DEPTHS`. It never decreases, so brightness does not vary between images, and the
      same images in the same order always give the same pixels.

    Args:
        source: name of the source for the log.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._bits = 0  # not known yet
        self._orientation_logged = False

    def decode(self, data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """Decode a JPEG or PNG to RGB, uint8 (H, W, 3).

        Raises:
            InputError: the data are empty, truncated or not an image, or have more than
                ``max_pixels``.
        """
        check_stream(data, max_pixels)
        bgr = self.to_8_bits(decode_stream(data, _COLOUR))
        self._log_orientation(data)
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def to_8_bits(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Scale 16-bit values to 8 bits; 8-bit ones are returned as they are.

        Args:
            pixels: uint8 or uint16 of any shape.
        """
        if pixels.dtype == np.uint8:
            return pixels
        highest = int(pixels.max())
        bits = next(depth for depth in BIT_DEPTHS if highest >> depth == 0)
        if highest and bits > self._bits:
            if bits < BIT_DEPTHS[-1] or self._bits:
                before = f" (those before it as {self._bits}-bit)" if self._bits else ""
                _log.warning(
                    "%s: 16-bit image with values up to %d: read as %d-bit%s",
                    self.source, highest, bits, before,
                )  # fmt: skip
            self._bits = bits
        return (pixels >> max(0, self._bits - 8)).astype(np.uint8)

    def _log_orientation(self, data: bytes) -> None:
        """Log that an EXIF orientation is not applied, if there is one."""
        if self._orientation_logged or not (b"Exif\0\0" in data or b"eXIf" in data):
            return
        try:
            with Image.open(io.BytesIO(data)) as image:
                orientation = image.getexif().get(ORIENTATION, 1)
        except Exception:  # Pillow raises many kinds; only the tag is broken, the pixels were read
            return
        if orientation in range(2, 9):
            self._orientation_logged = True
            _log.warning(
                "%s: EXIF orientation %s in the image is ignored: pixels are read as they are "
                "stored, and masks must belong to these",
                self.source, orientation,
            )  # fmt: skip


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a single JPEG or PNG, like the first image of an :class:`ImageReader`.

    Raises:
        InputError: see :meth:`ImageReader.decode`.
    """
    return ImageReader("image").decode(data, max_pixels)


def _is_padding(data: bytes, count: int, marker: str) -> bool:
    """Whether extra bytes before a marker are few, or are padding before the end."""
    end = data.rfind(b"\xff\xd9")
    return count <= _FEW_BYTES or (marker == "0xd9" and len(set(data[end - count : end])) == 1)


def _check_jpeg(data: bytes) -> None:
    """Check that no data of a JPEG are missing or overwritten.

    OpenCV makes the rest of a damaged image grey or shifted, and only prints a warning. Here
    libjpeg decodes it at an eighth of its size, in a fifth of the time, and warnings are errors.

    Raises:
        InputError: with libjpeg's message.
    """
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        text = str(error)
        left = _LEFT_OVER.search(text)
        if left and _is_padding(data, int(left[1]), left[2]):
            return
        if text.startswith(_DAMAGE):  # OpenCV can read or reports everything else, such as CMYK
            raise InputError(f"JPEG of {len(data)} bytes is damaged: {text}") from error


def decode_stream(data: bytes, flags: int) -> NDArray[Any]:
    """Decode data that :func:`check_stream` accepted, with OpenCV's flags.

    Raises:
        InputError: the data are damaged.
    """
    if not is_png(data):
        _check_jpeg(data)
    try:
        decoded = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"image of {len(data)} bytes cannot be decoded: {error}") from error
    if decoded is None:
        raise InputError(f"image of {len(data)} bytes: the data are corrupt")
    return np.asarray(decoded)


def encode_jpeg(rgb: NDArray[np.uint8], quality: int = 90) -> bytes:
    """Encode RGB uint8 (H, W, 3) as JPEG of the given quality (1 to 100).

    Raises:
        ValueError: on another shape or dtype.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(
            f"an image of shape {rgb.shape}, {rgb.dtype} was given, expected (H, W, 3) uint8"
        )
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not done:
        raise ValueError(f"an image of shape {rgb.shape} could not be encoded as JPEG")
    return bytes(data)


def _jpeg_header(data: bytes) -> tuple[int, int, int | None]:
    """Return (width, height) from the frame header of a JPEG, and the offset of its first scan.

    The markers are followed as in the decoder, so that both find the same header (and not that of a
    preview in the metadata). The offset is None if the data end before the first scan.
    """
    position, size = 2, None
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _STANDALONE:
            position += 2
        else:
            if marker in _FRAMES and size is None:
                size = struct.unpack(">HH", data[position + 5 : position + 9])
            if marker == 0xDA and size is not None:
                return size[1], size[0], position
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            if length < 2 or marker in (0x00, 0xD8, 0xD9, 0xDA):
                break
            position += 2 + length
    if size is None:
        raise InputError(f"the JPEG's header is corrupt ({len(data)} bytes, no frame header found)")
    return size[1], size[0], None
