"""Relative topics, compressed images beside a topic, and ROS's own parameters for QoS."""

from __future__ import annotations

from typing import Any

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
    node.inputs.query.look()
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
