"""Relative topics, compressed images beside a topic, and ROS's own parameters for QoS."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from lmeec_core.bags.bag import BagError, BagReader, BagWriter
from lmeec_ros.offline.bag_sets import check_topics, inputs_in
from lmeec_ros.parameters import config as parameters

NAME = st.from_regex("[a-z][a-z0-9_]{0,4}", fullmatch=True)


@given(NAME, NAME, NAME)
def test_full_names_are_those_of_ros(space: str, name: str, topic: str) -> None:
    assert parameters.absolute(topic, f"/{space}/{name}") == f"/{space}/{topic}"
    assert parameters.absolute(f"/{topic}", f"/{space}/{name}") == f"/{topic}"
    assert parameters.absolute(f"~/{topic}", f"/{space}/{name}") == f"/{space}/{name}/{topic}"
    assert parameters.absolute(topic, f"/{name}") == parameters.absolute(topic) == f"/{topic}"
    values = {"cameras.ego.topic": topic, "cameras.exo.transport": "compressed"}
    full = parameters.load(parameters.with_full_names(values, f"/{space}/{name}"))
    assert full.cameras["ego"].topic == f"/{space}/{topic}"
    assert full.cameras["exo"].address == f"/{space}/exo/image_raw/compressed"
    assert full.query_masks.address == f"/{space}/ego/label_image"


def test_a_namespace_moves_the_inputs(make_node: Any, tools: Any) -> None:
    node = make_node(namespace="/robot1", **{"cameras.exo.topic": "/wall/image"})
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    topics = {one.topic_name for one in node.subscriptions}
    assert {"/robot1/ego/image_raw", "/robot1/ego/label_image", "/wall/image"} <= topics
    assert node.config.cameras["ego"].address == "/robot1/ego/image_raw"


@pytest.mark.parametrize("first", ["/side/image", "/side/image/compressed"])
def test_compressed_images_are_found_on_either_topic(
    make_node: Any, rig: Any, tools: Any, first: str
) -> None:
    """Raw images on the topic itself are not taken for them; a publisher may come later."""
    other = ({"/side/image", "/side/image/compressed"} - {first}).pop()
    if first.endswith("/compressed"):
        rig.node.create_publisher(Image, other, 5)
    values = {"cameras.exo.topic": "/side/image", "cameras.exo.transport": "compressed"}
    node = make_node(**values)
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    publisher = rig.node.create_publisher(CompressedImage, first, 5)
    tools.wait_until(publisher.get_subscription_count, f"a subscription of {first}")
    stream = node.inputs.targets["exo"]
    tools.wait_until(lambda: stream.topic == first, "the topic to be chosen")
    assert node.config.cameras["exo"].camera_info == "/side/camera_info"


@pytest.mark.parametrize("ending", ["", "/compressed"])
def test_a_bag_is_read_by_the_same_rule(tmp_path: Any, ending: str, tools: Any) -> None:
    path, topic = tmp_path / "bag", f"/side/image{ending}"
    kinds = {
        topic: "sensor_msgs/msg/CompressedImage", "/ego/image_raw": "sensor_msgs/msg/Image",
        "/ego/label_image": "sensor_msgs/msg/Image",
    }  # fmt: skip
    with BagWriter(path) as bag:
        for name, kind in kinds.items():
            bag.add_topic(name, kind)
    values = {"cameras.exo.topic": "/side/image", "cameras.exo.transport": "compressed"}
    with BagReader(path) as bag:
        inputs = inputs_in(bag, parameters.load(values))
        assert inputs.targets["exo"].topic == topic
        check_topics(bag, inputs)
        missing = inputs_in(bag, parameters.load({**values, "cameras.exo.topic": "/none"}))
        with pytest.raises(BagError, match="no topic '/none/compressed'"):
            check_topics(bag, missing)


def test_overrides_of_the_quality_of_service_are_taken(
    make_node: Any, rig: Any, tools: Any
) -> None:
    node = make_node(**{
        "qos_overrides./ego/image_raw.subscription.reliability": "best_effort",
        "qos_overrides./lmeec/exo/masks.publisher.depth": 17,
        "qos_overrides./lmeec/exo/masks.publisher.durability": "transient_local",
    })  # fmt: skip
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    (masks,) = (p for p in node.publishers if p.topic_name == "/lmeec/exo/masks")
    assert masks.qos_profile.depth == 17
    assert masks.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert node.inputs.query.reliability == ReliabilityPolicy.BEST_EFFORT
    # A reliable publisher, which `auto` would follow, changes nothing.
    publisher = rig.node.create_publisher(Image, "/ego/image_raw", 5)
    tools.wait_until(publisher.get_subscription_count, "the subscription")
    before = node.inputs.query._subscription
    node.inputs.query.query_graph()
    node.inputs.query.refresh()
    assert node.inputs.query._subscription is before


@pytest.mark.parametrize(
    "name",
    [
        "qos_overrides./ego/image.subscription.depth",
        "qos_overrides./lmeec/exo/masks.publisher.depht",
        "qos_overrides./lmeec/status.publisher.depth",
    ],
)
def test_overrides_that_nothing_takes_are_refused(make_node: Any, tools: Any, name: str) -> None:
    node = make_node(**{name: 3})
    tools.wait_until(lambda: name in node.measured.last_error, "the refusal")
    tools.wait_until(lambda: node.state == "inactive", "the end of the transition")
    assert "/lmeec/exo/masks (publisher)" in node.measured.last_error
    assert "/ego/image_raw (subscription)" in node.measured.last_error


def test_a_cameras_offset_is_applied_in_pairing(tools: Any) -> None:
    """Of a wearable query camera, whose masks have its stamps; messages keep their own."""
    from lmeec_core.sync.image_set import QUERY_MASKS
    from lmeec_ros.io.synchronizer import make_synchronizer, stamp_of

    values = {"cameras.ego.time_offset": -0.5, "pairing.tolerance": 0.001}
    sets: list[Any] = []
    pairing = make_synchronizer(parameters.load(values), sets.append, lambda *_: None)
    for k in range(8):
        moment = 10**9 + k * tools.PERIOD
        for name, late in (("ego", 500), (QUERY_MASKS, 500), ("exo", 0)):
            pairing.add(name, tools.stamped(Image(), moment + late * 1_000_000))
    pairing.flush()
    assert len(sets) == 8
    assert all(stamp_of(one.query) - stamp_of(one.targets["exo"]) == 500_000_000 for one in sets)
    assert all(stamp_of(one.query) == stamp_of(one.masks) for one in sets)


def test_an_offset_needs_our_own_pairing() -> None:
    values = {"cameras.exo.time_offset": 0.1, "pairing.policy": "exact"}
    with pytest.raises(parameters.ParameterError, match=r"cameras\.exo\.time_offset: .*'nearest'"):
        parameters.load(values)


def test_info_estimates_the_offset_of_a_bag(tmp_path: Any, tools: Any) -> None:
    from typer.testing import CliRunner

    from lmeec_core.bags.mask_messages import BAG
    from lmeec_core.cli.app import app

    rng, path = np.random.default_rng(0), tmp_path / "bag"
    places = np.cumsum(np.convolve(np.abs(rng.normal(size=160)), np.hanning(8), "same")) % 60
    with BagWriter(path) as bag:
        for topic in ("/ego/image_raw", "/exo/image_raw"):
            bag.add_topic(topic, "sensor_msgs/msg/Image")
        for k in range(5, 160):
            for topic, late in (("/ego/image_raw", 0), ("/exo/image_raw", 5)):
                pixels = np.full((40, 80, 3), 40 + 5 * late, np.uint8)
                x = int(places[k - late])
                pixels[10:30, x : x + 20] = 255
                stamp = k * 33_000_000
                bag.write(topic, stamp, BAG.image(BAG.header(stamp, "lens"), pixels, "rgb8"))
    done = CliRunner().invoke(app, ["info", str(path), "--offsets"])
    assert done.exit_code == 0, done.output
    line = next(one for one in done.output.splitlines() if "offset of /exo" in one)
    assert "time_offset: -0.1" in line, line
    assert -0.18 < float(line.partition("time_offset: ")[2].split()[0]) < -0.15
    refused = CliRunner().invoke(
        app, ["info", str(tools.REPOSITORY / "test/data/sample_take"), "--offsets"]
    )
    assert refused.exit_code != 0 and "which is not a bag" in refused.output


COMMAND = (
    "ros2 run image_transport republish --ros-args -p in_transport:=ffmpeg -p out_transport:=raw "
    "-r in/ffmpeg:=/head/image/ffmpeg -r out:=/head/image/decoded, and set cameras.ego.topic to "
    "/head/image/decoded"
)


@pytest.mark.parametrize("topic", ["/head/image", "/head/image/ffmpeg"])
def test_a_video_is_refused_with_the_command_that_decodes_it(topic: str) -> None:
    from lmeec_ros.io.images import ImageError, compressed_to_rgb
    from lmeec_ros.io.inputs import type_remedy

    given = {"cameras.ego.topic": topic, "cameras.ego.transport": "ffmpeg"}
    with pytest.raises(parameters.ParameterError) as error:
        parameters.load(given)
    assert COMMAND in str(error.value) and str(error.value).startswith("cameras.ego.transport: ")
    packets = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
    assert COMMAND in type_remedy("sensor_msgs/msg/Image", packets, "cameras.ego.", topic)
    stream = CompressedImage(format="h264; nv12", data=b"\x00\x00\x00\x01\x67\x42")
    with pytest.raises(ImageError, match="JPEG or PNG image expected; video packets"):
        compressed_to_rgb(stream)
    jpeg = CompressedImage(format="rgb8; jpeg compressed bgr8", data=b"abc")
    with pytest.raises(ImageError) as plain:
        compressed_to_rgb(jpeg)
    assert "video" not in str(plain.value)
