"""The query masks of a take's unit: the take's annotations, or objects tracked from prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.methods import has_setting
from lmeec_core.methods.candidates.files import CandidateFile
from lmeec_core.methods.candidates.given import TakesCandidates
from lmeec_core.offline.units import Settings, Unit
from lmeec_core.takes import Take, TakeError

if TYPE_CHECKING:
    from lmeec_core.correspondence import CorrespondenceLike, Method
    from lmeec_core.encoded import Encode
    from lmeec_core.model import LMEEC

Size = tuple[int, int]


class Step(NamedTuple):
    """The results for one frame."""

    size: Size | None = None
    """(height, width) of the target image; None if there is none."""
    found: Mapping[str, CorrespondenceLike] = {}
    """Objects in the target image."""
    tracked: Mapping[str, CorrespondenceLike] = {}
    """Objects in the query image, if they are tracked from prompts."""


class Queries(Protocol):
    """Tracks a unit frame by frame.

    Attributes:
        frames: the frame numbers, in increasing order.
    """

    frames: list[int]

    def step(self, frame: int) -> Step:
        """Track the objects in the next frame.

        Raises:
            InputError: the frame cannot be used.
        """

    def asked(self, frame: int) -> set[str]:
        """Objects that need a prediction for this frame, the last one passed to ``step``."""


class GivenMasks:
    """Query masks from the take's annotations.

    Arguments:
        take, unit, settings: what to track, and how.
        method: the method that finds the objects in the target view.
        problems: receives a text for everything that is left out.
    """

    def __init__(
        self, take: Take, unit: Unit, settings: Settings, method: Method, problems: list[str]
    ) -> None:
        self._take, self._unit, self._problems = take, unit, problems
        length = _length(unit, settings)
        self._tracker = method.tracker(
            unit.query, (unit.target,), length, max_objects=len(unit.objects)
        )
        self._given: CandidateFile | None = None
        if settings.candidates.file and has_setting(settings.method, "candidates"):
            own = settings.candidates
            self._given = CandidateFile(Path(own.file), take.path.name, own.limits)
        self._asked = {name: set(take.mask_frames(name, unit.query)) for name in unit.objects}
        self._shown = {camera: set(take.frames(camera)) for camera in (unit.query, unit.target)}
        self.frames = sorted(self._shown[unit.query].union(*self._asked.values()))

    def asked(self, frame: int) -> set[str]:
        """Objects with an annotation in the query view; see :class:`Queries`."""
        return {name for name, frames in self._asked.items() if frame in frames}

    def step(self, frame: int) -> Step:
        """See :class:`Queries`. Without both images the tracker's memory is unchanged."""
        take, unit, images = self._take, self._unit, {}
        if not all(frame in shown for shown in self._shown.values()):
            return Step()
        for camera in (unit.query, unit.target):
            image = read_image(take, camera, frame, self._problems)
            if image is None:
                return Step()
            images[camera] = image
        seen = images[unit.query].shape[:2]
        masks = {name: self._mask(name, frame, seen) for name in unit.objects}
        if self._given is not None:
            self._offer(frame, images[unit.target].shape[:2])
        found = self._tracker.step(images, masks)[unit.target]
        return Step(images[unit.target].shape[:2], found)

    def _offer(self, frame: int, size: Size) -> None:
        """Give the tracker the candidates of another program."""
        assert self._given is not None
        camera = self._unit.target
        try:
            masks = self._given.masks(camera, frame, size)
            why = "no candidates of this image in it"
        except TakeError as error:
            masks, why = None, str(error)
        if masks is None:
            self._problems.append(f"{self._given.path}: {camera}, frame {frame}: {why}")
        elif isinstance(self._tracker, TakesCandidates):
            self._tracker.offer({camera: masks})

    def _mask(self, name: str, frame: int, image: Size) -> NDArray[np.bool_] | None:
        try:
            return self._take.mask(name, self._unit.query, frame, image=image)
        except TakeError as error:
            self._problems.append(str(error))
            return None


class MarkedObjects:
    """Query masks tracked from the unit's prompts.

    If an object is later marked in another camera, this unit drops it from then on: it is tracked
    from that camera instead.

    Arguments:
        take, unit, settings, method, problems: as in :class:`GivenMasks`.
        model: the network that tracks the objects in the query view.
        encode: encodes its views if it is also the method's network; else None.
    """

    def __init__(
        self,
        take: Take,
        unit: Unit,
        settings: Settings,
        method: Method,
        model: LMEEC,
        encode: Encode | None,
        problems: list[str],
    ) -> None:
        from lmeec_core.prompts import PlacedPrompt, PromptedTracker, view_tracker

        self._take, self._unit, self._problems = take, unit, problems
        length, most = _length(unit, settings), len(unit.objects)
        self._tracker = PromptedTracker(
            (unit.query, unit.target),
            method,
            lambda: view_tracker(model, num_frames=length, max_objects=most),
            length,
            max_objects=most,
            hold=1,
            encode=encode,
        )
        self._prompts: dict[int, list[PlacedPrompt]] = defaultdict(list)
        for one in unit.prompts:
            assert one.frame is not None  # checked by usable_prompts
            self._prompts[one.frame].append(one)
        listed = (name for name in unit.objects if name in take.objects)
        self._listed = {name: set(take.mask_frames(name, unit.query)) for name in listed}
        self._shown = {camera: set(take.frames(camera)) for camera in (unit.query, unit.target)}
        frames = self._shown[unit.query] | self._prompts.keys()
        self.frames = sorted(frames.union(*self._listed.values()))

    def asked(self, frame: int) -> set[str]:
        """Tracked objects and, for scoring, those with an annotation in the query view; see
        :class:`Queries`."""
        listed = {name for name, frames in self._listed.items() if frame in frames}
        return listed | self._tracker.objects.keys()

    def step(self, frame: int) -> Step:
        """See :class:`Queries`. Without a query image nothing is tracked."""
        unit = self._unit
        images = {
            camera: read_image(self._take, camera, frame, self._problems)
            for camera, shown in self._shown.items()
            if frame in shown
        }
        seen = images.get(unit.query) is not None
        if seen:
            self._tracker.look(images)
        for one in self._prompts.get(frame, ()):
            if one.camera != unit.query:
                self._tracker.forget(one.prompt.object_id)
            elif seen:
                try:
                    self._tracker.prompt(unit.query, one.prompt)
                except InputError as error:
                    self._problems.append(f"{self._take.path}: {one}: {error}")
            else:
                self._problems.append(f"{self._take.path}: {one}: its image cannot be read")
        target = images.get(unit.target)
        size = None if target is None else target.shape[:2]
        if not seen:
            return Step()
        found = self._tracker.find()
        return Step(size, found.get(unit.target, {}), found[unit.query])


def read_image(
    take: Take, camera: str, frame: int, problems: list[str]
) -> NDArray[np.uint8] | None:
    """An image; None, and a text in ``problems``, if it cannot be read."""
    try:
        return take.image(camera, frame)
    except TakeError as error:
        problems.append(str(error))
        return None


def _length(unit: Unit, settings: Settings) -> int | None:
    """The number of frames if the tracker may know it. By default it does not: a node cannot know
    how long it will run, and a take must give the same masks as its bag."""
    return unit.frames if settings.num_frames == "take" else None
