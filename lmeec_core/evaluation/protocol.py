"""Scores of a result file on a take, protocol `official`.

As the benchmark's evaluation: one score per (take, object, exo camera, frame) and their plain mean.
Frames: those of the query view's masks for which the target camera has been annotated. Truth at a
long side of 480 pixels, and so the predictions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from lmeec_core.evaluation.metrics import ASSOCIATION_IOU, mask_metrics
from lmeec_core.takes import Results, Take, resize_mask

PROTOCOL = "official"
LONG_SIDE = 480
CONFIDENCE = 0.5


def benchmark_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) at which the benchmark compares masks: long side 480, truncated."""
    longest = max(height, width)
    return int(height * LONG_SIDE / longest), int(width * LONG_SIDE / longest)


@dataclass
class Scores:
    """Sums over scored frames; the properties are the benchmark's numbers (NaN without frames).

    Attributes:
        protocol: name of the rules; numbers of different protocols are not comparable.
        ious, locations, contours: one value for every scored frame where the object exists.
        existing, predicted: one truth value for every scored frame: whether the object exists in
            the target view, and whether the prediction says so.
        missing: frames that should have had a prediction and had none; they count as empty masks.
    """

    protocol: str = PROTOCOL
    ious: list[float] = field(default_factory=list)
    locations: list[float] = field(default_factory=list)
    contours: list[float] = field(default_factory=list)
    existing: list[bool] = field(default_factory=list)
    predicted: list[bool] = field(default_factory=list)
    missing: int = 0

    def add(self, other: Scores) -> None:
        """Take in the frames of other scores of the same protocol."""
        for name in ("ious", "locations", "contours", "existing", "predicted"):
            getattr(self, name).extend(getattr(other, name))
        self.missing += other.missing

    @property
    def frames(self) -> int:
        """Number of scored (object, camera, frame)."""
        return len(self.existing)

    @property
    def iou(self) -> float:
        """Mean intersection over union, where the object exists."""
        return _mean(self.ious)

    @property
    def location_error(self) -> float:
        """Mean location error, where the object exists."""
        return _mean(self.locations)

    @property
    def contour_accuracy(self) -> float:
        """Mean contour accuracy, where the object exists."""
        return _mean(self.contours)

    @property
    def association_accuracy(self) -> float:
        """Share of frames with an IoU above 0.5, where the object exists."""
        return _mean([iou > ASSOCIATION_IOU for iou in self.ious])

    @property
    def existence_accuracy(self) -> float:
        """Share of frames whose existence is predicted rightly."""
        return _mean([a == b for a, b in zip(self.existing, self.predicted, strict=True)])

    @property
    def existence_balanced_accuracy(self) -> float:
        """Mean over the classes (exists, does not) that occur of the share predicted rightly."""
        shares = []
        for kind in (True, False):
            said = [
                p == kind for t, p in zip(self.existing, self.predicted, strict=True) if t == kind
            ]
            if said:
                shares.append(_mean(said))
        return _mean(shares)

    def summary(self) -> dict[str, float | int | str | None]:
        """All numbers by name, for JSON (NaN as None)."""
        numbers = {
            "iou": self.iou,
            "location_error": self.location_error,
            "contour_accuracy": self.contour_accuracy,
            "existence_balanced_accuracy": self.existence_balanced_accuracy,
            "existence_accuracy": self.existence_accuracy,
            "association_accuracy": self.association_accuracy,
        }
        clean = {name: None if np.isnan(value) else value for name, value in numbers.items()}
        return {
            "protocol": self.protocol,
            "frames": self.frames,
            "frames_missing": self.missing,
            **clean,
        }


def score_pair(results: Results, take: Take, object_name: str, query: str, target: str) -> Scores:
    """Scores of one object from one query camera to one target camera.

    Predictions of another size are resized to the benchmark's by nearest neighbour.
    """
    scores = Scores()
    for frame in scored_frames(take, object_name, query, target):
        prediction = results.get(take.name, object_name, query, target, frame)
        scores.missing += prediction is None
        confident = prediction is not None and prediction.confidence > CONFIDENCE
        exists = take.annotated(object_name, target, frame)
        scores.existing.append(exists)
        scores.predicted.append(confident)
        truth = take.mask(object_name, target, frame)
        if truth is None:
            continue
        size = benchmark_size(*truth.shape)
        found = np.zeros(size, bool) if prediction is None else resize_mask(prediction.mask, size)
        measured = mask_metrics(found, resize_mask(truth, size))
        scores.ious.append(measured.iou)
        scores.locations.append(measured.location)
        scores.contours.append(measured.contour)
    return scores


def scored_frames(take: Take, object_name: str, query: str, target: str) -> Iterator[int]:
    """Frames with a query mask, of those that were annotated in the target camera.

    The processed layout lists annotated frames for the take as a whole; without the list, the
    frames that the target camera has images of are taken.
    """
    annotated = set(take.subsample_idx) & set(take.frames(target)) or set(take.frames(target))
    for frame in take.mask_frames(object_name, query):
        if frame in annotated:
            yield frame


def _mean(values: list[float] | list[bool]) -> float:
    return float(np.mean(values)) if values else float("nan")
