"""Estimates from the units of an ablation; see :mod:`lmeec_core.evaluation.statistics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmeec_core.evaluation import statistics
from lmeec_core.evaluation.metrics import ASSOCIATION_IOU
from lmeec_core.evaluation.statistics import Estimate
from lmeec_core.experiments.ablation.variants import Metric

Units = Sequence[dict[str, Any]]
"""Results written by :func:`lmeec_core.experiments.ablation.units.score_unit`."""


def per_take(units: Units, metric: Metric) -> dict[str, tuple[float, int]]:
    """Sum and number of a metric's values per take (over all directions, cameras and seeds)."""
    sums: dict[str, tuple[float, int]] = {}
    for unit in units:
        found = np.asarray(unit["iou" if metric == "association" else metric], np.float64)
        if metric == "association":
            found = (found > ASSOCIATION_IOU).astype(np.float64)
        total, count = sums.get(unit["take"], (0.0, 0))
        sums[unit["take"]] = (total + float(found.sum()), count + found.size)
    return {take: pair for take, pair in sums.items() if pair[1]}


def estimate(units: Units, metric: Metric) -> Estimate | None:
    """Mean of a metric over all frames, with its confidence interval; None without frames."""
    return statistics.estimate(per_take(units, metric))


def difference(units: Units, reference: Units, metric: Metric) -> Estimate | None:
    """Mean difference from the reference on the takes that both have, with its interval."""
    return statistics.difference(per_take(units, metric), per_take(reference, metric))


def seed_spread(units: Units, metric: Metric) -> tuple[float, float] | None:
    """Smallest and largest mean of any training seed; None if there is only one seed."""
    seeds = sorted({u["seed"] for u in units if u["seed"] is not None})
    means = [estimate([u for u in units if u["seed"] == s], metric) for s in seeds]
    found = [m.mean for m in means if m is not None]
    return (min(found), max(found)) if len(found) > 1 else None
