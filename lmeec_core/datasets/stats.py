"""Statistics of a dataset's features, as LeRobot stores them: per episode, and overall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
STRIDE = 4
"""Images are subsampled by this factor in both directions."""

Stats = dict[str, Any]
"""min, max, mean, std, count and quantiles: nested lists, ready for JSON and Parquet."""


class ImageStats:
    """Statistics of images per channel, in constant memory; values are 0 to 1."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)
        self._images = 0

    def add(self, image: NDArray[np.uint8]) -> None:
        """Add an image, (H, W, 3)."""
        some = image[::STRIDE, ::STRIDE]
        for channel in range(3):
            self._counts[channel] += np.bincount(some[:, :, channel].ravel(), minlength=256)
        self._images += 1

    def result(self) -> Stats:
        """The statistics, each (3, 1, 1); "count" is the number of images."""
        values = np.arange(256) / 255.0
        total = self._counts.sum(axis=1, keepdims=True)
        mean = (self._counts * values).sum(axis=1, keepdims=True) / total
        spread = (self._counts * (values - mean) ** 2).sum(axis=1, keepdims=True) / total
        shares = np.cumsum(self._counts, axis=1) / total
        found = {
            "min": [values[np.flatnonzero(row)[0]] for row in self._counts],
            "max": [values[np.flatnonzero(row)[-1]] for row in self._counts],
            "mean": mean,
            "std": np.sqrt(spread),
        }
        for name, share in QUANTILES.items():
            found[name] = [values[np.searchsorted(row, share)] for row in shares]
        stats: Stats = {k: np.reshape(v, (3, 1, 1)).tolist() for k, v in found.items()}
        return stats | {"count": [self._images]}


def column_stats(values: NDArray[Any]) -> Stats:
    """Statistics of a feature over the T ticks of an episode, (T, ...); (1,) for scalars."""
    numbers = values.astype(np.float64)
    if numbers.ndim == 1:
        numbers = numbers[:, None]
    found = {
        "min": numbers.min(axis=0),
        "max": numbers.max(axis=0),
        "mean": numbers.mean(axis=0),
        "std": numbers.std(axis=0),
    }
    found |= {name: np.quantile(numbers, share, axis=0) for name, share in QUANTILES.items()}
    stats: Stats = {name: value.tolist() for name, value in found.items()}
    return stats | {"count": [len(numbers)]}


def merged(parts: Sequence[Mapping[str, Any]]) -> Stats:
    """The statistics of one feature over all episodes.

    As in LeRobot, a merged quantile is the mean of the episodes' quantiles, weighted by length.
    """
    counts = np.array([part["count"][0] for part in parts], np.float64)
    arrays = {name: np.array([part[name] for part in parts]) for name in parts[0]}
    weights = counts.reshape(-1, *[1] * (arrays["mean"].ndim - 1)) / counts.sum()
    mean = (arrays["mean"] * weights).sum(axis=0)
    spread = ((arrays["std"] ** 2 + (arrays["mean"] - mean) ** 2) * weights).sum(axis=0)
    found = {
        "min": arrays["min"].min(axis=0),
        "max": arrays["max"].max(axis=0),
        "mean": mean,
        "std": np.sqrt(spread),
    }
    found |= {name: (arrays[name] * weights).sum(axis=0) for name in QUANTILES}
    stats: Stats = {name: value.tolist() for name, value in found.items()}
    return stats | {"count": [int(counts.sum())]}
