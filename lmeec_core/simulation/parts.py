"""Building blocks of objects: primitive parts, lathed profiles, and their bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Primitive = Literal["box", "sphere", "cylinder", "capsule", "ellipsoid", "lathe"]
Paint = Literal["body", "accent", "second", "metal", "dark"]
Vector = tuple[float, float, float]

LATHE_SEGMENTS = 20


@dataclass(frozen=True)
class Part:
    """One geometry of an object, in metres, in the object's frame (origin: bottom centre).

    `size` is MuJoCo's size of the primitive (half lengths). A part has either `start` and `end`
    (cylinder, capsule) or `position` and `euler` (degrees). A lathe has a `profile`: (radius,
    height) points from bottom to top, revolved around z.
    """

    primitive: Primitive
    paint: Paint = "body"
    size: tuple[float, ...] = ()
    position: Vector = (0.0, 0.0, 0.0)
    euler: Vector = (0.0, 0.0, 0.0)
    start: Vector | None = None
    end: Vector | None = None
    profile: tuple[tuple[float, float], ...] = ()


Numbers = NDArray[np.float64]
Maker = Callable[[Numbers, float], list[Part]]
"""Makes an object's parts from eight random numbers in [0, 1) and a scale."""


def box(size: Vector, at: Vector, paint: Paint = "body", euler: Vector = (0, 0, 0)) -> Part:
    """A box with half lengths `size`."""
    return Part("box", paint, size, at, euler)


def ball(radius: float, at: Vector, paint: Paint = "body") -> Part:
    """A sphere."""
    return Part("sphere", paint, (radius,), at)


def egg(size: Vector, at: Vector, paint: Paint = "body", euler: Vector = (0, 0, 0)) -> Part:
    """An ellipsoid with half axes `size`."""
    return Part("ellipsoid", paint, size, at, euler)


def rod(radius: float, start: Vector, end: Vector, paint: Paint = "body") -> Part:
    """A capsule from `start` to `end`."""
    return Part("capsule", paint, (radius,), start=start, end=end)


def tube(radius: float, start: Vector, end: Vector, paint: Paint = "body") -> Part:
    """A solid cylinder from `start` to `end`."""
    return Part("cylinder", paint, (radius,), start=start, end=end)


def lathe(profile: Sequence[tuple[float, float]], paint: Paint = "body") -> Part:
    """A body of revolution around z."""
    return Part("lathe", paint, profile=tuple((float(r), float(z)) for r, z in profile))


def handle(
    x: float, low: float, high: float, out: float, radius: float, paint: Paint
) -> list[Part]:
    """Three capsules that form a handle on the +x side between two heights."""
    a, b = (x, 0.0, high), (x + out, 0.0, high - 0.2 * (high - low))
    c, d = (x + out, 0.0, low + 0.2 * (high - low)), (x, 0.0, low)
    return [rod(radius, a, b, paint), rod(radius, b, c, paint), rod(radius, c, d, paint)]


def extent(part: Part) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners (low, high), in metres, of the axis-aligned box around the rotated part."""
    if part.primitive == "lathe":
        radius = max(r for r, _ in part.profile)
        heights = [z for _, z in part.profile]
        return np.array([-radius, -radius, min(heights)]), np.array([radius, radius, max(heights)])
    if part.start is not None and part.end is not None:
        ends, pad = np.array([part.start, part.end]), part.size[0]
        return ends.min(0) - pad, ends.max(0) + pad
    size = np.full(3, part.size[0]) if len(part.size) == 1 else np.array(part.size)
    if any(part.euler):
        turn = rotation(part.euler)
        size = np.abs(turn) @ size
    centre = np.array(part.position)
    return centre - size, centre + size


def rotation(euler: Vector) -> NDArray[np.float64]:
    """Rotation matrix of Euler angles in degrees, intrinsic x-y-z."""
    a, b, c = np.radians(euler)
    x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    y = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return x @ y @ z


def settle(parts: Sequence[Part]) -> tuple[list[Part], float, float]:
    """Move parts so that they stand centred on z = 0; returns (parts, radius, height)."""
    corners = [extent(p) for p in parts]
    low = np.min([c[0] for c in corners], axis=0)
    high = np.max([c[1] for c in corners], axis=0)
    has_lathe = any(p.primitive == "lathe" for p in parts)  # a lathe stays on the axis
    shift = np.array([0.0, 0.0, -low[2]])
    if not has_lathe:
        shift[:2] = -(low[:2] + high[:2]) / 2
    moved = [_shift(p, shift) for p in parts]
    low, high = low + shift, high + shift
    radius = float(np.hypot(*np.maximum(-low[:2], high[:2])))
    return moved, min(radius, float(max(high[0], -low[0], high[1], -low[1])) * 1.15), float(high[2])


def _shift(part: Part, by: NDArray[np.float64]) -> Part:
    def move(point: Vector) -> Vector:
        return tuple(float(v) for v in np.add(point, by))  # type: ignore[return-value]

    if part.primitive == "lathe":
        return replace(part, profile=tuple((r, z + float(by[2])) for r, z in part.profile))
    if part.start is not None and part.end is not None:
        return replace(part, start=move(part.start), end=move(part.end))
    return replace(part, position=move(part.position))


def lathe_mesh(
    profile: Sequence[tuple[float, float]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Vertices (V, 3), texture coordinates (V, 2) and triangles (F, 3) of a revolved profile.

    The seam has two rows of vertices so that the texture wraps around once; they are 1e-7 m apart,
    or else MuJoCo would merge them.
    """
    points = np.asarray(profile, float)
    count = len(points)
    along = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    along /= max(along[-1], 1e-9)
    angle = 2 * np.pi * np.arange(LATHE_SEGMENTS + 1) / LATHE_SEGMENTS
    radius = np.maximum(points[:, 0], 1e-4)
    vertices = np.stack(
        [
            np.cos(angle)[:, None] * radius,
            np.sin(angle)[:, None] * radius,
            np.broadcast_to(points[:, 1], (len(angle), count)),
        ],
        axis=-1,
    )
    vertices[-1, :, 1] += 1e-7
    around = np.arange(len(angle)) / LATHE_SEGMENTS
    coordinates = np.stack(np.broadcast_arrays(around[:, None], along[None, :]), axis=-1)
    j, i = np.meshgrid(np.arange(LATHE_SEGMENTS), np.arange(count - 1), indexing="ij")
    a, b = j * count + i, (j + 1) * count + i
    faces = np.stack([a, b, b + 1, a, b + 1, a + 1], axis=-1).reshape(-1, 3)
    return vertices.reshape(-1, 3), coordinates.reshape(-1, 2), faces
