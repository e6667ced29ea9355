"""3D points from their pixels in two or more cameras: intrinsics, poses, triangulation.

Pixels are (x, y) with (0, 0) at the centre of the top-left pixel, as in OpenCV and ROS. A camera's
axes are x right, y down, z forward (ROS: the optical frame). Lengths are in the unit of the poses.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from lmeec_core.errors import InputError

Vector = npt.NDArray[np.float64]

MODELS = ("plumb_bob", "rational_polynomial", "equidistant")
"""Lens models of sensor_msgs/CameraInfo; equidistant is OpenCV's fisheye model."""
COEFFICIENTS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (0, 8), "equidistant": (0, 4)}
ASPECT_TOLERANCE = 0.01
MAX_ERROR = 10.0
"""Maximum reprojection error of a 3D point, pixels; the node's default."""
MIN_ANGLE = 3.0
"""Minimum angle between two cameras' rays to a point, degrees; the node's default."""


def centroid(mask: npt.NDArray[np.bool_], x: int = 0, y: int = 0) -> tuple[float, float]:
    """The mean (x, y) of a mask's pixels, in pixels of the image.

    Args:
        mask: bool (H, W), not empty.
        x, y: position of its top-left pixel in the image.
    """
    columns, rows = mask.sum(axis=0), mask.sum(axis=1)
    area = rows.sum()
    middle_x = columns @ np.arange(len(columns)) / area
    return x + float(middle_x), y + float(rows @ np.arange(len(rows)) / area)


class GeometryError(InputError):
    """No consistent point, or an impossible camera; `kind` names the error in one word."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Intrinsics:
    """A lens and a sensor, as calibrated.

    Attributes:
        size: (width, height) of the calibrated image, pixels.
        matrix: (3, 3) focal lengths and principal point, pixels ("K").
        distortion: coefficients ("D"), in OpenCV's order; empty for no distortion.
        model: one of `MODELS`.

    Raises:
        GeometryError: the numbers are impossible for a camera; says which.
    """

    size: tuple[int, int]
    matrix: Vector
    distortion: Vector
    model: str = "plumb_bob"

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, np.float64)
        distortion = np.asarray(self.distortion, np.float64).reshape(-1)
        if self.model not in MODELS:
            raise GeometryError(
                "calibration",
                f"lens model {self.model!r} given, one of {', '.join(MODELS)} expected",
            )
        if len(distortion) not in COEFFICIENTS[self.model] or not np.isfinite(distortion).all():
            raise GeometryError(
                "calibration",
                f"distortion {distortion.tolist()} given; {self.model} has "
                f"{' or '.join(map(str, COEFFICIENTS[self.model]))} finite coefficients",
            )
        fits = matrix.shape == (3, 3) and np.isfinite(matrix).all()
        if not fits or min(matrix[0, 0], matrix[1, 1], *self.size) <= 0 or matrix[2, 2] != 1:
            raise GeometryError(
                "calibration",
                f"camera matrix {matrix.tolist()} for an image of {self.size} pixels given; "
                "3 x 3 with positive focal lengths, 1 at the end, and a size above 0 expected "
                "(zeros mean that the camera is not calibrated)",
            )
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "distortion", distortion)

    def rays(self, pixels: Vector) -> Vector:
        """Directions of pixels (N, 2): unit vectors (N, 3) in the camera's axes."""
        points = np.asarray(pixels, np.float64).reshape(-1, 1, 2)
        if self.model == "equidistant":
            flat = cv2.fisheye.undistortPoints(points, self.matrix, self._four())
        else:
            flat = cv2.undistortPoints(points, self.matrix, self.distortion)
        rays = np.concatenate([flat.reshape(-1, 2), np.ones((len(points), 1))], axis=1)
        unit: Vector = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        return unit

    def project(self, points: Vector) -> Vector:
        """Pixels (N, 2) of points (N, 3) in the camera's axes, all with z above 0."""
        given = np.asarray(points, np.float64).reshape(-1, 1, 3)
        zero = np.zeros(3)
        if self.model == "equidistant":
            pixels, _ = cv2.fisheye.projectPoints(given, zero, zero, self.matrix, self._four())
        else:
            pixels, _ = cv2.projectPoints(given, zero, zero, self.matrix, self.distortion)
        return np.asarray(pixels, np.float64).reshape(-1, 2)

    def _four(self) -> Vector:
        return self.distortion if self.distortion.size else np.zeros(4)

    def scaled(self, pixel: Vector, size: tuple[int, int]) -> Vector:
        """Convert a pixel (2,), or several (N, 2), from an image of another (width, height) to the
        calibrated image.

        Raises:
            GeometryError: the two sizes have different aspect ratios.
        """
        (width, height), (w, h) = self.size, size
        if min(size) < 1 or abs(width * h / (height * w) - 1) > ASPECT_TOLERANCE:
            raise GeometryError(
                "calibration",
                f"image of {w} x {h} given, but the camera is calibrated for {width} x {height}; "
                "an image of the same shape expected",
            )
        factor = np.array([width / w, height / h])
        moved: Vector = (np.asarray(pixel, np.float64) + 0.5) * factor - 0.5
        return moved

    def matrix_for(self, size: tuple[int, int]) -> Vector:
        """The camera matrix (3, 3) for an image of another (width, height).

        Raises:
            GeometryError: the two sizes have different aspect ratios.
        """
        self.scaled(np.zeros(2), size)  # refuses other shapes
        x, y = size[0] / self.size[0], size[1] / self.size[1]
        stretch = np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]])
        matrix: Vector = stretch @ self.matrix
        return matrix


@dataclass(frozen=True)
class Pose:
    """A camera's pose in the common frame.

    Attributes:
        rotation: (3, 3), with the camera's axes in the common frame as columns.
        position: (3,), the camera's centre.
    """

    rotation: Vector
    position: Vector

    @classmethod
    def from_quaternion(cls, position: Sequence[float], orientation: Sequence[float]) -> Pose:
        """A pose from a position and a quaternion (x, y, z, w), as in geometry_msgs/Pose.

        Raises:
            GeometryError: a number is not finite, or the quaternion's length is not 1 (+-1 %).
        """
        place, turn = np.array(position, np.float64), np.array(orientation, np.float64)
        length = float(np.linalg.norm(turn))
        fits = place.shape == (3,) and turn.shape == (4,) and np.isfinite(place).all()
        if not fits or not abs(length - 1) < 0.01:
            raise GeometryError(
                "calibration",
                f"position {place.tolist()} and orientation {turn.tolist()} given; three numbers, "
                "and a quaternion (x, y, z, w) of length 1, expected",
            )
        from scipy.spatial.transform import Rotation  # costs a third of a second

        return cls(Rotation.from_quat(turn).as_matrix(), place)

    def to_camera(self, points: Vector) -> Vector:
        """Transform points (N, 3) from the common frame to the camera's axes."""
        moved: Vector = (np.asarray(points, np.float64) - self.position) @ self.rotation
        return moved


@dataclass(frozen=True)
class View:
    """A pixel (2,) of a camera, in the image that the camera is calibrated for."""

    intrinsics: Intrinsics
    pose: Pose
    pixel: Vector

    def ray(self) -> Vector:
        """The direction of the pixel's ray: a unit vector (3,) in the common frame."""
        ray: Vector = self.pose.rotation @ self.intrinsics.rays(self.pixel)[0]
        return ray

    def miss(self, point: Vector) -> Vector:
        """Difference (2,) between the projection of a point (3,) and the pixel."""
        seen: Vector = self.intrinsics.project(self.pose.to_camera(point[None]))[0] - self.pixel
        return seen

    def depth(self, point: Vector) -> float:
        """Distance of a point in front of the camera, along its axis; negative behind it."""
        return float(self.pose.to_camera(point[None])[0, 2])


@dataclass(frozen=True)
class Triangulation:
    """A point (3,) in the common frame.

    Attributes:
        error: root mean square reprojection error, pixels.
        angle: largest angle between two rays, degrees, 0 to 90.
    """

    point: Vector
    error: float
    angle: float


def triangulate(views: Sequence[View], max_error: float, min_angle: float) -> Triangulation:
    """The point seen at two or more pixels: least squares of the reprojection errors.

    Starts at the point nearest to all rays (the midpoint method: Hartley and Sturm,
    "Triangulation", CVIU 68(2), 1997, section 5.3), then the reprojection error's least squares
    by Levenberg and Marquardt (Hartley and Zisserman, "Multiple View Geometry", 2nd ed., section
    12.3 and appendix 6).

    Args:
        views: pixels of the same point in different cameras.
        max_error: maximum root mean square reprojection error, pixels.
        min_angle: minimum of the largest angle between two rays, degrees.

    Raises:
        GeometryError: of kind "views" (fewer than two), "parallel", "behind" (behind a camera) or
            "error"; the text has the numbers.
    """
    if len(views) < 2:
        raise GeometryError("views", f"seen by {len(views)} calibrated cameras, 2 or more expected")
    rays = [view.ray() for view in views]
    angle = max(_angle(a, b) for a, b in itertools.combinations(rays, 2))
    if not angle >= max(min_angle, 1e-6):
        raise GeometryError(
            "parallel", f"rays {angle:.2f} degrees apart, {min_angle:.2f} or more expected"
        )
    point = _linear(views, rays)
    _check_depths(views, point)
    point = _refined(views, point)
    _check_depths(views, point)
    misses = np.array([view.miss(point) for view in views])
    error = math.sqrt(float((misses**2).sum(axis=1).mean()))
    if not error <= max_error:
        raise GeometryError(
            "error", f"reprojection error of {error:.1f} pixels, at most {max_error:.1f} expected"
        )
    return Triangulation(point, error, angle)


def _angle(one: Vector, other: Vector) -> float:
    """Degrees between two lines, 0 to 90: opposite directions count as parallel."""
    sine = float(np.linalg.norm(np.cross(one, other)))
    return math.degrees(math.atan2(sine, abs(float(one @ other))))


def _linear(views: Sequence[View], rays: Sequence[Vector]) -> Vector:
    """The point nearest to all lines: sum (I - d d^T)(x - c) = 0."""
    total, right = np.zeros((3, 3)), np.zeros(3)
    for view, ray in zip(views, rays, strict=True):
        across = np.eye(3) - np.outer(ray, ray)
        total += across
        right += across @ view.pose.position
    point: Vector = np.asarray(np.linalg.solve(total, right), np.float64)
    return point


def _refined(views: Sequence[View], start: Vector) -> Vector:
    """The point with the least squared reprojection errors (Levenberg-Marquardt)."""
    from scipy.optimize import least_squares  # costs a second

    unit = max(abs(view.depth(start)) for view in views)  # makes the steps independent of the unit

    def misses(moved: Vector) -> Vector:
        point = start + unit * moved
        return np.concatenate([view.miss(point) for view in views])

    # Derivatives by finite differences, which work for every lens model.
    found = least_squares(misses, np.zeros(3), method="lm", xtol=1e-10, ftol=1e-10)
    point: Vector = start + unit * np.asarray(found.x, np.float64)
    return point


def _check_depths(views: Sequence[View], point: Vector) -> None:
    depth = min(view.depth(point) for view in views)
    if not depth > 0:
        raise GeometryError("behind", f"the point is behind a camera ({depth:.3g} before it)")
