"""How far results are from what they must be; what is not a number is infinitely far."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["difference", "largest"]


def difference(ours: Any, reference: Any, small: float = 0.0) -> float:
    """Largest difference relative to the largest reference value, or to ``small``.

    Args:
        ours, reference: arrays, tensors or lists of numbers, of one shape.
        small: a reference as small as this is compared with it.

    Returns:
        0 or more; infinity where either holds NaN or an infinity.

    Raises:
        ValueError: their shapes differ, or there are no numbers.
    """
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or not a.size:
        raise ValueError(f"shapes {a.shape} and {b.shape} given, equal ones with numbers expected")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    apart = float(np.abs(a - b).max())
    scale = max(float(np.abs(b).max()), small)
    if not apart:
        return 0.0
    return apart / scale if scale else math.inf


def largest(differences: Iterable[float]) -> float:
    """The largest of several, infinity if one is not a number (``max`` passes over NaN).

    Raises:
        ValueError: there are none.
    """
    values = list(differences)
    return math.inf if any(math.isnan(value) for value in values) else max(values)
