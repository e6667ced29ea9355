"""The lenses and poses of a dataset's cameras: from one file, or from each recording's own file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmeec_core.calibration import (
    Calibration,
    CalibrationError,
    calibration_text,
    read_calibration,
)
from lmeec_core.datasets.episode import Part
from lmeec_core.datasets.frames import Plan
from lmeec_core.geometry import GeometryError, Intrinsics, Pose
from lmeec_core.takes.keys import look_alike

Sizes = Mapping[str, tuple[int, int]]
NO_POINTS = "no 3D points"


def given(
    path: Path, cameras: Sequence[str], sizes: Sizes, problems: list[str], notes: list[str]
) -> Calibration:
    """The calibration of a dataset's cameras, from one file for all recordings.

    Args:
        path: the file.
        cameras: the dataset's cameras.
        sizes: (height, width) of their images.
        problems: receives texts about cameras that are unknown or do not match the images, and if
            there are no 3D points.
        notes: receives texts about cameras without a lens or a pose.

    Raises:
        CalibrationError: the file cannot be used.
    """
    content = read_calibration(path)
    for name in sorted({*content.lenses, *content.poses, *content.moving} - {*cameras}):
        alike = look_alike(name, cameras)
        problems.append(f"calibration: no camera {name!r} among {list(cameras)}{alike}")
    found = _usable(content, cameras, sizes, "calibration", problems, notes)
    if len(found.placed) < 2:
        problems.append(
            f"{path}: fewer than two of the cameras {list(cameras)} have a lens and a pose: "
            f"{NO_POINTS}"
        )
    return found


def own(
    paths: Mapping[str, Path | None], sizes: Sizes, problems: list[str], notes: list[str]
) -> dict[str, Calibration]:
    """The calibrations of a dataset's cameras, from each recording's own file.

    Args:
        paths: calibration files by the recordings' labels; None for a recording without one.
        sizes: (height, width) of each camera's images.
        problems: receives texts about files that cannot be used, and cameras that do not match the
            images.
        notes: receives texts about what is missing, if other recordings have 3D points.

    Returns:
        The calibrations by label; empty for a recording without one.
    """
    found, lacking = dict.fromkeys(paths, Calibration()), []
    for label, path in paths.items():
        where = f"{label}: calibration"
        try:
            content = Calibration() if path is None else read_calibration(path)
        except CalibrationError as error:
            problems.append(f"{error}; {NO_POINTS}")
            continue
        found[label] = _usable(content, list(sizes), sizes, where, problems, notes)
        if len(found[label].placed) < 2:
            lacking.append(label)
    if lacking and any(len(one.placed) >= 2 for one in found.values()):
        listed = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" * (len(lacking) > 3))
        notes.append(f"{listed}: fewer than two cameras with a lens and a pose: {NO_POINTS}")
    return found


def _usable(
    content: Calibration,
    cameras: Sequence[str],
    sizes: Sizes,
    where: str,
    problems: list[str],
    notes: list[str],
) -> Calibration:
    """The part of a calibration that can be used for a dataset's cameras."""
    lenses: dict[str, Intrinsics] = {}
    poses: dict[str, Pose] = {}
    moving: dict[str, Mapping[int, Pose]] = {}
    anything = content.lenses or content.poses or content.moving
    for name in cameras:
        known = {"lens": name in content.lenses,
                 "pose": name in content.poses or name in content.moving}  # fmt: skip
        missing = [what for what, there in known.items() if not there]
        if missing and anything:
            notes.append(f"{where}: camera {name!r} has no {' and no '.join(missing)}")
        try:
            if known["lens"]:
                content.lenses[name].matrix_for(sizes[name][::-1])
                lenses[name] = content.lenses[name]
        except GeometryError as error:
            problems.append(f"{where}: camera {name!r}: {error}")
            continue
        if name in content.poses:
            poses[name] = content.poses[name]
        if name in content.moving:
            moving[name] = content.moving[name]
    return Calibration(content.frame, lenses, poses, moving)


def cameras_file(plan: Plan, parts: Sequence[Part]) -> dict[str, Any]:
    """The content of cameras.json: each camera's role and size, and its lens and pose if known.

    If the recordings have different calibrations, or a camera moves, "episodes" has the calibration
    of each episode, by number; "poses" of a moving camera is a list with an entry for each tick:
    null, or x, y, z and the quaternion x, y, z, w.
    """
    calibrations = [part.episode.calibration for part in parts]
    same = len({calibration_text(one) for one in calibrations}) == 1
    common = calibrations[0] if same else Calibration()
    found: dict[str, Any] = {"frame": common.frame or None, "cameras": {}}
    for name in plan.cameras:
        height, width = plan.sizes[name]
        role = "query" if name == plan.query else "target"
        found["cameras"][name] = {
            "role": role, "width": width, "height": height, **_known(common, name)
        }  # fmt: skip
    if not same or common.moving:
        found["episodes"] = {
            str(number): {
                "frame": one.frame or None,
                "cameras": {name: _known(one, name) | _moved(part, name) for name in plan.cameras},
            }
            for number, (part, one) in enumerate(zip(parts, calibrations, strict=True))
        }
    return found


def _known(calibration: Calibration, camera: str) -> dict[str, Any]:
    lens, pose = calibration.lenses.get(camera), calibration.poses.get(camera)
    return {
        "lens": None if lens is None else {
            "model": lens.model, "width": lens.size[0], "height": lens.size[1],
            "K": lens.matrix.tolist(), "D": lens.distortion.tolist(),
        },
        "pose": None if pose is None else {
            "rotation": pose.rotation.tolist(), "position": pose.position.tolist(),
        },
    }  # fmt: skip


def _moved(part: Part, camera: str) -> dict[str, Any]:
    rows = part.facts["poses"].get(camera)
    return {} if rows is None else {"poses": rows}
