"""Lazy reader of one take in the EgoExo4D processed layout.

    <take>/<camera>/<frame>.jpg
    <take>/annotation.json = {"masks": {object: {camera: {frame: RLE or null}}},
                              "subsample_idx": [frame, ...]}

The name of the ego camera contains ``aria``; every other camera is exo. Images and masks of a
camera may differ in size. Object names are any text, "/" included.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.takes.errors import TakeError
from lmeec_core.takes.images import decode_image
from lmeec_core.takes.json_file import frame_numbers, is_frame, read_json
from lmeec_core.takes.rle import Rle, decode_mask

__all__ = ["Take", "TakeError", "is_ego"]

ANNOTATION = "annotation.json"


def is_ego(camera: str) -> bool:
    """Whether a camera is worn (its name contains ``aria``), as EgoExo4D names them."""
    return "aria" in camera.lower()


class Take:
    """One recording: cameras with numbered frames, and masks of objects in them.

    The folder is listed and ``annotation.json`` parsed at the first use, each once; images and
    masks are decoded at every call and not kept.

    Attributes:
        path: the take's folder.
        name: the folder's name, EgoExo4D's take id.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = self.path.resolve().name

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Take:
        """Open the take in folder ``path``.

        Raises:
            TakeError: if it is no folder, or holds no annotation.json.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise TakeError(folder, "there is no such take (expected a folder)")
        if not (folder / ANNOTATION).is_file():
            raise TakeError(
                folder / ANNOTATION,
                "missing; a take is a folder with annotation.json and <camera>/<frame>.jpg",
            )
        return cls(folder)

    # -- cameras and frames --------------------------------------------------------------------

    @cached_property
    def cameras(self) -> tuple[str, ...]:
        """Names of all cameras (the sub-folders), ego cameras first, each group sorted."""
        with os.scandir(self.path) as entries:
            names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
        if not names:
            raise TakeError(self.path, "no camera folders in this take")
        return tuple(sorted(names, key=lambda name: (not is_ego(name), name)))

    @property
    def ego(self) -> str:
        """Name of the ego camera.

        Raises:
            TakeError: if there is none (no camera name contains ``aria``).
        """
        if not is_ego(self.cameras[0]):
            raise TakeError(
                self.path, f"no ego camera (a name with 'aria') among {list(self.cameras)}"
            )
        return self.cameras[0]

    @property
    def exos(self) -> tuple[str, ...]:
        """Names of the exo cameras, sorted."""
        return tuple(name for name in self.cameras if not is_ego(name))

    def frames(self, camera: str) -> tuple[int, ...]:
        """Numbers of the frames a camera has images of, increasing.

        Raises:
            TakeError: if the take has no such camera.
        """
        if camera not in self._frames:
            self._check_camera(camera)
            with os.scandir(self.path / camera) as entries:
                stems = [Path(e.name).stem for e in entries if e.name.lower().endswith(".jpg")]
            numbers = sorted(int(s) for s in stems if s.isascii() and s.isdecimal())
            self._frames[camera] = tuple(numbers)
        return self._frames[camera]

    def common_frames(self, *cameras: str) -> tuple[int, ...]:
        """Frames that all the given cameras (default: all of the take) have, increasing."""
        shared: set[int] | None = None
        for camera in cameras or self.cameras:
            numbers = set(self.frames(camera))
            shared = numbers if shared is None else shared & numbers
        return tuple(sorted(shared or ()))

    @property
    def subsample_idx(self) -> tuple[int, ...]:
        """The annotated frame numbers as the file lists them; () if it does not."""
        return frame_numbers(self.path / ANNOTATION, self.annotation.get("subsample_idx"))

    # -- images --------------------------------------------------------------------------------

    def image_path(self, camera: str, frame: int) -> Path:
        """The file of an image (it may not exist)."""
        return self.path / camera / f"{int(frame)}.jpg"

    def image_bytes(self, camera: str, frame: int) -> bytes:
        """An image's file as it is (JPEG).

        Raises:
            TakeError: if there is no such camera or frame, or it cannot be read.
        """
        self._check_camera(camera)  # names may come from other files and lead out of the folder
        path = self.image_path(camera, frame)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise TakeError(path, f"camera {camera!r} has no frame {frame}") from None
        except OSError as error:
            raise TakeError(path, f"cannot be read: {error}") from error

    def image(self, camera: str, frame: int) -> NDArray[np.uint8]:
        """An image, RGB uint8 (H, W, 3).

        Raises:
            TakeError: if it is missing or broken; names the file.
        """
        data = self.image_bytes(camera, frame)
        try:
            return decode_image(data)
        except ValueError as error:
            raise TakeError(self.image_path(camera, frame), str(error)) from error

    # -- masks ---------------------------------------------------------------------------------

    @cached_property
    def annotation(self) -> dict[str, Any]:
        """The parsed annotation.json, with ``masks`` checked to be a dictionary.

        Raises:
            TakeError: if the file is missing, is no JSON, or has another shape.
        """
        path = self.path / ANNOTATION
        content = read_json(path)
        if not isinstance(content.get("masks"), dict):
            raise TakeError(path, 'expected {"masks": {object: {camera: {frame: mask}}}, ...}')
        return content

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the annotated objects, in the file's order."""
        return tuple(self.annotation["masks"])

    def mask_frames(self, object_name: str, camera: str) -> tuple[int, ...]:
        """Frames for which the file has an entry (a mask or null) of the object, increasing.

        In a target view the benchmark takes the object as present in these frames.
        """
        return tuple(sorted(int(frame) for frame in self._entries(object_name, camera)))

    def annotated(self, object_name: str, camera: str, frame: int) -> bool:
        """Whether the file has an entry (a mask or null) of the object in this image."""
        return str(frame) in self._entries(object_name, camera)

    def rle(self, object_name: str, camera: str, frame: int) -> Rle | None:
        """The stored run lengths of a mask, or None where there is no mask or it is null."""
        entry = self._entries(object_name, camera).get(str(frame))
        if entry is not None and not isinstance(entry, dict):
            raise self._broken(object_name, camera, frame, f"{type(entry).__name__} given")
        return entry if entry is None else dict(entry)

    def mask(self, object_name: str, camera: str, frame: int) -> NDArray[np.bool_] | None:
        """The mask of an object, bool (H, W) at its stored size; None where there is none or null.

        Raises:
            TakeError: if the object is unknown or its mask is broken.
        """
        entry = self._entries(object_name, camera).get(str(frame))
        if entry is None:
            return None
        try:
            return decode_mask(entry)
        except ValueError as error:
            raise self._broken(object_name, camera, frame, str(error)) from error

    # -- internal ------------------------------------------------------------------------------

    @cached_property
    def _frames(self) -> dict[str, tuple[int, ...]]:
        return {}

    def _entries(self, object_name: str, camera: str) -> dict[str, Any]:
        masks = self.annotation["masks"]
        if object_name not in masks:
            known = ", ".join(repr(name) for name in list(masks)[:12])
            raise TakeError(
                self.path / ANNOTATION, f"no object {object_name!r}; the take has {known}"
            )
        by_camera = masks[object_name] or {}
        entries = by_camera.get(camera) or {} if isinstance(by_camera, dict) else by_camera
        if not isinstance(entries, dict) or not all(map(is_frame, entries)):
            raise TakeError(
                self.path / ANNOTATION,
                f"masks of object {object_name!r}, camera {camera!r} are no dictionary by frame",
            )
        return entries

    def _broken(self, object_name: str, camera: str, frame: int, reason: str) -> TakeError:
        where = f"object {object_name!r}, camera {camera!r}, frame {frame}"
        return TakeError(self.path / ANNOTATION, f"{where}: {reason}")

    def _check_camera(self, camera: str) -> None:
        if camera not in self.cameras:
            raise TakeError(self.path, f"no camera {camera!r}; the take has {list(self.cameras)}")
