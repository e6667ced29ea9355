"""~/clouds: depth messages, several cameras, and a node that places what it sees over DDS."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from lmeec.msg import ObjectPointArray
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from lmeec_core import overlay
from lmeec_core.geometry import Intrinsics, Pose
from lmeec_ros.io.images import ImageError, to_depth
from lmeec_ros.io.messages import LabelTable
from lmeec_ros.parameters import config as parameters
from lmeec_ros.points import depth
from lmeec_ros.points.points import Points

K = [70.0, 0.0, 39.5, 0.0, 70.0, 29.5, 0.0, 0.0, 1.0]
LENS = Intrinsics((80, 60), np.array(K).reshape(3, 3), np.zeros(0))
HERE = Pose(np.eye(3), np.zeros(3))


def calibration(tmp_path: Path, **exo: Any) -> str:
    still = {"position": [0.0, 0.0, 0.0], "orientation": [0.0, 0.0, 0.0, 1.0]}
    lens = {"width": 80, "height": 60, "k": K}
    cameras = {"ego": {**still, **lens}, "exo": {**still, **lens, **exo}}
    path = tmp_path / "calibration.yaml"
    path.write_text(yaml.safe_dump({"frame": "table", "cameras": cameras}))
    return str(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("encoding", "kind", "scale"), [
    ("16UC1", "u2", 1000), ("mono16", "u2", 1000), ("32FC1", "f4", 1),
])  # fmt: skip
def test_raw_depth(tools: Any, encoding: str, kind: str, scale: int, order: str) -> None:
    metres = np.array([[0.0, 1.25, 2.5], [0.5, 0.0, 4.0]])
    pixels = (metres * scale).astype(f"{order}{kind}")
    padded = np.zeros((2, 4), pixels.dtype)
    padded[:, :3] = pixels
    msg = tools.image_msg(padded, encoding, 0)
    msg.width, msg.is_bigendian = 3, order == ">"
    np.testing.assert_array_equal(to_depth(msg, "raw"), np.where(metres, metres, np.nan))
    msg.data = msg.data[:-1]
    with pytest.raises(ImageError, match="truncated"):
        to_depth(msg, "raw")


def test_depth_that_is_none(tools: Any) -> None:
    with pytest.raises(ImageError, match="'mono8' given, 16UC1, mono16, 32FC1 expected"):
        to_depth(tools.image_msg(np.zeros((2, 2), np.uint8), "mono8", 0), "raw")
    with pytest.raises(ImageError, match="depth image: .*rvl is not read"):
        to_depth(CompressedImage(format="16UC1; compressedDepth rvl", data=b"x"), "compressedDepth")


def box_masks() -> tuple[np.ndarray, np.ndarray]:
    """A mask, and the depth (mm) of a box's front 1 m away before a wall at 2 m."""
    mask = np.zeros((60, 80), bool)
    mask[20:40, 30:60] = True
    return mask, np.where(mask, 1000, 2000).astype(np.uint16)


def located(
    make_node: Any, tools: Any, tmp_path: Path, exo_depth: float
) -> tuple[dict[str, Any], depth.Clouds]:
    """Both cameras stand at the same place, and exo's depth of the box is `exo_depth`."""
    node = make_node(autostart=False)
    values = {
        "objects": ["7:cup"], "output.points": True, "geometry.calibration": calibration(tmp_path),
        "cameras.ego.depth": "/ego/depth", "cameras.exo.depth": "/exo/depth",
        "cameras.exo.depth_transport": "compressedDepth",
    }  # fmt: skip
    config = parameters.load(values)
    clouds = depth.Clouds(node, config)
    mask, millimetres = box_masks()
    clouds._topics._take("ego", tools.image_msg(millimetres, "16UC1", 10**9 + 5_000_000))
    clouds._topics._take("ego", tools.image_msg(millimetres * 0, "16UC1", 2 * 10**9))
    coded = np.where(mask, np.uint16(100 / exo_depth), 0).astype(np.uint16)
    data = struct.pack("<iff", 0, 100.0, 0.0) + bytes(cv2.imencode(".png", coded)[1])
    packed = CompressedImage(format="32FC1; compressedDepth png", data=data)
    clouds._topics._take("exo", tools.stamped(packed, 10**9))
    stamped = {name: Header() for name in ("ego", "exo")}
    for header in stamped.values():
        header.stamp.sec = 1
    message = _masks(mask, stamped["exo"])
    scene = depth.Scene(
        ObjectPointArray(header=Header(frame_id="table")), stamped,
        {"ego": (LENS, HERE), "exo": (LENS, HERE)}, {"cup": mask}, {"exo": message},
        LabelTable({7: "cup"}),
    )  # fmt: skip
    return clouds.locate(scene, config), clouds


def _masks(mask: np.ndarray, header: Header) -> Any:
    from types import SimpleNamespace

    from lmeec_ros.io import messages

    results: Any = {"cup": SimpleNamespace(presence=0.9, score=0.9)}
    table = LabelTable({7: "cup"})
    return messages.mask_array_message(
        results, {"cup": mask}, table, header, Header(), ("ego", "exo"), (60, 80)
    )


def test_two_cameras_that_agree(make_node: Any, tools: Any, tmp_path: Path) -> None:
    found, clouds = located(make_node, tools, tmp_path, 1.0)
    one = found["cup"]
    assert set(one.by_camera) == {"ego", "exo"} and not clouds.refused
    # 30 x 20 pixels at 1 m and a focal length of 70, less a rim of two pixels on each side.
    np.testing.assert_allclose(one.cloud.centre, [5 / 70, 0, 1], atol=0.005)
    np.testing.assert_allclose(one.cloud.extent, [25 / 70, 15 / 70, 0], atol=0.005)
    table = LabelTable({7: "cup"})
    message = depth.cloud_message(Header(frame_id="table"), table, found)
    assert message.width == len(one.cloud.points) and message.point_step == 20
    points = np.frombuffer(bytes(message.data), depth.POINT)
    assert {int(v) for v in points["label"]} == {7}
    red, green, blue = overlay.colour(6)
    assert {int(v) for v in points["rgb"]} == {red << 16 | green << 8 | blue}
    offsets = {f.name: f.offset for f in message.fields}
    assert offsets == {"x": 0, "y": 4, "z": 8, "rgb": 12, "label": 16}
    assert depth.cloud_message(Header(), table, {}).width == 0
    clouds.destroy()


def test_two_cameras_that_do_not(make_node: Any, tools: Any, tmp_path: Path) -> None:
    found, clouds = located(make_node, tools, tmp_path, 1.3)
    assert not found and clouds.refused == {"disagree": 1}
    clouds.destroy()


def test_poses_by_frame_are_refused(make_node: Any, tmp_path: Path) -> None:
    path = calibration(tmp_path)
    content = yaml.safe_load(Path(path).read_text())
    content["cameras"]["exo"] = {"poses": {0: [0.0, 0, 0, 0, 0, 0, 1]}}
    Path(path).write_text(yaml.safe_dump(content))
    values = {"output.points": True, "geometry.calibration": path}
    with pytest.raises(parameters.ParameterError, match="a pose per frame for exo"):
        Points(make_node(autostart=False), parameters.load(values), None)  # type: ignore[arg-type]


def test_a_node_places_its_query_masks_by_depth(
    make_node: Any, rig: Any, tools: Any, tmp_path: Path
) -> None:
    node = make_node(
        **{
            "output.points": True,
            "geometry.calibration": calibration(tmp_path),
            "cameras.ego.depth": "/ego/depth",
            "objects": ["1:cup"],
        }
    )
    for topic in ("/ego/image_raw", "/exo/image_raw", "/ego/label_image"):
        rig.advertise(topic, Image)
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    rig.wait_heard()
    reports = rig.listen("/diagnostics", DiagnosticArray)
    deep = rig.advertise("/ego/depth", Image, reliable=False)
    assert not rig.node.get_subscriptions_info_by_topic("/ego/depth")  # nobody listens yet
    clouds = rig.listen("/lmeec/clouds", PointCloud2)
    boxes = rig.listen("/lmeec/clouds/markers", MarkerArray)
    tools.wait_until(deep.get_subscription_count, "the subscription to depth")
    mask, millimetres = box_masks()
    millimetres[25, 40] = 0

    def send(k: int) -> None:
        stamp = 10**9 + k * tools.PERIOD
        for name in ("ego", "exo"):
            image = tools.image_msg(tools.scene(k), "rgb8", stamp, name)
            rig.publish(f"/{name}/image_raw", image)
        rig.publish("/ego/label_image", tools.image_msg(mask.astype(np.uint8), "mono8", stamp))
        if k != 1:
            rig.publish("/ego/depth", tools.image_msg(millimetres, "16UC1", stamp + 1_000_000))

    for k in range(3):
        send(k)
        tools.wait_until(lambda k=k: len(clouds) > k, f"cloud {k}")
    tools.wait_until(lambda: len(boxes) == 3, "the boxes")
    assert [tools.stamp_ns(c) for c in clouds] == [10**9 + k * tools.PERIOD for k in range(3)]
    assert [c.width for c in clouds] == [26 * 16 - 1, 0, 26 * 16 - 1]
    assert {c.header.frame_id for c in clouds} == {"table"}
    points = np.frombuffer(bytes(clouds[0].data), depth.POINT)
    assert set(points["z"]) == {np.float32(1.0)} and set(points["label"]) == {1}
    np.testing.assert_allclose([points["x"].min(), points["x"].max()], [-7.5 / 70, 17.5 / 70])
    delete, cube, text = boxes[0].markers
    assert delete.action == Marker.DELETEALL and cube.type == Marker.CUBE and text.text == "cup"
    assert abs(cube.pose.position.x - 5 / 70) < 0.005 and abs(cube.scale.x - 25 / 70) < 0.01
    assert len(boxes[1].markers) == 1

    def counted() -> Any:
        values = [v for r in reports for s in r.status for v in s.values]
        return {"clouds_located": "2", "clouds_refused_no_image": "1"}.items() <= {
            (v.key, v.value) for v in values
        }

    tools.wait_until(counted, "the report")
