"""Takes from one JSON file: EgoExo4D's raw relations files, and the benchmark's truth file.

    relations_{split}.json: {"annotations": {take_uid: {
        "take_name": ..., "scenario": ..., "object_masks": {object: {camera: {
            "annotation": {frame: {"width", "height", "encodedMask"}},
            "annotated_frames": [frame, ...]}}}}}}
    the benchmark's truth: {"annotations": {take_uid: {
        "masks": {object: {camera: {frame: RLE}}}, "subsample_idx": [frame, ...],
        "annotated_frames": {object: {camera: [frame, ...]}}}}}

``encodedMask`` is LZString text of COCO's compressed run lengths. The files can be larger than the
memory, so one pass finds the position of each take, and a take is parsed when it is opened.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.takes import lzstring
from lmeec_core.takes.cameras import ego_first, is_ego
from lmeec_core.takes.errors import TakeError
from lmeec_core.takes.images import encode_jpeg
from lmeec_core.takes.json_file import parse_json, refuse_gzip
from lmeec_core.takes.json_scan import second_level
from lmeec_core.takes.keys import look_alike
from lmeec_core.takes.rle import Rle
from lmeec_core.takes.take import Take
from lmeec_core.takes.video import Video

FRAME_STEP = 30
"""The benchmark's step between frames of the video: one per second."""

FULL_HEIGHT = 1408
"""Minimum height of images that the benchmark's preprocessing downscales, ego by 2, exo by 4."""

VIDEO_FOLDERS = ("frame_aligned_videos", "frame_aligned_videos/downscaled/448", "")
_log = logging.getLogger(__name__)


class RelationsFile:
    """The takes of one file, found by name without parsing the file as a whole.

    Args:
        path: the file.
        videos: folder with ``<take_name>/`` folders of videos. Default: ``takes/`` next to the
            file or one level above, as written by EgoExo4D's downloader, or the file's own folder.

    Attributes:
        broken: the error if the file is truncated; the takes before the damage can be read.

    Raises:
        TakeError: the file is missing, or is not a relations file.
    """

    def __init__(
        self, path: str | os.PathLike[str], videos: str | os.PathLike[str] | None = None
    ) -> None:
        self.path = Path(path)
        self.videos = None if videos is None else Path(videos)
        if self.videos is not None and not self.videos.is_dir():
            raise TakeError(self.videos, "there is no such folder of videos")
        self.broken: TakeError | None = None
        self._spans: dict[str, tuple[int, int]] = {}
        try:
            self._index()
        except OSError as error:
            raise TakeError(path, f"cannot be read: {error}") from error
        except TakeError:
            raise
        except ValueError as error:
            raise TakeError(path, f"is not valid JSON: {error}") from error

    @property
    def names(self) -> tuple[str, ...]:
        """Ids of the takes, in the file's order."""
        return tuple(self._spans)

    def open(self, name: str) -> RelationsTake:
        """Parse one take.

        Raises:
            TakeError: the file has no such take, or the take is broken.
        """
        if name not in self._spans:
            alike = look_alike(name, self._spans)
            raise TakeError(
                self.path, f"no take {name!r}; the file has {len(self._spans)} takes{alike}"
            )
        start, end = self._spans[name]
        if not end:
            raise TakeError(self.path, f"take {name}: expected a dictionary")
        with self.path.open("rb") as file:
            file.seek(start)
            text = file.read(end - start)
        try:
            content = parse_json(text)
        except InputError as error:
            raise TakeError(self.path, f"take {name}: {error}") from error
        annotation = _annotation(content, self.path, name)
        digest = hashlib.sha256(text).hexdigest()
        return RelationsTake(self.path, name, annotation, self.videos, digest)

    def _index(self) -> None:
        """Find the positions of the takes: the values in the top-level "annotations"."""
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                raise TakeError(self.path, "is empty (0 bytes)")
            with (
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
                closing(second_level(data)) as values,
            ):
                refuse_gzip(self.path, data[:2])
                for keys, start, end in values:
                    if end is None:
                        self.broken = TakeError(self.path, f"is cut off in or after {keys[1]!r}")
                    elif keys[0] == "annotations":
                        if keys[1] in self._spans:
                            raise TakeError(self.path, f"take {keys[1]!r} occurs twice")
                        self._spans[keys[1]] = start, end
        if not self._spans:
            raise self.broken or TakeError(
                self.path, 'expected {"annotations": {take: {...}}}, as in relations_val.json'
            )


class RelationsTake(Take):
    """One take of a relations file, with images from videos; otherwise like :class:`Take`.

    Attributes:
        path: the relations file.
        name: the take's id.
        take_name: the name of its folder of videos; None in the benchmark's truth file.
        videos: folder in which videos are searched for; see :class:`RelationsFile`.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        annotation: dict[str, Any],
        videos: Path | None,
        annotation_digest: str,
    ) -> None:
        super().__init__(path)
        self.name, self.videos = name, videos
        self._annotation_digest = annotation_digest
        self.annotation = annotation
        self.take_name: str | None = annotation.get("take_name")
        if not isinstance(self.take_name, str | None):
            raise TakeError(path, f"take {name}: 'take_name' is {self.take_name!r:.60}, no text")
        self._open_videos: dict[str, Video] = {}
        self._undecoded: dict[tuple[str, str], dict[int, str]] = {}

    @cached_property
    def cameras(self) -> tuple[str, ...]:
        """Names of the annotated cameras, ego cameras first."""
        names = {c for name in self.objects for c in self._cameras_of(name)}
        if not names:
            raise TakeError(self.path, f"take {self.name}: no cameras are annotated")
        return ego_first(names)

    @cached_property
    def has_images(self) -> bool:
        """Whether a video of any camera was found."""
        return any(self.image_path(camera, 0).is_file() for camera in self.cameras)

    @cached_property
    def subsample_idx(self) -> tuple[int, ...]:
        """The benchmark's frames: as listed in the file, else one per second of the ego video.

        Without the video, its length is estimated from the annotations.
        """
        listed = self.annotation.get("subsample_idx")
        if listed is not None:
            return self._numbers(listed, "subsample_idx")
        ego = self.cameras[0]
        if self.image_path(ego, 0).is_file():
            return tuple(range(0, len(self._video(ego)), FRAME_STEP))
        last = max(max(self._annotated(camera), default=-1) for camera in self.cameras)
        return tuple(range(0, last + 1, FRAME_STEP))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Texts about lost parts of the videos and masks read so far.

        A video that cannot be opened raises an error instead.
        """
        lost = [video.damage for video in self._open_videos.values() if video.damage]
        for (object_name, camera), texts in self._undecoded.items():
            frame = min(texts)
            lost.append(
                f"{self.path}: take {self.name}, object {object_name!r}, camera {camera!r}: "
                f"{len(texts)} masks cannot be decoded and count as null, the first in frame "
                f"{frame}: {texts[frame]}"
            )
        return tuple(lost)

    def frames(self, camera: str) -> tuple[int, ...]:
        """One frame per second, and the annotated frames, up to the end of the camera's video."""
        if camera not in self._frames:
            self._check_camera(camera)
            wanted = self._annotated(camera)
            if self.image_path(camera, 0).is_file():
                count = len(self._video(camera))
                wanted |= set(range(0, count, FRAME_STEP))
                self._frames[camera] = tuple(sorted(n for n in wanted if 0 <= n < count))
            elif self.has_images:  # this camera's video is missing
                self._frames[camera] = ()
            else:
                self._frames[camera] = tuple(sorted(wanted | set(self.subsample_idx)))
        return self._frames[camera]

    def image_path(self, camera: str, frame: int) -> Path:
        """The video of a camera (it may not exist)."""
        folders = [base / (self.take_name or self.name) for base in self._bases]
        paths = [folder / sub / f"{camera}.mp4" for folder in folders for sub in VIDEO_FOLDERS]
        return next((path for path in paths if path.is_file()), paths[0])

    def image_bytes(self, camera: str, frame: int) -> bytes:
        """An image, encoded as JPEG.

        Raises:
            TakeError: see :meth:`image`.
        """
        return encode_jpeg(self.image(camera, frame), quality=95)

    def image(self, camera: str, frame: int) -> NDArray[np.uint8]:
        """An image, RGB uint8 (H, W, 3).

        Full-size videos are downscaled as in the benchmark's preprocessing, ego by 2, exo by 4.

        Raises:
            TakeError: there is no such camera, video or frame, or the video is broken.
        """
        self._check_camera(camera)
        path = self.image_path(camera, frame)
        if not path.is_file():
            raise TakeError(
                path, f"no video of camera {camera!r}; give the folder of the takes with --videos"
            )
        image = self._video(camera).read(frame)
        height, width = image.shape[:2]
        if height < FULL_HEIGHT:
            return image
        scale = 2 if is_ego(camera) else 4
        return np.asarray(cv2.resize(image, (width // scale, height // scale)), dtype=np.uint8)

    def digest(self) -> str:
        """A fingerprint that changes with the take's entry in the file or its videos' sizes."""
        paths = {camera: self.image_path(camera, 0) for camera in self.cameras}
        sizes = {c: path.stat().st_size for c, path in paths.items() if path.is_file()}
        text = repr((self._annotation_digest, sorted(sizes.items())))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def close(self) -> None:
        """Close the videos; the next image opens them again."""
        for video in self._open_videos.values():
            video.close()

    # -- internal ------------------------------------------------------------------------------

    @property
    def _annotation_path(self) -> Path:
        return self.path

    @cached_property
    def _bases(self) -> tuple[Path, ...]:
        if self.videos is not None:
            return (self.videos,)
        here = self.path.resolve().parent
        return here / "takes", here.parent / "takes", here

    def _video(self, camera: str) -> Video:
        if camera not in self._open_videos:
            self._open_videos[camera] = Video(self.image_path(camera, 0))
        return self._open_videos[camera]

    def _annotated(self, camera: str) -> set[int]:
        numbers: set[int] = set()
        for name in self.objects:
            numbers.update(self.mask_frames(name, camera))
            numbers.update(self.annotated_frames(name, camera) or ())
        return numbers

    def _rle(self, entry: Any) -> Rle:
        if not isinstance(entry, dict) or "encodedMask" not in entry:
            return super()._rle(entry)
        text = entry["encodedMask"]
        counts = lzstring.decompress(text) if isinstance(text, str) else ""
        if not counts:
            raise ValueError("the mask's LZString text is empty")
        return {"size": [entry["height"], entry["width"]], "counts": counts}

    def rle(self, object_name: str, camera: str, frame: int) -> Rle | None:
        """The run lengths of a mask; None if there is no mask or it is null.

        A mask whose LZString text is empty or broken counts as null, as in the benchmark's
        preprocessing; it is logged, and listed in :attr:`left_out` once it was read.
        """
        entry = self._entries(object_name, camera).get(frame)
        if entry is None or (isinstance(entry, dict) and entry.get("encodedMask", "") is None):
            return None
        try:
            return self._rle(entry)
        except (ValueError, KeyError, TypeError) as error:
            _log.warning("%s: take %s, object %r, camera %r, frame %s: %s; taken as null",
                         self.path, self.name, object_name, camera, frame, error)  # fmt: skip
            self._undecoded.setdefault((object_name, camera), {})[frame] = str(error)
            return None


def _annotation(content: dict[str, Any], path: Path, name: str) -> dict[str, Any]:
    """A take's entry of either format, converted to the structure of annotation.json."""
    if isinstance(content.get("masks"), dict):
        return content
    raw = content.get("object_masks")
    if not isinstance(raw, dict):
        raise TakeError(path, f"take {name}: neither 'object_masks' nor 'masks' by object")
    masks: dict[str, Any] = {}
    annotated: dict[str, Any] = {}
    for object_name, cameras in raw.items():
        if not isinstance(cameras, dict | None):
            where = f"take {name}, object {object_name!r}"
            raise TakeError(path, f"{where}: a dictionary by camera expected")
        for camera, entry in (cameras or {}).items():
            known = isinstance(entry, dict) and isinstance(entry.get("annotation"), dict | None)
            if not known or (entry and not entry.keys() & {"annotation", "annotated_frames"}):
                where = f"object {object_name!r}, camera {camera!r}"
                raise TakeError(path, f"take {name}, {where}: expected a dictionary of annotation")
            annotated.setdefault(object_name, {})[camera] = entry.get("annotated_frames")
        masks[object_name] = {c: e.get("annotation") or {} for c, e in (cameras or {}).items()}
    rest = {key: value for key, value in content.items() if key != "object_masks"}
    return {**rest, "masks": masks, "annotated_frames": annotated}
