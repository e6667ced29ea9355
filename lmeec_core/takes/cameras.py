"""Ego and exo cameras, and pairs of query and target cameras."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

DIRECTIONS = ("ego-exo", "exo-ego")
"""From the query view to the target view."""


class CameraPair(NamedTuple):
    """The camera in which an object is marked, and the one in which it is searched for."""

    query: str
    target: str


def is_ego(camera: str) -> bool:
    """Whether a camera is worn (its name contains ``aria``), as EgoExo4D names them."""
    return "aria" in camera.lower()


def ego_first(cameras: Iterable[str]) -> tuple[str, ...]:
    """Names of cameras, ego cameras first, each group sorted."""
    return tuple(sorted(cameras, key=lambda name: (not is_ego(name), name)))


def camera_pairs(cameras: Iterable[str], direction: str) -> tuple[CameraPair, ...]:
    """Every ego camera with every exo camera; () without ego or without exo cameras.

    Args:
        cameras: names of the cameras, in any order.
        direction: one of :data:`DIRECTIONS`.

    Raises:
        ValueError: unknown direction.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction {direction!r} given, one of {DIRECTIONS} expected")
    names = ego_first(cameras)
    exos = [name for name in names if not is_ego(name)]
    pairs = [(ego, exo) for ego in filter(is_ego, names) for exo in exos]
    return tuple(CameraPair(*(p if direction == DIRECTIONS[0] else p[::-1])) for p in pairs)
