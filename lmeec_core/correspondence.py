"""The result of a step (one object in one target view on one frame), and the interfaces of
trackers and methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmeec_core.guided_filter import Guide, full_size

Mask = npt.NDArray[np.bool_]


class CorrespondenceLike(Protocol):
    """The result of any method for one object in one target view on one frame."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the target image, in pixels."""

    @property
    def skipped(self) -> str | None:
        """Why the object was not searched for on this frame; None if it was."""

    @property
    def presence(self) -> float:
        """Probability that the object is in the target view, 0 .. 1."""

    @property
    def score(self) -> float:
        """The method's own estimate of the mask's quality, 0 .. 1."""

    def visible(self, threshold: float = 0.5) -> bool:
        """Whether the object is judged present, with at least this probability."""

    def mask(self, threshold: float = 0.5) -> Mask:
        """bool (height, width), all False if not visible."""


@runtime_checkable
class Graded(CorrespondenceLike, Protocol):
    """A result with logits; methods that choose among given masks have none."""

    def full_logits(self) -> Tensor:
        """Mask logits at the target image's size: float32 (height, width)."""


class Tracker(Protocol):
    """Finds objects of one query view in target views, frame after frame.

    A tracker that can save its memory also has ``memory_state`` and ``restore``; one with a network
    has the attribute ``model``. See :class:`lmeec_core.CorrespondenceTracker`.
    """

    query: str
    targets: tuple[str, ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """Ids of all known objects, in the order in which they were added."""

    def step(
        self,
        images: Mapping[str, npt.NDArray[np.uint8] | None],
        masks: Mapping[str, npt.NDArray[Any] | None],
    ) -> Mapping[str, Mapping[str, CorrespondenceLike]]:
        """Find the objects in one frame; returns the results by target camera with an image, and by
        object.

        Arguments and errors are those of :meth:`lmeec_core.CorrespondenceTracker.step`.
        """

    def forget(self, object_id: str) -> bool:
        """Forget one object; returns whether it was known."""

    def reset(self) -> None:
        """Forget every object."""


class Method(Protocol):
    """A loaded method; what its trackers share, such as weights, is loaded once."""

    def tracker(
        self,
        query: str,
        targets: Sequence[str],
        num_frames: int | None = None,
        max_objects: int = 32,
    ) -> Tracker:
        """A new tracker without objects.

        Arguments and errors are those of :class:`lmeec_core.CorrespondenceTracker`.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Correspondence:
    """One object in one target view on one frame. Equal only to itself: it holds tensors."""

    logits: Tensor
    """(s, s) float32 mask logits, s = S/4; all -1024 if the object is judged absent."""
    presence_logit: float
    """Above 0 if the object is judged present."""
    predicted_iou: float
    """The network's own estimate of the mask's IoU, 0 .. 1."""
    pointer: Tensor
    """(C,) object pointer."""
    size: tuple[int, int]
    """(height, width) of the target image, in pixels."""
    skipped: str | None = None
    """Why the object was not searched for on this frame (no query mask, or an empty one); None if
    it was. A skipped object is never visible, and its memory is unchanged."""
    guide: Guide | None = None
    """Refines the returned mask with the image, for networks with ``refinement``."""

    @property
    def presence(self) -> float:
        """Probability that the object is in the target view, 0 .. 1."""
        return 0.0 if self.skipped else float(1 / (1 + np.exp(-self.presence_logit)))

    @property
    def score(self) -> float:
        """The predicted IoU."""
        return self.predicted_iou

    def visible(self, threshold: float = 0.5) -> bool:
        """Whether the object is judged present, with at least this probability.

        The network's own rule is 0.5; a lower threshold changes nothing.
        """
        return not self.skipped and self.presence_logit > 0 and self.presence >= threshold

    def full_logits(self) -> Tensor:
        """Mask logits at the target image's size: float32 (height, width).

        Refined if the network has ``refinement``, then upsampled bilinearly.
        """
        return full_size(self.logits, self.size, self.guide if self.visible() else None)

    def mask(self, threshold: float = 0.5) -> Mask:
        """The mask at the target image's size: bool (height, width), all False if not visible."""
        if not self.visible(threshold):
            return np.zeros(self.size, dtype=np.bool_)
        return (self.full_logits() > 0).cpu().numpy()


Found = dict[str, dict[str, Correspondence]]
"""Results by target camera with an image and by object id; the same objects for every camera."""


def exclusive_masks(
    found: Mapping[str, CorrespondenceLike], threshold: float = 0.5
) -> dict[str, Mask]:
    """Masks of one target's objects without overlap.

    Each pixel is assigned to the object with the highest logit. For methods without logits, it is
    assigned to the object with the highest score or, for equal scores, the smallest mask, because
    that object is more likely to be in front.

    Args:
        found: the results for one target view, by object id.
        threshold: see :meth:`Correspondence.visible`.
    """
    masks = {name: np.zeros(c.size, dtype=np.bool_) for name, c in found.items()}
    visible = {name: c for name, c in found.items() if c.visible(threshold)}
    graded = [c for c in visible.values() if isinstance(c, Graded)]
    if not visible:
        return masks
    if len(graded) < len(visible):
        return masks | _by_score(visible, threshold)
    highest, winner = torch.stack([c.full_logits() for c in graded]).max(dim=0)
    owner = winner.where(highest > 0, -1).cpu().numpy()
    return masks | {name: owner == i for i, name in enumerate(visible)}


def _by_score(found: Mapping[str, CorrespondenceLike], threshold: float) -> dict[str, Mask]:
    masks = {name: c.mask(threshold) for name, c in found.items()}
    free: Mask = np.ones(next(iter(masks.values())).shape, dtype=np.bool_)
    for name in sorted(masks, key=lambda n: (-found[n].score, int(masks[n].sum()))):
        masks[name] = masks[name] & free
        free = free & ~masks[name]
    return masks
