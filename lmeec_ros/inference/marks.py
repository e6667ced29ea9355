"""Queue of prompts: each waits for the image that it was made on, then goes to the tracker."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from lmeec_core.errors import InputError
from lmeec_core.prompts import PromptedTracker
from lmeec_ros.io.prompts import Marking
from lmeec_ros.parameters.config import NodeConfig

LIMIT = 32
"""Maximum number of waiting prompts."""


class PromptRefused(InputError):
    """A prompt was refused.

    Attributes:
        kind: one word, the same for the same cause.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Used(NamedTuple):
    """Where a prompt was applied: the camera, and the stamp of its image in nanoseconds."""

    camera: str
    stamp_ns: int


@dataclass(frozen=True, eq=False)
class _Waiting:
    marking: Marking
    answer: Future[Used]
    deadline: float


class _Processed(NamedTuple):
    """An image that the tracker has processed and may still hold."""

    stamp_ns: int
    frame: int
    size: tuple[int, int]  # height, width


class Marks:
    """Applies prompts to the images that they belong to.

    A prompt belongs to the image of its camera with the nearest stamp, within its tolerance, or to
    the newest image if its stamp is 0. If that image has not been processed yet, the prompt waits
    for at most prompts.wait seconds.

    :meth:`submit`, :meth:`request_settle`, :meth:`refuse_all` and :attr:`waiting` may be used from
    any thread; the others only from the thread that steps the tracker.

    Args:
        tracker: the tracker that tracks the marked objects.
        clock: returns monotonic seconds.
    """

    def __init__(
        self, tracker: PromptedTracker, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.tracker = tracker
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._requested = False  # whether a call of `settle` is scheduled
        self.begin()

    @property
    def waiting(self) -> int:
        """Number of waiting prompts."""
        return len(self._waiting)

    def begin(self) -> None:
        """Forget the processed images: after a pause, an old image must not count as the newest."""
        self._requested = False
        self._images: dict[str, list[_Processed]] = {name: [] for name in self.tracker.cameras}
        self._cameras: dict[str, set[str]] = {}  # frame_id to the cameras that use it

    def submit(self, marking: Marking, config: NodeConfig) -> Future[Used]:
        """Queue a prompt; :meth:`settle` applies or refuses it.

        Returns:
            where it was applied, or a PromptRefused as the future's exception.
        """
        waiting = _Waiting(marking, Future(), self._clock() + config.prompts.wait)
        with self._lock:
            full = len(self._waiting) >= LIMIT
            if not full:
                self._waiting.append(waiting)
        if full:
            text = f"{LIMIT} prompts are waiting already; send prompts at a lower rate"
            _refuse(waiting, PromptRefused("full", _about(marking) + text))
        return waiting.answer

    def request_settle(self) -> bool:
        """Return whether the caller must schedule :meth:`settle`; False if it is scheduled."""
        with self._lock:
            requested, self._requested = self._requested, True
        return not requested

    def add_images(
        self,
        stamps: Mapping[str, int],
        sizes: Mapping[str, tuple[int, int]],
        ids: Mapping[str, str],
    ) -> None:
        """Record the images that the tracker has just processed.

        Args:
            stamps: camera to the stamp of its image, nanoseconds.
            sizes: camera to the (height, width) of its image.
            ids: camera to the frame_id of its image's header.
        """
        for camera, stamp in stamps.items():
            held = self._images[camera]
            held.append(_Processed(stamp, self.tracker.frame, sizes[camera]))
            oldest = self.tracker.held_frames(camera)[:1]
            self._images[camera] = [one for one in held if not oldest or one.frame >= oldest[0]]
            self._cameras.setdefault(ids[camera].lstrip("/"), set()).add(camera)

    def settle(self, config: NodeConfig) -> None:
        """Apply the prompts whose images were processed; refuse those that waited too long."""
        with self._lock:
            self._requested = False
            queued = list(self._waiting)
        for waiting in queued:
            try:
                used = self._apply(waiting.marking, config, self._clock() >= waiting.deadline)
            except InputError as error:
                _refuse(waiting, error)
            else:
                if used is None:
                    continue
                with suppress(InvalidStateError):
                    waiting.answer.set_result(used)
            with self._lock, suppress(ValueError):
                self._waiting.remove(waiting)

    def refuse_all(self, kind: str, text: str) -> None:
        """Refuse all waiting prompts."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        for one in waiting:
            _refuse(one, PromptRefused(kind, _about(one.marking) + text))

    def _apply(self, marking: Marking, config: NodeConfig, late: bool) -> Used | None:
        """Apply a prompt; None if its image may still arrive.

        Raises:
            InputError: if it cannot be used.
        """
        camera = self._camera(marking, late)
        if camera is None:
            return None
        found = self._image(marking, camera, config, late)
        if found is None:
            return None
        prompt = marking.prompt
        if marking.detected:
            if (
                prompt.object_id in self.tracker.objects
                and prompt.object_id not in self.tracker.lost
            ):
                text = f"{_about(marking)}the object is visible already; detection not needed"
                raise PromptRefused("seen", text)
            height, width = found.size
            assert prompt.box is not None
            x0, y0, x1, y1 = prompt.box
            box = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
            prompt = replace(prompt, box=box)
        try:
            self.tracker.prompt(camera, prompt, found.frame)
        except InputError as error:
            raise PromptRefused("unusable", str(error)) from error
        return Used(camera, found.stamp_ns)

    def _camera(self, marking: Marking, late: bool) -> str | None:
        """Name of the camera; None while its frame_id may still become known."""
        name = marking.camera.lstrip("/")
        if name in self._images:
            return name
        cameras = self._cameras.get(name, set())
        if len(cameras) == 1:
            return next(iter(cameras))
        if not cameras and not late and not all(self._images.values()):
            return None
        known = sorted({*self._images, *filter(None, self._cameras)})
        text = f"camera or frame_id {marking.camera!r} given, one of {', '.join(known)} expected"
        if cameras:
            text = (
                f"frame_id {marking.camera!r} given, which several cameras share; the name of one "
            )
            text += f"of them ({', '.join(sorted(cameras))}) expected instead"
        raise PromptRefused("camera", _about(marking) + text)

    def _image(
        self, marking: Marking, camera: str, config: NodeConfig, late: bool
    ) -> _Processed | None:
        """The image that a prompt belongs to; None while it may still arrive."""
        held = set(self.tracker.held_frames(camera))
        images = [one for one in self._images[camera] if one.frame in held]
        stamp, near = marking.stamp_ns, round(config.pairing.tolerance * 1e9)
        newest = images[-1].stamp_ns if images else None
        expected = newest is None if stamp == 0 else newest is None or stamp > newest + near
        if expected and not late:
            return None
        where = f"{_about(marking)}camera {camera!r}"
        if newest is None:
            text = f": no image was processed within {config.prompts.wait:g} s (prompts.wait)"
            raise PromptRefused("no_image", where + text)
        if stamp == 0:
            return images[-1]
        best = min(images, key=lambda one: abs(one.stamp_ns - stamp))
        limit = near if marking.tolerance is None else round(marking.tolerance * 1e9)
        if abs(best.stamp_ns - stamp) <= limit:
            return best
        text = (
            f": no image within {limit / 1e9:g} s of {_seconds(stamp)}; the {len(images)} images "
            f"kept are from {_seconds(images[0].stamp_ns)} to {_seconds(newest)}. "
        )
        if expected:
            text += f"No later one arrived within {config.prompts.wait:g} s (prompts.wait)"
            raise PromptRefused("no_image", where + text)
        if stamp < images[0].stamp_ns:
            text += "Mark the object on a newer image, or raise prompts.hold"
            raise PromptRefused("late", where + text)
        text += (
            "That image was not processed; mark the object on an image that has masks, or with "
            "stamp 0 on the newest one"
        )
        raise PromptRefused("between", where + text)


def _about(marking: Marking) -> str:
    return f"prompt for {marking.prompt.object_id!r}: "


def _refuse(waiting: _Waiting, error: InputError) -> None:
    with suppress(InvalidStateError):  # refused already by another thread
        waiting.answer.set_exception(error)


def _seconds(stamp_ns: int) -> str:
    return f"{stamp_ns // 1_000_000_000}.{stamp_ns % 1_000_000_000:09d}"
