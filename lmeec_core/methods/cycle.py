"""A check for any method: what is found in a target view is looked for again in the query view.

If the look back finds the mask that was given, the object is most likely the same one. If it
finds something else, or nothing, the method has taken something else for it.
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
"""Overlap at which the look back halves the probability that the object is there."""


@dataclass(frozen=True, eq=False)
class Checked:
    """A result and what the look back says of it; see
    :class:`lmeec_core.correspondence.CorrespondenceLike`. What else the method's own result has
    (logits, an object pointer) can be read from this one as well.

    Attributes:
        found: the method's own result.
        overlap: IoU, 0 .. 1, of the mask that was given with the one that the look back found;
            None where nothing was found that could be looked for.
    """

    found: CorrespondenceLike
    overlap: float | None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # while it is being unpickled, there is no result yet
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
        """Probability that the object is in the target view, lower for a smaller overlap."""
        if self.overlap is None:
            return self.found.presence
        return self.found.presence * self.overlap / (self.overlap + HALF)

    @property
    def score(self) -> float:
        """The overlap; the method's own score where nothing was looked for."""
        return self.found.score if self.overlap is None else self.overlap

    def visible(self, threshold: float = 0.5) -> bool:
        """Whether the object is judged present by the method and by the look back."""
        return self.found.visible(threshold) and self.presence >= threshold

    def mask(self, threshold: float = 0.5) -> Mask:
        """bool (height, width), all False if not visible."""
        if not self.visible(threshold):
            return np.zeros(self.size, np.bool_)
        return self.found.mask(threshold)


@dataclass(frozen=True)
class CycleChecked:
    """A method whose results are checked by a look back.

    Attributes:
        method: any; its trackers also look back.
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
    """Tracks with a method and looks back on every frame.

    The look back has no memory of earlier frames: with one it would find the object in the query
    view again, whatever mask it is given.

    Arguments and errors as of :class:`lmeec_core.CorrespondenceTracker`.
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
        """Ids of all known objects, in the order in which they came."""
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
            target: self._look_back(target, objects, views, masks)
            for target, objects in found.items()
        }

    def _views(
        self, images: Mapping[str, Any], masks: Mapping[str, npt.NDArray[Any] | None]
    ) -> dict[str, Any]:
        """The images, encoded if they will be needed by several trackers."""
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

    def _look_back(
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
    """IoU of the given mask, at the size of the other, with what the look back found."""
    assert given is not None  # it was looked for
    asked, seen = resize_mask(given, found.size), found.mask()
    union = np.count_nonzero(asked | seen)
    return float(np.count_nonzero(asked & seen) / union) if union else 0.0
