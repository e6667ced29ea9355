"""~/points: cameras from files, CameraInfo and tf, and a node that locates what it finds."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from lmeec.msg import CorrespondenceMaskArray, ObjectPointArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from lmeec_core.geometry import GeometryError, Pose, View, centroid, triangulate
from lmeec_ros.io import messages
from lmeec_ros.io.camera_infos import CameraInfos
from lmeec_ros.parameters import config as parameters
from lmeec_ros.points import points as geometry
from lmeec_ros.points import poses
from lmeec_ros.points.node import PointsNode

K = [70.0, 0.0, 39.5, 0.0, 70.0, 29.5, 0.0, 0.0, 1.0]
LENS = {"width": 80, "height": 60, "k": K}
POSES: dict[str, Any] = {
    # Side by side, 0.4 m apart, the second turned inwards by 2 atan(0.1) = 11.4 degrees.
    "ego": {"position": [0.0, 0.0, 0.0], "orientation": [0.0, 0.0, 0.0, 1.0]},
    "exo": {"position": [0.4, 0.0, 0.0], "orientation": [0.0, -0.0995037, 0.0, 0.9950372]},
}


def calibration(tmp_path: Any, lens: bool = True, **changes: Any) -> str:
    cameras = {name: {**pose, **(LENS if lens else {})} for name, pose in POSES.items()}
    cameras |= changes
    path = tmp_path / "calibration.yaml"
    path.write_text(yaml.safe_dump({"frame": "table", "cameras": cameras}))
    return str(path)


def pose(name: str) -> Pose:
    return Pose.from_quaternion(POSES[name]["position"], POSES[name]["orientation"])


def info(k: Any = K, **changes: Any) -> CameraInfo:
    msg = CameraInfo(width=80, height=60, distortion_model="plumb_bob", d=[0.1, 0.0, 0.0, 0.0, 0.0])
    msg.k = list(k)
    msg.p = [50.0, 0.0, 39.0, 0.0, 0.0, 50.0, 29.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


def test_the_lens_in_a_camera_info() -> None:
    raw = geometry.lens_of(info(), rectified=False)
    assert raw.size == (80, 60) and raw.matrix[0, 0] == 70 and raw.distortion[0] == 0.1
    flat = geometry.lens_of(info(), rectified=True)
    assert flat.matrix[0, 0] == 50 and flat.matrix[0, 2] == 39 and not flat.distortion.size
    with pytest.raises(GeometryError, match="not calibrated"):
        geometry.lens_of(info([0.0] * 9), rectified=False)
    with pytest.raises(GeometryError, match="equal binning"):
        geometry.lens_of(info(binning_x=2), rectified=False)


def region(x: int, y: int, width: int, height: int) -> RegionOfInterest:
    return RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)


@pytest.mark.parametrize("rectified", [False, True])
def test_a_region_of_interest_is_a_part_of_the_same_lens(rectified: bool) -> None:
    full = geometry.lens_of(info(), rectified)
    for whole in (region(0, 0, 0, 0), region(0, 0, 80, 60)):
        one = geometry.lens_of(info(roi=whole), rectified)
        assert one.size == full.size and (one.matrix == full.matrix).all()
    part = geometry.lens_of(info(roi=region(10, 4, 40, 30)), rectified)
    points = np.array([[0.05, -0.02, 1.0], [-0.1, 0.1, 0.7]])
    np.testing.assert_allclose(part.project(points), full.project(points) - [10, 4])
    assert part.size == (40, 30)
    # Binning: fewer pixels of the same image, as for any other size.
    binned = geometry.lens_of(info(roi=region(10, 4, 40, 30), binning_x=2, binning_y=2), rectified)
    np.testing.assert_allclose(binned.scaled(np.zeros(2), (20, 15)), [0.5, 0.5])
    for wrong in (region(50, 4, 40, 30), region(0, 1, 80, 60), region(0, 0, 0, 30)):
        with pytest.raises(GeometryError, match="one inside the image of 80 x 60"):
            geometry.lens_of(info(roi=wrong), rectified)


def test_the_second_camera_of_a_stereo_pair() -> None:
    p = [50.0, 0.0, 39.0, -5.0, 0.0, 50.0, 29.0, 2.5, 0.0, 0.0, 1.0, 0.0]
    second = info(p=p)
    place = geometry.centre_of(second, rectified=True)
    np.testing.assert_allclose(place, [0.1, -0.05, 0])  # B = -Tx / fx
    # By the definition of P, for a point in the first camera's frame.
    point = np.array([0.2, 0.1, 2.0])
    u, v, w = np.array(p).reshape(3, 4) @ [*point, 1.0]
    lens = geometry.lens_of(second, rectified=True)
    np.testing.assert_allclose(lens.project((point - place)[None])[0], [u / w, v / w])
    assert not geometry.centre_of(second, rectified=False).any()


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
    processor: Any = SimpleNamespace(
        config=config, table=scene.table, query_masks=scene.query_masks
    )
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


def test_where_camera_info_is_looked_for() -> None:
    values = {"cameras.ego.topic": "/head/image_raw", "cameras.exo.topic": "side/image/compressed"}
    values["cameras.exo.transport"] = "compressed"
    cameras = parameters.load(values).cameras
    assert cameras["ego"].camera_info == "/head/camera_info"
    assert cameras["exo"].camera_info == "side/camera_info"
    given = parameters.load({"cameras.exo.camera_info": "/info", "cameras.exo.topic": "image"})
    assert given.cameras["exo"].camera_info == "/info"
    assert parameters.load({"cameras.exo.topic": "image"}).cameras["exo"].camera_info == (
        "camera_info"
    )


class Scene:
    """Squares around the images of points, as a set of masks."""

    def __init__(self, size: tuple[int, int] = (60, 80)) -> None:
        self.size = size
        self.query_masks: dict[str, Any] = {}
        self.targets: dict[str, np.ndarray] = {}
        self.table = messages.LabelTable({1: "cup", 2: "my knife"})

    def square(self, pixel: Any) -> np.ndarray:
        mask = np.zeros(self.size, bool)
        x, y = (round(float(v)) for v in pixel)
        mask[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] = True
        return mask

    def put(self, name: str, point: Any) -> None:
        lens = geometry.lens_of(info(d=[]), rectified=False)
        pixels = [lens.project(pose(c).to_camera(np.array([point])))[0] for c in ("ego", "exo")]
        self.query_masks[name], self.targets[name] = map(self.square, pixels)

    def found(self) -> dict[str, Any]:
        header = Header(frame_id="exo_optical")
        results: Any = {name: SimpleNamespace(presence=0.9, score=0.9) for name in self.targets}
        message = messages.mask_array_message(
            results, self.targets, self.table, header, Header(), ("ego", "exo"), self.size
        )
        return {"exo": SimpleNamespace(message=message, header=header)}


def located(node: Any, scene: Scene, values: dict[str, Any]) -> tuple[Any, Any]:
    values = {"objects": ["1:cup", "2:my knife"], "output.points": True, **values}
    config = parameters.load(values)
    points = geometry.Points(node, config, CameraInfos(node, config))
    processor: Any = SimpleNamespace(
        config=config, table=scene.table, query_masks=scene.query_masks
    )
    header = Header(frame_id="ego_optical")
    header.stamp.sec = 12
    return points.locate(header, scene.found(), processor), points


def test_objects_are_located(make_node: Any, tmp_path: Any) -> None:
    node = make_node(autostart=False)
    scene = Scene()
    places = {"cup": (0.05, 0.02, 1.1), "my knife": (0.3, -0.1, 1.5)}
    for name, place in places.items():
        scene.put(name, place)
    message, points = located(node, scene, {"geometry.calibration": calibration(tmp_path)})
    assert (message.header.frame_id, message.header.stamp.sec) == ("table", 12)
    assert [one.object_id for one in message.points] == ["cup", "my knife"]
    for one in message.points:
        found = one.point.point
        # Half a pixel of rounding at this focal length and baseline is 3 cm at 1.5 m.
        np.testing.assert_allclose((found.x, found.y, found.z), places[one.object_id], atol=0.06)
        assert one.point.header == message.header and list(one.cameras) == ["ego", "exo"]
        assert one.reprojection_error < 1 and 10 < one.angle < 30
    assert points.located == 2 and not points.refused
    topics = {p.topic_name for p in node.publishers}
    assert {"/lmeec/points", "/lmeec/points/markers"} <= topics
    points.destroy()
    assert not [p for p in node.publishers if "/points" in p.topic_name]


def test_what_is_not_consistent_is_not_published(make_node: Any, tmp_path: Any) -> None:
    node = make_node(autostart=False)
    scene = Scene()
    scene.put("cup", (0.05, 0.02, 1.1))
    scene.targets["cup"] = scene.square((35, 5))  # another thing
    scene.put("my knife", (0.3, -0.1, 1.5))
    scene.targets["my knife"][:] = False  # out of sight
    message, points = located(node, scene, {"geometry.calibration": calibration(tmp_path)})
    assert not message.points and points.refused == {"error": 1, "views": 1}


def test_half_the_resolution_is_as_good(make_node: Any, tmp_path: Any) -> None:
    node = make_node(autostart=False)
    scene = Scene()
    scene.put("cup", (0.05, 0.02, 1.1))
    full, _ = located(node, scene, {"geometry.calibration": calibration(tmp_path)})
    double = {
        name: {**p, "width": 160, "height": 120, "k": [140, 0, 79.5, 0, 140, 59.5, 0, 0, 1]}
        for name, p in POSES.items()
    }
    scaled, _ = located(node, scene, {"geometry.calibration": calibration(tmp_path, **double)})
    one, other = (m.points[0].point.point for m in (full, scaled))
    np.testing.assert_allclose((one.x, one.y, one.z), (other.x, other.y, other.z), atol=1e-3)
    wide = {"ego": {**POSES["ego"], **LENS, "width": 100}}
    values = {"geometry.calibration": calibration(tmp_path, **wide)}
    refused, points = located(node, scene, values)
    assert not refused.points and points.refused == {"calibration": 1}


def test_lenses_come_from_camera_info(make_node: Any, rig: Any, tools: Any, tmp_path: Any) -> None:
    node = make_node(autostart=False)
    scene = Scene()
    scene.put("cup", (0.05, 0.02, 1.1))
    values = {"geometry.calibration": calibration(tmp_path, lens=False)}
    message, points = located(node, scene, values)
    assert not message.points and points.refused == {"calibration": 2, "views": 1}
    for name in ("ego", "exo"):
        rig.advertise(f"/{name}/camera_info", CameraInfo)

    def heard() -> bool:
        for name in ("ego", "exo"):
            rig.publish(f"/{name}/camera_info", info(d=[]))
        return all(points._infos.get(name) for name in ("ego", "exo"))

    tools.wait_until(heard, "both CameraInfo")
    config = parameters.load({"output.points": True, **values})
    processor: Any = SimpleNamespace(
        config=config, table=scene.table, query_masks=scene.query_masks
    )
    assert len(points.locate(Header(), scene.found(), processor).points) == 1


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "geometry.frame: nothing given"),
        ({"geometry.frame": "world", "geometry.calibration": "FILE"}, "the poses in .* 'table'"),
        ({"geometry.calibration": "/no/such/file"}, "cannot be read"),
    ],
)
def test_a_configuration_that_cannot_be(
    make_node: Any, tmp_path: Any, values: dict[str, Any], text: str
) -> None:
    path = calibration(tmp_path)
    values = {k: path if v == "FILE" else v for k, v in values.items()}
    node = make_node(autostart=False)
    with pytest.raises(ValueError, match=text):
        located(node, Scene(), values)


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
    processor: Any = SimpleNamespace(
        config=config, table=scene.table, query_masks=scene.query_masks
    )
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


def test_the_node_publishes_points(make_node: Any, rig: Any, tools: Any, tmp_path: Any) -> None:
    points = rig.listen("/lmeec/points", ObjectPointArray)
    masks = rig.listen("/lmeec/exo/masks", CorrespondenceMaskArray)
    values = {"output.points": True, "geometry.calibration": calibration(tmp_path)}
    # Random weights: the masks mean nothing, so every error is taken.
    values |= {"geometry.max_error": 1000.0, "geometry.min_angle": 0.0, "objects": ["1:cup"]}
    values["mailbox.depth"] = 3  # all three sets come at once; on a busy machine none is to go
    node = make_node(**values)
    for topic in ("/ego/image_raw", "/ego/label_image", "/exo/image_raw"):
        rig.advertise(topic, Image)
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    rig.wait_heard()
    labels = tools.label_frame(1, knife=False)
    for k in range(1, 4):
        stamp = k * tools.PERIOD
        rig.publish("/ego/image_raw", tools.image_msg(tools.scene(k), "rgb8", stamp, "ego"))
        rig.publish("/exo/image_raw", tools.image_msg(tools.scene(k + 9), "rgb8", stamp, "exo"))
        rig.publish("/ego/label_image", tools.image_msg(labels, "mono8", stamp, "ego"))
    tools.wait_until(lambda: len(points) == 3 and len(masks) == 3, "three sets")
    located_ones = 0
    for message, array in zip(points, masks, strict=True):
        assert tools.stamp_ns(message) == tools.stamp_ns(array)
        assert message.header.frame_id == "table"
        entry = array.masks[0]
        lens = geometry.lens_of(info(d=[]), rectified=False)
        views = [
            View(lens, pose("ego"), np.array(centroid(labels == 1))),
            View(lens, pose("exo"), np.array([entry.centroid_x, entry.centroid_y])),
        ]
        try:
            expected = triangulate(views, 1000.0, 0.0)
        except GeometryError:
            assert not message.points
            continue
        (one,) = message.points
        at = one.point.point
        np.testing.assert_allclose((at.x, at.y, at.z), expected.point, rtol=1e-5)
        assert one.reprojection_error == pytest.approx(expected.error, rel=1e-5)
        assert (one.object_id, one.label) == ("cup", 1)
        located_ones += 1
    assert located_ones
    assert node._outputs.points.located == located_ones


def test_a_camera_of_the_file_that_the_node_does_not_have(
    make_node: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(autostart=False)
    said: list[str] = []
    monkeypatch.setattr(node.get_logger(), "warning", said.append)
    path = calibration(tmp_path, egg=dict(POSES["ego"]))
    config = parameters.load({"output.points": True, "geometry.calibration": path})
    geometry.Points(node, config, CameraInfos(node, config)).destroy()
    assert ["egg, unknown to this node (its cameras: ego, exo)" in text for text in said] == [True]


@pytest.mark.parametrize("prompted", [False, True])
def test_a_process_of_its_own_locates_the_same(
    rig: Any, context: Any, tools: Any, tmp_path: Any, prompted: bool
) -> None:
    """From the masks on topics; with prompts those of the query camera are a topic, too."""
    scene = Scene()
    scene.put("cup", (0.05, 0.02, 1.1))
    values: dict[str, Any] = {"geometry.calibration": calibration(tmp_path), "objects": ["1:cup"]}
    values["query_masks.source"] = "prompts" if prompted else "topic"
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = PointsNode(context=context, parameter_overrides=overrides)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    points = rig.listen("/lmeec_points/points", ObjectPointArray)
    markers = rig.listen("/lmeec_points/points/markers", MarkerArray)
    query = "/lmeec/ego/masks" if prompted else "/ego/label_image"
    rig.advertise("/lmeec/exo/masks", CorrespondenceMaskArray)
    rig.advertise(query, CorrespondenceMaskArray if prompted else Image)
    rig.wait_heard(reliable=False)
    tools.wait_until(lambda: node.points.has_listeners(), "the subscriptions")
    results: Any = {"cup": SimpleNamespace(presence=0.9, score=0.9)}

    def array(camera: str, mask: np.ndarray, stamp: int) -> CorrespondenceMaskArray:
        headers = [tools.stamped(SimpleNamespace(header=Header()), s, camera).header
                   for s in (stamp + 3_000_000 * (camera == "exo"), stamp)]  # fmt: skip
        return messages.mask_array_message(
            results, {"cup": mask}, scene.table, *headers, ("ego", camera), scene.size
        )

    for k in range(1, 4):
        stamp, mask = k * tools.PERIOD, scene.query_masks["cup"]
        rig.publish("/lmeec/exo/masks", array("exo", scene.targets["cup"], stamp))
        if prompted:
            rig.publish(query, array("ego", mask, stamp))
        else:
            rig.publish(query, tools.image_msg(mask.astype(np.uint8), "mono8", stamp, "ego"))
    tools.wait_until(lambda: len(points) == 3 and len(markers) == 3, "the points of three sets")
    assert [tools.stamp_ns(one) for one in points] == [tools.PERIOD * k for k in (1, 2, 3)]
    for message in points:
        at = message.points[0].point.point
        np.testing.assert_allclose((at.x, at.y, at.z), (0.05, 0.02, 1.1), atol=0.06)
        assert message.points[0].object_id == "cup" and message.header.frame_id == "table"
    executor.shutdown(5.0)
    thread.join(5.0)
    node.close()
    node.destroy_node()
