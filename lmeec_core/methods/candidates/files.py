"""Candidate masks written by another program: COCO run lengths in a JSON file.

The file of a take contains ``{"candidates": {camera: {frame: [mask, ...]}}}``; a mask is
``{"size": [H, W], "counts": text}``, as in pycocotools (with the bytes as text), at the image's
size or smaller. For several takes there is a folder with a file ``TAKE.json`` each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lmeec_core.correspondence import Mask
from lmeec_core.errors import InputError
from lmeec_core.methods.candidates.limits import CandidateLimits
from lmeec_core.takes import TakeError, decode_mask
from lmeec_core.takes.json_file import read_json


class CandidateFile:
    """The candidates of a take.

    Args:
        path: the file, or the folder of files of several takes.
        take: name of the take.
        limits: applied to the file's masks; earlier masks count as better.

    Raises:
        TakeError: there is no such file, or it has another format.
    """

    def __init__(self, path: Path, take: str, limits: CandidateLimits) -> None:
        self.path = path / f"{take}.json" if path.is_dir() else path
        self._limits = limits
        content = read_json(self.path)
        cameras = content.get("candidates")
        if not isinstance(cameras, dict) or not all(isinstance(v, dict) for v in cameras.values()):
            raise TakeError(
                self.path, '{"candidates": {camera: {frame: [mask, ...]}}} was expected'
            )
        self._cameras: dict[str, dict[str, Any]] = cameras

    def masks(self, camera: str, frame: int, image: tuple[int, int]) -> Mask | None:
        """Candidates (N, H, W) for an image, best first; None if the file has no entry for it.

        Args:
            camera, frame: the image.
            image: (height, width) of the image.

        Raises:
            TakeError: a mask cannot be read, or has another aspect ratio than the image.
        """
        listed = self._cameras.get(camera, {}).get(str(frame))
        if listed is None:
            return None
        where = f"candidates of {camera}, frame {frame}"
        if not isinstance(listed, list):
            raise TakeError(self.path, f"{where}: a list of masks was expected")
        found = np.zeros((len(listed), *image), bool)
        for i, one in enumerate(listed):
            try:
                found[i] = decode_mask(one, image, image=image)
            except InputError as error:
                raise TakeError(self.path, f"{where}, number {i}: {error}") from error
        return self._limits.keep(found, -np.arange(len(found), dtype=np.float32))
