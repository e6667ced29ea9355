"""~/status answers why nothing is published, with nodes to which it happens."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image

TOPICS = ("/ego/image_raw", "/ego/label_image", "/exo/image_raw")
QUICK: dict[str, Any] = {"silence_warning": 0.5}


def values(status: Any) -> dict[str, str]:
    return {one.key: one.value for one in status.values}


def change(rig: Any, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(rig.call(ChangeState, "/lmeec/change_state", request).success)


class Watcher:
    """Plays frames until ~/status gives the reason that is waited for."""

    def __init__(self, rig: Any, tools: Any) -> None:
        self.rig, self.tools, self.k = rig, tools, 0
        self.statuses = rig.listen("/lmeec/status", DiagnosticStatus)
        self.diagnostics = rig.listen("/diagnostics", DiagnosticArray)

    def frames(
        self, labels: Any = None, late: float = 0.0, encoding: str = "rgb8", stamped: bool = True
    ) -> None:
        """Publish the next frame on what is advertised, and wait for 1/30 s."""
        self.k += 1
        stamp = self.k * 33_333_333 if stamped else 0
        drawn = self.tools.label_frame(self.k) if labels is None else labels
        for topic in self.rig.publishers:
            if topic == "/ego/label_image":
                msg = self.tools.image_msg(drawn, "mono8", stamp)
            else:
                shift = round(late * 1e9) if topic.startswith("/exo") else 0
                msg = self.tools.image_msg(self.tools.scene(self.k % 9), encoding, stamp + shift)
            self.rig.publish(topic, msg)
        time.sleep(1 / 30)

    def wait(self, kind: str, play: Callable[[], Any] | None = None) -> Any:
        """The first status of that kind; frames are published meanwhile."""

        def found() -> Any:
            if play is not None:
                play()
            return next((s for s in self.statuses if values(s)["reason"] == kind), None)

        def kinds() -> str:
            return f"{kind}; there came {[(values(s)['reason'], s.message) for s in self.statuses]}"

        return self.tools.wait_until(found, kinds, patience=40)


@pytest.fixture
def watch(rig: Any, tools: Any) -> Watcher:
    return Watcher(rig, tools)


def advertise(rig: Any, *topics: str, reliable: bool = True) -> None:
    for topic in topics:
        rig.advertise(topic, Image, reliable=reliable)


def test_unconfigured_inactive_and_finalized(make_node: Any, rig: Any, watch: Watcher) -> None:
    make_node(autostart=False)
    status = watch.wait("unconfigured")
    assert status.name == "/lmeec: output" and status.level == DiagnosticStatus.WARN
    assert "set /lmeec configure, then activate" in status.message
    assert change(rig, Transition.TRANSITION_CONFIGURE)
    assert "ros2 lifecycle set /lmeec activate" in watch.wait("inactive").message
    assert change(rig, Transition.TRANSITION_ACTIVATE)
    waiting = watch.wait("waiting")
    assert waiting.message == "waiting for the first message of ego, query masks, exo"
    assert change(rig, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert watch.wait("finalized").level == DiagnosticStatus.STALE


def test_a_configuration_that_failed(make_node: Any, watch: Watcher) -> None:
    make_node(**{"model.checkpoint": "/no/such/file.pt"})
    status = watch.wait("failed")
    assert status.level == DiagnosticStatus.ERROR
    assert "/no/such/file.pt" in status.message and "then ros2 lifecycle set" in status.message


def test_it_publishes_then_the_query_masks_stop(make_node: Any, rig: Any, watch: Watcher) -> None:
    advertise(rig, *TOPICS)
    node = make_node(**QUICK)

    def play() -> None:
        watch.frames()
        if node.worker is not None:
            node.worker.wait_idle(5)  # however slow this machine is

    status = watch.wait("publishing", play)
    assert status.level == DiagnosticStatus.OK and status.message.endswith(" Hz")
    numbers = values(status)
    assert float(numbers["latency_p95_ms"]) >= float(numbers["latency_p50_ms"]) > 0
    assert int(numbers["published"]) > 0 and numbers["objects"] == "2"
    assert {"dropped_mailbox", "lost_percent_ego", "lost_percent_exo"} <= set(numbers)
    del rig.publishers["/ego/label_image"]
    status = watch.wait("no_query_masks", watch.frames)
    while status.level != DiagnosticStatus.ERROR:  # the last output is not so long ago
        watch.statuses.remove(status)
        status = watch.wait("no_query_masks", watch.frames)
    assert "no message on /ego/label_image for" in status.message
    assert "ros2 topic hz /ego/label_image" in status.message

    def in_diagnostics() -> bool:
        every = [one for array in watch.diagnostics for one in array.status]
        return status.message in [one.message for one in every if one.name == status.name]

    watch.tools.wait_until(in_diagnostics, "the same in /diagnostics")


def test_no_query_masks_at_all(make_node: Any, rig: Any, watch: Watcher) -> None:
    advertise(rig, "/ego/image_raw", "/exo/image_raw")
    make_node(**QUICK)
    message = watch.wait("no_query_masks", watch.frames).message
    assert "the topic has no publisher" in message and "start the publisher" in message


def test_no_image_of_a_camera(make_node: Any, rig: Any, watch: Watcher) -> None:
    advertise(rig, "/ego/image_raw", "/ego/label_image", "/side/image_raw")
    make_node(**QUICK)
    status = watch.wait("no_publisher", watch.frames)
    assert "exo: silent, no message on /exo/image_raw" in status.message
    assert "/side/image_raw" in status.message  # where such images are


def test_incompatible_qos(make_node: Any, rig: Any, watch: Watcher) -> None:
    advertise(rig, "/ego/image_raw", "/ego/label_image")
    advertise(rig, "/exo/image_raw", reliable=False)
    make_node(**{**QUICK, "cameras.exo.qos": "reliable"})
    message = watch.wait("incompatible_qos", watch.frames).message
    assert "/exo/image_raw" in message and "set cameras.exo.qos to auto" in message


def test_the_wrong_type(make_node: Any, rig: Any, watch: Watcher) -> None:
    advertise(rig, "/ego/image_raw", "/ego/label_image")
    apart = rclpy.Context()  # one process's DDS participant has a topic in one type only
    rclpy.init(context=apart)
    camera = rclpy.create_node("camera", context=apart)
    try:
        camera.create_publisher(CompressedImage, "/exo/image_raw", 10)
        make_node(**QUICK)
        message = watch.wait("wrong_type", watch.frames).message
        assert "sensor_msgs/msg/CompressedImage" in message and "transport" in message
    finally:
        camera.destroy_node()
        rclpy.try_shutdown(context=apart)


def test_out_of_step(make_node: Any, rig: Any, watch: Watcher) -> None:
    advertise(rig, *TOPICS)
    make_node(**QUICK)
    message = watch.wait("out_of_step", lambda: watch.frames(late=30.0)).message
    # Which frame is nearest depends on what has come; the clocks differ by 30 s.
    assert "exo is out of step: +30." in message or "exo is out of step: +29." in message
    assert "pairing.tolerance is 0.020 s" in message and "with the same clock" in message


def test_stamps_that_are_not_set(make_node: Any, rig: Any, watch: Watcher) -> None:
    advertise(rig, *TOPICS)
    make_node(**QUICK)
    status = watch.wait("no_stamps", lambda: watch.frames(stamped=False))
    assert "make the publishers set header.stamp" in status.message


def test_no_object_in_the_masks(make_node: Any, rig: Any, tools: Any, watch: Watcher) -> None:
    advertise(rig, *TOPICS)
    make_node(**QUICK)
    nothing = 0 * tools.label_frame(0)
    status = watch.wait("no_object", lambda: watch.frames(labels=nothing))
    assert values(status)["objects"] == "0" and "contain no object" in status.message


def test_the_network_is_slower_than_the_cameras(
    make_node: Any, rig: Any, tools: Any, watch: Watcher
) -> None:
    advertise(rig, *TOPICS)
    node = make_node()
    tools.wait_until(lambda: node.processor is not None, "the model")
    step = node.processor.tracker.step

    def slow_step(*args: Any) -> Any:
        time.sleep(0.25)
        return step(*args)

    node.processor.tracker.step = slow_step
    status = watch.wait("slow", watch.frames)
    while "sets were dropped" not in status.message:  # it is still at its first step
        watch.statuses.remove(status)
        status = watch.wait("slow", watch.frames)
    assert int(values(status)["dropped_mailbox"]) >= 10
    assert float(values(status)["step_p50_ms"]) >= 250 and "model.preset" in status.message


def test_every_set_fails(make_node: Any, rig: Any, watch: Watcher) -> None:
    advertise(rig, *TOPICS)
    make_node(**QUICK)
    message = watch.wait("failing", lambda: watch.frames(encoding="yuv9")).message
    assert "camera 'ego' (/ego/image_raw)" in message and "yuv9" in message
    assert re.match(r"sets fail \((\d+) of \d+ so far\), the last with: ", message)


@pytest.mark.parametrize("fault", ["encoding", "stamps"])
def test_one_of_two_targets_sends_what_cannot_be_used(
    make_node: Any, rig: Any, tools: Any, watch: Watcher, fault: str
) -> None:
    advertise(rig, *TOPICS)
    camera = rig.node.create_publisher(Image, "/two/image_raw", 10)
    names = {"camera_names": ["ego", "exo", "two"], "target_cameras": ["exo", "two"]}
    make_node(**QUICK, **names, **{"pairing.tolerance": 0.01})

    def frames() -> None:
        watch.frames()
        late, encoding = (15_000_000, "rgb8") if fault == "stamps" else (0, "yuv9")
        stamp = watch.k * 33_333_333 + late
        camera.publish(tools.image_msg(tools.scene(3), encoding, stamp))

    message = watch.wait("partial", frames).message
    expected = {"encoding": "camera 'two' (/two/image_raw): image encoding 'yuv9'"}
    assert " Hz, but no results for " in message
    assert expected.get(fault, "two: no set contains an image") in message


def test_every_output_is_off(make_node: Any, rig: Any, watch: Watcher, capfd: Any) -> None:
    advertise(rig, *TOPICS)
    off = {f"output.{kind}": False for kind in ("masks", "label_image", "overlay")}
    make_node(**{**QUICK, **off})
    status = watch.wait("off", watch.frames)
    assert "ros2 param set /lmeec output.masks true" in status.message
    # What nothing else logs is logged here, once it has lasted.
    said = ""

    def logged() -> bool:
        nonlocal said
        watch.frames()
        said += capfd.readouterr().err
        return "every output is switched off" in said

    watch.tools.wait_until(logged, "the reason in the log")


def test_who_comes_late_gets_the_last_status(
    make_node: Any, rig: Any, tools: Any, watch: Watcher
) -> None:
    node = make_node(autostart=False)
    watch.wait("unconfigured")
    node.close(5)
    for timer in node.timers:  # no further report
        timer.cancel()
    late: list[Any] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    rig.node.create_subscription(DiagnosticStatus, "/lmeec/status", late.append, latched)
    tools.wait_until(lambda: late, "the latched status")
    assert values(late[0])["state"] == "unconfigured"
