"""The node in this process: lifecycle, parameters, quality of service."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from lmeec.msg import CorrespondenceMaskArray
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from lmeec_ros.node import LmeecNode
from lmeec_ros.parameters.config import ParameterError


def change(rig: Any, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(rig.call(ChangeState, "/lmeec/change_state", request).success)


def state(rig: Any) -> int:
    return int(rig.call(GetState, "/lmeec/get_state", GetState.Request()).current_state.id)


def set_parameter(rig: Any, name: str, value: Any) -> Any:
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return rig.call(SetParameters, "/lmeec/set_parameters", request).results[0]


def test_it_starts_by_itself(make_node: Any, rig: Any, tools: Any) -> None:
    node = make_node()
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    assert state(rig) == State.PRIMARY_STATE_ACTIVE
    topics = dict(rig.node.get_topic_names_and_types())
    assert topics["/lmeec/exo/masks"] == ["lmeec/msg/CorrespondenceMaskArray"]
    assert topics["/lmeec/exo/label_image"] == topics["/lmeec/exo/overlay"]


def test_lifecycle_round_trips_leave_nothing_behind(make_node: Any, rig: Any, tools: Any) -> None:
    node = make_node(autostart=False)
    assert state(rig) == State.PRIMARY_STATE_UNCONFIGURED
    threads = None
    for _ in range(3):
        assert change(rig, Transition.TRANSITION_CONFIGURE)
        assert not node.inputs and node.processor is not None
        assert change(rig, Transition.TRANSITION_ACTIVATE)
        assert len(list(node.inputs)) == 3
        assert change(rig, Transition.TRANSITION_DEACTIVATE)
        assert change(rig, Transition.TRANSITION_ACTIVATE)
        assert change(rig, Transition.TRANSITION_DEACTIVATE)
        assert change(rig, Transition.TRANSITION_CLEANUP)
        assert node.processor is None and node.worker is None and not node.inputs
        assert not [p for p in node.publishers if "/exo/" in p.topic_name]
        assert not [s for s in node.subscriptions if "image" in s.topic_name]
        names = sorted(t.name for t in threading.enumerate() if t.name == "inference")
        assert threads in (None, names)
        threads = names
    assert change(rig, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert state(rig) == State.PRIMARY_STATE_FINALIZED


def test_a_destroyed_node_is_gone_at_once(context: Any, rig: Any, tools: Any) -> None:
    overrides = [Parameter(k, value=v) for k, v in {**tools.BASE, "autostart": False}.items()]

    def served() -> int:
        names = [name for name, _ in rig.node.get_service_names_and_types()]
        return sum(name in ("/lmeec/change_state", "/lmeec/get_state") for name in names)

    gc.disable()  # rclpy alone leaves the lifecycle services until it comes
    try:
        for _ in range(2):
            node = LmeecNode(context=context, parameter_overrides=overrides)
            tools.wait_until(lambda: served() == 2, "the node's services")
            node.destroy_node()
            tools.wait_until(lambda: served() == 0, "the services to be gone", patience=20)
            assert "lmeec" not in rig.node.get_node_names()
    finally:
        gc.enable()


def test_a_transition_that_does_not_fit_is_refused(make_node: Any, rig: Any) -> None:
    node = make_node(autostart=False)
    for _ in range(2):
        assert not change(rig, Transition.TRANSITION_ACTIVATE)
        assert node.state == "unconfigured"
    assert change(rig, Transition.TRANSITION_CONFIGURE)
    assert not change(rig, Transition.TRANSITION_CONFIGURE)
    assert node.state == "inactive"


def test_shutdown_while_active(make_node: Any, rig: Any, tools: Any) -> None:
    node = make_node()
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    assert change(rig, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert node.worker is None and node.processor is None


def test_a_failed_configuration_can_be_repeated(
    make_node: Any, rig: Any, tools: Any, tmp_path: Any
) -> None:
    from safetensors.torch import save_file

    import lmeec_core as lm

    path = tmp_path / "weights.safetensors"
    node = make_node(**{"model.checkpoint": str(path), "autostart": False})
    assert not change(rig, Transition.TRANSITION_CONFIGURE)
    assert node.state == "unconfigured" and node.processor is None
    assert "no such file" in node.measured.last_error
    path.write_bytes(b"rubbish")
    assert not change(rig, Transition.TRANSITION_CONFIGURE)
    model = lm.load_model("mini", seed=1, device="cpu")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    assert change(rig, Transition.TRANSITION_CONFIGURE)
    assert change(rig, Transition.TRANSITION_ACTIVATE)
    assert node.state == "active"


def test_a_stock_policy_needs_message_filters(make_node: Any, rig: Any) -> None:
    from lmeec_ros.io.synchronizer import message_filters

    node = make_node(**{"pairing.policy": "approximate", "autostart": False})
    assert change(rig, Transition.TRANSITION_CONFIGURE)
    assert change(rig, Transition.TRANSITION_ACTIVATE) == (message_filters is not None)
    if message_filters is None:
        assert node.state == "inactive"
        assert "needs the ROS package message_filters" in node.measured.last_error
        assert node.worker is None and not node.inputs


@pytest.mark.parametrize("policy", ["nearest", "approximate", "exact"])
def test_every_policy_gives_the_same_sets(
    make_node: Any, rig: Any, tools: Any, policy: str
) -> None:
    from lmeec_ros.io.synchronizer import message_filters

    if policy != "nearest" and message_filters is None:
        pytest.skip("message_filters is not installed (not on the index)")
    masks = rig.listen("/lmeec/exo/masks", CorrespondenceMaskArray)
    topics = ("/ego/image_raw", "/ego/label_image", "/exo/image_raw")
    for topic in topics:
        rig.advertise(topic, Image)
    node = make_node(**{"pairing.policy": policy, "mailbox.depth": 10})
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    rig.wait_heard()
    for k in range(1, 5):
        pictures = [tools.scene(k), tools.label_frame(k), tools.scene(k + 9)]
        for topic, picture in zip(topics, pictures, strict=True):
            encoding = "mono8" if picture.ndim == 2 else "rgb8"
            rig.publish(topic, tools.image_msg(picture, encoding, k * tools.PERIOD))
    tools.wait_until(lambda: len(masks) == 4, lambda: f"4 sets, not {len(masks)}")
    assert [tools.stamp_ns(one) for one in masks] == [k * tools.PERIOD for k in range(1, 5)]
    assert node.synchronizer.stats().sets == 4


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"pairing.tolerence": 0.1}, "did you mean 'pairing.tolerance'"),
        ({"pairing.tolerance": -1.0}, "0.0 to 10.0 expected"),
        ({"model.preset": 3}, "a text expected"),
    ],
)
def test_wrong_parameters_end_the_start(context: Any, values: dict, text: str) -> None:
    overrides = [Parameter(k, value=v) for k, v in values.items()]
    with pytest.raises(ParameterError, match=text):
        LmeecNode(context=context, parameter_overrides=overrides)


def test_parameters_live_and_refused(make_node: Any, rig: Any, tools: Any) -> None:
    node = make_node(**{"pairing.tolerance": 1})  # a whole number for a float is fine
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    assert set_parameter(rig, "pairing.tolerance", 0.05).successful
    assert set_parameter(rig, "presence_threshold", 0.7).successful
    assert set_parameter(rig, "output.exclusive", True).successful
    tools.wait_until(
        lambda: (
            node.synchronizer.core.tolerance_ns == 50_000_000
            and node.processor.config.presence_threshold == 0.7
            and node.processor.config.output.exclusive
        ),
        "the changes to take effect",
    )
    for name, value, text in (
        ("pairing.tolerance", 99.0, "pairing.tolerance"),
        ("pairing.tolerance", "wide", "type"),
        ("presence_threshold", -0.5, "presence_threshold"),
        ("model.device", "cuda", "read-only"),
        ("target_cameras", ["x"], "read-only"),
        ("nonsense", 1, "undeclared"),
    ):
        result = set_parameter(rig, name, value)
        assert not result.successful and text in result.reason, (name, result.reason)
    names = ["pairing.tolerance", "presence_threshold", "objects"]
    values = rig.call(GetParameters, "/lmeec/get_parameters", GetParameters.Request(names=names))
    assert [v.double_value for v in values.values[:2]] == [0.05, 0.7]
    request = DescribeParameters.Request(names=["model.preset", "pairing.tolerance"])
    preset, tolerance = rig.call(
        DescribeParameters, "/lmeec/describe_parameters", request
    ).descriptors
    assert preset.read_only and "base_plus" in preset.additional_constraints and preset.description
    assert not tolerance.read_only and tolerance.floating_point_range[0].to_value == 10.0


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(True, None, "RELIABLE"), (False, None, "BEST_EFFORT"), (True, False, "BEST_EFFORT")],
)
def test_qos_auto_follows_the_publishers(
    make_node: Any, rig: Any, tools: Any, first: bool, second: bool | None, expected: str
) -> None:
    publisher = rig.advertise("/ego/image_raw", Image, reliable=first)
    node = make_node()
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    ego = node.inputs.query
    wanted = "RELIABLE" if first else "BEST_EFFORT"
    tools.wait_until(lambda: ego.reliability.name == wanted, f"{wanted} (first publisher)")
    if second is not None:
        late = rig.advertise("/ego/image_raw", Image, reliable=second)
        tools.wait_until(lambda: ego.reliability.name == expected, f"{expected} (second one)")
        publisher = late
    tools.wait_until(lambda: publisher.get_subscription_count() == 1, "the new subscription alone")

    def heard() -> bool:
        publisher.publish(Image())
        return ego.monitor.health().received > 2

    tools.wait_until(heard, "images of the publisher")


def test_diagnostics_while_unconfigured_and_active(make_node: Any, rig: Any, tools: Any) -> None:
    messages = rig.listen("/diagnostics", DiagnosticArray)
    node = make_node(autostart=False)
    tools.wait_until(lambda: messages, "diagnostics of the unconfigured node")
    assert messages[-1].status[0].message == "unconfigured"
    assert change(rig, Transition.TRANSITION_CONFIGURE)
    assert change(rig, Transition.TRANSITION_ACTIVATE)

    def active() -> Any:
        status = {s.name: s for s in messages[-1].status}
        return status if status["/lmeec: node"].message == "active" else None

    status = tools.wait_until(active, "diagnostics of the active node")
    parts = ("node", "output", "inference", "pairing", "ego", "exo", "query masks")
    assert set(status) == {f"/lmeec: {part}" for part in parts}
    values = {v.key: v.value for v in status["/lmeec: node"].values}
    assert values["device"] == "cpu" and values["precision"] == "fp32"
    assert float(values["resident_memory_mb"]) > 50
    values = {v.key: v.value for v in status["/lmeec: ego"].values}
    assert values["topic"] == "/ego/image_raw" and values["received"] == "0"
    assert node.state == "active"
