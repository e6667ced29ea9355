"""JPEG files to RGB arrays and back, with damage noticed."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG to RGB, uint8 (H, W, 3).

    Raises:
        ValueError: if the data are empty, cut off or no image.
    """
    if not data:
        raise ValueError("the image is empty (0 bytes)")
    # OpenCV fills a cut-off JPEG with grey and only prints a warning.
    if data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError(f"the JPEG is cut off ({len(data)} bytes, no end marker)")
    try:
        bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(f"the image cannot be decoded: {error}") from error
    if bgr is None:
        raise ValueError(f"the {len(data)} bytes are no JPEG or PNG image that can be decoded")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


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
