"""Ground truth of a simulated take besides masks: positions, sizes, what the hand holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.calibration import Calibration
from lmeec_core.geometry import Pose, Vector
from lmeec_core.simulation.scene import Scene
from lmeec_core.takes import encode_mask

TRUTH = "simulation_truth"
"""Key of :attr:`Truth.content` in annotation.json."""


class Truth:
    """Collects the ground truth over the frames of a take.

    Attributes:
        content: "boxes": by object and frame, the lowest and the highest x, y and z of its surface
            (metres, in the calibration's frame), except while it is hidden; "held": by frame, the
            object in the hand from grasp to release, or null; "person": by camera and frame, the
            person's mask (in the ego view, that of arms and hands).
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._ego: dict[int, Pose] = {}
        self.content: dict[str, dict[str, Any]] = {
            "boxes": {spec.name: {} for spec in scene.objects}, "held": {},
            "person": {name: {} for name in scene.cameras},
        }  # fmt: skip

    def note(self, step: int, frame: int) -> None:
        """Record the state of the scene, which must be posed at ``step``."""
        scene = self._scene
        self._ego[frame] = scene.camera_pose(0)
        for number, spec in enumerate(scene.objects):
            if not scene.hidden(number):
                rounded = np.round(np.stack(box_of(scene, number)), 4).tolist()
                self.content["boxes"][spec.name][str(frame)] = rounded
        held = int(scene.plan.held[step])
        self.content["held"][str(frame)] = None if held < 0 else scene.objects[held].name

    def person(self, camera: str, frame: int, mask: NDArray[np.bool_]) -> None:
        """Record the person's mask in an image, unless it is empty."""
        if mask.any():
            self.content["person"][camera][str(frame)] = encode_mask(mask)

    def calibration(self) -> Calibration:
        """Lenses and poses of all cameras; the ego camera moves."""
        scene, cameras = self._scene, self._scene.cameras
        lenses = {name: scene.lens(number) for number, name in enumerate(cameras)}
        still = {name: scene.camera_pose(n) for n, name in enumerate(cameras) if n > 0}
        return Calibration("world", lenses, still, {cameras[0]: self._ego})


def box_of(scene: Scene, number: int) -> tuple[Vector, Vector]:
    """Lowest and highest corner (3,) of the axis-aligned box around an object, as posed."""
    model, data = scene.model, scene.data
    body = model.body(f"object{number}").id
    lows, highs = [], []
    for geom in np.flatnonzero(model.geom_bodyid == body):
        turn, middle = data.geom_xmat[geom].reshape(3, 3), data.geom_xpos[geom]
        mesh = int(model.geom_dataid[geom])
        if mesh >= 0:
            first, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
            corners = model.mesh_vert[first : first + count] @ turn.T + middle
            lows.append(corners.min(axis=0))
            highs.append(corners.max(axis=0))
            continue
        kind = scene.kind_of_geometry(int(geom))
        half = _HALF[kind](turn, model.geom_size[geom])
        lows.append(middle - half)
        highs.append(middle + half)
    return np.min(lows, axis=0), np.max(highs, axis=0)


def _cylinder(turn: Vector, size: Vector) -> Vector:
    axis = turn[:, 2]
    half: Vector = np.abs(axis) * size[1] + size[0] * np.sqrt(np.maximum(0, 1 - axis**2))
    return half


_HALF: dict[str, Callable[[Vector, Vector], Vector]] = {
    "sphere": lambda turn, size: np.full(3, size[0]),
    "ellipsoid": lambda turn, size: np.sqrt(((turn * size) ** 2).sum(axis=1)),
    "capsule": lambda turn, size: np.abs(turn[:, 2]) * size[1] + size[0],
    "cylinder": _cylinder,
    "box": lambda turn, size: np.abs(turn) @ size,
}
"""Half the size (3,) of a geometry's axis-aligned box, from its rotation and MuJoCo size."""
