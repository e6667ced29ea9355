"""Boxes of a detector, and what the node says where it cannot read them."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace as Made
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
from std_msgs.msg import Header

from lmeec_core.prompts import PromptedTracker, view_tracker
from lmeec_ros.health.measurements import Measurements, Snapshot
from lmeec_ros.health.reasons import Reason, why
from lmeec_ros.inference.marks import Marks, PromptRefused
from lmeec_ros.inference.worker import WorkerStats
from lmeec_ros.io.prompts import MAX_POINTS, read_detections
from lmeec_ros.parameters import config as parameters

CONFIG = parameters.load({"query_masks.source": "prompts"})


def detection(
    box: tuple[float, ...] = (40, 30, 20, 10, 0), name: str = "", frame: str = "", **scores: float
) -> Any:
    """As vision_msgs/Detection2D has it: the middle, the size and the angle of a box."""
    x, y, width, height, turn = box
    centre = Made(position=Made(x=float(x), y=float(y)), theta=float(turn))
    results = [Made(hypothesis=Made(class_id=k, score=v)) for k, v in scores.items()]
    header = Header(frame_id=frame, stamp=Time(sec=9))
    bbox = Made(center=centre, size_x=float(width), size_y=float(height))
    return Made(header=header, results=results, bbox=bbox, id=name)


def array(*detections: Any) -> Any:
    return Made(header=Header(frame_id="exo", stamp=Time(sec=5)), detections=list(detections))


def test_a_box_marks_the_object_of_its_id_or_its_likeliest_class() -> None:
    found, wrong = read_detections(
        CONFIG,
        array(
            detection(cup=0.6, knife=0.9),
            detection((1, 2, 3, 4, 0), cup=0.7),
            detection((40, 30, 4, 4, 0), cup=0.8, frame="ego"),
            detection(name="7"),
            detection(cup=0.4),
        ),
    )
    assert not wrong and all(one.detected for one in found)
    by_name = {one.prompt.object_id: one for one in found}
    assert list(by_name) == ["knife", "cup", "7"]  # of two cups the likelier one
    assert by_name["cup"].prompt.box == (38, 28, 42, 32)
    assert (by_name["cup"].camera, by_name["cup"].stamp_ns) == ("ego", 9_000_000_000)
    assert (by_name["knife"].camera, by_name["knife"].stamp_ns) == ("exo", 5_000_000_000)


@pytest.mark.parametrize(
    "one",
    [detection(), detection((1, 2, 0, 4, 0), cup=1), detection((math.nan, 2, 3, 4, 0), cup=1)],
)
def test_boxes_without_a_name_or_a_size_are_named(one: Any) -> None:
    found, (error,) = read_detections(CONFIG, array(one, detection(knife=1)))
    assert [marking.prompt.object_id for marking in found] == ["knife"]
    assert "expected" in str(error)


def test_far_too_many_boxes() -> None:
    found, (error,) = read_detections(CONFIG, array(*[detection(cup=1)] * (MAX_POINTS + 1)))
    assert not found and f"at most {MAX_POINTS} expected" in str(error)


@given(st.floats(-7, 7), st.floats(1, 50), st.floats(1, 50))
def test_a_turned_box_becomes_the_upright_one_around_it(
    turn: float, width: float, height: float
) -> None:
    ((one,), _) = read_detections(CONFIG, array(detection((60, 40, width, height, turn), cup=1)))
    corners = cv2.boxPoints(((60, 40), (width, height), math.degrees(turn)))
    around = [*corners.min(axis=0), *corners.max(axis=0)]
    assert one.prompt.box == pytest.approx(around, abs=1e-3)


def test_a_detector_marks_what_is_new_or_lost_and_nothing_else(golden_mini: Any) -> None:
    from lmeec_core.methods.lm_eec import LmEec

    def one_view() -> Any:
        return view_tracker(golden_mini)

    marks = Marks(PromptedTracker(("ego", "exo"), LmEec(golden_mini), one_view))

    def look() -> None:
        image = np.zeros((60, 80, 3), np.uint8)
        marks.tracker.look({"ego": image, "exo": image})
        stamps = dict.fromkeys(("ego", "exo"), 5_000_000_000)
        sizes = dict.fromkeys(("ego", "exo"), (60, 80))
        marks.add_images(stamps, sizes, {"ego": "ego", "exo": "exo"})

    def submit() -> Any:
        # It reaches beyond the image, as boxes of detectors do.
        ((marking,), _) = read_detections(CONFIG, array(detection((75, 30, 30, 40, 0), cup=1)))
        answer = marks.submit(marking, CONFIG)
        marks.settle(CONFIG)
        return answer

    look()
    assert submit().result(0) == ("exo", 5_000_000_000)
    marks.tracker.forget("cup")
    marks.tracker.prompt("exo", mask_prompt())
    error = submit().exception(0)
    assert isinstance(error, PromptRefused) and error.kind == "seen"
    look()
    seen = "cup" not in marks.tracker.lost
    assert (submit().exception(0) is not None) == seen


def mask_prompt() -> Any:
    from lmeec_core.prompts import Prompt

    return Prompt("cup", mask=np.ones((60, 80), bool))


@pytest.fixture(scope="module")
def golden_mini() -> Any:
    import lmeec_core as lm

    return lm.load_model("mini", seed=0, device="cpu")


def test_a_missing_package_is_said_once(
    make_node: Any, capfd: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vision_msgs", "vision_msgs.msg"):
        monkeypatch.setitem(sys.modules, name, None)
    make_node(autostart=False, **{
        "query_masks.source": "prompts", "prompts.detections.topic": "/boxes",
    })  # fmt: skip
    text = "topic: not subscribed to /boxes, because the ROS package vision_msgs is not installed"
    tools.wait_until(lambda: text in capfd.readouterr().err, "the node to say it", 10)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"query_masks.source": "mouse"}, "one of topic, prompts expected"),
        ({"query_masks.source": "prompts", "output.lazy": True}, "output.lazy: true given with"),
        (
            {"prompts.checkpoint": "x.pt"},
            "given without its network; prompts.preset expected as well",
        ),
        ({"prompts.preset": "big"}, "one of same, base_plus"),
        ({"prompts.hold": 0}, "1 to 64 expected"),
    ],
)
def test_parameters(values: dict[str, Any], text: str) -> None:
    with pytest.raises(parameters.ParameterError, match=text):
        parameters.load(values)


def test_the_status_says_what_to_do() -> None:
    measured = Measurements()
    measured.output.add(1)
    done = WorkerStats(received=1, processed=1, failed=0, dropped=0, discarded=0, waiting=0)

    def reason() -> Reason:
        return why(Snapshot("/lmeec", "active", CONFIG, "cpu", measured, worker=done))

    todo = "click the object: publish a click on /clicked_point or a Prompt on /lmeec/prompt, or "
    todo += "call /lmeec/mark_object"
    assert reason().kind == "no_object" and reason().remedy == todo
    measured.prompts.refuse("late", "too late")
    assert reason().text.endswith("no object is marked yet; the last prompt was refused: too late")
    measured.marked = {"cup": "exo"}
    assert reason().kind == "lost" and "(cup in exo)" in reason().text and todo in reason().remedy
    measured.objects = 1
    assert reason().kind == "publishing"
