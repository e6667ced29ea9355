"""Prompts, and the interface of trackers that accept them."""

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
    """Marks an object in an image with points, a box (or both), or a mask.

    Attributes:
        object_id: the object; its first prompt adds the object, later ones correct its mask.
        points: x and y in pixels of the image.
        labels: for each point 1 (on the object) or 0 (not on it).
        box: x0, y0, x1, y1 in pixels.
        mask: (H, W), bool, or integers 0 and 1 or 255; not together with points or a box.
    """

    object_id: str
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    box: Box | None = None
    mask: Mask | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The prompt as keyword arguments for :meth:`ViewTracker.prompt`."""
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
        """Numbers of the frames that can still be prompted, oldest first. The first frame processed
        is 0; the last number is the newest frame."""

    def step(self, image: View) -> Mapping[str, CorrespondenceLike]:
        """Process the next frame: RGB uint8 (H, W, 3), of any size, or a view encoded by the
        tracker's network.

        Raises:
            InputError: the image is invalid; the tracker is unchanged.
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
        """Mark an object, or correct its mask.

        All points on a frame are given together.

        Args:
            object_id: a new object, or a known one to correct.
            points: (n, 2), x and y in pixels of the image.
            labels: for each point 1 (on the object) or 0 (not on it); all 1 if left out.
            box: x0, y0, x1, y1 in pixels around the object; can be combined with points.
            mask: (H, W) with the image's size or aspect ratio, bool, or integers 0 and 1 or 255;
                used as it is, and not together with points or a box.
            frame: one of :attr:`held_frames`; None: the last one.

        Returns:
            the object on the newest frame.

        Raises:
            InputError: the prompt cannot be used; says why. The tracker is unchanged.
        """

    def forget(self, object_id: str) -> bool:
        """Forget one object; returns whether it was known."""

    def reset(self) -> None:
        """Forget every object, and all frames."""
