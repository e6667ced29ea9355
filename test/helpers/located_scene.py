"""Two calibrated cameras, an object's masks in both, and what locates it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from lmeec_core.geometry import Pose
from lmeec_ros.io import messages
from lmeec_ros.io.camera_infos import CameraInfos
from lmeec_ros.parameters import config as parameters
from lmeec_ros.points import points as geometry

K = [70.0, 0.0, 39.5, 0.0, 70.0, 29.5, 0.0, 0.0, 1.0]
LENS = {"width": 80, "height": 60, "k": K}
POSES: dict[str, Any] = {
    # Side by side, 0.4 m apart, the second turned inwards by 2 atan(0.1) = 11.4 degrees.
    "ego": {"position": [0.0, 0.0, 0.0], "orientation": [0.0, 0.0, 0.0, 1.0]},
    "exo": {"position": [0.4, 0.0, 0.0], "orientation": [0.0, -0.0995037, 0.0, 0.9950372]},
}


def calibration(tmp_path: Any, lens: bool = True, **changes: Any) -> str:
    """A calibration file of both cameras; `changes` adds or replaces cameras."""
    cameras = {name: {**pose, **(LENS if lens else {})} for name, pose in POSES.items()}
    cameras |= changes
    path = tmp_path / "calibration.yaml"
    path.write_text(yaml.safe_dump({"frame": "table", "cameras": cameras}))
    return str(path)


def pose(name: str) -> Pose:
    """Of a camera, as the calibration file has it."""
    return Pose.from_quaternion(POSES[name]["position"], POSES[name]["orientation"])


def info(k: Any = K, **changes: Any) -> CameraInfo:
    """A CameraInfo with other numbers in P than in K, and fields changed as given."""
    msg = CameraInfo(width=80, height=60, distortion_model="plumb_bob", d=[0.1, 0.0, 0.0, 0.0, 0.0])
    msg.k = list(k)
    msg.p = [50.0, 0.0, 39.0, 0.0, 0.0, 50.0, 29.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


class Scene:
    """Squares around the images of points, as a set of masks."""

    def __init__(self, size: tuple[int, int] = (60, 80)) -> None:
        self.size = size
        self.query_masks: dict[str, Any] = {}
        self.targets: dict[str, np.ndarray] = {}
        self.table = messages.LabelTable({1: "cup", 2: "my knife"})

    def square(self, pixel: Any) -> np.ndarray:
        """The mask of an object seen at a pixel."""
        mask = np.zeros(self.size, bool)
        x, y = (round(float(v)) for v in pixel)
        mask[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = True
        return mask

    def put(self, name: str, point: Any) -> None:
        """Show an object that is at a point, in both cameras."""
        lens = geometry.lens_of(info(d=[]), rectified=False)
        pixels = [lens.project(pose(c).to_camera(np.array([point])))[0] for c in ("ego", "exo")]
        self.query_masks[name], self.targets[name] = map(self.square, pixels)

    def found(self) -> dict[str, Any]:
        """The masks in the target camera, as the node publishes them."""
        header = Header(frame_id="exo_optical")
        results: Any = {name: SimpleNamespace(presence=0.9, score=0.9) for name in self.targets}
        message = messages.mask_array_message(
            results, self.targets, self.table, header, Header(), ("ego", "exo"), self.size
        )
        return {"exo": SimpleNamespace(message=message, header=header)}

    def processor(self, config: Any) -> Any:
        """What :meth:`Points.locate` reads of the node's processor."""
        return SimpleNamespace(config=config, table=self.table, query_masks=self.query_masks)


def located(node: Any, scene: Scene, values: dict[str, Any]) -> tuple[Any, Any]:
    """The message with the scene's points, and the part of the node that made it."""
    values = {"objects": ["1:cup", "2:my knife"], "output.points": True, **values}
    config = parameters.load(values)
    points = geometry.Points(node, config, CameraInfos(node, config))
    processor = scene.processor(config)
    header = Header(frame_id="ego_optical")
    header.stamp.sec = 12
    return points.locate(header, scene.found(), processor), points
