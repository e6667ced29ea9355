"""Means over frames with an interval over takes, paired differences, balanced accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000

Sums = Mapping[str, tuple[float, int]]
"""Take to the sum of a measure's values in it and their number."""


@dataclass(frozen=True)
class Estimate:
    """A mean over frames and its 95 % interval over takes (bootstrap, fixed seed)."""

    mean: float
    low: float
    high: float
    takes: int
    frames: int


def record_of(found: Estimate | None) -> dict[str, float | None] | None:
    """An estimate for JSON, which has no NaN: None where there is no interval."""
    if found is None:
        return None
    numbers = asdict(found).items()
    return {name: None if np.isnan(value) else value for name, value in numbers}


def interval(
    sums: Sequence[float] | NDArray[np.float64],
    counts: Sequence[float] | NDArray[np.float64],
    draws: int = DRAWS,
) -> tuple[float, float]:
    """95 % interval of sum / count when groups are drawn with replacement.

    Args:
        sums, counts: of each group, its values' sum and their number.
        draws: number of bootstrap samples; their seed is fixed.
    """
    total, number = np.asarray(sums, np.float64), np.asarray(counts)
    drawn = np.random.default_rng(0).integers(0, len(number), (draws, len(number)))
    means = total[drawn].sum(axis=1) / number[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def estimate(takes: Sums) -> Estimate | None:
    """Mean over all frames; its interval is NaN for a single take. None without takes."""
    if not takes:
        return None
    sums, counts = (np.array(x, np.float64) for x in zip(*takes.values(), strict=True))
    low, high = interval(sums, counts) if len(takes) > 1 else (float("nan"), float("nan"))
    return Estimate(float(sums.sum() / counts.sum()), low, high, len(takes), int(counts.sum()))


def difference(mine: Sums, reference: Sums) -> Estimate | None:
    """Mean difference to the reference on the takes that both have; None without any."""
    return estimate({
        take: ((total / count - reference[take][0] / reference[take][1]) * count, count)
        for take, (total, count) in mine.items() if take in reference
    })  # fmt: skip


def balanced_accuracy(exists: Sequence[bool], predicted: Sequence[bool]) -> float:
    """Mean, over the classes (exists, does not) that occur, of the share predicted correctly.

    NaN without values.
    """
    shares = [
        np.mean([says == kind for there, says in zip(exists, predicted, strict=True)
                 if there == kind])
        for kind in (True, False) if kind in exists
    ]  # fmt: skip
    return float(np.mean(shares)) if shares else float("nan")


Counts = Mapping[str, tuple[int, int, int, int]]
"""Take to: present and judged so, present, absent and judged so, absent."""


def _balanced(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Balanced accuracy of counts (..., 4)."""
    return np.asarray((x[..., 0] / x[..., 1] + x[..., 2] / x[..., 3]) / 2)


def _balanced_draws(counts: NDArray[np.float64], draws: int) -> NDArray[np.float64]:
    """Counts (draws, ..., 4) of takes drawn with replacement, without those of one kind only.

    Args:
        counts: (takes, ..., 4).
        draws: number of bootstrap samples; their seed is fixed.
    """
    picked = np.random.default_rng(0).integers(0, len(counts), (draws, len(counts)))
    drawn = counts[picked].sum(axis=1)
    return drawn[(drawn[..., (1, 3)] > 0).reshape(draws, -1).all(axis=1)]


def balanced_estimate(takes: Counts, draws: int = DRAWS) -> Estimate | None:
    """Balanced accuracy over all frames with its 95 % interval over takes (bootstrap, fixed seed).

    Draws without a present or without an absent frame are left out. None where one of the two
    does not occur; the interval is NaN for a single take.
    """
    counts = np.array(list(takes.values()), np.float64).reshape(-1, 4)
    total = counts.sum(axis=0)
    if not total[1] or not total[3]:
        return None

    low = high = float("nan")
    if len(counts) > 1:
        spread = _balanced(_balanced_draws(counts, draws))
        low, high = (float(x) for x in np.quantile(spread, (0.025, 0.975)))
    return Estimate(float(_balanced(total)), low, high, len(counts), int(total[1] + total[3]))


def balanced_difference(mine: Counts, reference: Counts, draws: int = DRAWS) -> Estimate | None:
    """Difference of balanced accuracies on the takes that both have; see :func:`balanced_estimate`.

    Both are drawn together. None where either of present and absent does not occur.
    """
    both = [take for take in mine if take in reference]
    pairs = [(mine[take], reference[take]) for take in both]
    counts = np.array(pairs, np.float64).reshape(-1, 2, 4)
    total = counts.sum(axis=0)
    if not (total[:, (1, 3)] > 0).all():
        return None

    def apart(x: NDArray[np.float64]) -> NDArray[np.float64]:
        both = _balanced(x)
        return np.asarray(both[..., 0] - both[..., 1])

    low = high = float("nan")
    if len(counts) > 1:
        spread = apart(_balanced_draws(counts, draws))
        low, high = (float(x) for x in np.quantile(spread, (0.025, 0.975)))
    return Estimate(float(apart(total)), low, high, len(both), int(total[0, 1] + total[0, 3]))
