"""Calibration files: intrinsics and pose of each camera, in YAML.

    frame: table                 # the common frame of all poses
    cameras:
      ego:
        width: 640               # as in sensor_msgs/CameraInfo
        height: 480
        distortion_model: plumb_bob
        k: [525.0, 0.0, 319.5, 0.0, 525.0, 239.5, 0.0, 0.0, 1.0]
        d: [0.0, 0.0, 0.0, 0.0, 0.0]
        position: [0.0, 0.0, 1.0]            # of the camera in the frame
        orientation: [0.0, 0.0, 0.0, 1.0]    # x, y, z, w; camera axes: x right, y down, z forward

A camera may lack its intrinsics (width ... d), its pose (position, orientation), or both. A camera
that moves in a recorded take has a pose for each frame instead of position and orientation:

        poses: {0: [x, y, z, qx, qy, qz, qw], 30: [...]}
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmeec_core.errors import InputError
from lmeec_core.geometry import (
    MAX_ERROR,
    MIN_ANGLE,
    GeometryError,
    Intrinsics,
    Pose,
    Triangulation,
    Vector,
    View,
    triangulate,
)

MAX_BYTES = 1_000_000
_LENS = ("width", "height", "k")
_POSE = ("position", "orientation")

Size = Annotated[int, Field(ge=1, le=100_000)]
Numbers = Annotated[list[float], Field(max_length=14)]
Row = Annotated[list[float], Field(min_length=7, max_length=7)]


class CalibrationError(InputError):
    """A calibration file cannot be used; the text names the file and the error."""


class _Camera(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    width: Size | None = None
    height: Size | None = None
    distortion_model: str = "plumb_bob"
    k: Numbers | None = None
    d: Numbers = []
    position: Numbers | None = None
    orientation: Numbers | None = None
    poses: dict[Annotated[int, Field(ge=0)], Row] | None = Field(None, max_length=100_000)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    frame: str = Field(min_length=1)
    cameras: dict[str, _Camera]


@dataclass(frozen=True)
class Calibration:
    """The content of a calibration file.

    Attributes:
        frame: name of the common frame; empty without a file.
        lenses: intrinsics by camera, if known.
        poses: poses in the common frame by camera, for fixed cameras.
        moving: poses by camera and frame number, for cameras that move in a recorded take.
    """

    frame: str = ""
    lenses: Mapping[str, Intrinsics] = field(default_factory=dict)
    poses: Mapping[str, Pose] = field(default_factory=dict)
    moving: Mapping[str, Mapping[int, Pose]] = field(default_factory=dict)

    @property
    def placed(self) -> set[str]:
        """The cameras with a lens and, at least in some frames, a pose."""
        return set(self.lenses) & (set(self.poses) | set(self.moving))

    def at(self, camera: str, frame: int) -> tuple[Intrinsics, Pose] | None:
        """Lens and pose of a camera in a frame; None if one of them is unknown."""
        pose = self.poses.get(camera) or self.moving.get(camera, {}).get(frame)
        lens = self.lenses.get(camera)
        return None if lens is None or pose is None else (lens, pose)

    def triangulate(
        self, frame: int, pixels: Mapping[str, tuple[Vector, tuple[int, int]]]
    ) -> Triangulation:
        """The 3D point that cameras see at given pixels, with the node's default limits.

        Args:
            frame: frame number in the take, for moving cameras.
            pixels: by camera, a pixel (2,), and (width, height) of the image or mask that it
                belongs to. Cameras without lens or pose are not used.

        Raises:
            GeometryError: there is no such point; see :func:`~lmeec_core.geometry.triangulate`.
        """
        views = []
        for camera, (pixel, size) in pixels.items():
            placed = self.at(camera, frame)
            if placed is not None:
                views.append(View(*placed, placed[0].scaled(pixel, size)))
        return triangulate(views, MAX_ERROR, MIN_ANGLE)


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration file.

    Raises:
        CalibrationError: no such file, not YAML, an unknown name, or impossible numbers.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise CalibrationError(f"{file}: cannot be read: {error}") from error
    if len(content) > MAX_BYTES:
        raise CalibrationError(f"{file}: more than {MAX_BYTES} bytes, a calibration expected")
    try:
        given = _File.model_validate(_parse(content))
    except InputError as error:
        raise CalibrationError(f"{file}: cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CalibrationError(
            f"{file}: {where}: {first['msg']}; a mapping with frame and cameras expected"
        ) from error
    lenses, poses, moving = {}, {}, {}
    for name, camera in given.cameras.items():
        try:
            if _has(camera, _LENS):
                size = (int(camera.width or 0), int(camera.height or 0))
                lenses[name] = intrinsics(size, camera.k or [], camera.d, camera.distortion_model)
            if _has(camera, _POSE):
                poses[name] = Pose.from_quaternion(camera.position or [], camera.orientation or [])
            if camera.poses:
                if name in poses:
                    raise GeometryError(
                        "calibration",
                        "position and orientation, and poses by frame, given; one of them expected",
                    )
                rows = camera.poses.items()
                moving[name] = {n: Pose.from_quaternion(row[:3], row[3:]) for n, row in rows}
        except GeometryError as error:
            raise CalibrationError(f"{file}: cameras.{name}: {error}") from error
    return Calibration(given.frame, lenses, poses, moving)


def calibration_text(calibration: Calibration) -> str:
    """A calibration as the text of a file for :func:`read_calibration`."""
    cameras: dict[str, dict[str, Any]] = {}
    for name, lens in calibration.lenses.items():
        cameras[name] = {
            "width": lens.size[0], "height": lens.size[1], "distortion_model": lens.model,
            "k": lens.matrix.ravel().tolist(), "d": lens.distortion.tolist(),
        }  # fmt: skip
    for name, pose in calibration.poses.items():
        row = pose_row(pose)
        cameras.setdefault(name, {}).update(position=row[:3], orientation=row[3:])
    for name, by_frame in calibration.moving.items():
        cameras.setdefault(name, {})["poses"] = {n: pose_row(pose) for n, pose in by_frame.items()}
    content = {"frame": calibration.frame, "cameras": cameras}
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=1000)


def pose_row(pose: Pose) -> list[float]:
    """x, y, z and the quaternion x, y, z, w, rounded to 1e-6 m and 1e-6 rad."""
    from scipy.spatial.transform import Rotation

    place, turn = pose.position, Rotation.from_matrix(pose.rotation).as_quat()
    return [round(float(v), 6) for v in place] + [round(float(v), 7) for v in turn]


class _UniqueNames(yaml.SafeLoader):
    """Raises an error for duplicate names, of which PyYAML silently keeps the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        merge = "tag:yaml.org,2002:merge"  # keys merged by `<<` may be overridden
        keys = node.value if isinstance(node, yaml.MappingNode) else []
        names = [key.value for key, _ in keys if key.tag != merge and isinstance(key.value, str)]
        for name in names:
            if names.count(name) > 1:
                line = node.start_mark.line + 1
                raise InputError(
                    f"{ascii(name)[:80]} occurs twice in the mapping at line {line}; keep one"
                )
        return super().construct_mapping(node, deep)


def _parse(content: bytes) -> Any:
    """The content of a YAML text.

    Raises:
        InputError: if it is not YAML.
    """
    try:
        loader = _UniqueNames(content.decode("utf-8"))
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"is not YAML: {error}") from error
    # What PyYAML raises for the 35th of May, 0b_, `!!int ""`, `!!bool 3` and `!!timestamp x`.
    except (ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise InputError(f"has an invalid date or number: {error!r}") from error


def _has(camera: _Camera, names: tuple[str, ...]) -> bool:
    missing = [name for name in names if getattr(camera, name) is None]
    if missing and len(missing) < len(names):
        raise GeometryError(
            "calibration",
            f"{', '.join(missing)} missing; all of {', '.join(names)} or none of them expected",
        )
    return not missing


def intrinsics(size: tuple[int, int], k: Any, d: Any, model: str) -> Intrinsics:
    """Intrinsics from the numbers of a sensor_msgs/CameraInfo.

    Args:
        size: (width, height).
        k: 9 numbers, row by row.
        d: distortion coefficients.
        model: name of the lens model; empty, as some drivers leave it, is plumb_bob.

    Raises:
        GeometryError: the numbers are impossible for a camera.
    """
    numbers = np.asarray(k, np.float64)
    matrix: Vector = numbers.reshape(3, 3) if numbers.size == 9 else numbers
    return Intrinsics(size, matrix, np.asarray(d, np.float64), model or "plumb_bob")
