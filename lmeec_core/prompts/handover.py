"""Which view may go on tracking an object that is lost in its query view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lmeec_core.correspondence import CorrespondenceLike

PRESENCE = 0.8
SCORE = 0.6
"""Presence and score from which an object is seen with confidence."""
SEEN_FRAMES = 5
"""Frames in a row on which it must have been seen so before it was lost."""
LOST_FRAMES = 2
"""Frames in a row on which it is not seen in its query view, until another view takes over."""


class Sight(NamedTuple):
    """An object seen with confidence in a view other than its query view."""

    camera: str
    frame: int
    """The last one on which it was seen so."""
    run: int
    """Frames in a row."""
    found: CorrespondenceLike


class Handover:
    """Remembers in which views objects are seen with confidence.

    Methods need a query mask: nothing is found any more once the object is lost in its query view.
    So what counts is what was seen in the other views up to then.
    """

    def __init__(self) -> None:
        self._sights: dict[str, dict[str, Sight]] = {}  # object to camera
        self._lost: dict[str, int] = {}  # frames in a row

    def saw(
        self,
        frame: int,
        query: Mapping[str, str],
        found: Mapping[str, Mapping[str, CorrespondenceLike]],
    ) -> None:
        """Take in what was found on a frame.

        Args:
            frame: its number.
            query: object to its query camera.
            found: camera to object.
        """
        for camera, objects in found.items():
            for name, one in objects.items():
                sights = self._sights.setdefault(name, {})
                if query.get(name) == camera or one.skipped:
                    continue
                if one.visible() and one.presence >= PRESENCE and one.score >= SCORE:
                    run = sights[camera].run + 1 if camera in sights else 1
                    sights[camera] = Sight(camera, frame, run, one)
                else:
                    sights.pop(camera, None)

    def lost(self, name: str, is_lost: bool) -> Sight | None:
        """Whether an object is lost on this frame; returns where it was seen best, if it is time.

        The sight is that of the last frame on which the object was seen in its query view.
        """
        self._lost[name] = self._lost.get(name, 0) + 1 if is_lost else 0
        if self._lost[name] < LOST_FRAMES:
            return None
        sights = [one for one in self._sights.get(name, {}).values() if one.run >= SEEN_FRAMES]
        return max(sights, key=lambda one: one.found.presence * one.found.score, default=None)

    def forget(self, name: str) -> None:
        """Forget an object."""
        self._sights.pop(name, None)
        self._lost.pop(name, None)
