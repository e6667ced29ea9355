"""What counts in simulated scenes, for training, its scores and the simple methods alike."""

from __future__ import annotations

DIRECTIONS = ("ego_to_exo", "exo_to_ego")

MIN_AREA = 30
"""Visible pixels from which an object counts, in images of about 256 pixels."""


def qualifies(query_area: float, target_area: float) -> bool:
    """Whether a query counts: well visible where it is given; well visible or absent elsewhere."""
    return query_area >= MIN_AREA and (target_area >= MIN_AREA or target_area == 0)
