"""Chooses a view in which to continue tracking an object that is lost in its query view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lmeec_core.correspondence import CorrespondenceLike

PRESENCE = 0.8
SCORE = 0.6
"""Minimum presence and score of an object that counts as reliably seen."""
SEEN_FRAMES = 5
"""Number of consecutive frames on which it must have been reliably seen before it was lost."""
LOST_FRAMES = 2
"""Number of consecutive frames on which it is not seen in its query view before the handover."""


class Sight(NamedTuple):
    """An object that was reliably seen in a view other than its query view."""

    camera: str
    frame: int
    """The last frame on which it was reliably seen."""
    run: int
    """Number of consecutive frames."""
    found: CorrespondenceLike


class Handover:
    """Remembers in which views objects are reliably seen.

    Methods need a query mask, so nothing is found once an object is lost in its query view. The
    choice is therefore based on what was seen in the other views before.
    """

    def __init__(self) -> None:
        self._sights: dict[str, dict[str, Sight]] = {}  # object to camera
        self._lost: dict[str, int] = {}  # object to number of consecutive frames

    def saw(
        self,
        frame: int,
        query: Mapping[str, str],
        found: Mapping[str, Mapping[str, CorrespondenceLike]],
    ) -> None:
        """Record the objects found on a frame.

        Args:
            frame: the frame number.
            query: the query camera of each object.
            found: the results, by camera and object.
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
        """Record whether an object is lost on this frame; returns the best sight if it has been
        lost for long enough, else None.

        The sight is from the last frame on which the object was visible in its query view.
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
