"""~/points: a node, or a process of its own, that locates what was found in two cameras."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lmeec.msg import CorrespondenceMaskArray, ObjectPointArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from lmeec_core.geometry import GeometryError, View, centroid, triangulate
from lmeec_ros.io import messages
from lmeec_ros.io.camera_infos import CameraInfos
from lmeec_ros.parameters import config as parameters
from lmeec_ros.points import points as geometry
from lmeec_ros.points.node import PointsNode
from located_scene import LENS, POSES, Scene, calibration, info, located, pose


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
    processor = scene.processor(config)
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
