"""Candidate masks of another program, on topics and in bags: paired with the images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from typer.testing import CliRunner

from lmeec_core.bags.bag import BagWriter
from lmeec_core.cli.app import app
from lmeec_core.errors import InputError
from lmeec_core.methods.candidates.given import label_masks
from lmeec_core.methods.candidates.limits import CandidateLimits
from lmeec_core.sync.image_set import ImageSet, candidates_of
from lmeec_core.takes import Results, resize_mask
from lmeec_ros.inference.pipeline import load_processor
from lmeec_ros.io.messages import LabelTable, masks_from_array
from lmeec_ros.io.synchronizer import make_synchronizer, message_filters
from lmeec_ros.parameters import config as parameters

GIVEN: dict[str, Any] = {
    "method": "omama", "candidates.source": "topic", "objects": ["1:cup"],
    "presence_threshold": 0.0, "model.preset": "nano", "model.device": "cpu",
    "model.warm_up_steps": 0, "model.precision": "fp32",
}  # fmt: skip
SECOND = 1_000_000_000


def candidates(shift: int = 0) -> np.ndarray:
    """Labels 3 and 7."""
    labels = np.zeros((60, 80), np.uint8)
    labels[5:25, 10 + shift : 30 + shift], labels[30:55, 40:70] = 3, 7
    return labels


@pytest.fixture
def messages(tools: Any) -> Any:
    """The messages of frame k by topic; the candidates may be others."""

    def made(k: int, labels: np.ndarray | None = None) -> dict[str, Any]:
        stamp = SECOND + k * tools.PERIOD
        given = candidates(k) if labels is None else labels
        return {
            "ego/image_raw": tools.image_msg(tools.scene(k), "rgb8", stamp),
            "ego/label_image": tools.image_msg(tools.label_frame(k, False), "mono8", stamp),
            "exo/image_raw": tools.image_msg(tools.scene(k + 9), "rgb8", stamp),
            "exo/candidates": tools.image_msg(given, "mono8", stamp),
        }

    return made


def set_of(messages: dict[str, Any], target: str = "exo") -> ImageSet[Any]:
    query, masks, image, given = messages.values()
    return ImageSet(query, masks, {target: image}, {target: given})


def resize_labels(labels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """As result files hold masks."""
    return sum(label * resize_mask(labels == label, (size[0], size[1])) for label in (3, 7))


def is_one_of(mask: np.ndarray, labels: np.ndarray) -> bool:
    return any(np.array_equal(mask, labels == label) for label in (3, 7))


@pytest.mark.parametrize("policy", ["nearest", "approximate"])
def test_a_set_waits_for_its_candidates(policy: str) -> None:
    """A set without them is none."""
    if policy != "nearest" and message_filters is None:
        pytest.skip("needs the ROS package message_filters")
    seen: list[Any] = []
    config = parameters.load({**GIVEN, "pairing.policy": policy})
    one = make_synchronizer(config, seen.append, lambda *_: None)
    streams = ("ego", "query masks", "exo", candidates_of("exo"))

    def send(stream: str, k: int) -> None:
        stamp = SimpleNamespace(sec=k, nanosec=0)
        one.add(stream, SimpleNamespace(header=SimpleNamespace(stamp=stamp), name=stream))

    for k in (1, 2, 3):
        for stream in streams[:3]:
            send(stream, k)
    assert not seen
    for k in (1, 3):
        send(streams[3], k)
    assert [found.query.header.stamp.sec for found in seen] == [1, 3]
    assert [m.name for m in seen[0]] == list(streams) and set(seen[0].candidates) == {"exo"}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"method": "lmeec"},
            "with the method 'lmeec', which does not use candidates",
        ),
        ({"query_masks.source": "prompts"}, "'topic' given with query_masks.source 'prompts'"),
        ({"output.lazy": True}, "'topic' given with output.lazy True"),
        (
            {
                "camera_names": ["ego", "a", "b"],
                "target_cameras": ["a", "b"],
                "candidate_masks.topic": "/x",
            },
            "'/x' given, which is the same for all 2 target cameras",
        ),
        ({"candidate_masks.topic": "a b"}, None),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], text: str | None) -> None:
    if text is None:  # a name is checked where ROS resolves it

        def refuse(topic: str) -> str:
            if " " in topic:
                raise ValueError("no spaces")
            return topic

        with pytest.raises(parameters.ParameterError, match="candidate_masks.topic: 'a b' given"):
            parameters.load({**GIVEN, **values}, refuse)
        return
    with pytest.raises(parameters.ParameterError, match=text):
        parameters.load({**GIVEN, **values})


def test_topics_have_the_names_of_the_cameras() -> None:
    cameras = {"camera_names": ["ego", "cam-1", "b"], "target_cameras": ["cam-1", "b"]}
    for given, transport, found in (
        ("", "raw", ["/cam_1/candidates", "/b/candidates"]),
        ("/sam/<camera>", "raw", ["/sam/cam_1", "/sam/b"]),
        ("", "compressed", ["/cam_1/candidates/compressed", "/b/candidates/compressed"]),
    ):
        config = parameters.load({
            **GIVEN, **cameras, "candidate_masks.topic": given,
            "candidate_masks.transport": transport,
        })  # fmt: skip
        assert [one.address for one in config.candidate_masks.values()] == found
    assert not parameters.load({"method": "omama"}).candidate_masks


def test_labels_become_candidates_within_the_limits() -> None:
    labels = candidates()
    found = label_masks(labels, (60, 80), CandidateLimits())
    assert np.array_equal(found, [labels == 3, labels == 7])
    assert len(label_masks(labels, (60, 80), CandidateLimits(min_area=0.1))) == 1
    assert label_masks(labels[::2, ::2], (60, 80), CandidateLimits()).shape == (2, 30, 40)
    assert not len(label_masks(0 * labels, (60, 80), CandidateLimits()))
    with pytest.raises(InputError, match="80 x 60 pixels given, 60 x 80 like the image"):
        label_masks(labels, (80, 60), CandidateLimits())
    with pytest.raises(InputError, match=r"2 candidates given, at most 1 \(candidates.most\)"):
        label_masks(labels, (60, 80), CandidateLimits(most=1))


def test_the_processor_chooses_among_them(messages: Any, tools: Any) -> None:
    processor = load_processor(parameters.load(GIVEN))
    for k in (0, 1):
        found = processor.process(set_of(messages(k)))["exo"].found["cup"]
        assert is_one_of(found.mask(0.0), candidates(k))
    none = processor.process(set_of(messages(2, 0 * candidates())))["exo"].found["cup"]
    assert none.presence == 0 and not none.mask(0.0).any()
    with pytest.raises(InputError, match=r"candidates of 'exo' \(/exo/candidates\): .*60 x 60"):
        processor.process(set_of(messages(3, np.zeros((60, 60), np.uint8))))


def test_bad_candidates_of_one_camera_leave_the_other(messages: Any) -> None:
    """Its image is left out of the set, and named."""
    config = parameters.load(
        {**GIVEN, "camera_names": ["ego", "a", "b"], "target_cameras": ["a", "b"]}
    )
    good, bad = messages(0), messages(0, np.zeros((10, 90), np.uint8))
    given = set_of(good, "a")
    both = ImageSet(
        given.query, given.masks, {**given.targets, "b": bad["exo/image_raw"]},
        {**given.candidates, "b": bad["exo/candidates"]},
    )  # fmt: skip
    refused: list[tuple[str, str]] = []
    found = load_processor(config).process(both, lambda name, e: refused.append((name, str(e))))
    assert set(found) == {"a"} and [name for name, _ in refused] == ["b"]
    assert "candidates of 'b'" in refused[0][1]


def test_the_node_takes_them_from_their_topic(
    make_node: Any, rig: Any, tools: Any, messages: Any
) -> None:
    from lmeec.msg import CorrespondenceMaskArray

    node = make_node(**GIVEN)
    for topic in messages(0):
        rig.advertise(topic, Image)
    found = rig.listen("/lmeec/exo/masks", CorrespondenceMaskArray)
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    rig.wait_heard()
    for k in range(3):
        for topic, message in messages(k).items():
            rig.publish(topic, message)
        # One set at a time: a busy worker would drop the oldest.
        tools.wait_until(lambda k=k: len(found) == k + 1, f"the masks of frame {k}")
    for k, message in enumerate(found):
        mask = masks_from_array(message, LabelTable({1: "cup"}))["cup"]
        assert mask is not None and is_one_of(mask, candidates(k))


def test_a_bag_has_them_as_the_node_had(messages: Any, tools: Any, tmp_path: Path) -> None:
    """Also where the topic is missing."""
    with BagWriter(tmp_path / "bag") as bag:
        for k in range(2):
            for topic, message in messages(k).items():
                bag.add_topic(f"/{topic}", "sensor_msgs/msg/Image")
                bag.write(f"/{topic}", tools.stamp_ns(message), serialize_message(message))
    params = tmp_path / "params.yaml"

    def track(**values: Any) -> Any:
        params.write_text(yaml.safe_dump({"/**": {"ros__parameters": {**GIVEN, **values}}}))
        command = ["track", str(tmp_path / "bag"), "--params", str(params), "--workers", "1"]
        return CliRunner(env={"COLUMNS": "250"}).invoke(
            app, [*command, "--out", str(tmp_path / "out.json")]
        )

    done = track()
    assert done.exit_code == 0, done.output
    found = list(Results.read(tmp_path / "out.json").predictions())
    assert len(found) == 2
    for k, one in enumerate(sorted(found, key=lambda one: one.frame)):
        assert is_one_of(one.mask, resize_labels(candidates(k), one.mask.shape))
    done = track(**{"candidate_masks.topic": "/elsewhere"})
    assert done.exit_code == 1
    assert "no topic '/elsewhere' (candidates of exo)" in " ".join(done.output.split())
