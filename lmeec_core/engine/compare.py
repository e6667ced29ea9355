"""How far results are from the expected ones; NaN counts as infinitely far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["difference", "largest", "mean_difference"]


def difference(ours: Any, reference: Any, small: float = 0.0) -> float:
    """Largest difference relative to the largest reference value, or to ``small``.

    Args:
        ours, reference: arrays, tensors or lists of numbers, of one shape.
        small: the divisor if the largest reference value is below it.

    Returns:
        0 or more; infinity if either contains NaN or infinity.

    Raises:
        ValueError: their shapes differ, or they are empty.
    """
    return _relative(ours, reference, small, lambda x: float(np.abs(x).max()))


def mean_difference(ours: Any, reference: Any, small: float = 0.0) -> float:
    """Like :func:`difference`, but with root mean squares: for results with intermediate rounding,
    where single values may be far apart."""
    return _relative(ours, reference, small, lambda x: float(np.sqrt(np.mean(x**2))))


def _relative(
    ours: Any, reference: Any, small: float, size: Callable[[NDArray[np.float64]], float]
) -> float:
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or not a.size:
        raise ValueError(f"shapes {a.shape} and {b.shape} given, equal ones with numbers expected")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    apart, scale = size(a - b), max(size(b), small)
    if not apart:
        return 0.0
    return apart / scale if scale else math.inf


def largest(differences: Iterable[float]) -> float:
    """The largest of several differences; infinity if any is NaN, which ``max`` may ignore.

    Raises:
        ValueError: there are none.
    """
    values = list(differences)
    return math.inf if any(math.isnan(value) for value in values) else max(values)
