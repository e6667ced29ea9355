"""A take's annotation: objects, their masks by camera and frame, and lists of frames.

    annotation.json = {"masks": {object: {camera: {frame: RLE or null}}},
                       "subsample_idx": [frame, ...], "scenario": text,
                       "descriptions": {object: text},
                       "annotated_frames": {object: {camera: [frame, ...]}}}

Only ``masks`` is required.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.takes.cameras import ego_first
from lmeec_core.takes.errors import TakeError
from lmeec_core.takes.json_file import read_json
from lmeec_core.takes.keys import by_frame, frame_numbers, look_alike
from lmeec_core.takes.rle import Rle, Size, decode_mask

ANNOTATION = "annotation.json"


class Annotated:
    """The annotation of one take, parsed only once, at first use; masks are decoded at every call.

    Attributes:
        path: the take's folder.
        name: the take's id, for messages.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._by_frame: dict[tuple[str, str], dict[int, Any]] = {}

    @cached_property
    def annotation(self) -> dict[str, Any]:
        """The parsed annotation.json, with ``masks`` checked to be a dictionary.

        Raises:
            TakeError: the file is missing, is not JSON, or has another structure.
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

    @cached_property
    def subsample_idx(self) -> tuple[int, ...]:
        """The annotated frame numbers listed in the file; () if there is no list."""
        return self._numbers(self.annotation.get("subsample_idx"), "subsample_idx")

    @property
    def scenario(self) -> str | None:
        """The activity in the take (EgoExo4D: Cooking, Basketball, ...); None if unknown."""
        scenario = self.annotation.get("scenario")
        return None if scenario is None else str(scenario)

    @property
    def descriptions(self) -> dict[str, str]:
        """Descriptions of objects' appearance, by object; may be empty.

        Raises:
            TakeError: the entry is not {object: text}, or names an object without annotations.
        """
        given = self.annotation.get("descriptions", {})
        if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
            raise TakeError(self._annotation_path, 'descriptions: {object: "text"} was expected')
        unknown = [name for name in given if name not in self.annotation["masks"]]
        if unknown:
            raise TakeError(
                self._annotation_path,
                f"descriptions: no object {unknown[0]!r} is annotated"
                f"{look_alike(unknown[0], self.objects)}",
            )
        return given

    # -- masks ---------------------------------------------------------------------------------

    def mask_frames(self, object_name: str, camera: str) -> tuple[int, ...]:
        """Frames for which the file has an entry (a mask or null) for the object, increasing.

        In a target view, the benchmark regards the object as present in these frames.
        """
        return tuple(sorted(self._entries(object_name, camera)))

    def annotated(self, object_name: str, camera: str, frame: int) -> bool:
        """Whether the file has an entry (a mask or null) for the object in this image."""
        return frame in self._entries(object_name, camera)

    def annotated_frames(self, object_name: str, camera: str) -> frozenset[int] | None:
        """Frames in which the object was annotated in a camera, whether it is visible or not.

        EgoExo4D's raw files and the benchmark's truth file list them; the processed layout does
        not, and gives None.
        """
        listed = self.annotation.get("annotated_frames")
        for key in (object_name, camera):
            listed = listed.get(key) if isinstance(listed, dict) else None
        where = f"annotated_frames of object {object_name!r}, camera {camera!r}"
        return None if listed is None else frozenset(self._numbers(listed, where))

    def mask_cameras(self, object_name: str) -> tuple[str, ...]:
        """Cameras that the file lists for the object, even without a mask; ego cameras first."""
        return ego_first(self._cameras_of(object_name))

    def rle(self, object_name: str, camera: str, frame: int) -> Rle | None:
        """The stored run lengths of a mask; None if there is no mask or it is null.

        Raises:
            TakeError: the object is unknown, or its mask is broken.
        """
        entry = self._entries(object_name, camera).get(frame)
        try:
            return entry if entry is None else self._rle(entry)
        except ValueError as error:
            raise self._broken(object_name, camera, frame, str(error)) from error

    def mask(
        self, object_name: str, camera: str, frame: int, size: Size | None = None,
        image: tuple[int, int] | None = None,
    ) -> NDArray[np.bool_] | None:  # fmt: skip
        """The mask of an object, bool (H, W); None if there is no mask or it is null.

        Args:
            object_name, camera, frame: the object and the image.
            size, image: see :func:`lmeec_core.takes.decode_mask`.

        Raises:
            TakeError: the object is unknown, its mask is broken, or its aspect ratio differs from
                the image's.
        """
        try:
            rle = self.rle(object_name, camera, frame)
            return None if rle is None else decode_mask(rle, size, image=image)
        except TakeError:
            raise
        except ValueError as error:
            raise self._broken(object_name, camera, frame, str(error)) from error

    # -- internal ------------------------------------------------------------------------------

    @property
    def _annotation_path(self) -> Path:
        return self.path / ANNOTATION

    def _rle(self, entry: Any) -> Rle:
        """Run lengths of a mask, from an entry of the file.

        Raises:
            ValueError: the entry is broken.
        """
        if not isinstance(entry, dict):
            raise ValueError(f"a mask is {type(entry).__name__}, expected size and counts")
        return dict(entry)

    def _numbers(self, values: Any, where: str) -> tuple[int, ...]:
        """Frame numbers from a list of numbers or text; () for null."""
        try:
            return frame_numbers(values)
        except InputError as error:
            raise TakeError(self._annotation_path, f"take {self.name}, {where}: {error}") from error

    def _cameras_of(self, object_name: str) -> dict[str, Any]:
        masks = self.annotation["masks"]
        if object_name not in masks:
            known = ", ".join(repr(name) for name in list(masks)[:12])
            alike = look_alike(object_name, masks)
            raise TakeError(
                self._annotation_path,
                f"no object {object_name!r}; take {self.name} has {known}{alike}",
            )
        cameras = masks[object_name] or {}
        if not isinstance(cameras, dict):
            raise TakeError(
                self._annotation_path,
                f"masks of object {object_name!r}: a dictionary by camera expected",
            )
        return cameras

    def _entries(self, object_name: str, camera: str) -> dict[int, Any]:
        """The entries of an object in a camera by frame number; cached."""
        key = object_name, camera
        if key not in self._by_frame:
            try:
                self._by_frame[key] = by_frame(self._cameras_of(object_name).get(camera))
            except InputError as error:
                if isinstance(error, TakeError):
                    raise
                where = f"take {self.name}, masks of object {object_name!r}, camera {camera!r}"
                raise TakeError(self._annotation_path, f"{where}: {error}") from error
        return self._by_frame[key]

    def _broken(self, object_name: str, camera: str, frame: int, reason: str) -> TakeError:
        where = f"take {self.name}, object {object_name!r}, camera {camera!r}, frame {frame}"
        return TakeError(self._annotation_path, f"{where}: {reason}")
