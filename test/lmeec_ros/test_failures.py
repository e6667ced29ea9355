"""Which errors stop the node, which do not, and where each of them is told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from lmeec.msg import CorrespondenceMaskArray
from sensor_msgs.msg import Image

from lmeec_core.engine import Engine, EngineError, Runner, StageCall, StageFunction
from lmeec_core.errors import InputError
from lmeec_core.model.stages import STAGES
from lmeec_ros import node as node_module
from lmeec_ros.health import diagnostics

TOPICS = ("/ego/image_raw", "/exo/image_raw", "/ego/label_image")


class Robot:
    """An active node, sets for it, and what it says."""

    def __init__(self, node: Any, rig: Any, tools: Any) -> None:
        self.node, self.rig, self.tools, self.k = node, rig, tools, 0
        self.masks = rig.listen("/lmeec/exo/masks", CorrespondenceMaskArray)
        self.diagnostics = rig.listen("/diagnostics", DiagnosticArray)
        for topic in TOPICS:
            rig.advertise(topic, Image)
        tools.wait_until(lambda: node.state == "active", "the node to be active")
        rig.wait_heard()

    def send(self) -> None:
        """Publish a set and wait until the worker has done with it."""
        worker, k = self.node.worker, self.k
        self.k += 1
        before = worker.stats()
        images = (self.tools.scene(k), self.tools.scene(50 + k), self.tools.label_frame(k))
        for topic, pixels in zip(TOPICS, images, strict=True):
            encoding = "mono8" if pixels.ndim == 2 else "rgb8"
            stamp = 1_000_000_000 + k * self.tools.PERIOD
            self.rig.publish(topic, self.tools.image_msg(pixels, encoding, stamp))

        def done() -> bool:
            now = worker.stats()
            return bool(now.processed + now.failed > before.processed + before.failed)

        self.tools.wait_until(done, "the set to be done")

    def values(self, part: str) -> dict[str, str]:
        """The last diagnostics of a part of the node."""
        for status in self.diagnostics[-1].status if self.diagnostics else ():
            if status.name == f"/lmeec: {part}":
                return {"message": status.message, **{v.key: v.value for v in status.values}}
        return {}

    def wait_for(self, part: str, condition: Callable[[dict[str, str]], Any]) -> dict[str, str]:
        """The first diagnostics of a part that fulfil a condition."""

        def found() -> Any:
            values = self.values(part)
            return values if values and condition(values) else None

        return dict(self.tools.wait_until(found, lambda: str(self.values(part)), patience=20))


@pytest.fixture
def robot(make_node: Any, rig: Any, tools: Any) -> Robot:
    return Robot(make_node(**{"model.warm_up_steps": 0}), rig, tools)


@pytest.mark.parametrize("error", [RuntimeError, ValueError, EngineError, KeyError, MemoryError])
def test_a_step_that_fails_three_times_stops_the_node_whatever_it_raises(
    robot: Robot, tools: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def step(*_: Any) -> Any:
        raise error("tensor sizes")

    monkeypatch.setattr(robot.node.processor.tracker, "step", step)
    for _ in range(3):
        assert robot.node.state == "active"
        robot.send()
    tools.wait_until(lambda: robot.node.state == "unconfigured", "the node to stop")
    assert "stopped after 3 failed steps" in robot.node.measured.last_error
    values = robot.wait_for("output", lambda v: v["state"] == "unconfigured")
    assert "tensor sizes" in values["message"]


def test_bad_input_never_stops_it(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any) -> Any:
        raise InputError("9 objects, at most 3 expected")

    with monkeypatch.context() as patch:
        patch.setattr(robot.node.processor.tracker, "step", step)
        for _ in range(5):
            robot.send()
    time.sleep(1.2)  # two looks of the watch
    assert robot.node.state == "active" and robot.node.worker.stats().failed == 5
    robot.send()
    assert robot.node.worker.stats().processed == 1


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("broken on purpose")


OTHERS: dict[str, tuple[Callable[[Any], tuple[Any, str]], str]] = {
    "diagnostics": (lambda node: (diagnostics, "build"), "diagnostics: "),
    "watch": (lambda node: (node._watchdog, "check"), "watching the inputs: "),
    "input": (lambda node: (node.synchronizer.core, "add"), "input exo: "),
    "lazy": (lambda node: (node._outputs, "has_listeners"), "opening the inputs: "),
    "overlay": (
        lambda node: (node._outputs._publishers["exo", "overlay"], "get_subscription_count"),
        "publishing the overlay of exo: ",
    ),
}


def set_lazy(node: Any, lazy: bool) -> None:
    node.config = replace(node.config, output=replace(node.config.output, lazy=lazy))


@pytest.mark.parametrize("name", OTHERS)
def test_other_errors_are_told_and_never_stop_it(
    robot: Robot, tools: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any, name: str
) -> None:
    node = robot.node
    where, text = OTHERS[name]
    robot.send()
    if name == "lazy":
        set_lazy(node, True)
    with monkeypatch.context() as patch:
        patch.setattr(*where(node), broken)
        for _ in range(4):
            if name != "input":
                robot.send()
                continue
            robot.rig.publish("/exo/image_raw", Image())
        tools.wait_until(lambda: node.measured.errors >= 3 + (name != "overlay"), "the errors")
        time.sleep(0.6)  # a look of the watch, which would stop it
        assert node.state == "active" and node._failures == 0
    set_lazy(node, False)
    said = capfd.readouterr().err
    assert f"{text}broken on purpose" in said and "Traceback" in said
    assert said.count("broken on purpose") <= 6, "each is told once in a while"
    published = node.measured.published
    values = robot.wait_for("node", lambda v: int(v["errors"]) == node.measured.errors)
    assert values["state"] == "active" and text in values["message"]
    assert values["last_other_error"] == f"{text}broken on purpose"
    robot.send()
    assert node.worker.stats().failed == (4 if name == "overlay" else 0)
    tools.wait_until(lambda: node.measured.published > published, "the next masks")


def test_points_that_fail_hold_up_nothing(
    make_node: Any, rig: Any, tools: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "cameras.yaml"
    file.write_text(CALIBRATION)
    points = {"output.points": True, "geometry.calibration": str(file)}
    robot = Robot(make_node(**{"model.warm_up_steps": 0, **points}), rig, tools)
    monkeypatch.setattr(robot.node._outputs.points, "publish", broken)
    for _ in range(4):
        robot.send()
    tools.wait_until(lambda: len(robot.masks) == 4, "all masks")
    time.sleep(0.6)
    assert robot.node.state == "active" and robot.node.worker.stats().processed == 4
    values = robot.wait_for("node", lambda v: v["errors"] == "4")
    assert "publishing the points: broken on purpose" in values["message"]


def test_masks_that_cannot_be_published_are_failed_sets_but_no_failed_steps(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = robot.node
    monkeypatch.setattr(node._outputs._publishers["exo", "masks"], "publish", broken)
    for _ in range(4):
        robot.send()
    time.sleep(0.6)
    assert node.state == "active" and node.measured.published == 0
    assert node.worker.stats().failed == 4 and node.worker.stats().processed == 0
    values = robot.wait_for("output", lambda v: v["reason"] == "failing")
    assert "no result of the set could be published" in values["message"]
    assert robot.values("node")["last_other_error"].startswith("publishing the masks of exo: ")


CAMERA = {
    "width": 80,
    "height": 60,
    "k": [70.0, 0.0, 39.5, 0.0, 70.0, 29.5, 0.0, 0.0, 1.0],
    "position": [0.0, 0.0, 0.0],
    "orientation": [0.0, 0.0, 0.0, 1.0],
}
CALIBRATION = yaml.safe_dump({"frame": "map", "cameras": {"ego": CAMERA, "exo": CAMERA}})
BAD_CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "calibration": {"geometry.calibration": "/no/such/file.yaml"},
    "a topic": {"geometry.frame": "map", "cameras.exo.camera_info": "not a//topic"},
    "checkpoint": {"geometry.frame": "map", "model.checkpoint": "/no/such/file.pt"},
}


@pytest.mark.parametrize("name", BAD_CONFIGURATIONS)
def test_a_failed_configuration_leaves_nothing_behind(
    make_node: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from lmeec_ros.points import points as geometry

    opened: Counter[str] = Counter()

    class Poses:  # tf2_ros is not to be had everywhere
        def __init__(self, *_: Any) -> None:
            opened["poses"] += 1

        def close(self) -> None:
            opened["poses"] -= 1

    monkeypatch.setattr(geometry, "Poses", Poses)
    values = {"autostart": False, "output.points": True, **BAD_CONFIGURATIONS[name]}
    node = make_node(**values)

    def entities() -> tuple[int, int, int, int]:
        kinds = (node.publishers, node.subscriptions, node.timers, node._managed_entities)
        return tuple(len(list(kind)) for kind in kinds)  # type: ignore[return-value]

    before = entities()
    for _ in range(20 if name == "calibration" else 4):
        node.trigger_configure()
        assert node.state == "unconfigured" and node.measured.last_error
        assert entities() == before and opened["poses"] == 0


class Half(Engine):
    """Computes the image encoder, and offers nothing else."""

    name = "onnxruntime"

    def offers(self, call: StageCall) -> bool:
        return call.stage == "image_encoder"

    def build(self, call: StageCall) -> StageFunction:
        return lambda *inputs: self.model.compute(call.stage, call.options, inputs)


def test_diagnostics_name_the_engine_that_computes(robot: Robot) -> None:
    robot.send()
    assert robot.wait_for("node", lambda v: v["engine"])["engine"] == "eager"
    model = robot.node.processor.tracker.model
    model.runner = Runner(model, dict.fromkeys(STAGES, Half(model)))
    robot.send()
    wanted = "onnxruntime: image_encoder; eager: target_tokens, memory_attention, decoder, "
    robot.wait_for("node", lambda v: v["engine"].startswith(wanted))


def count_queries(node: Any, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Moments at which the node asks the ROS graph for publishers."""
    asked: list[float] = []
    ask = node.get_publishers_info_by_topic

    def counting(*args: Any) -> Any:
        asked.append(time.monotonic())
        return ask(*args)

    monkeypatch.setattr(node, "get_publishers_info_by_topic", counting)
    return asked


def test_silent_inputs_are_looked_up_one_at_a_time(
    make_node: Any, rig: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for topic in TOPICS:
        rig.advertise(topic, Image)
    node = make_node(silence_warning=0.5)
    rig.wait_heard()
    silent = {"ego", "exo", "query masks"}
    tools.wait_until(lambda: node._watchdog and set(node._watchdog.silent) == silent, "the silence")
    time.sleep(2.0)  # those looks that the publishers' coming asks for
    asked = count_queries(node, monkeypatch)
    time.sleep(4.2)
    assert 2 <= len(asked) <= 7, "each of the three every two seconds"
    assert all(later - earlier > 0.3 for earlier, later in zip(asked, asked[1:], strict=False))


def test_nothing_is_looked_up_while_all_is_well(
    robot: Robot, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settled() -> bool:
        return all(one.overdue(False) < 0 for one in robot.node.inputs)

    robot.send()
    tools.wait_until(settled, "the looks that are due at the start")
    asked = count_queries(robot.node, monkeypatch)
    for _ in range(4):
        robot.send()
        time.sleep(0.4)
    assert asked == []


def test_publishers_are_followed_where_the_middleware_does_not_tell_of_them(
    make_node: Any, rig: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmeec_ros.io import inputs

    handlers = inputs.SubscriptionEventCallbacks.create_event_handlers

    def unsupported(self: Any, *args: Any) -> Any:
        if self.matched:
            raise inputs.UnsupportedEventTypeError("matched")
        self.incompatible_qos = lambda _: None
        return handlers(self, *args)

    monkeypatch.setattr(inputs.SubscriptionEventCallbacks, "create_event_handlers", unsupported)
    rig.advertise("/ego/image_raw", Image)
    node = make_node(silence_warning=60.0)
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    ego = node.inputs.query
    assert ego.reliability.name == "RELIABLE"
    rig.advertise("/ego/image_raw", Image, reliable=False)
    tools.wait_until(lambda: ego.reliability.name == "BEST_EFFORT", "the new publisher", 20)


def test_transitions_that_are_not_done_are_logged(
    make_node: Any, rig: Any, tools: Any, capfd: Any
) -> None:
    node = make_node(autostart=False)
    for transition, text in (
        (Transition(label="configur"), "the transition configur was not performed"),
        (Transition(id=Transition.TRANSITION_ACTIVATE), "transition refused in the state"),
    ):
        request = ChangeState.Request(transition=transition)
        assert not rig.call(ChangeState, "/lmeec/change_state", request).success
        assert node.state == "unconfigured"
        assert text in capfd.readouterr().err


def test_autostart_gives_way_to_whoever_was_faster(make_node: Any, tools: Any) -> None:
    node = make_node(autostart=False)
    assert node.trigger_configure() == node_module.Success
    node._start_timer = node.create_timer(60.0, node._autostart)
    node._autostart()
    assert node.state == "inactive" and node._start_timer.is_canceled()


def test_a_start_that_stops_half_way_is_told(make_node: Any, tools: Any, capfd: Any) -> None:
    """The stock policies need message_filters; here they never have it."""
    from lmeec_ros.io import synchronizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synchronizer, "message_filters", None)
        node = make_node(**{"pairing.policy": "exact"})
        said = ""

        def told() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return "not started; the node stays inactive. To try again: ros2" in said

        tools.wait_until(told, lambda: said)
    assert node.state == "inactive" and "Traceback" not in said
    assert "needs the ROS package message_filters" in node.measured.last_error
