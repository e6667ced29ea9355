"""Where the cameras of `~/points` stand: poses from the file and from tf, also late or moving."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lmeec.msg import ObjectPointArray
from std_msgs.msg import Header

from lmeec_core.geometry import GeometryError, Pose
from lmeec_ros.io.camera_infos import CameraInfos
from lmeec_ros.parameters import config as parameters
from lmeec_ros.points import points as geometry
from lmeec_ros.points import poses
from located_scene import LENS, POSES, Scene, calibration, info, located, pose


class LatePoses:
    """Stands in for tf: every transform comes late."""

    def __init__(self, node: Any, frame: str) -> None:
        self.come = threading.Event()

    def at(self, header: Header) -> Pose:
        assert self.come.wait(30)
        return pose("exo")

    def forget(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_late_transform_does_not_hold_up_the_inference(
    make_node: Any, rig: Any, tools: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geometry, "Poses", LatePoses)
    node = make_node(autostart=False)
    scene = Scene()
    scene.put("cup", (0.05, 0.02, 1.1))
    values = {"output.points": True, "geometry.calibration": calibration(tmp_path, exo=dict(LENS))}
    config = parameters.load({"objects": ["1:cup"], **values})
    points = geometry.Points(node, config, CameraInfos(node, config))
    heard = rig.listen("/lmeec/points", ObjectPointArray)
    for publisher in points._publishers.values():
        publisher.on_activate(None)
    tools.wait_until(points.has_listeners, "the subscriptions")
    processor = scene.processor(config)
    started = time.monotonic()
    header = Header(frame_id="ego_optical")
    header.stamp.sec = 1
    points.publish(header, scene.found(), processor)
    processor.query_masks = {}  # the node goes on to its next set
    assert time.monotonic() - started < 1 and not heard
    points._poses.come.set()  # type: ignore[union-attr]
    tools.wait_until(lambda: heard, "the points of the set")
    assert heard[0].header.stamp.sec == 1 and len(heard[0].points) == 1
    points.destroy()
    assert not [p for p in node.publishers if "/points" in p.topic_name]


def test_where_the_second_camera_stands(make_node: Any, tmp_path: Any) -> None:
    """Both frames are the first camera's, as stereo drivers have it: P says how far it is."""
    node = make_node(autostart=False)
    path = calibration(tmp_path, lens=False, exo={})
    values = {"geometry.calibration": path, "cameras.exo.rectified": True, "output.points": True}
    config = parameters.load(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "Poses", LatePoses)
        points = geometry.Points(node, config, CameraInfos(node, config))
    points._poses.come.set()  # type: ignore[union-attr]
    p = [50.0, 0.0, 39.0, -5.0, 0.0, 50.0, 29.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    points._infos._last["exo"] = info(p=p)
    found = points._pose(config, "exo", Header())
    np.testing.assert_allclose(
        found.position, pose("exo").position + pose("exo").rotation[:, 0] / 10
    )
    np.testing.assert_allclose(points._pose(config, "ego", Header()).position, pose("ego").position)
    points.destroy()


class MovingPoses(LatePoses):
    """Stands in for tf: exo goes a metre along x every second."""

    def at(self, header: Header) -> Pose:
        stamp = header.stamp.sec + header.stamp.nanosec / 1e9
        return Pose(pose("exo").rotation, pose("exo").position + [stamp, 0, 0])


@pytest.mark.parametrize("offset", [-0.167, 0.0, 2.25])
def test_a_camera_with_a_time_offset_stands_where_it_was_when_it_saw_the_image(
    make_node: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    monkeypatch.setattr(geometry, "Poses", MovingPoses)
    node = make_node(autostart=False)
    values = {"geometry.calibration": calibration(tmp_path, exo=dict(LENS)), "output.points": True}
    config = parameters.load({**values, "cameras.exo.time_offset": offset})
    points = geometry.Points(node, config, CameraInfos(node, config))
    header = Header(frame_id="exo_optical")
    header.stamp.sec, header.stamp.nanosec = 3, 900_000_000
    found = points._pose(config, "exo", header)
    np.testing.assert_allclose(found.position, pose("exo").position + [3.9 + offset, 0, 0])
    assert header.stamp.sec == 3 and header.stamp.nanosec == 900_000_000
    header.stamp.sec, header.stamp.nanosec = 0, 100_000_000
    if offset < 0:
        with pytest.raises(
            GeometryError, match="0.100 s, and .* -0.167 s, add up to a negative time"
        ):
            points._pose(config, "exo", header)
    points.destroy()


@pytest.mark.skipif(poses.tf2_ros is not None, reason="tf2_ros is installed")
def test_without_tf_every_pose_must_be_in_the_file(make_node: Any, tmp_path: Any) -> None:
    path = calibration(tmp_path, exo=dict(LENS))
    node = make_node(autostart=False)
    with pytest.raises(parameters.ParameterError, match="tf2_ros, .* is not installed"):
        located(node, Scene(), {"geometry.calibration": path})


@pytest.fixture
def tf(make_node: Any, rig: Any, tmp_path: Any) -> Any:
    """A located scene whose exo pose comes from tf: send(topic, second), locate(second)."""
    pytest.importorskip("tf2_ros", reason="tf2_ros is not installed (not on the index)")
    from geometry_msgs.msg import TransformStamped
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from tf2_msgs.msg import TFMessage

    scene = Scene()
    scene.put("cup", (0.05, 0.02, 1.1))
    path = calibration(tmp_path, exo=dict(LENS))
    node = make_node(autostart=False)
    message, points = located(node, scene, {"geometry.calibration": path})
    assert not message.points and points.refused == {"transform": 1, "views": 1}
    config = parameters.load({"output.points": True, "geometry.calibration": path})
    processor = scene.processor(config)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publishers = {
        "/tf": rig.node.create_publisher(TFMessage, "/tf", 10),
        "/tf_static": rig.node.create_publisher(TFMessage, "/tf_static", latched),
    }

    def send(topic: str, second: int) -> None:
        transform = TransformStamped(header=Header(frame_id="table"), child_frame_id="exo_optical")
        transform.header.stamp.sec = second
        move, turn = transform.transform, POSES["exo"]["orientation"]
        place = POSES["exo"]["position"]
        move.translation.x, move.translation.y, move.translation.z = place
        move.rotation.x, move.rotation.y, move.rotation.z, move.rotation.w = turn
        publishers[topic].publish(TFMessage(transforms=[transform]))

    def locate(second: int) -> Any:
        found = scene.found()
        found["exo"].header.stamp.sec = second
        return points.locate(Header(), found, processor).points

    yield SimpleNamespace(send=send, locate=locate, points=points, node=node)
    points.destroy()
    assert not [s for s in node.subscriptions if s.topic_name.startswith("/tf")]


def test_poses_come_from_tf(tf: Any, tools: Any) -> None:
    tf.send("/tf_static", 0)
    (one,) = tools.wait_until(lambda: tf.locate(7), "a point with the pose from tf")
    at = one.point.point
    np.testing.assert_allclose((at.x, at.y, at.z), (0.05, 0.02, 1.1), atol=0.06)
    tf.points.forget()
    assert len(tf.locate(8)) == 1  # what is static stays


def test_poses_of_moving_cameras_are_those_of_the_stamp(tf: Any, tools: Any) -> None:
    def heard(second: int) -> Any:
        tf.send("/tf", second)
        return tf.locate(second)

    tools.wait_until(lambda: heard(100), "the pose at 100 s")
    assert not tf.locate(101) and not tf.locate(99)  # no pose is made up
    tf.send("/tf", 5)
    assert not tf.locate(5)
    tf.points.forget()  # the recording began again
    tools.wait_until(lambda: heard(5), "the pose at 5 s")
