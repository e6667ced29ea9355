"""The node and its cameras: eight targets, a dead one, lazy ones, masks that are late and few."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from lmeec.msg import CorrespondenceMaskArray, ObjectPointArray
from sensor_msgs.msg import CompressedImage, Image
from visualization_msgs.msg import MarkerArray

import lmeec_core as lm

SIZE = (48, 64)


class Cameras:
    """Publishes frames of a query camera with its labels, and of target cameras."""

    def __init__(self, rig: Any, tools: Any, query: str, targets: Collection[str]) -> None:
        self.rig, self.tools, self.query, self.targets = rig, tools, query, list(targets)
        for name in (query, *targets):
            rig.advertise(f"/{name}/image_raw", Image, reliable=name != "exo2")
        rig.advertise(f"/{query}/label_image", Image)

    def stamp(self, k: int) -> int:
        return 10**9 + k * int(self.tools.PERIOD)

    def picture(self, name: str, k: int) -> np.ndarray:
        return np.asarray(self.tools.scene(k + 100 * len(name), *SIZE))

    def image(self, name: str, k: int) -> None:
        msg = self.tools.image_msg(self.picture(name, k), "rgb8", self.stamp(k), name)
        self.rig.publish(f"/{name}/image_raw", msg)

    def labels(self, k: int) -> None:
        labels = self.tools.label_frame(k, False, *SIZE)
        msg = self.tools.image_msg(labels, "mono8", self.stamp(k))
        self.rig.publish(f"/{self.query}/label_image", msg)

    def frame(self, k: int, silent: Collection[str] = (), masks: bool = True) -> None:
        """All of frame k, at a pace that small queues stand."""
        for name in (self.query, *self.targets):
            if name not in silent:
                self.image(name, k)
        if masks:
            self.labels(k)
        time.sleep(0.02)


def stamps(tools: Any, messages: list[Any]) -> list[int]:
    return [tools.stamp_ns(msg) for msg in messages]


def diagnostics(messages: list[Any], part: str) -> tuple[str, dict[str, str]]:
    status = next(s for s in messages[-1].status if s.name.endswith(f": {part}"))
    return status.message, {v.key: v.value for v in status.values}


def test_eight_exo_cameras_of_which_one_dies_and_returns(
    make_node: Any, rig: Any, tools: Any
) -> None:
    """Each camera with its own transport and QoS; one of them at half the rate."""
    names = [f"exo{k}" for k in range(1, 9)]
    feed = Cameras(rig, tools, "ego", names[1:])
    rig.advertise("/packed", CompressedImage)
    found = {name: rig.listen(f"/lmeec/{name}/masks", CorrespondenceMaskArray) for name in names}
    reports = rig.listen("/diagnostics", DiagnosticArray)
    node = make_node(
        **{
            "camera_names": ["ego", *names],
            "target_cameras": names,
            "cameras.exo1.topic": "/packed",
            "cameras.exo1.transport": "compressed",
            "cameras.exo2.qos": "sensor_data",
            "mailbox.depth": 50,
        }
    )
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    rig.wait_heard(reliable=False)

    def send(k: int, silent: Collection[str] = ()) -> None:
        data = cv2.imencode(".png", feed.picture("exo1", k))[1].tobytes()
        rig.publish(
            "/packed", tools.stamped(CompressedImage(format="png", data=data), feed.stamp(k))
        )
        feed.frame(k, {*silent, *(["exo4"] if k % 2 else [])})

    for k in range(12):
        send(k, ["exo8"] if 2 <= k < 8 else [])
    steady = [feed.stamp(k) for k in range(11)]
    tools.wait_until(lambda: len(found["exo3"]) >= 11, "the masks of a camera that lives")
    tools.wait_until(lambda: len(found["exo8"]) >= 4, "the masks of the one that came again")
    for name in ("exo1", "exo3", "exo5", "exo6", "exo7"):
        assert stamps(tools, found[name])[:11] == steady, name
    assert stamps(tools, found["exo4"])[:5] == steady[::2][:5]
    eighth = stamps(tools, found["exo8"])
    assert not set(eighth) & set(steady[2:8]) and {*steady[:2], steady[9]} <= set(eighth)
    last = len(reports)
    tools.wait_until(lambda: len(reports) > last, "a report")
    text, values = diagnostics(reports, "pairing")
    assert "of them partial" in text and int(values["partial_sets"]) >= 8
    assert int(values["exo8_missed"]) >= 6 and values["exo3_missed"] == "0"
    assert diagnostics(reports, "inference")[1]["sets_failed"] == "0"


def test_query_masks_of_an_exo_camera_late_and_at_a_lower_rate(
    make_node: Any, rig: Any, tools: Any
) -> None:
    """Masks for every third image of the exo camera, 1.5 s after it; the target is the ego."""
    feed = Cameras(rig, tools, "exo", ["ego"])
    found = rig.listen("/lmeec/ego/masks", CorrespondenceMaskArray)
    reports = rig.listen("/diagnostics", DiagnosticArray)
    values = {"query_camera": "exo", "target_cameras": ["ego"], "query_masks.max_delay": 2.0}
    node = make_node(**values, **{"mailbox.depth": 50})
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    rig.wait_heard()
    for k in range(30):
        feed.frame(k, masks=False)
        if k >= 15 and k % 3 == 0:
            feed.labels(k - 15)
    tools.wait_until(lambda: len(found) == 5, "masks")
    assert stamps(tools, found) == [feed.stamp(k) for k in (0, 3, 6, 9, 12)]
    model = lm.load_model("mini", seed=tools.SEED, device="cpu")
    tracker = lm.CorrespondenceTracker(model, query="exo", targets=["ego"])
    for k, msg in zip((0, 3, 6, 9, 12), found, strict=True):
        pictures = {name: feed.picture(name, k) for name in ("exo", "ego")}
        mask = tools.label_frame(k, False, *SIZE) == 1
        truth = tracker.step(pictures, {"object_1": mask})["ego"]["object_1"]
        assert (msg.query_camera, msg.target_camera) == ("exo", "ego")
        np.testing.assert_allclose(msg.masks[0].presence, truth.presence, atol=1e-5)
        assert msg.masks[0].area == truth.mask().sum()
    last = len(reports)
    tools.wait_until(lambda: len(reports) > last, "a report")
    text, numbers = diagnostics(reports, "pairing")
    assert "8 of 30 images had no query masks" in text
    assert float(numbers["query masks_lag_ms"]) >= 1400
    assert numbers["dropped_no_partner"] == "8", "they are no loss of images"


def test_targets_that_nobody_listens_to_are_not_subscribed(
    make_node: Any, rig: Any, tools: Any
) -> None:
    feed = Cameras(rig, tools, "ego", ["left", "right"])
    left = rig.listen("/lmeec/left/masks", CorrespondenceMaskArray)
    reports = rig.listen("/diagnostics", DiagnosticArray)
    node = make_node(
        **{
            "camera_names": ["ego", "left", "right"],
            "target_cameras": ["left", "right"],
            "output.lazy": True,
            "pairing.partial": False,
            "silence_warning": 0.5,
        }
    )
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    topics = {name: rig.publishers[f"/{name}/image_raw"] for name in ("ego", "left", "right")}

    def heard(*names: str) -> bool:
        return {n for n, p in topics.items() if p.get_subscription_count()} == set(names)

    def send_until(condition: Any, what: str) -> None:
        def sent() -> bool:
            feed.frame(next(frames))
            return bool(condition())

        tools.wait_until(sent, what)

    def pointers() -> list[int]:
        parts = node.with_processor(lambda p: p.tracker.memory_state()["object_1"])
        return [len(parts.get(f"{k}.pointers", ())) for k in (0, 1)]

    frames = itertools.count()
    tools.wait_until(lambda: heard("ego", "left"), "the cameras that are needed")
    send_until(lambda: left, "masks of the target that is listened to")
    time.sleep(1.2)  # two looks of the watchdog
    assert "right" not in node._watchdog.silent and pointers()[1] == 0
    last = len(reports)
    tools.wait_until(lambda: len(reports) > last, "a report")
    assert "no subscribers" in diagnostics(reports, "right")[0]

    right: list[Any] = []
    listener = rig.node.create_subscription(
        CorrespondenceMaskArray, "/lmeec/right/masks", right.append, 10
    )
    tools.wait_until(lambda: heard("ego", "left", "right"), "the other target's subscription")
    send_until(lambda: right, "masks of the other target")
    rig.node.destroy_subscription(listener)
    tools.wait_until(lambda: heard("ego", "left"), "the subscription to go again")
    tools.wait_until(lambda: node.worker.wait_idle(1.0), "the node to be idle")
    seen, kept = len(left), pointers()
    send_until(lambda: len(left) > seen + 1, "masks of the one that is left")
    assert pointers()[1] == kept[1] > 0


def test_who_listens_to_the_points_needs_every_target(
    make_node: Any, rig: Any, tools: Any, tmp_path: Path
) -> None:
    lens = {"width": 80, "height": 60, "k": [70, 0, 39.5, 0, 70, 29.5, 0, 0, 1]}
    place = {"position": [0, 0, 0], "orientation": [0, 0, 0, 1]}
    cameras = {name: {**lens, **place} for name in ("ego", "exo")}
    path = tmp_path / "calibration.yaml"
    path.write_text(yaml.safe_dump({"frame": "table", "cameras": cameras}))
    values = {"output.lazy": True, "output.points": True, "geometry.calibration": str(path)}
    node = make_node(objects=["1:cup"], **values)
    tools.wait_until(lambda: node.state == "active", "the node to be active")

    def subscribed() -> bool:
        return any(one.topic_name == "/exo/image_raw" for one in node.subscriptions)

    assert not subscribed()
    for topic, kind in (
        ("/lmeec/points", ObjectPointArray),
        ("/lmeec/points/markers", MarkerArray),
    ):
        listener = rig.node.create_subscription(kind, topic, lambda _: None, 5)
        tools.wait_until(subscribed, f"the target, which {topic} needs")
        rig.node.destroy_subscription(listener)
        tools.wait_until(lambda: not subscribed(), "the subscription to go again")
