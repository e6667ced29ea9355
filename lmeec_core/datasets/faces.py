"""Blurs the faces that OpenCV's YuNet detector finds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from cv2.utils import logging
from numpy.typing import NDArray

from lmeec_core.errors import InputError

SCORE = 0.5
"""Minimum score of a detection. OpenCV's default is 0.9, but here a missed face is worse than a
false detection."""
MARGIN = 0.25
"""Margin added on each side, as a share of a detection's width and height."""
CELLS = 4
"""Faces are reduced to a grid of CELLS x CELLS mean colours."""
Image = NDArray[np.uint8]


class FaceModel(NamedTuple):
    """A YuNet model: the absolute path of its file, and the SHA-256 of its content."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FaceModel:
        """The model in a file.

        Raises:
            InputError: the file cannot be read, or is not a YuNet model.
        """
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        found = cls(str(path.resolve()), digest)
        Faces(found)
        return found


class Faces:
    """Finds faces and blurs them.

    Args:
        model: the detector's model.

    Raises:
        InputError: OpenCV cannot use the model.
    """

    def __init__(self, model: FaceModel) -> None:
        blank = np.zeros((64, 64, 3), np.uint8)
        try:
            with _quiet():
                self._detector = cv2.FaceDetectorYN.create(model.path, "", (64, 64), SCORE)
                self._detector.detect(blank)
        except cv2.error as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"{model.path}: OpenCV's FaceDetectorYN cannot use this file ({reason}); a YuNet "
                "model expected, such as face_detection_yunet_2023mar.onnx of OpenCV's model zoo"
            ) from error

    def boxes(self, image: Image) -> list[tuple[int, int, int, int]]:
        """Bounding boxes of the faces, with a margin.

        Args:
            image: RGB (H, W, 3).

        Returns:
            (left, top, right, bottom) of each face, within the image.
        """
        height, width = image.shape[:2]
        self._detector.setInputSize((width, height))
        _, found = self._detector.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        boxes = []
        for x, y, w, h in np.zeros((0, 4)) if found is None else np.asarray(found)[:, :4]:
            left, right = x - MARGIN * w, x + (1 + MARGIN) * w
            top, bottom = y - MARGIN * h, y + (1 + MARGIN) * h
            box = (max(0, int(left)), max(0, int(top)),
                   min(width, int(np.ceil(right))), min(height, int(np.ceil(bottom))))  # fmt: skip
            if box[0] < box[2] and box[1] < box[3]:
                boxes.append(box)
        return boxes

    def blurred(self, image: Image) -> tuple[Image, int]:
        """A copy of an image with its faces blurred, and the number of faces."""
        boxes, drawn = self.boxes(image), image.copy()
        for left, top, right, bottom in boxes:
            face = drawn[top:bottom, left:right]
            few = cv2.resize(face, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
            size = (right - left, bottom - top)
            drawn[top:bottom, left:right] = cv2.resize(few, size, interpolation=cv2.INTER_LINEAR)
        return drawn, len(boxes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress OpenCV's warnings about unused computation targets."""
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        logging.setLogLevel(level)
