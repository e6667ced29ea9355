"""Simulated scenes on disk, opened as memory maps; more may be added while rendering goes on.

A shard is an ``.npy`` file, uint8 (F, cameras, S, S, 4): red, green, blue and label (0
background, 1 .. n objects, 255 the person). Camera 0 is the ego camera.
"""

from __future__ import annotations

import json
import time
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError

LABELS = 33
"""Object labels 1 .. LABELS - 1 can be sampled; higher ones (the person) never are."""
PERSON = 255
OPEN_SCENES = 64
"""Number of scenes that a process keeps open."""


def areas(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Number of visible pixels of every label in an image: (LABELS,), 0 for the background."""
    count = np.bincount(labels.ravel(), minlength=256)[:LABELS]
    count[0] = 0
    return np.asarray(count, dtype=np.int64)


class Scene:
    """One scene.

    Args:
        path: the shard file.

    Attributes:
        packed: uint8 (F, cameras, S, S, 4), a memory map.

    Raises:
        InputError: the file cannot be read, or is not a shard.
    """

    def __init__(self, path: Path) -> None:
        try:
            packed = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: not readable as a scene: {error}") from error
        if packed.dtype != np.uint8 or packed.ndim != 5 or packed.shape[-1] != 4:
            raise InputError(
                f"{path}: {packed.dtype} {packed.shape} given, uint8 (F, cameras, S, S, 4) expected"
            )
        self.path, self.packed = path, packed

    def image(self, frame: int, camera: int) -> NDArray[np.uint8]:
        """RGB uint8 (S, S, 3)."""
        return np.ascontiguousarray(self.packed[frame, camera, ..., :3])

    @cached_property
    def _run_lengths(self) -> NDArray[np.int64]:
        """(F,) number of frames from each frame to the end of its run, including itself.

        The JSON file beside the shard lists the motion step of each frame; a run ends where the
        steps jump. A shard without that file is a single run.

        Raises:
            InputError: the JSON file is invalid, or has a different number of frames.
        """
        count = self.packed.shape[0]
        path = self.path.with_suffix(".json")
        steps = list(range(count))
        if path.is_file():
            try:
                steps = [int(step) for step in json.loads(path.read_text())["steps"]]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}: steps of the frames expected: {error!r}") from error
            if len(steps) != count:
                raise InputError(f"{path}: {len(steps)} steps given, {count} frames expected")
        apart = np.diff(steps)
        lengths = np.ones(count, dtype=np.int64)
        for frame in range(count - 2, -1, -1):
            if apart[frame] == apart.min():
                lengths[frame] = lengths[frame + 1] + 1
        return lengths

    @property
    def run(self) -> int:
        """Number of frames in the longest run without a jump in time."""
        return int(self._run_lengths.max())

    def starts(self, times: int) -> NDArray[np.int64]:
        """Frames at which a sequence of ``times`` frames without a jump in time can start.

        Raises:
            InputError: there is none.
        """
        found = np.flatnonzero(self._run_lengths >= times)
        if not len(found):
            raise InputError(
                f"{self.path}: its longest run has {self.run} frames, {times} expected; render "
                f"scenes with --frames {times} --clip {times}, or choose other stages"
            )
        return found

    def labels(self, frame: int, camera: int) -> NDArray[np.uint8]:
        """Labels, uint8 (S, S)."""
        return np.ascontiguousarray(self.packed[frame, camera, ..., 3])

    def area(self, frame: int, camera: int) -> NDArray[np.int64]:
        """Visible pixels of every label, see :func:`areas`."""
        return areas(self.labels(frame, camera))


@lru_cache(maxsize=OPEN_SCENES)
def open_scene(path: Path) -> Scene:
    """Open a scene; the most recently used ones stay open."""
    return Scene(path)


class SceneStore:
    """The scenes in a folder, all of the same shape.

    Args:
        folder: contains the shards.
        capacity: maximum number of scenes to use, from the first.

    Attributes:
        paths: paths of the scenes, sorted by name.
        rejected: file names of rejected files, with the reason.
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        self.folder, self.capacity = folder, capacity
        self.paths: list[Path] = []
        self.rejected: dict[str, str] = {}
        self._seen: set[Path] = set()
        self._shape: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Number of scenes found so far."""
        return len(self.paths)

    @property
    def frames(self) -> int:
        """Number of frames per scene; 0 without scenes."""
        return self._shape[0] if self._shape else 0

    @property
    def run(self) -> int:
        """Longest run without a jump in time in the first scene, in frames; 0 without scenes."""
        return self.scene(0).run if self.paths else 0

    @property
    def cameras(self) -> int:
        """Number of cameras per scene; camera 0 is the ego camera."""
        return self._shape[1]

    @property
    def size(self) -> int:
        """Side of the images, in pixels; 0 without scenes."""
        return self._shape[2] if self._shape else 0

    def scene(self, number: int) -> Scene:
        """One of the scenes."""
        return open_scene(self.paths[number])

    def refresh(self) -> int:
        """Add scenes that have been rendered since the last call; returns the number of scenes.

        Files that are not scenes, or whose shape differs from the first scene's, are recorded in
        ``rejected`` with the reason.
        """
        if self.count < self.capacity:
            for path in sorted(set(self.folder.glob("*.npy")) - self._seen):
                self._seen.add(path)
                try:
                    shape = Scene(path).packed.shape
                    if shape != (self._shape or shape):
                        raise InputError(f"{path}: {shape} given, {self._shape} expected")
                except InputError as error:
                    self.rejected[path.name] = str(error)
                    continue
                self._shape = shape
                self.paths.append(path)
                if self.count == self.capacity:
                    break
            self.paths.sort()  # the order must not depend on when each was added
        return self.count

    def wait_for(self, scenes: int, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for ``scenes`` scenes; returns whether they exist."""
        end = time.monotonic() + timeout
        while self.refresh() < scenes and time.monotonic() < end:
            time.sleep(0.2)
        return self.count >= scenes
