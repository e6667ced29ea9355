"""The cycle check for any method: a mask found in a target view is searched for in the query view.

If this reverse search finds the query mask again, the mask in the target view most likely shows the
same object. If it finds another mask, or none, the method has most likely found another object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lmeec_core.correspondence import CorrespondenceLike, Mask, Method, Tracker
from lmeec_core.encoded import Encode, EncodedView, SharedViews
from lmeec_core.takes import resize_mask

HALF = 0.1
"""Overlap at which the cycle check halves the presence probability."""


@dataclass(frozen=True, eq=False)
class Checked:
    """A result with its cycle check; see :class:`lmeec_core.correspondence.CorrespondenceLike`.
    Other attributes of the method's own result (logits, an object pointer) are available as well.

    Attributes:
        found: the method's own result.
        overlap: IoU, 0 .. 1, of the query mask with the mask found by the reverse search; None if
            there was no mask to search for.
    """

    found: CorrespondenceLike
    overlap: float | None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # during unpickling, ``found`` is not set yet
            raise AttributeError(name)
        return getattr(self.found, name)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the target image, in pixels."""
        return self.found.size

    @property
    def skipped(self) -> str | None:
        """Why the object was not searched for; None if it was."""
        return self.found.skipped

    @property
    def presence(self) -> float:
        """Probability that the object is in the target view, reduced for a small overlap."""
        if self.overlap is None:
            return self.found.presence
        return self.found.presence * self.overlap / (self.overlap + HALF)

    @property
    def score(self) -> float:
        """The overlap; the method's own score if there was no mask to search for."""
        return self.found.score if self.overlap is None else self.overlap

    def visible(self, threshold: float = 0.5) -> bool:
        """Whether the object is judged present by the method and by the cycle check."""
        return self.found.visible(threshold) and self.presence >= threshold

    def mask(self, threshold: float = 0.5) -> Mask:
        """bool (height, width), all False if not visible."""
        if not self.visible(threshold):
            return np.zeros(self.size, np.bool_)
        return self.found.mask(threshold)


@dataclass(frozen=True)
class CycleChecked:
    """A method with the cycle check.

    Attributes:
        method: any method; its trackers are also used for the reverse search.
        encode: encodes views for all of its trackers, if it has a network; each image is then
            encoded once for both directions.
    """

    method: Method
    encode: Encode | None = None

    def tracker(
        self,
        query: str,
        targets: Sequence[str],
        num_frames: int | None = None,
        max_objects: int = 32,
    ) -> CycleTracker:
        """See :class:`lmeec_core.correspondence.Method`."""
        return CycleTracker(self, query, targets, num_frames, max_objects)


class CycleTracker:
    """Tracks with a method and applies the cycle check to every frame.

    The reverse search has no memory of earlier frames: with a memory, it would find the object in
    the query view again, whatever mask it is given.

    Arguments and errors are those of :class:`lmeec_core.CorrespondenceTracker`.
    """

    def __init__(
        self,
        checked: CycleChecked,
        query: str,
        targets: Sequence[str],
        num_frames: int | None = None,
        max_objects: int = 32,
    ) -> None:
        self._encode = checked.encode
        self._tracker = checked.method.tracker(query, targets, num_frames, max_objects)
        self.query, self.targets = query, self._tracker.targets
        self._back: dict[str, Tracker] = {
            target: checked.method.tracker(target, (query,), 1, max_objects)
            for target in self.targets
        }

    @property
    def objects(self) -> tuple[str, ...]:
        """Ids of all known objects, in the order in which they were added."""
        return self._tracker.objects

    def forget(self, object_id: str) -> bool:
        """Forget one object; returns whether it was known."""
        return self._tracker.forget(object_id)

    def reset(self) -> None:
        """Forget every object."""
        self._tracker.reset()

    def step(
        self, images: Mapping[str, Any], masks: Mapping[str, npt.NDArray[Any] | None]
    ) -> dict[str, dict[str, Checked]]:
        """See :meth:`lmeec_core.CorrespondenceTracker.step`."""
        views = self._views(images, masks)
        found = self._tracker.step(views, masks)
        return {
            target: self._check_back(target, objects, views, masks)
            for target, objects in found.items()
        }

    def _views(
        self, images: Mapping[str, Any], masks: Mapping[str, npt.NDArray[Any] | None]
    ) -> dict[str, Any]:
        """The images, encoded if several trackers need them."""
        views = dict(images)
        if self._encode is None or all(mask is None or not np.any(mask) for mask in masks.values()):
            return views
        cameras = (self.query, *self.targets)
        new = {
            camera: views[camera]
            for camera in cameras
            if views.get(camera) is not None and not isinstance(views[camera], EncodedView)
        }
        return views | SharedViews(new, self._encode).of(new)

    def _check_back(
        self,
        target: str,
        objects: Mapping[str, CorrespondenceLike],
        views: Mapping[str, Any],
        masks: Mapping[str, npt.NDArray[Any] | None],
    ) -> dict[str, Checked]:
        """The results of one target view, checked."""
        shown = {name: one.mask() for name, one in objects.items() if one.visible()}
        shown = {name: mask for name, mask in shown.items() if mask.any()}
        seen: Mapping[str, CorrespondenceLike] = {}
        if shown:
            tracker = self._back[target]
            tracker.reset()
            pair = {camera: views[camera] for camera in (target, self.query)}
            seen = tracker.step(pair, shown)[self.query]
        return {
            name: Checked(one, _overlap(masks[name], seen[name]) if name in seen else None)
            for name, one in objects.items()
        }


def _overlap(given: npt.NDArray[Any] | None, found: CorrespondenceLike) -> float:
    """IoU of the query mask, resized to the other mask's size, with the reverse search's mask."""
    assert given is not None  # it was looked for
    asked, seen = resize_mask(given, found.size), found.mask()
    union = np.count_nonzero(asked | seen)
    return float(np.count_nonzero(asked & seen) / union) if union else 0.0
