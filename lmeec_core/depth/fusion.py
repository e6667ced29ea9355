"""Fuses the clouds of an object from several cameras, and compares them with triangulation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lmeec_core.depth.cloud import Cloud
from lmeec_core.errors import InputError
from lmeec_core.geometry import GeometryError, Triangulation, Vector

MAX_DISAGREEMENT = 0.1
"""Default of the maximum accepted disagreement, metres."""
VOXEL = 0.005
"""Side of the cubes in which points are merged, so that near cameras do not dominate; metres."""
TRIANGULATED = "triangulation"


@dataclass(frozen=True)
class Located:
    """The position of an object from all available sources.

    Attributes:
        cloud: the fused cloud of all cameras.
        by_camera: the cloud of each camera.
        triangulated: point from the masks' centroids; None if fewer than two cameras see it.
        disagreement: metres between the two sources that are farthest apart: the boxes of two
            cameras' clouds, or the triangulated point and the box of all clouds. 0 if they touch or
            overlap, like the front and the back of an object.
        between: names of these two sources, cameras or :data:`TRIANGULATED`; empty for one source.
    """

    cloud: Cloud
    by_camera: Mapping[str, Cloud]
    triangulated: Triangulation | None
    disagreement: float
    between: tuple[str, ...]

    def check(self, most: float) -> None:
        """Check that the sources agree.

        Args:
            most: maximum disagreement, metres.

        Raises:
            GeometryError: of kind "disagree"; the text has the numbers.
        """
        if not self.disagreement <= most:
            one, other = self.between
            raise GeometryError(
                "disagree",
                f"{one} and {other} place it {self.disagreement:.3f} m apart, at most {most:.3f} m "
                "expected: one of the masks is of another thing, or a calibration is wrong",
            )


def fuse(by_camera: Mapping[str, Cloud], triangulated: Triangulation | None = None) -> Located:
    """Fuse the clouds of an object, and compare them.

    Args:
        by_camera: at least one cloud, in a common frame.
        triangulated: the point from the centroids, if there is one.

    Raises:
        InputError: there is no cloud.
    """
    if not by_camera:
        raise InputError("no point cloud given, one of at least one camera expected")
    gaps: dict[tuple[str, ...], float] = {(): 0.0}
    for one, other in itertools.combinations(by_camera, 2):
        gaps[one, other] = gap(by_camera[one].box, by_camera[other].box)
    points = np.concatenate([cloud.points for cloud in by_camera.values()])
    if len(by_camera) > 1:
        points = thinned(points)
    given = sum(cloud.given for cloud in by_camera.values())
    whole = Cloud(points, np.zeros((0, 2), np.int64), given)
    if triangulated is not None:
        low = np.min([cloud.box[0] for cloud in by_camera.values()], axis=0)
        high = np.max([cloud.box[1] for cloud in by_camera.values()], axis=0)
        place = triangulated.point
        gaps[TRIANGULATED, "depth"] = gap((low, high), (place, place))
    between = max(gaps, key=lambda pair: gaps[pair])
    return Located(whole, dict(by_camera), triangulated, gaps[between], between)


def gap(one: tuple[Vector, Vector], other: tuple[Vector, Vector]) -> float:
    """Distance between two boxes, given by their lowest and highest corners; 0 if they touch."""
    apart = np.maximum(0, np.maximum(one[0] - other[1], other[0] - one[1]))
    return float(np.linalg.norm(apart))


def thinned(points: Vector, voxel: float = VOXEL) -> Vector:
    """The points, replaced by their mean in each cube of side `voxel`."""
    cells = np.floor(points / voxel).astype(np.int64)
    _, where, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    where = where.reshape(-1)
    sums = np.stack([np.bincount(where, points[:, axis]) for axis in range(3)], axis=1)
    means: Vector = sums / counts[:, None]
    return means
