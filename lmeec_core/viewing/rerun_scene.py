"""The 3D scene of a Rerun recording: cameras, and objects triangulated from their masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from lmeec_core.calibration import Calibration
from lmeec_core.geometry import GeometryError, Intrinsics, Pose, Vector, centroid
from lmeec_core.overlay import TRUTH, Colour
from lmeec_core.viewing.moments import Mask, Moment, View

ROOT = "space"
POINT = 6.0
"""Radius of a point, in screen pixels, because the unit of the poses is not known."""
LINE = 1.5

Key = tuple[str, ...]
"""The last parts of an object's path: "objects", the method if there are several, the object; or
"truth", the object."""


class SceneWriter:
    """Logs the scene of every moment to a Rerun stream.

    Each camera with a lens and a pose is logged as Transform3D and Pinhole at the entity of its
    images (/query/<camera>, /target/<camera>). Points are at /space/objects/<object>, with several
    methods at /space/objects/<method>/<object>, and those of the true masks at
    /space/truth/<object>. /space/tracks/objects/... and /space/tracks/truth/... hold each object's
    track through the whole recording, interrupted while its position is unknown.

    Args:
        rr: the Rerun SDK.
        stream: the recording stream to log to.
        calibration: lenses and poses; moving cameras have a pose for each frame.
        colours: by object.
        problem: called with a text about each error in the calibration.
        note: called with texts about what the calibration lacks, and about rejected positions.
    """

    def __init__(
        self,
        rr: Any,
        stream: Any,
        calibration: Calibration,
        colours: Mapping[str, Colour],
        problem: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self._rr, self._stream = rr, stream
        self._calibration, self._colours = calibration, colours
        self._problem, self._note = problem, note
        self._usable: dict[str, bool] = {}
        self._still: set[str] = set()
        self._without_pose: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._tracks: dict[Key, list[list[Vector]]] = {}
        self._here: set[Key] = set()
        # The ROS convention (REP 103) for fixed frames.
        stream.log("/", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)

    def add(self, moment: Moment) -> None:
        """Log the cameras and the objects of a moment. The stream's time must be set."""
        for kind, views in (("query", [moment.query]), ("target", moment.targets)):
            for view in views:
                self._camera([kind, view.title], view, moment.frame)
        for camera in dict.fromkeys(view.camera for view in (moment.query, *moment.targets)):
            moves = self._usable.get(camera) and camera not in self._calibration.poses
            if moves and self._calibration.at(camera, moment.frame) is None:
                self._without_pose[camera] += 1
        placed = dict(self._places(moment))
        for key in self._here - placed.keys():
            self._stream.log([ROOT, *key], self._rr.Clear(recursive=False))
        for key, place in placed.items():
            self._stream.log([ROOT, *key], self._rr.Points3D(
                [place], radii=self._rr.Radius.ui_points(POINT), colors=[self._colour(key)],
                labels=[key[-1]],
            ))  # fmt: skip
            strips = self._tracks.setdefault(key, [])
            if key not in self._here:
                strips.append([])
            strips[-1].append(place)
        self._here = set(placed)

    def finish(self) -> None:
        """Log the tracks, and report what was left out."""
        for key, strips in self._tracks.items():
            lines = [np.array(strip) for strip in strips if len(strip) > 1]
            if lines:
                self._stream.log(
                    [ROOT, "tracks", *key],
                    self._rr.LineStrips3D(lines, radii=self._rr.Radius.ui_points(LINE),
                                          colors=[self._colour(key)] * len(lines)),
                    static=True,
                )  # fmt: skip
        for camera, count in self._without_pose.items():
            self._note(f"calibration: camera {camera!r} has no pose in {count} frames")
        if self._refused:
            kinds = ", ".join(f"{kind} {count}" for kind, count in self._refused.most_common())
            self._note(f"{self._refused.total()} positions rejected ({kinds})")
        if sum(self._usable.values()) < 2:
            named = [name for name, usable in self._usable.items() if usable]
            self._note(f"calibration: of the cameras shown, only {named} have a lens and a pose; "
                       "3D points need at least two")  # fmt: skip

    def _camera(self, path: list[str], view: View, frame: int) -> None:
        """Log a camera's pose and lens; only once if it does not move."""
        if view.camera not in self._usable and view.image is not None:
            self._usable[view.camera] = self._check(view)
        title = "/".join(path)
        if view.image is None or title in self._still or not self._usable[view.camera]:
            return
        placed = self._calibration.at(view.camera, frame)
        if placed is None:
            self._stream.log(path, self._rr.Clear(recursive=False))
            return
        still = view.camera in self._calibration.poses
        height, width = view.image.shape[:2]
        for one in self._archetypes(*placed, (width, height)):
            self._stream.log(path, one, static=still)
        if still:
            self._still.add(title)

    def _archetypes(self, lens: Intrinsics, pose: Pose, size: tuple[int, int]) -> Iterator[Any]:
        rr = self._rr
        yield rr.Transform3D(translation=pose.position, mat3x3=pose.rotation)
        yield rr.Pinhole(
            image_from_camera=lens.matrix_for(size), resolution=size,
            camera_xyz=rr.ViewCoordinates.RDF,
        )  # fmt: skip

    def _check(self, view: View) -> bool:
        """Whether the calibration has a usable lens and pose for a camera; reports if not."""
        camera, given = view.camera, self._calibration
        missing = [] if camera in given.lenses else ["lens"]
        missing += [] if camera in given.poses or given.moving.get(camera) else ["pose"]
        if missing:
            self._note(f"calibration: camera {camera!r} has no {' and no '.join(missing)}")
            return False
        assert view.image is not None
        height, width = view.image.shape[:2]
        try:
            given.lenses[camera].matrix_for((width, height))
        except GeometryError as error:
            self._problem(f"calibration: camera {camera!r}: {error}")
            return False
        return True

    def _places(self, moment: Moment) -> Iterator[tuple[Key, Vector]]:
        """The objects' positions, from the masks of each method and from the true masks."""
        several = any(view.method is not None for view in moment.targets)
        for method in dict.fromkeys(view.method for view in moment.targets):
            found = {v.camera: v.masks for v in moment.targets if v.method == method}
            above = ("objects", str(method)) if several else ("objects",)
            yield from self._triangulated(above, moment, found)
        true = {v.camera: v.truth for v in moment.targets if v.truth is not None}
        if true:
            yield from self._triangulated(("truth",), moment, true)

    def _triangulated(
        self, above: Key, moment: Moment, found: Mapping[str, Mapping[str, Mask | None]]
    ) -> Iterator[tuple[Key, Vector]]:
        masks = {moment.query.camera: moment.query.masks, **found}
        usable = {camera: by_name for camera, by_name in masks.items() if self._usable.get(camera)}
        for name in dict.fromkeys(name for by_name in usable.values() for name in by_name):
            pixels = {}
            for camera, by_name in usable.items():
                mask = by_name.get(name)
                if mask is not None and mask.any():
                    pixels[camera] = np.array(centroid(mask)), (mask.shape[1], mask.shape[0])
            try:
                yield (*above, name), self._calibration.triangulate(moment.frame, pixels).point
            except GeometryError as error:
                if error.kind != "views":  # an object is often seen by too few cameras
                    self._refused[error.kind] += 1

    def _colour(self, key: Key) -> Colour:
        return TRUTH if key[0] == "truth" else self._colours[key[-1]]
