"""Which queries count in simulated scenes, in training, evaluation and baselines."""

from __future__ import annotations

DIRECTIONS = ("ego_to_exo", "exo_to_ego")

MIN_AREA = 30
"""Minimum number of visible pixels of an object that counts, in images of about 256 pixels."""


def qualifies(query_area: float, target_area: float) -> bool:
    """Whether a query counts: well visible in the query view, and well visible or absent in the
    target view."""
    return query_area >= MIN_AREA and (target_area >= MIN_AREA or target_area == 0)
