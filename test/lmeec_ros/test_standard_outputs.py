"""What the node publishes in messages of vision_msgs, visualization_msgs and sensor_msgs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import PointStamped
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lmeec.msg import CorrespondenceMaskArray, ObjectPoint, ObjectPointArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from lmeec_core import overlay
from lmeec_core.bags.bag import BagReader
from lmeec_core.bags.take_bags import bag_from_take, node_parameters
from lmeec_core.takes import Take
from lmeec_ros.io import messages, prompts, standard
from lmeec_ros.parameters import config as parameters
from lmeec_ros.points import depth

K = [280.0, 0.0, 159.5, 0.0, 280.0, 159.5, 0.0, 0.0, 1.0]
"""For 320 x 320 pixels, as the images of the sample take are."""


def array_of(masks: Mapping[str, np.ndarray], header: Header) -> CorrespondenceMaskArray:
    found: Any = {name: SimpleNamespace(presence=0.75, score=0.5) for name in masks}
    table = messages.LabelTable({i: name for i, name in enumerate(masks, start=1)})
    size = next(iter(masks.values())).shape
    return messages.mask_array_message(
        found, masks, table, header, Header(), ("ego", "exo"), (size[0], size[1])
    )


@given(arrays(np.bool_, (8, 12), elements=st.booleans()))
def test_boxes_enclose_the_pixels_and_are_read_back(vision_msgs: Any, mask: np.ndarray) -> None:
    header = Header(frame_id="exo_optical")
    header.stamp.sec = 7
    masks = {"cup": mask, "gone": np.zeros_like(mask)}
    message = standard.detections(array_of(masks, header))
    assert isinstance(message, vision_msgs.Detection2DArray) and message.header == header
    assert [one.id for one in message.detections] == (["cup"] if mask.any() else [])
    for one in message.detections:
        rows, columns = np.nonzero(mask)
        centre = one.bbox.center.position
        assert centre.x - one.bbox.size_x / 2 == columns.min()
        assert centre.x + one.bbox.size_x / 2 == columns.max() + 1
        assert centre.y - one.bbox.size_y / 2 == rows.min()
        assert centre.y + one.bbox.size_y / 2 == rows.max() + 1
        (result,) = one.results
        assert (result.hypothesis.class_id, result.hypothesis.score) == ("cup", 0.75)
    config = parameters.load({"query_masks.source": "prompts"})
    header.frame_id = "exo"
    found, wrong = prompts.read_detections(config, standard.detections(array_of(masks, header)))
    assert not wrong and [m.prompt.object_id for m in found] == [d.id for d in message.detections]


def points_of(places: Mapping[str, tuple[float, float, float]]) -> ObjectPointArray:
    header = Header(frame_id="table")
    header.stamp.sec = 3
    message = ObjectPointArray(header=header)
    for label, (name, place) in enumerate(places.items(), start=1):
        point = PointStamped(header=header)
        point.point.x, point.point.y, point.point.z = place
        message.points.append(ObjectPoint(object_id=name, label=label, point=point))
    return message


def test_points_as_markers() -> None:
    from visualization_msgs.msg import Marker

    message = points_of({"cup": (1.0, 2.0, 3.0), "knife": (0.0, 0.0, 1.0)})
    first, *rest = standard.markers(message).markers
    assert first.action == Marker.DELETEALL
    assert {one.header.frame_id for one in [first, *rest]} == {"table"}
    spheres = {one.id: one for one in rest if one.type == Marker.SPHERE}
    names = {one.id: one for one in rest if one.type == Marker.TEXT_VIEW_FACING}
    assert {k: v.text for k, v in names.items()} == {1: "cup", 2: "knife"}
    assert len({(one.ns, one.id) for one in rest}) == len(rest) == 4
    for one in message.points:
        sphere, colour = spheres[one.label], overlay.colour(one.label - 1)
        assert sphere.pose.position == one.point.point
        np.testing.assert_allclose(
            [sphere.color.r, sphere.color.g, sphere.color.b], np.array(colour) / 255, atol=1e-6
        )
        assert names[one.label].pose.position.z > one.point.point.z
    assert len(standard.markers(points_of({})).markers) == 1


def test_points_as_detections(vision_msgs: Any) -> None:
    message = points_of({"cup": (1.0, 2.0, 3.0)})
    found = standard.detections_3d(message, {"cup": 0.5})
    assert isinstance(found, vision_msgs.Detection3DArray) and found.header == message.header
    (one,) = found.detections
    assert (one.id, one.results[0].hypothesis.score) == ("cup", 0.5)
    assert one.bbox.center.position == message.points[0].point.point
    assert one.results[0].pose.pose.position == one.bbox.center.position


def test_packages_that_are_missing_are_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vision_msgs", "vision_msgs.msg"):
        monkeypatch.setitem(sys.modules, name, None)
    said: list[str] = []
    topics = {"~/a": "vision_msgs/Detection2DArray", "~/b": "visualization_msgs/MarkerArray"}
    topics |= {"~/c": "vision_msgs/LabelInfo"}
    assert list(standard.installed(topics, said.append)) == ["~/b"]
    (text,) = said
    assert "~/a, ~/c, because the ROS package vision_msgs" in text


def calibration(tmp_path: Any, names: Any) -> str:
    lens = {"width": 320, "height": 320, "k": K, "orientation": [0.0, 0.0, 0.0, 1.0]}
    cameras = {name: {**lens, "position": [0.4 * i, 0.0, 0.0]} for i, name in enumerate(names)}
    path = tmp_path / "calibration.yaml"
    path.write_text(yaml.safe_dump({"frame": "table", "cameras": cameras}))
    return str(path)


def listen(rig: Any, base: str, vision_msgs: Any) -> dict[str, list[Any]]:
    """The lists that take what the node publishes about a target camera and about places."""
    from visualization_msgs.msg import MarkerArray

    return {
        "masks": rig.listen(f"{base}/masks", CorrespondenceMaskArray),
        "detections": rig.listen(f"{base}/detections", vision_msgs.Detection2DArray),
        "camera_info": rig.listen(f"{base}/camera_info", CameraInfo),
        "points": rig.listen("/lmeec/points", ObjectPointArray),
        "markers": rig.listen("/lmeec/points/markers", MarkerArray),
        "places": rig.listen("/lmeec/points/detections", vision_msgs.Detection3DArray),
        "clouds": rig.listen("/lmeec/clouds", PointCloud2),
    }


def check_image_messages(
    tools: Any, heard: Mapping[str, list[Any]], given: Mapping[int, Any]
) -> None:
    """What is about a target image has its header, and is about the objects seen in it."""
    for name in ("detections", "camera_info"):
        for one in heard[name]:
            masks = given[tools.stamp_ns(one)]
            assert one.header == masks.header and one.header.frame_id, name
    for one in heard["detections"]:
        seen = [e.object_id for e in given[tools.stamp_ns(one)].masks if e.visible]
        assert [detection.id for detection in one.detections] == seen
    assert all(list(one.k) == K for one in heard["camera_info"])


def check_space_messages(
    tools: Any, heard: Mapping[str, list[Any]], given: Mapping[int, Any]
) -> None:
    """What is about places has the query image's stamp and the calibration's frame."""
    queries = {tools.stamp_ns(SimpleNamespace(header=one.query_header)) for one in given.values()}
    for name in ("points", "places", "clouds"):
        assert {tools.stamp_ns(one) for one in heard[name]} <= queries, name
        assert {one.header.frame_id for one in heard[name]} == {"table"}, name
    for one in heard["markers"]:
        assert {m.header.frame_id for m in one.markers} == {"table"}
        assert {tools.stamp_ns(m) for m in one.markers} <= queries
    for name, kind in (("points", "points"), ("places", "detections"), ("clouds", "data")):
        assert any(getattr(one, kind) for one in heard[name]), name
    for one in heard["clouds"]:
        surface = np.frombuffer(bytes(one.data), depth.POINT)
        assert len(surface) == one.width and set(surface["z"]) <= {np.float32(2.0)}  # the wall


def test_the_sample_take_in_standard_messages(
    make_node: Any, rig: Any, tools: Any, tmp_path: Any, vision_msgs: Any
) -> None:
    """Played to the node: each message has the stamp and the frame of the masks beside it."""
    take = Take.open(tools.REPOSITORY / "test" / "data" / "sample_take")
    info = bag_from_take(take, tmp_path / "bag", targets=["cam01"])
    values = parameters.flatten(node_parameters(info))
    ego, exo = info.query, "cam01"
    values |= {
        "output.points": True, "geometry.calibration": calibration(tmp_path, (ego, exo)),
        "geometry.max_error": 1000.0, "geometry.min_angle": 0.0,
        "geometry.max_disagreement": 1000.0, "presence_threshold": 0.0,
        f"cameras.{ego}.depth": "/ego/depth",
    }  # fmt: skip
    heard = listen(rig, f"/lmeec/{exo}", vision_msgs)
    types = {"/label_image": Image, "/compressed": CompressedImage}
    node = make_node(**values)
    with BagReader(tmp_path / "bag") as bag:
        sent = [(topic, data) for topic, _, data in bag.messages()]
        images = (bag.decode(t, data) for t, data in sent if t == info.image_topics[ego])
        stamps = [tools.stamp_ns(image) for image in images]
    for topic in {topic for topic, _ in sent}:
        rig.advertise(topic, next(kind for end, kind in types.items() if topic.endswith(end)))
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    rig.wait_heard()
    lens = rig.node.create_publisher(CameraInfo, f"/{exo}/camera_info", 10)
    tools.wait_until(lens.get_subscription_count, "the subscription of CameraInfo")

    def came() -> bool:
        lens.publish(tools.stamped(CameraInfo(width=320, height=320, k=K), 5, "lens"))
        return node._outputs._infos.get(exo) is not None

    tools.wait_until(came, "a CameraInfo")
    deep = rig.advertise("/ego/depth", Image, reliable=False)
    tools.wait_until(deep.get_subscription_count, "the subscription to depth")
    wall = np.full((160, 160), 2000, np.uint16)  # millimetres
    for stamp in stamps:
        rig.publish("/ego/depth", tools.image_msg(wall, "16UC1", stamp))
    for topic, data in sent:
        rig.publish(topic, data)
    for name, got in heard.items():
        tools.wait_until(lambda got=got: got, name)
    tools.wait_until(lambda: any(one.data for one in heard["clouds"]), "a cloud with points")
    given = {tools.stamp_ns(one): one for one in heard["masks"]}
    for name in ("detections", "camera_info"):
        tools.wait_until(lambda name=name: len(heard[name]) >= len(given), name)
    check_image_messages(tools, heard, given)
    check_space_messages(tools, heard, given)
    # Latched: whoever comes later learns the names of the labels, too.
    names = rig.listen(f"/lmeec/{exo}/label_info", vision_msgs.LabelInfo, latched=True)
    tools.wait_until(lambda: names, "the names of the labels")
    known = {one.class_id: one.class_name for one in names[-1].class_map}
    assert known == info.objects and names[-1].header.frame_id
