"""Tracks a recording from its first prompt on, and can return to the frame being marked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lmeec_core.errors import InputError
from lmeec_core.prompts import Prompt, PromptedTracker
from lmeec_core.prompts.follow import FoundEverywhere
from lmeec_core.tracker import Image


class Refused(NamedTuple):
    """A prompt that could not be used, and why."""

    camera: str
    object_id: str
    reason: str


class Stepped(NamedTuple):
    """The objects found on a frame, each object's query camera, and the rejected prompts."""

    found: FoundEverywhere
    query: Mapping[str, str]
    refused: list[Refused]


class Replay:
    """Steps a tracker through positions 0, 1, ... of a recording.

    The tracker is causal: its results depend only on earlier images and prompts. Two states of it
    are kept, one after the last step and one before the position being marked, so that changing a
    prompt there computes one frame and not the whole recording.

    Args:
        make: makes a new tracker.
        shared: objects that both states share and that are not copied: the networks.
    """

    def __init__(self, make: Callable[[], PromptedTracker], shared: Sequence[object] = ()) -> None:
        self._make, self._shared = make, tuple(shared)
        self._after: tuple[int, PromptedTracker] | None = None
        self._before: tuple[int, PromptedTracker] | None = None

    def changed(self, position: int) -> None:
        """Discard the states that depend on the prompts at a position, which have changed."""
        if self._after is not None and self._after[0] >= position:
            self._after = None
        if self._before is not None and self._before[0] > position:
            self._before = None

    def next(self, first: int, target: int) -> int:
        """The position to step to next, on the way to a target.

        Args:
            first: the first position with a prompt.
            target: the position to reach, not before ``first``.
        """
        if self._after is not None and first <= self._after[0] < target:
            return self._after[0] + 1
        if self._before is not None and first <= self._before[0] <= target:
            return self._before[0]
        return first

    def step(
        self,
        position: int,
        images: Mapping[str, Image | None],
        prompts: Sequence[tuple[str, Prompt]],
        keep: bool,
    ) -> Stepped:
        """Process a position that :meth:`next` returned.

        Args:
            position: the position of these images.
            images: by camera; None for a camera without an image.
            prompts: pairs of camera and prompt, in order.
            keep: whether to keep the state before this position, because it is being marked.
        """
        tracker = self._state_before(position)
        self._after = None
        if keep and (self._before is None or self._before[0] != position):
            self._before = position, self._copy(tracker)
        tracker.look(images)
        refused = []
        for camera, prompt in prompts:
            try:
                tracker.prompt(camera, prompt)
            except InputError as error:
                refused.append(Refused(camera, prompt.object_id, str(error)))
        found = tracker.find()
        self._after = position, tracker
        return Stepped(found, tracker.objects, refused)

    def _state_before(self, position: int) -> PromptedTracker:
        if self._after is not None and self._after[0] == position - 1:
            return self._after[1]
        if self._before is not None and self._before[0] == position:
            return self._copy(self._before[1])
        return self._make()

    def _copy(self, tracker: PromptedTracker) -> PromptedTracker:
        return copy.deepcopy(tracker, {id(thing): thing for thing in self._shared})
