"""Tracking a recording from its first prompt on, with a way back to the frame that is marked."""

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
    """What was found on a frame, each object's query camera, and the prompts that were refused."""

    found: FoundEverywhere
    query: Mapping[str, str]
    refused: list[Refused]


class Replay:
    """Steps a tracker through positions 0, 1, ... of a recording.

    The tracker is causal: what it finds depends on the images and prompts up to there. It is kept
    in two states, after the last step and before the position that is marked, so that changing a
    prompt there computes one frame and not the whole recording.

    Args:
        make: a new tracker.
        shared: what the states have in common and is not copied: the networks.
    """

    def __init__(self, make: Callable[[], PromptedTracker], shared: Sequence[object] = ()) -> None:
        self._make, self._shared = make, tuple(shared)
        self._after: tuple[int, PromptedTracker] | None = None
        self._before: tuple[int, PromptedTracker] | None = None

    def changed(self, position: int) -> None:
        """The prompts of a position are others now."""
        if self._after is not None and self._after[0] >= position:
            self._after = None
        if self._before is not None and self._before[0] > position:
            self._before = None

    def next(self, first: int, target: int) -> int:
        """The position to step to next, on the way to a target.

        Args:
            first: the first position with a prompt.
            target: at ``first`` or behind.
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
        """Process a position that :meth:`next` gave.

        Args:
            position: of these images.
            images: by camera, None where one has none.
            prompts: camera and prompt, in order.
            keep: keep the state before it: the position is the one that is marked.
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
