"""Simple baselines that find an object of one view in another, to compare networks with.

Each is a function ``(query_image, query_mask, target_image) -> mask``: images uint8 (H, W, 3) RGB,
masks bool (H, W), the result at the target image's size. They are not trained and have no memory;
:class:`PairTracker` makes a tracker from any of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lmeec_core.correspondence import Mask
from lmeec_core.errors import InputError
from lmeec_core.preprocessing import check_image, check_mask
from lmeec_core.takes import resize_mask
from lmeec_core.tracker import EMPTY_MASK, NO_MASK

Image = npt.NDArray[np.uint8]
FindMask = Callable[[Image, Mask, Image], Mask]

COLOUR_THRESHOLD = 0.15
"""Share of the greatest probability; best on validation scenes, see
:mod:`lmeec_core.experiments.baselines`."""

SCALES = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
LEAST_INLIERS = 5


def _check(query_image: Image, query_mask: Mask, target_image: Image) -> None:
    for name, image in (("query_image", query_image), ("target_image", target_image)):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"{name}: {image.dtype} {image.shape} given, uint8 (H, W, 3) expected")
    if query_mask.dtype != bool or query_mask.shape != query_image.shape[:2]:
        raise InputError(
            f"query_mask: {query_mask.dtype} {query_mask.shape} given, bool "
            f"{query_image.shape[:2]} expected, the query image's size"
        )
    if not query_mask.any():
        raise InputError("query_mask: an empty mask was given; at least one pixel expected")


def same_place(query_image: Image, query_mask: Mask, target_image: Image) -> Mask:
    """The query mask itself, scaled to the target image.

    Raises:
        InputError: wrong types or shapes, or an empty query mask, as in all functions below.
    """
    _check(query_image, query_mask, target_image)
    height, width = target_image.shape[:2]
    return (
        cv2.resize(query_mask.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    )


def _colour_bins(image: Image) -> npt.NDArray[np.int64]:
    """One bin number per pixel: 24 steps of hue, 6 of saturation, 4 of value."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int64)
    hue, saturation, value = hsv[..., 0] * 24 // 180, hsv[..., 1] * 6 // 256, hsv[..., 2] // 64
    return (hue * 6 + saturation) * 4 + value


def colour_probability(
    query_image: Image, query_mask: Mask, target_image: Image
) -> npt.NDArray[np.float32]:
    """Histogram back-projection (Swain and Ballard, IJCV 1991).

    For each target pixel: the share of the query image's pixels of the same colour that belong to
    the object, smoothed over 5 x 5 pixels: float32 (H, W), 0 .. 1.
    """
    _check(query_image, query_mask, target_image)
    bins, count = _colour_bins(query_image), 24 * 6 * 4
    everything = np.bincount(bins.ravel(), minlength=count)
    ours = np.bincount(bins[query_mask], minlength=count)
    ratio = (ours / np.maximum(everything, 1)).astype(np.float32)
    return np.asarray(cv2.blur(ratio[_colour_bins(target_image)], (5, 5)), np.float32)


def best_region(probability: npt.NDArray[np.float32], threshold: float) -> Mask:
    """The connected region above the threshold with the greatest sum of probabilities.

    The threshold is a share of the maximum, because small objects have low probabilities.
    """
    above = (probability > 0) & (probability >= threshold * probability.max())
    count, labels = cv2.connectedComponents(above.astype(np.uint8), connectivity=8)
    if count == 1:
        return above
    sums = np.bincount(labels.ravel(), probability.ravel(), count)
    return np.asarray(labels == 1 + int(sums[1:].argmax()))


def colour_histogram(
    query_image: Image, query_mask: Mask, target_image: Image, threshold: float = COLOUR_THRESHOLD
) -> Mask:
    """The region with colours most like the object's; empty if none of them is in the view."""
    return best_region(colour_probability(query_image, query_mask, target_image), threshold)


def template(query_image: Image, query_mask: Mask, target_image: Image) -> Mask:
    """Template matching with the object's image patch at several scales.

    The query mask is placed where the mean squared colour difference (within the mask) is smallest.
    The result is empty only if the patch does not fit into the image.
    """
    _check(query_image, query_mask, target_image)
    rows, columns = np.flatnonzero(query_mask.any(axis=1)), np.flatnonzero(query_mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    patch, shape = query_image[box], query_mask[box].astype(np.uint8)
    target = target_image.astype(np.float32) / 255
    best, found = np.inf, np.zeros(target_image.shape[:2], bool)
    for scale in SCALES:
        size = tuple(max(3, round(n * scale)) for n in shape.shape[::-1])
        mask = cv2.resize(shape, size, interpolation=cv2.INTER_NEAREST)
        if size[0] > target.shape[1] or size[1] > target.shape[0] or mask.sum() < 9:
            continue
        cut = cv2.resize(patch, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        weight = np.repeat(mask[..., None].astype(np.float32), 3, axis=2)
        error = cv2.matchTemplate(target, cut, cv2.TM_SQDIFF, mask=weight) / mask.sum()
        least, _, (x, y), _ = cv2.minMaxLoc(error)
        if least < best:
            best = least
            found[:] = False
            found[y : y + size[1], x : x + size[0]] = mask > 0
    return found


def sift(query_image: Image, query_mask: Mask, target_image: Image) -> Mask:
    """The query mask, transformed by the similarity estimated from the object's SIFT key points.

    Key points (Lowe, IJCV 2004) with a ratio test of 0.8, and RANSAC within 4 pixels. With fewer
    than LEAST_INLIERS inliers the mask is empty: the object is judged absent.
    """
    _check(query_image, query_mask, target_image)
    height, width = target_image.shape[:2]
    nothing = np.zeros((height, width), bool)
    detector = cv2.SIFT.create(contrastThreshold=0.02)
    grown = cv2.dilate(query_mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    ours, query = detector.detectAndCompute(cv2.cvtColor(query_image, cv2.COLOR_RGB2GRAY), grown)
    theirs, target = detector.detectAndCompute(cv2.cvtColor(target_image, cv2.COLOR_RGB2GRAY), None)
    if query is None or target is None or len(target) < 2:
        return nothing
    pairs = cv2.BFMatcher().knnMatch(query, target, k=2)
    good = [first for first, second in pairs if first.distance < 0.8 * second.distance]
    if len(good) < LEAST_INLIERS:
        return nothing
    start = np.array([ours[m.queryIdx].pt for m in good])
    end = np.array([theirs[m.trainIdx].pt for m in good])
    matrix, inliers = cv2.estimateAffinePartial2D(start, end, ransacReprojThreshold=4.0)
    if matrix is None or int(inliers.sum()) < LEAST_INLIERS:
        return nothing
    moved = cv2.warpAffine(
        query_mask.view(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST
    )
    return np.asarray(moved > 0)


def sift_or_template(query_image: Image, query_mask: Mask, target_image: Image) -> Mask:
    """SIFT if it finds the object, else template matching."""
    found = sift(query_image, query_mask, target_image)
    return found if found.any() else template(query_image, query_mask, target_image)


SIMPLE_METHODS: dict[str, FindMask] = {
    "same place": same_place,
    "colour histogram": colour_histogram,
    "template": template,
    "SIFT": sift,
    "SIFT or template": sift_or_template,
}


@dataclass(frozen=True, slots=True, eq=False)
class FoundMask:
    """A mask, empty if the object was not found; see
    :class:`lmeec_core.correspondence.CorrespondenceLike`."""

    found: Mask
    skipped: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the target image, in pixels."""
        return self.found.shape[0], self.found.shape[1]

    @property
    def presence(self) -> float:
        """1 if the object was found, else 0."""
        return float(self.found.any())

    @property
    def score(self) -> float:
        """The presence, because these methods do not estimate the quality of their masks."""
        return self.presence

    def visible(self, threshold: float = 0.5) -> bool:
        """Whether the object was found."""
        return bool(self.found.any())

    def mask(self, threshold: float = 0.5) -> Mask:
        """The mask at the target image's size: bool (height, width)."""
        return self.found


class PairTracker:
    """A tracker without memory: each pair of images is searched independently.

    Arguments and errors are those of :class:`lmeec_core.CorrespondenceTracker`; `find` is None only
    in classes that override :meth:`search`.
    """

    def __init__(
        self, find: FindMask | None, query: str, targets: Sequence[str], max_objects: int = 32
    ) -> None:
        self.query, self.targets = query, tuple(targets)
        if not self.targets or len({query, *self.targets}) != len(self.targets) + 1:
            raise InputError(
                f"query {query!r} and targets {self.targets!r} given, one or more targets and "
                "different names expected"
            )
        self._find, self._max_objects = find, max_objects
        self._objects: dict[str, None] = {}

    @property
    def objects(self) -> tuple[str, ...]:
        """Ids of all known objects, in the order in which they were added."""
        return tuple(self._objects)

    def forget(self, object_id: str) -> bool:
        """Forget one object; returns whether it was known."""
        known = object_id in self._objects
        self._objects.pop(object_id, None)
        return known

    def reset(self) -> None:
        """Forget every object."""
        self._objects.clear()

    def step(
        self, images: Mapping[str, Image | None], masks: Mapping[str, npt.NDArray[Any] | None]
    ) -> dict[str, dict[str, FoundMask]]:
        """See :meth:`lmeec_core.CorrespondenceTracker.step`."""
        missing = [c for c in (self.query, *self.targets) if c not in images]
        if missing or images[self.query] is None:
            name = missing[0] if missing else self.query
            raise InputError(f"image of camera {name!r} is missing; given: {sorted(images)}")
        views = {c: check_image(c, v) for c in (self.query, *self.targets)
                 if (v := images[c]) is not None}  # fmt: skip
        query = views.pop(self.query)
        size = (query.shape[0], query.shape[1])
        given = {name: None if mask is None else check_mask(name, mask, size)
                 for name, mask in masks.items()}  # fmt: skip
        known = {**self._objects, **dict.fromkeys(given)}
        if len(known) > self._max_objects:
            raise InputError(f"{len(known)} objects, at most {self._max_objects} expected")
        asked = {name: mask if (mask := given.get(name)) is None else resize_mask(mask, size)
                 for name in known}  # fmt: skip
        sought = {name: mask for name, mask in asked.items() if mask is not None and mask.any()}
        answers = self.search(query, sought, views)
        self._objects = known
        return {
            target: {
                name: answers[target][name] if name in sought else _unsought(asked[name], image)
                for name in known
            }
            for target, image in views.items()
        }

    def search(
        self, query: Image, masks: Mapping[str, Mask], views: Mapping[str, Image]
    ) -> Mapping[str, Mapping[str, FoundMask]]:
        """The result for each object, by target view; methods that share work can override it.

        Args:
            query: the query image.
            masks: by object, at the query image's size, none of them empty.
            views: target images by camera.
        """
        assert self._find is not None
        find = self._find
        return {
            target: {name: FoundMask(find(query, mask, image)) for name, mask in masks.items()}
            for target, image in views.items()
        }


def _unsought(mask: Mask | None, target: Image) -> FoundMask:
    nothing = np.zeros(target.shape[:2], bool)
    return FoundMask(nothing, NO_MASK if mask is None else EMPTY_MASK)


@dataclass(frozen=True)
class PairMethod:
    """One of the functions above as a :class:`lmeec_core.correspondence.Method`."""

    find: FindMask

    def tracker(
        self,
        query: str,
        targets: Sequence[str],
        num_frames: int | None = None,
        max_objects: int = 32,
    ) -> PairTracker:
        """A tracker; the number of frames has no effect."""
        return PairTracker(self.find, query, targets, max_objects)


def colour(threshold: float = COLOUR_THRESHOLD) -> PairMethod:
    """:func:`colour_histogram`."""
    return PairMethod(functools.partial(colour_histogram, threshold=threshold))


def template_matching() -> PairMethod:
    """:func:`template`."""
    return PairMethod(template)


def key_points() -> PairMethod:
    """:func:`sift`."""
    return PairMethod(sift)
