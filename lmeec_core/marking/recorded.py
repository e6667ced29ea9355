"""A recording on the page: its prompts, and a thread that tracks the marked objects."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from lmeec_core.correspondence import CorrespondenceLike
from lmeec_core.errors import InputError
from lmeec_core.marking.replay import Replay, Stepped
from lmeec_core.marking.source import Seen, View, Work
from lmeec_core.prompts import Prompt
from lmeec_core.takes import decode_mask, encode_mask
from lmeec_core.takes.rle import Rle
from lmeec_core.tracker import Image

logger = logging.getLogger(__name__)

Marks = dict[int, dict[tuple[str, str], Prompt]]
"""The prompts, by frame, then by camera and object."""


class Images(Protocol):
    """The images of a recording, as :class:`lmeec_core.takes.Take` has them."""

    @property
    def name(self) -> str:
        """Name of the recording."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of all cameras."""

    def frames(self, camera: str) -> tuple[int, ...]:
        """A camera's frame numbers."""

    def image(self, camera: str, frame: int) -> Image:
        """One image, RGB.

        Raises:
            InputError: the image cannot be read.
        """


class _Kept(NamedTuple):
    """A compact form of :class:`Seen`, with the mask as run lengths."""

    rle: Rle | None
    presence: float
    score: float | None
    marked: bool
    skipped: str | None


class Recording:
    """A recording: a :class:`~lmeec_core.marking.source.MarkSource`.

    Args:
        images: the recording.
        replay: tracks the marked objects.
        write: writes the prompts and returns a message for the user.
        marks: the initial prompts.

    Raises:
        InputError: the recording has no images, or a prompt refers to an image that it lacks.
    """

    def __init__(
        self,
        images: Images,
        replay: Replay,
        write: Callable[[Marks], str],
        marks: Marks | None = None,
    ) -> None:
        self.title, self.cameras = images.name, tuple(images.cameras)
        self._images, self._replay, self._write = images, replay, write
        self._has = {camera: frozenset(images.frames(camera)) for camera in self.cameras}
        self.frames = tuple(sorted(frozenset().union(*self._has.values())))
        if not self.frames:
            raise InputError(f"{self.title}: no images; a recording with images expected")
        self._position = {frame: position for position, frame in enumerate(self.frames)}
        self._lock = threading.Condition(threading.RLock())
        self._reading = threading.Lock()
        self._marks: Marks = {}
        self._found: dict[int, dict[str, dict[str, _Kept]]] = {}  # by position, then camera
        self._versions: dict[int, int] = {}  # by position
        self._version = 0
        self._notices: list[str] = []
        self._reported: set[tuple[str, int]] = set()  # images that cannot be read
        self._target: int | None = None  # the position to track to; None: idle
        self._changed: int | None = None  # the first position whose prompts have changed
        self._work: Work | None = None
        self._closed = False
        self._unsaved = False
        for frame, prompts in (marks or {}).items():
            for (camera, _), prompt in prompts.items():
                self._set(camera, frame, prompt)
        self._target = min(map(self._at, self._marks), default=None)
        self._thread = threading.Thread(target=self._run, name="marking", daemon=True)
        self._thread.start()

    # -- what is shown ---------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """See :class:`~lmeec_core.marking.source.MarkSource`, also for the members below."""
        return self._version

    @property
    def work(self) -> Work | None:
        """The computation in progress."""
        return self._work

    @property
    def notices(self) -> tuple[str, ...]:
        """Messages for the user."""
        with self._lock:
            return tuple(self._notices)

    @property
    def objects(self) -> Mapping[str, str]:
        """Marked objects, each with the camera of its last prompt."""
        with self._lock:
            return {
                name: camera for frame in sorted(self._marks) for camera, name in self._marks[frame]
            }

    @property
    def prompted(self) -> tuple[int, ...]:
        """Frames with prompts."""
        with self._lock:
            return tuple(sorted(self._marks))

    @property
    def tracked(self) -> int:
        """Number of frames that have been tracked."""
        return len(self._found)

    @property
    def unsaved(self) -> bool:
        """Whether prompts have changed since they were last saved."""
        return self._unsaved

    def view(self, camera: str, frame: int | None) -> View:
        """A camera's view on a frame."""
        position = self._at(self._number(frame))
        with self._lock:
            kept = self._found.get(position, {}).get(camera, {})
            version = self._versions.get(position, 0)
        seen = {
            name: Seen(None if one.rle is None else decode_mask(one.rle), *one[1:])
            for name, one in kept.items()
        }
        return View(self.frames[position], f"{position}.{version}", seen)

    def image(self, camera: str, frame: int | None) -> Image | None:
        """An image; a notice names an image that exists but cannot be read."""
        number = self._number(frame)
        if number not in self._has.get(camera, ()):
            return None
        try:
            with self._reading:  # readers are not thread-safe: they keep a position in the file
                return self._images.image(camera, number)
        except InputError as error:
            with self._lock:
                if (camera, number) not in self._reported:
                    self._reported.add((camera, number))
                    self._notify(f"left out: {error}")
            return None

    def prompts(self, frame: int | None) -> Mapping[tuple[str, str], Prompt]:
        """The prompts on a frame."""
        with self._lock:
            return dict(self._marks.get(self._number(frame), {}))

    # -- what is done ----------------------------------------------------------------------------

    def mark(self, camera: str, key: int, prompt: Prompt) -> None:
        """Set a prompt. An object has one query camera per frame: a prompt in another camera
        replaces the earlier one."""
        with self._lock:
            self._set(camera, key, prompt)
            self._unsaved = True
            self._track_to(self._at(key))

    def unmark(self, camera: str, key: int, object_id: str) -> None:
        """Remove a prompt."""
        with self._lock:
            prompts = self._marks.get(key, {})
            if prompts.pop((camera, object_id), None) is None:
                return
            self._unsaved = True
            if not prompts:
                del self._marks[key]
            self._drop(self._at(key))
            if self._marks and min(self._marks) <= key:
                self._track_to(self._at(key))

    def forget(self, object_id: str) -> None:
        """Forget an object; the masks of the others are kept."""
        with self._lock:
            marked = [f for f, prompts in self._marks.items() if object_id in _names(prompts)]
            for frame in marked:
                kept = {k: p for k, p in self._marks[frame].items() if k[1] != object_id}
                self._marks[frame] = kept
                if not kept:
                    del self._marks[frame]
            if marked:
                self._unsaved = True
                self._restart(min(map(self._at, marked)))
            for position, cameras in list(self._found.items()):
                for seen in cameras.values():
                    seen.pop(object_id, None)
                self._touch(position)
                if not any(cameras.values()):
                    del self._found[position]

    def track(self) -> None:
        """Track to the end."""
        with self._lock:
            if not self._marks:
                self._notify("no object is marked yet: click on one in any view first")
                return
            first = self._at(min(self._marks))
            if self._target is None and len(self._found) == len(self.frames) - first:
                self._notify(f"every frame from {self.frames[first]} on is already tracked")
                return
            self._track_to(len(self.frames) - 1)

    def stop(self) -> None:
        """Stop after the frame that is being computed."""
        with self._lock:
            self._target = None

    def save(self) -> str:
        """Write the prompts."""
        with self._lock:
            marks = {frame: dict(self._marks[frame]) for frame in sorted(self._marks)}
            self._unsaved = False
        try:
            return self._write(marks)
        except BaseException:
            self._unsaved = True
            raise
        finally:
            with self._lock:
                self._version += 1

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._thread.join()

    # -- internal, with the lock held --------------------------------------------------------------

    def _number(self, frame: int | None) -> int:
        return self.frames[0] if frame is None else frame

    def _at(self, frame: int) -> int:
        if frame not in self._position:
            raise InputError(
                f"{self.title}: no frame {frame}; one of {len(self.frames)} frames from "
                f"{self.frames[0]} to {self.frames[-1]} expected"
            )
        return self._position[frame]

    def _set(self, camera: str, frame: int, prompt: Prompt) -> None:
        position = self._at(frame)
        if frame not in self._has.get(camera, ()):
            having = ", ".join(name for name, has in self._has.items() if frame in has)
            raise InputError(
                f"prompt for {prompt.object_id!r}: camera {camera!r} has no image on frame "
                f"{frame}; one of {having} expected"
            )
        prompts = self._marks.setdefault(frame, {})
        for other, name in list(prompts):
            if name == prompt.object_id and other != camera:
                del prompts[other, name]
                self._notify(f"{name!r} is now marked in {camera}, no longer in {other}")
        prompts[camera, prompt.object_id] = prompt
        self._drop(position)

    def _notify(self, text: str) -> None:
        self._notices.append(text)
        self._version += 1

    def _touch(self, position: int) -> None:
        self._version += 1
        self._versions[position] = self._version

    def _restart(self, position: int) -> None:
        self._changed = position if self._changed is None else min(self._changed, position)

    def _drop(self, position: int) -> None:
        """Discard the masks from a position on, because the prompts have changed."""
        self._restart(position)
        for later in [p for p in self._found if p >= position]:
            del self._found[later]
            self._touch(later)
        self._touch(position)

    def _track_to(self, position: int) -> None:
        self._target = position if self._target is None else max(self._target, position)
        self._lock.notify_all()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._closed and self._target is None:
                    self._report(None)
                    self._lock.wait()
                if self._closed:
                    return
            try:
                self._advance()
            except Exception:
                logger.exception("tracking failed")
                with self._lock:
                    self._target = None
                    self._notify("tracking failed; please report the error shown in the terminal")

    def _advance(self) -> None:
        """Compute one frame on the way to the target."""
        with self._lock:
            target, first = self._target, min(map(self._at, self._marks), default=None)
            if self._changed is not None:
                self._replay.changed(self._changed)
                self._changed = None
            if target is None or first is None or target < first:
                self._target = None
                return
            position = self._replay.next(first, target)
            frame = self.frames[position]
            prompts = [(c, prompt) for (c, _), prompt in self._marks.get(frame, {}).items()]
            self._report(Work("tracking", position - first, target - first + 1))
        images = {camera: self.image(camera, frame) for camera in self.cameras}
        stepped = self._replay.step(position, images, prompts, keep=position == target)
        kept = {
            camera: {name: _kept(one, stepped.query[name] == camera) for name, one in seen.items()}
            for camera, seen in stepped.found.items()
        }
        with self._lock:
            if self._changed is not None and self._changed <= position:
                return  # the prompts have changed in the meantime
            self._found[position] = kept
            self._touch(position)
            self._remove_refused(frame, stepped)
            if self._target is not None and position >= self._target:
                self._target = None

    def _remove_refused(self, frame: int, stepped: Stepped) -> None:
        """Remove the prompts that the tracker rejected; they had no effect."""
        for camera, object_id, reason in stepped.refused:
            self._notify(f"prompt for {object_id!r} in {camera}, frame {frame}, removed: {reason}")
            self._marks[frame].pop((camera, object_id), None)
            if not self._marks[frame]:
                del self._marks[frame]

    def _report(self, work: Work | None) -> None:
        if work != self._work:
            self._work = work
            self._version += 1


def _names(prompts: Mapping[tuple[str, str], Prompt]) -> set[str]:
    return {name for _, name in prompts}


def _kept(found: CorrespondenceLike, marked: bool) -> _Kept:
    mask = found.mask()
    return _Kept(
        encode_mask(mask) if mask.any() else None,
        float(found.presence),
        float(found.score),
        marked,
        found.skipped,
    )
