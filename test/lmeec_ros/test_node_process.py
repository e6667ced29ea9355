"""The installed node as a process: images and query masks go in over DDS, masks come out."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lmeec.msg import CorrespondenceMaskArray
from sensor_msgs.msg import CompressedImage, Image

import lmeec_core as lm

LEFT, RIGHT = (48, 64), (90, 120)  # sizes of the target images
OFFSETS = {"left": 3_000_000, "right": -2_000_000}  # of their stamps, in nanoseconds
MASKS = {name: f"/lmeec/{name}/masks" for name in ("exo", "left", "right")}


def values(**more: Any) -> dict[str, Any]:
    return {
        "model.preset": "mini",
        "model.seed": 0,
        "model.device": "cpu",
        "model.warm_up_steps": 1,
        "objects": ["1:cup", "2:knife"],
        **more,
    }


def stamp(tools: Any, k: int) -> int:
    return 1_000_000_000 + k * tools.PERIOD


def compressed_msg(tools: Any, pixels: np.ndarray, suffix: str, stamp_ns: int) -> Any:
    ok, data = cv2.imencode(suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    assert ok
    msg = CompressedImage(format=suffix[1:], data=data.tobytes())
    return tools.stamped(msg, stamp_ns, "compressed")


def full_mask(entry: Any, size: tuple[int, int]) -> np.ndarray:
    """The mask of a message at the image's size, without the code under test."""
    full = np.zeros(size, np.uint8)
    roi = entry.roi
    crop = np.array(entry.mask.data, np.uint8).reshape(entry.mask.height, entry.mask.width)
    full[roi.y_offset : roi.y_offset + roi.height, roi.x_offset : roi.x_offset + roi.width] = crop
    assert set(np.unique(full)) <= {0, 255}
    return full > 0


def check_masks(
    msg: Any, target: str, size: tuple[int, int], expected: dict[str, lm.Correspondence]
) -> None:
    """A message has the tracker's results of a target camera, and says whose they are."""
    assert msg.header.frame_id == f"{target}_optical"
    assert msg.query_header.frame_id == "ego_optical"
    assert (msg.query_camera, msg.target_camera) == ("ego", target)
    assert (msg.height, msg.width) == size
    assert msg.processing_time.sec + msg.processing_time.nanosec > 0
    assert [(m.object_id, m.label) for m in msg.masks] == [("cup", 1), ("knife", 2)]
    for entry in msg.masks:
        truth = expected[entry.object_id]
        np.testing.assert_array_equal(full_mask(entry, size), truth.mask())
        assert entry.visible == truth.visible() and entry.area == truth.mask().sum()
        assert entry.presence == pytest.approx(truth.presence, abs=1e-5)
        assert entry.score == pytest.approx(truth.predicted_iou, abs=1e-5)


def test_masks_over_dds_equal_the_trackers(start_node: Any, rig: Any, tools: Any) -> None:
    """Two objects, two targets, one object absent on some frames."""
    for topic in ("/ego/image_raw", "/l/image", "/right/image_raw", "/ego/label_image"):
        rig.advertise(topic, Image)
    masks = {name: rig.listen(MASKS[name], CorrespondenceMaskArray) for name in ("left", "right")}
    labels = rig.listen("/lmeec/left/label_image", Image)
    overlays = rig.listen("/lmeec/right/overlay", Image)
    config = {
        "camera_names": ["ego", "left", "right"],
        "target_cameras": ["left", "right"],
        "cameras.left.topic": "/l/image",
    }
    start_node(values(**config))
    rig.wait_heard()

    model = lm.load_model("mini", seed=tools.SEED, device="cpu")
    tracker = lm.CorrespondenceTracker(model, query="ego", targets=("left", "right"))
    expected = []
    for k in range(6):
        knife = k not in (0, 3)  # not yet there on the first frame, hidden on the fourth
        ego, left, right = (
            tools.scene(k),
            tools.scene(50 + k, *LEFT),
            tools.scene(90 + k, *RIGHT),
        )
        frame = tools.label_frame(k, knife)
        query = {"cup": frame == 1, "knife": frame == 2 if knife else None}
        expected.append(tracker.step({"ego": ego, "left": left, "right": right}, query))
        now, turned = stamp(tools, k), np.ascontiguousarray(right[..., ::-1])
        for topic, pixels, encoding, offset, optical in (
            ("/l/image", left, "rgb8", OFFSETS["left"], "left_optical"),
            ("/right/image_raw", turned, "bgr8", OFFSETS["right"], "right_optical"),
            ("/ego/image_raw", ego, "rgb8", 0, "ego_optical"),
            ("/ego/label_image", frame.astype(np.uint16), "16UC1", 0, "ego_optical"),
        ):
            rig.publish(topic, tools.image_msg(pixels, encoding, now + offset, optical))
        for name, received in masks.items():
            tools.wait_until(lambda r=received, n=k: len(r) > n, f"masks {k} of {name}")
    tools.wait_until(lambda: len(labels) == 6 and len(overlays) == 6, "label images and overlays")

    for name, size in (("left", LEFT), ("right", RIGHT)):
        stamps = [tools.stamp_ns(m) for m in masks[name]]
        assert stamps == [stamp(tools, k) + OFFSETS[name] for k in range(6)], "one message per set"
        for k, msg in enumerate(masks[name]):
            assert msg.query_header.stamp.nanosec == stamp(tools, k) % 1_000_000_000
            check_masks(msg, name, size, expected[k][name])
    hidden = masks["left"][3].masks[1]
    assert not hidden.visible and hidden.presence == 0
    assert sum(m.visible for msg in masks["left"] for m in msg.masks) >= 8, "the test sees masks"
    for k, msg in enumerate(labels):
        exclusive = lm.exclusive_masks(expected[k]["left"])
        got = np.array(msg.data).view("<u2").reshape(LEFT)
        assert msg.encoding == "16UC1"
        for label, name in ((1, "cup"), (2, "knife")):
            np.testing.assert_array_equal(got == label, exclusive[name])
    assert (overlays[0].encoding, overlays[0].width) == ("rgb8", RIGHT[1])
    drawn = np.array(overlays[1].data).reshape(*RIGHT, 3)
    assert (drawn != tools.scene(91, *RIGHT)).mean() > 0.05


class Feed:
    """Publishes sets of one query and one target camera, and waits for their masks."""

    def __init__(self, rig: Any, tools: Any, raw: bool = True) -> None:
        self.rig, self.tools, self.raw = rig, tools, raw
        kind, tail = (Image, "") if raw else (CompressedImage, "/compressed")
        self.ego, self.exo = f"/ego/image_raw{tail}", f"/exo/image_raw{tail}"
        self.labels = f"/ego/label_image{tail}"
        for topic in (self.ego, self.exo, self.labels):
            rig.advertise(topic, kind)
        self.found = rig.listen(MASKS["exo"], CorrespondenceMaskArray)
        self.k = 0

    def messages(self, exo_offset: int = 0) -> dict[str, Any]:
        """The messages of the next frame, by topic."""
        tools, k, now = self.tools, self.k, stamp(self.tools, self.k)
        self.k += 1
        ego, exo, labels = tools.scene(k % 9), tools.scene(50 + k % 9), tools.label_frame(k % 9)
        if self.raw:
            return {
                self.ego: tools.image_msg(ego, "rgb8", now),
                self.exo: tools.image_msg(exo, "rgb8", now + exo_offset),
                self.labels: tools.image_msg(labels.astype(np.uint8), "mono8", now),
            }
        return {
            self.ego: compressed_msg(tools, ego, ".jpg", now),
            self.exo: compressed_msg(tools, exo, ".jpg", now),
            self.labels: compressed_msg(tools, labels.astype(np.uint16), ".png", now),
        }

    def send(self, messages: dict[str, Any]) -> None:
        for topic, msg in messages.items():
            self.rig.publish(topic, msg)

    def good(self) -> Any:
        """Send a good frame and wait for its masks: the node goes on."""
        messages = self.messages()
        wanted = self.tools.stamp_ns(messages[self.exo])
        self.send(messages)
        here = lambda: [m for m in self.found if self.tools.stamp_ns(m) == wanted]  # noqa: E731
        found = self.tools.wait_until(here, f"masks of the good frame at {wanted}")
        assert [m.object_id for m in found[0].masks][:2] == ["cup", "knife"]
        return found[0]


def truncate(msg: Any) -> None:
    del msg.data[100:]


def resize(msg: Any) -> None:
    msg.height = 0


RAW_FAULTS: tuple[tuple[str, Any, str], ...] = (
    ("exo", truncate, "camera 'exo' (/exo/image_raw): image 80 x 60 rgb8: truncated buffer"),
    ("ego", resize, "camera 'ego' (/ego/image_raw): image size 80 x 0"),
    ("ego", lambda m: setattr(m, "encoding", "bayer_rggb8"), "'bayer_rggb8' given"),
    ("labels", truncate, "query masks (/ego/label_image): image 80 x 60 mono8: truncated"),
    ("labels", lambda m: setattr(m, "width", 81), "query masks (/ego/label_image): image 81 x 60"),
    ("labels", lambda m: setattr(m, "encoding", "rgb8"), "encoding 'rgb8' given, one of"),
    ("labels", lambda m: m.data.frombytes(m.data.tobytes()), "oversized buffer, 9600 bytes"),
)


def test_bad_images_cost_their_frame_only(
    start_node: Any, rig: Any, tools: Any, logged: Any
) -> None:
    feed = Feed(rig, tools)
    node = start_node(values())
    rig.wait_heard()
    feed.good()
    for where, spoil, text in RAW_FAULTS:
        messages = feed.messages()
        spoil(messages[getattr(feed, where)])
        feed.send(messages)
        logged(node, text)
        feed.good()
    assert "Traceback" not in node.log.read_text()


def test_bad_streams_cost_their_frame_only(
    start_node: Any, rig: Any, tools: Any, logged: Any
) -> None:
    feed = Feed(rig, tools, raw=False)
    compressed = {
        "cameras.ego.transport": "compressed",
        "cameras.exo.transport": "compressed",
        "query_masks.transport": "compressed",
    }
    node = start_node(values(**compressed))
    rig.wait_heard()
    feed.good()
    for where, data, text in (
        ("exo", lambda d: d[: len(d) // 2], "camera 'exo' (/exo/image_raw/compressed): compressed"),
        ("ego", lambda d: b"\x00" * len(d), "begin with 00000000 given, JPEG or PNG"),
        ("ego", lambda d: d[:4] + b"\x00" * (len(d) - 6) + d[-2:], "header is corrupt"),
        ("labels", lambda d: d[:40], "PNG of 40 bytes is truncated"),
        ("labels", lambda d: d[:60] + bytes(len(d) - 80) + d[-20:], "the data are corrupt"),
    ):
        messages = feed.messages()
        msg = messages[getattr(feed, where)]
        msg.data = data(bytes(msg.data))
        feed.send(messages)
        logged(node, text)
        feed.good()


def test_cameras_out_of_step_time_jumps_and_silence(
    start_node: Any, rig: Any, tools: Any, logged: Any
) -> None:
    feed = Feed(rig, tools)
    node = start_node(values(silence_warning=1.5))
    rig.wait_heard()
    feed.good()

    def keep_sending(text: str, left_out: str = "", exo_offset: int = 0) -> None:
        def look() -> bool:
            messages = feed.messages(exo_offset)
            messages.pop(left_out, None)
            feed.send(messages)
            time.sleep(0.1)
            return text in node.log.read_text()

        tools.wait_until(look, lambda: f"{text!r} in the log:\n{node.tail()}")

    keep_sending("exo is out of step: +0.040 s from ego", exo_offset=40_000_000)
    feed.good()

    feed.k = 0
    feed.good()  # a looped bag: the node notices and goes on with the very first frame
    logged(node, "time jumped back by")
    feed.good()

    keep_sending("exo: silent, no message on /exo/image_raw", left_out=feed.exo)
    logged(node, "/rig offers sensor_msgs/msg/Image, reliable")
    feed.good()
    logged(node, "exo: messages arrive again on /exo/image_raw")
    keep_sending("query masks: silent, no message on /ego/label_image", left_out=feed.labels)
    logged(node, "without query masks nothing is published")
    feed.good()
    assert node.alive and "Traceback" not in node.log.read_text()


def test_wrong_topics_types_and_qualities_are_explained(
    start_node: Any, rig: Any, tools: Any, logged: Any
) -> None:
    rig.advertise("/head/image_raw", Image)
    rig.advertise("/exo/image_raw", CompressedImage)
    rig.advertise("/ego/label_image", Image, reliable=False)
    node = start_node(values(**{"silence_warning": 1.0, "query_masks.qos": "reliable"}))
    logged(node, "the topic has no publisher (but sensor_msgs/msg/Image is published on")
    logged(node, "/head/image_raw)")
    logged(node, "sensor_msgs/msg/Image is expected: set cameras.exo.transport to compressed")
    logged(node, "offers an incompatible RELIABILITY; set query_masks.qos to auto to receive")
    logged(node, "best effort; a reliable subscription does not receive it: set query_masks")


def test_mask_arrays_as_query(start_node: Any, rig: Any, tools: Any, logged: Any) -> None:
    from std_msgs.msg import Header

    from lmeec_ros.io.messages import MESSAGES

    for topic in ("/ego/image_raw", "/exo/image_raw"):
        rig.advertise(topic, Image)
    rig.advertise("/ego/masks", CorrespondenceMaskArray)
    found = rig.listen(MASKS["exo"], CorrespondenceMaskArray)
    node = start_node(values(**{"query_masks.type": "mask_array", "objects": ["1:cup"]}))
    rig.wait_heard()
    model = lm.load_model("mini", seed=tools.SEED, device="cpu")
    tracker = lm.CorrespondenceTracker(model, query="ego", targets=("exo",))
    for k, fault in enumerate((False, True, False)):
        frame, now = tools.label_frame(k) == 1, stamp(tools, k)
        ego, exo = tools.scene(k), tools.scene(50 + k)
        msg = CorrespondenceMaskArray(width=80, height=60)
        msg.masks = [MESSAGES.mask("spoon", 8, frame, Header(), 1.0, 1.0)]
        if fault:
            msg.masks[0].roi.x_offset = 70
        for topic, pixels in (("/ego/image_raw", ego), ("/exo/image_raw", exo)):
            rig.publish(topic, tools.image_msg(pixels, "rgb8", now))
        rig.publish("/ego/masks", tools.stamped(msg, now))
        if fault:
            logged(node, "query masks (/ego/masks): mask array, object 'spoon': region")
            continue
        truth = tracker.step({"ego": ego, "exo": exo}, {"cup": None, "spoon": frame})["exo"]
        tools.wait_until(lambda n=now: found and tools.stamp_ns(found[-1]) == n, f"masks {k}")
        entries = {m.object_id: m for m in found[-1].masks}
        assert {name: m.label for name, m in entries.items()} == {"cup": 1, "spoon": 8}
        np.testing.assert_array_equal(full_mask(entries["spoon"], (60, 80)), truth["spoon"].mask())
        assert not entries["cup"].visible and entries["spoon"].visible
    assert len(found) == 2


def test_too_many_frames_are_dropped_and_counted(
    start_node: Any, rig: Any, tools: Any, logged: Any
) -> None:
    diagnostics = rig.listen("/diagnostics", DiagnosticArray)
    feed = Feed(rig, tools)
    node = start_node(values(**{"mailbox.depth": 1}))
    rig.wait_heard()
    feed.good()
    for _ in range(40):
        feed.send(feed.messages())
        time.sleep(0.005)
    logged(node, "inference is slower than the cameras")
    feed.good()

    def counts() -> Any:
        if not diagnostics:
            return None
        status = {s.name: {v.key: v.value for v in s.values} for s in diagnostics[-1].status}
        one = status["/lmeec: inference"]
        if "sets_received" not in one:
            return None
        names = ("received", "processed", "failed")
        received, processed, failed = (int(one[f"sets_{name}"]) for name in names)
        dropped, waiting = int(one["dropped_mailbox"]), int(one["waiting"])
        enough = received == int(status["/lmeec: pairing"]["sets"]) and dropped > 0
        return one if enough and received == processed + failed + dropped + waiting else None

    one = tools.wait_until(counts, "diagnostics whose counters add up")
    assert float(one["latency_p95_ms"]) >= float(one["latency_p50_ms"]) > 0
    stamps = [tools.stamp_ns(m) for m in feed.found]
    assert stamps == sorted(stamps) and max(Counter(stamps).values()) == 1
    assert int(one["published"]) == len(stamps)
