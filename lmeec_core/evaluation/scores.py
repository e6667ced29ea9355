"""Scores of single frames, and the means over any group of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lmeec_core.evaluation.metrics import ASSOCIATION_IOU
from lmeec_core.evaluation.statistics import balanced_accuracy


class FrameScore(NamedTuple):
    """One scored (take, object, query camera, target camera, frame).

    Attributes:
        take, object_name, query, target, frame: the object, the cameras and the frame.
        exists, predicted: whether the object is in the target view, and whether it is predicted to
            be.
        iou, contour, location: agreement of the masks; None without a true mask.
        size: area of the true mask as a share of the image; None without a true mask.
        missing: whether the prediction is missing; it then counts as an empty mask.
        presence: the predicted presence probability, if the method provides it.
    """

    take: str
    object_name: str
    query: str
    target: str
    frame: int
    exists: bool
    predicted: bool
    iou: float | None = None
    contour: float | None = None
    location: float | None = None
    size: float | None = None
    missing: bool = False
    presence: float | None = None


@dataclass
class Scores:
    """Scored frames; the properties are the benchmark's numbers (NaN without frames).

    Attributes:
        protocol: name of the protocol; scores of different protocols are not comparable.
        records: one entry for every scored frame.
    """

    protocol: str = "official"
    records: list[FrameScore] = field(default_factory=list)

    def add(self, other: Scores) -> None:
        """Add the frames of other scores of the same protocol.

        Raises:
            ValueError: the protocols differ.
        """
        if other.protocol != self.protocol:
            raise ValueError(f"scores of protocol {other.protocol!r} added to {self.protocol!r}")
        self.records.extend(other.records)

    def by(self, key: Callable[[FrameScore], Hashable | None]) -> dict[Hashable, Scores]:
        """Scores grouped by ``key``; frames whose key is None are left out."""
        groups: dict[Hashable, Scores] = {}
        for record in self.records:
            name = key(record)
            if name is not None:
                groups.setdefault(name, Scores(self.protocol)).records.append(record)
        return groups

    @property
    def frames(self) -> int:
        """Number of scored (object, camera, frame)."""
        return len(self.records)

    @property
    def missing(self) -> int:
        """Scored frames that had no prediction; they count as empty masks."""
        return sum(record.missing for record in self.records)

    @property
    def ious(self) -> list[float]:
        """One value for every scored frame with a true mask."""
        return [record.iou for record in self.records if record.iou is not None]

    @property
    def locations(self) -> list[float]:
        """Location errors, one for every scored frame with a true mask."""
        return [record.location for record in self.records if record.location is not None]

    @property
    def contours(self) -> list[float]:
        """Contour accuracies, one for every scored frame with a true mask."""
        return [record.contour for record in self.records if record.contour is not None]

    @property
    def existing(self) -> list[bool]:
        """For every scored frame whether the object exists in the target view."""
        return [record.exists for record in self.records]

    @property
    def predicted(self) -> list[bool]:
        """For every scored frame whether the object is predicted to exist."""
        return [record.predicted for record in self.records]

    @property
    def iou(self) -> float:
        """Mean intersection over union, over frames in which the object exists."""
        return _mean(self.ious)

    @property
    def location_error(self) -> float:
        """Mean location error, over frames in which the object exists."""
        return _mean(self.locations)

    @property
    def contour_accuracy(self) -> float:
        """Mean contour accuracy, over frames in which the object exists."""
        return _mean(self.contours)

    @property
    def association_accuracy(self) -> float:
        """Share of the frames in which the object exists that have an IoU above 0.5."""
        return _mean([iou > ASSOCIATION_IOU for iou in self.ious])

    @property
    def existence_accuracy(self) -> float:
        """Share of frames whose existence is predicted correctly."""
        return _mean([record.exists == record.predicted for record in self.records])

    @property
    def existence_balanced_accuracy(self) -> float:
        """Balanced accuracy of existence."""
        return balanced_accuracy(self.existing, self.predicted)

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


def _mean(values: list[float] | list[bool]) -> float:
    return float(np.mean(values)) if values else float("nan")
