"""A prompt, and the interface of trackers that take prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from lmeec_core.correspondence import CorrespondenceLike, Mask
from lmeec_core.encoded import View

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a person says about one object in one image: points, a box (also both), or a mask.

    Attributes:
        object_id: a new object starts with its first prompt; a later one corrects it.
        points: x and y in pixels of the image.
        labels: for each point 1 (on the object) or 0 (not on it).
        box: x0, y0, x1, y1 in pixels.
        mask: (H, W), bool or 0 and 1 or 255; alone.
    """

    object_id: str
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    box: Box | None = None
    mask: Mask | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of :meth:`ViewTracker.prompt`."""
        return {
            "points": self.points or None,
            "labels": self.labels or None,
            "box": self.box,
            "mask": self.mask,
        }


class ViewTracker(Protocol):
    """Tracks marked objects in one view, frame after frame."""

    @property
    def objects(self) -> tuple[str, ...]:
        """Ids of the objects, in the order in which they were marked."""

    @property
    def held_frames(self) -> tuple[int, ...]:
        """Numbers of the frames that can still be prompted, oldest first; the last is the frame
        last stepped. The first frame stepped is 0."""

    def step(self, image: View) -> Mapping[str, CorrespondenceLike]:
        """Process the next frame: RGB uint8 (H, W, 3), of any size, or a view that the tracker's
        network has encoded.

        Raises:
            InputError: it is no such image; nothing has changed then.
        """

    def prompt(
        self,
        object_id: str,
        points: npt.ArrayLike | None = None,
        labels: Sequence[int] | None = None,
        box: npt.ArrayLike | None = None,
        mask: npt.NDArray[Any] | None = None,
        frame: int | None = None,
    ) -> CorrespondenceLike:
        """Mark an object, or correct it.

        All points of a frame are given together.

        Args:
            object_id: a new object starts here; a known one is corrected.
            points: (n, 2), x and y in pixels of the image.
            labels: for each point 1 (on the object) or 0 (not on it); all 1 if left out.
            box: x0, y0, x1, y1 in pixels around the object; points may be given beside it.
            mask: (H, W) of the image's size or aspect, bool or 0 and 1 or 255; alone. It is taken
                as it is.
            frame: one of :attr:`held_frames`; None is the last.

        Returns:
            the object on the frame last stepped.

        Raises:
            InputError: the prompt cannot be used; says why. Nothing has changed then.
        """

    def forget(self, object_id: str) -> bool:
        """Forget one object; returns whether it was known."""

    def reset(self) -> None:
        """Forget every object, and all frames."""
