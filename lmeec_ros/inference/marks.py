"""Prompts on their way to the tracker: each waits for the image that it was made on."""

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
"""Prompts that may wait at a time."""


class PromptRefused(InputError):
    """A prompt that is not used.

    Attributes:
        kind: one word, the same for the same cause.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Used(NamedTuple):
    """A prompt that was used: the object's camera, and the stamp of the image in nanoseconds."""

    camera: str
    stamp_ns: int


@dataclass(frozen=True, eq=False)
class _Waiting:
    marking: Marking
    answer: Future[Used]
    deadline: float


class _Looked(NamedTuple):
    """A camera's image that the tracker has looked at."""

    stamp_ns: int
    frame: int
    size: tuple[int, int]  # height, width


class Marks:
    """Applies prompts to the images that they belong to.

    A prompt belongs to the image of its camera whose stamp is nearest, within its tolerance, or to
    the newest one if its stamp is 0. It waits for an image that has not been processed yet, at most
    prompts.wait seconds.

    :meth:`submit`, :meth:`ask`, :meth:`refuse_all` and :attr:`waiting` may be used from any thread;
    the others belong to the thread that steps the tracker.

    Args:
        tracker: that the objects are marked in.
        clock: seconds, monotonic.
    """

    def __init__(
        self, tracker: PromptedTracker, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.tracker = tracker
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._asked = False
        self.begin()

    @property
    def waiting(self) -> int:
        """How many prompts wait."""
        return len(self._waiting)

    def begin(self) -> None:
        """Take no image of before for the newest one: there was a pause."""
        self._asked = False
        self._looked: dict[str, list[_Looked]] = {name: [] for name in self.tracker.cameras}
        self._cameras: dict[str, set[str]] = {}  # frame_id to the cameras that have it

    def submit(self, marking: Marking, config: NodeConfig) -> Future[Used]:
        """Take in a prompt; :meth:`settle` answers it.

        Returns:
            what has become of it; a PromptRefused if it was not used.
        """
        waiting = _Waiting(marking, Future(), self._clock() + config.prompts.wait)
        with self._lock:
            full = len(self._waiting) >= LIMIT
            if not full:
                self._waiting.append(waiting)
        if full:
            text = f"{LIMIT} prompts wait already; send them again, at a lower rate"
            _refuse(waiting, PromptRefused("full", _about(marking) + text))
        return waiting.answer

    def ask(self) -> bool:
        """Whether :meth:`settle` has to be called for what was submitted; False if it will be."""
        with self._lock:
            asked, self._asked = self._asked, True
        return not asked

    def look(
        self,
        stamps: Mapping[str, int],
        sizes: Mapping[str, tuple[int, int]],
        ids: Mapping[str, str],
    ) -> None:
        """Note the images that the tracker has just looked at.

        Args:
            stamps: camera to its image's stamp, nanoseconds.
            sizes: likewise, (height, width).
            ids: likewise, the header's frame_id.
        """
        for camera, stamp in stamps.items():
            held = self._looked[camera]
            held.append(_Looked(stamp, self.tracker.frame, sizes[camera]))
            oldest = self.tracker.held_frames(camera)[:1]
            self._looked[camera] = [one for one in held if not oldest or one.frame >= oldest[0]]
            self._cameras.setdefault(ids[camera].lstrip("/"), set()).add(camera)

    def settle(self, config: NodeConfig) -> None:
        """Apply the prompts whose images are there, and refuse those that waited too long."""
        with self._lock:
            self._asked = False
            present = list(self._waiting)
        for waiting in present:
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
        """Refuse the prompts that wait."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        for one in waiting:
            _refuse(one, PromptRefused(kind, _about(one.marking) + text))

    def _apply(self, marking: Marking, config: NodeConfig, late: bool) -> Used | None:
        """Use a prompt; None if its image may still come.

        Raises:
            InputError: it cannot be used.
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
                raise PromptRefused("seen", f"{_about(marking)}the object is seen; nothing to do")
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
        """Name of the camera; None while it may still become known."""
        name = marking.camera.lstrip("/")
        if name in self._looked:
            return name
        cameras = self._cameras.get(name, set())
        if len(cameras) == 1:
            return next(iter(cameras))
        if not cameras and not late and not all(self._looked.values()):
            return None
        known = sorted({*self._looked, *filter(None, self._cameras)})
        text = f"camera or frame_id {marking.camera!r} given, one of {', '.join(known)} expected"
        if cameras:
            text = (
                f"frame_id {marking.camera!r} given, which is that of several cameras; the name of "
            )
            text += f"one of them ({', '.join(sorted(cameras))}) expected in its place"
        raise PromptRefused("camera", _about(marking) + text)

    def _image(
        self, marking: Marking, camera: str, config: NodeConfig, late: bool
    ) -> _Looked | None:
        """The image that a prompt belongs to; None while it may still come."""
        held = set(self.tracker.held_frames(camera))
        looked = [one for one in self._looked[camera] if one.frame in held]
        stamp, near = marking.stamp_ns, round(config.pairing.tolerance * 1e9)
        newest = looked[-1].stamp_ns if looked else None
        coming = newest is None if stamp == 0 else newest is None or stamp > newest + near
        if coming and not late:
            return None
        where = f"{_about(marking)}camera {camera!r}"
        if newest is None:
            text = f" has sent no image that was processed within {config.prompts.wait:g} s"
            raise PromptRefused("no_image", where + text)
        if stamp == 0:
            return looked[-1]
        best = min(looked, key=lambda one: abs(one.stamp_ns - stamp))
        limit = near if marking.tolerance is None else round(marking.tolerance * 1e9)
        if abs(best.stamp_ns - stamp) <= limit:
            return best
        text = (
            f": no image within {limit / 1e9:g} s of {_seconds(stamp)}; held are {len(looked)} "
            f"from {_seconds(looked[0].stamp_ns)} to {_seconds(newest)}. "
        )
        if coming:
            text += f"None came within {config.prompts.wait:g} s (prompts.wait)"
            raise PromptRefused("no_image", where + text)
        if stamp < looked[0].stamp_ns:
            text += "Mark it on a newer image, or raise prompts.hold"
            raise PromptRefused("late", where + text)
        text += "That image was not processed; mark it on one that has masks, or with the stamp 0"
        raise PromptRefused("between", where + text)


def _about(marking: Marking) -> str:
    return f"prompt for {marking.prompt.object_id!r}: "


def _refuse(waiting: _Waiting, error: InputError) -> None:
    with suppress(InvalidStateError):  # it was refused meanwhile
        waiting.answer.set_exception(error)


def _seconds(stamp_ns: int) -> str:
    return f"{stamp_ns // 1_000_000_000}.{stamp_ns % 1_000_000_000:09d}"
