"""Lazy reader of one take in the EgoExo4D processed layout.

    <take>/<camera>/<frame>.jpg
    <take>/annotation.json: see :mod:`lmeec_core.takes.annotation`
    <take>/<camera>/depth/<frame>.png, <take>/calibration.yaml: optional

The name of an ego camera contains ``aria``; every other camera is exo. Images and masks of a
camera may differ in size. Object names are any text, "/" included. Frame numbers may have leading
zeros (:mod:`lmeec_core.takes.keys`); images may also end in ``.jpeg``, in any case.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.takes import folders
from lmeec_core.takes.annotation import ANNOTATION, Annotated
from lmeec_core.takes.cameras import CameraPair, camera_pairs, ego_first, is_ego
from lmeec_core.takes.errors import TakeError
from lmeec_core.takes.images import ImageReader
from lmeec_core.takes.keys import check_text, look_alike

CALIBRATION = "calibration.yaml"
DEPTH = "depth"
"""Name of the depth folder in a camera's folder: 16-bit PNG, millimetres, 0 for no value."""


class Take(Annotated):
    """One recording: cameras with numbered frames, and masks of objects in them.

    The folder is listed and ``annotation.json`` parsed only once, at first use; images and masks
    are decoded at every call and not cached.

    Attributes:
        path: the take's folder.
        name: the folder's name, EgoExo4D's take id.
        videos: folder in which videos are searched for, if the images are in videos; else None.
    """

    videos: Path | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        folder = Path(path)
        super().__init__(folder, folder.resolve().name)
        self._frames: dict[str, tuple[int, ...]] = {}
        self._listed: dict[str, folders.Images] = {}
        self._readers: dict[str, ImageReader] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Take:
        """Open the take in folder ``path``.

        Raises:
            TakeError: there is no such folder, or it has no annotation.json.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise TakeError(folder, "there is no such take (expected a folder)")
        if not (folder / ANNOTATION).is_file():
            raise TakeError(
                folder / ANNOTATION,
                "missing; a take is a folder with annotation.json and <camera>/<frame>.jpg",
            )
        take = cls(folder)
        take._check_name(take.name)
        return take

    # -- cameras and frames --------------------------------------------------------------------

    @cached_property
    def cameras(self) -> tuple[str, ...]:
        """Names of all cameras (the sub-folders), ego cameras first, each group sorted."""
        with os.scandir(self.path) as entries:
            names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
        if not names:
            raise TakeError(self.path, "no camera folders in this take")
        for name in names:
            self._check_name(name)
        return ego_first(names)

    @property
    def ego(self) -> str:
        """Name of the (first) ego camera; see :meth:`pairs` for all of them.

        Raises:
            TakeError: there is none (no camera name contains ``aria``).
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

    def pairs(self, direction: str, object_name: str | None = None) -> tuple[CameraPair, ...]:
        """Pairs of query and target cameras: every ego camera with every exo camera.

        Args:
            direction: "ego-exo" (the query is the ego view) or "exo-ego".
            object_name: only use the cameras that the file lists for this object; default: all
                cameras of the take.

        Raises:
            TakeError: the take has no ego or no exo camera, or the object is unknown.
        """
        if object_name is not None:
            return camera_pairs(self.mask_cameras(object_name), direction)
        if self.ego and not self.exos:
            raise TakeError(self.path, f"no exo camera among {list(self.cameras)}")
        return camera_pairs(self.cameras, direction)

    def frames(self, camera: str) -> tuple[int, ...]:
        """Frame numbers of a camera's images, increasing.

        Raises:
            TakeError: the take has no such camera, none of the images in its folder is a frame, or
                two files are the same frame.
        """
        if camera not in self._frames:
            found = self._images(camera)
            if found.unread and not found.files:
                raise TakeError(
                    self.path / camera, f"no frames: {folders.unread_text(found.unread)}"
                )
            self._frames[camera] = tuple(found.files)
        return self._frames[camera]

    def common_frames(self, *cameras: str) -> tuple[int, ...]:
        """Frames for which all given cameras (default: all of the take) have images, increasing."""
        numbers = [set(self.frames(camera)) for camera in cameras or self.cameras]
        return tuple(sorted(set.intersection(*numbers)))

    @cached_property
    def has_images(self) -> bool:
        """Whether there are images; False for annotations whose videos are missing."""
        return True

    @property
    def length(self) -> int:
        """Number of frames listed in the file; else of the camera with the most images."""
        listed = len(self.subsample_idx)
        return listed or max((len(self.frames(camera)) for camera in self.cameras), default=0)

    def digest(self) -> str:
        """A fingerprint that changes with the annotations, or the images' names or sizes in bytes.

        Raises:
            TakeError: a file cannot be read.
        """
        try:
            content = hashlib.sha256((self.path / ANNOTATION).read_bytes())
            for camera in self.cameras:
                with os.scandir(self.path / camera) as entries:
                    files = sorted((entry.name, entry.stat().st_size) for entry in entries)
                content.update(repr((camera, files)).encode())
        except OSError as error:
            raise TakeError(self.path, f"cannot be read: {error}") from error
        return content.hexdigest()[:32]

    def close(self) -> None:
        """Close open videos; takes with image files have none."""

    # -- images --------------------------------------------------------------------------------

    def image_path(self, camera: str, frame: int) -> Path:
        """The file of an image (it may not exist)."""
        files = self._images(camera).files if camera in self.cameras else {}
        return self.path / camera / files.get(int(frame), f"{int(frame)}.jpg")

    def depth_path(self, camera: str, frame: int) -> Path:
        """The file of a depth image, aligned with the image of that frame (it may not exist)."""
        return self.path / camera / DEPTH / f"{int(frame)}.png"

    @property
    def calibration_path(self) -> Path:
        """The file with the cameras' lenses and poses (it may not exist)."""
        return self.path / CALIBRATION

    def image_bytes(self, camera: str, frame: int) -> bytes:
        """The bytes of an image's file (JPEG).

        Raises:
            TakeError: there is no such camera or frame, or the file cannot be read.
        """
        self._check_camera(camera)  # names from other files could be paths outside the folder
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
            TakeError: the image is missing or broken; names the file.
        """
        data = self.image_bytes(camera, frame)
        reader = self._readers.setdefault(camera, ImageReader(str(self.path / camera)))
        try:
            return reader.decode(data)
        except ValueError as error:
            raise TakeError(self.image_path(camera, frame), str(error)) from error

    @property
    def left_out(self) -> tuple[str, ...]:
        """Texts about what is not read: images that are not frames, cameras without a folder."""
        texts = []
        for camera in self.cameras:
            with suppress(TakeError):  # raised by frames()
                found = self._images(camera)
                if found.files and found.unread:
                    texts.append(f"{self.path / camera}: {folders.unread_text(found.unread)}")
        for camera in dict.fromkeys(c for name in self.objects for c in self._cameras_of(name)):
            if camera not in self.cameras:
                alike = look_alike(camera, self.cameras)
                text = f"take {self.name}: camera {camera!r} is annotated but has no folder{alike}"
                texts.append(f"{self._annotation_path}: {text}")
        return tuple(texts)

    # -- internal ------------------------------------------------------------------------------

    def _images(self, camera: str) -> folders.Images:
        """The images in a camera's folder, which is listed only once.

        Raises:
            TakeError: there is no such camera, or two files are the same frame.
        """
        if camera not in self._listed:
            self._check_camera(camera)
            folder = self.path / camera
            try:
                self._listed[camera] = folders.list_images(folder)
            except (InputError, OSError) as error:
                raise TakeError(folder, f"cannot be listed: {error}") from error
        return self._listed[camera]

    def _check_camera(self, camera: str) -> None:
        if camera not in self.cameras:
            alike = look_alike(camera, self.cameras)
            raise TakeError(
                self.path, f"no camera {camera!r}; the take has {list(self.cameras)}{alike}"
            )

    def _check_name(self, name: str) -> None:
        try:
            check_text(name)
        except InputError as error:
            raise TakeError(ascii(os.fspath(self.path)), str(error)) from error
