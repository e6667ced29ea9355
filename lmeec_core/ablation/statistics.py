"""Means over takes with their spread, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.ablation.variants import Metric
from lmeec_core.evaluation.metrics import ASSOCIATION_IOU

DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over frames and its 95 % interval over takes (bootstrap, fixed seed)."""

    mean: float
    low: float
    high: float
    takes: int
    frames: int

    def to_dict(self) -> dict[str, float | int]:
        """For JSON."""
        return {
            "mean": self.mean, "low": self.low, "high": self.high, "takes": self.takes,
            "frames": self.frames,
        }  # fmt: skip


def values(unit: dict[str, Any], metric: Metric) -> NDArray[np.float64]:
    """A metric's values on a unit's frames where the object exists."""
    if metric == "association":
        return (np.asarray(unit["iou"], np.float64) > ASSOCIATION_IOU).astype(np.float64)
    return np.asarray(unit[metric], np.float64)


def per_take(units: Sequence[dict[str, Any]], metric: Metric) -> dict[str, tuple[float, int]]:
    """Sum and count of a metric's values for each take (all directions, cameras and seeds)."""
    sums: dict[str, tuple[float, int]] = {}
    for unit in units:
        found = values(unit, metric)
        total, count = sums.get(unit["take"], (0.0, 0))
        sums[unit["take"]] = (total + float(found.sum()), count + found.size)
    return {take: pair for take, pair in sums.items() if pair[1]}


def _interval(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of sum / count when takes are drawn with replacement."""
    if len(counts) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(0).integers(0, len(counts), (DRAWS, len(counts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def estimate(units: Sequence[dict[str, Any]], metric: Metric) -> Estimate | None:
    """Mean of a metric over all frames, with its interval; None without frames."""
    takes = per_take(units, metric)
    if not takes:
        return None
    sums, counts = (np.array(x, np.float64) for x in zip(*takes.values(), strict=True))
    low, high = _interval(sums, counts)
    return Estimate(float(sums.sum() / counts.sum()), low, high, len(takes), int(counts.sum()))


def difference(
    units: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]], metric: Metric
) -> Estimate | None:
    """Mean difference to the reference on the takes that both have, with its interval."""
    mine, theirs = per_take(units, metric), per_take(reference, metric)
    both = [take for take in mine if take in theirs]
    if not both:
        return None
    counts = np.array([mine[t][1] for t in both], np.float64)
    means = [mine[t][0] / mine[t][1] - theirs[t][0] / theirs[t][1] for t in both]
    sums = np.array(means) * counts
    low, high = _interval(sums, counts)
    return Estimate(float(sums.sum() / counts.sum()), low, high, len(both), int(counts.sum()))


def seed_spread(units: Sequence[dict[str, Any]], metric: Metric) -> tuple[float, float] | None:
    """Smallest and largest mean over training seeds; None where there is one seed only."""
    seeds = sorted({u["seed"] for u in units if u["seed"] is not None})
    means = [estimate([u for u in units if u["seed"] == s], metric) for s in seeds]
    found = [m.mean for m in means if m is not None]
    return (min(found), max(found)) if len(found) > 1 else None
