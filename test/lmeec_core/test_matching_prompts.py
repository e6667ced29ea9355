"""Clicks, boxes and masks with the compact network, and tracking from them in one view."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import lmeec_core as lm
from lmeec_core.compact.click_head import ClickHead, Hints, fingerprint
from lmeec_core.errors import InputError
from lmeec_core.prompts import MatchingPromptTracker, Tracked, view_tracker
from lmeec_core.prompts.checks import check_prompt
from lmeec_core.prompts.marking import Marker, deepest
from lmeec_core.takes import Take

SIDE = 64
SAMPLE = Path(__file__).parents[1] / "data" / "sample_take"


@pytest.fixture(scope="module")
def tiny() -> lm.LMEEC:
    """A compact network with random weights, always sure that it sees the object."""
    config = lm.preset("nano").model_copy(update={"image_size": SIDE})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = lm.build_model(config)
    model.requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def nano() -> lm.LMEEC:
    return lm.load_model("nano", device="cpu")


def frame(number: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """A red disc that moves to the right on a grey ground."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), 90, np.uint8)
    image[disc(number, size)] = (200, 40, 30)
    image[(x - width // 5) ** 2 + (y - height // 5) ** 2 < (height // 8) ** 2] = (20, 60, 200)
    return image


def disc(number: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """Where it is."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    return (x - width // 2 - 2 * number) ** 2 + (y - height // 2) ** 2 < (height // 6) ** 2


CENTRE = [[SIDE / 2, SIDE / 2]]
BLUE = [[SIDE / 5, SIDE / 5]]


def near(one: Tracked, other: Tracked) -> bool:
    return torch.allclose(one.logits, other.logits, atol=1e-5, rtol=1e-5) and (
        one.presence_logit == pytest.approx(other.presence_logit, abs=1e-4)
    )


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def test_the_network_chooses_the_tracker(tiny: lm.LMEEC) -> None:
    assert isinstance(view_tracker(tiny), MatchingPromptTracker)
    mini = lm.build_model(lm.preset("mini"))
    assert isinstance(view_tracker(mini, num_frames=9), lm.PromptTracker)
    with pytest.raises(InputError, match="view_tracker"):
        lm.PromptTracker(tiny)
    with pytest.raises(InputError, match="view_tracker"):
        MatchingPromptTracker(mini)
    with pytest.raises(InputError, match="hold: 0 given"):
        MatchingPromptTracker(tiny, hold=0)


@pytest.mark.parametrize("kind", ["click", "box", "mask"])
def test_objects_are_marked_and_followed(nano: lm.LMEEC, kind: str) -> None:
    size = (120, 160)
    given = {
        "click": {"points": [[80, 60]]},
        "box": {"box": [59, 39, 101, 81]},
        "mask": {"mask": disc(0, size)},
    }[kind]
    tracker = view_tracker(nano)
    assert tracker.step(frame(0, size)) == {}
    found = tracker.prompt("red", **given)
    assert found.visible() and found.mask().shape == size
    assert iou(found.mask(), disc(0, size)) > 0.8
    tracked = tracker.step(frame(3, size))["red"]
    assert iou(tracked.mask(), disc(3, size)) > 0.7
    if kind == "mask":
        assert found.score == 1.0 and iou(found.mask(), disc(0, size)) > 0.93


def test_an_object_that_is_not_there_is_absent_and_found_again(nano: lm.LMEEC) -> None:
    size = (120, 160)
    empty = np.full((*size, 3), 90, np.uint8)
    tracker = view_tracker(nano)
    tracker.step(frame(0, size))
    tracker.prompt("red", points=[[80, 60]])
    gone = [tracker.step(empty)["red"] for _ in range(2)]
    assert not any(one.visible() or one.mask().any() for one in gone)
    back = tracker.step(frame(2, size))["red"]
    assert iou(back.mask(), disc(2, size)) > 0.7


def test_one_click_on_the_sample_take(nano: lm.LMEEC) -> None:
    """Bounds around what was measured when the weights were bundled."""
    take = Take.open(SAMPLE)
    first, second = take.common_frames(take.ego)[:2]
    tracker = view_tracker(nano)
    tracker.step(take.image(take.ego, first))
    overlaps = []
    for name in ("goblet_1", "dumbbell_1"):
        truth = take.mask(name, take.ego, first)
        overlaps.append(iou(tracker.prompt(name, points=[deepest(truth)]).mask(), truth))
    for name, found in tracker.step(take.image(take.ego, second)).items():
        overlaps.append(iou(found.mask(), take.mask(name, take.ego, second)))
    print(overlaps)  # for -s
    assert min(overlaps) > 0.75


def test_a_click_never_takes_the_whole_image(tiny: lm.LMEEC, nano: lm.LMEEC) -> None:
    flat = np.full((SIDE, SIDE, 3), 128, np.uint8)
    for model in (tiny, nano):
        tracker = view_tracker(model)
        tracker.step(flat)
        for place in ([1, 1], [64, 64]):
            mask = tracker.prompt("a", points=[place]).mask()
            assert 0 < mask.mean() <= 0.55
            assert mask[min(place[1], 63), min(place[0], 63)]


def test_points_beside_the_object_are_cut_away_and_mend_a_mask(nano: lm.LMEEC) -> None:
    both = disc(0) | disc(-8)
    image = frame(0)
    image[disc(-8)] = (200, 40, 30)
    tracker = view_tracker(nano)
    tracker.step(image)
    whole = tracker.prompt("red", mask=both)
    assert whole.mask()[32, 14]
    left = tracker.prompt("red", points=[[14, 32]], labels=[0])
    assert left.mask()[32, 36] and not left.mask()[32, 14]
    with pytest.raises(InputError, match="only points that are not on the object"):
        tracker.prompt("new", points=[[14, 32]], labels=[0])
    assert tracker.objects == ("red",)


def test_a_point_far_off_marks_another_place(tiny: lm.LMEEC) -> None:
    marker = Marker(tiny)  # type: ignore[arg-type]
    side = tiny.config.mask_size
    before = torch.full((side, side), -1.0)
    before[2:8, 2:8] = 1

    def builds(point: list[float], labels: list[int]) -> bool:
        marked = check_prompt("a", [point], labels, None, None, (SIDE, SIDE))
        return marker.builds_on(before, marked, (SIDE, SIDE))

    assert builds([8, 8], [1]) and builds([18, 10], [1]) and builds([50, 50], [0])
    assert not builds([50, 50], [1])


def test_objects_do_not_depend_on_each_other(tiny: lm.LMEEC) -> None:
    together, red, blue = (MatchingPromptTracker(tiny) for _ in range(3))
    for tracker in (together, red, blue):
        tracker.step(frame(0))
    for tracker in (together, red):
        tracker.prompt("red", points=CENTRE)
    together.step(frame(1))
    red.step(frame(1))
    blue.step(frame(1))
    for tracker in (together, blue):
        tracker.prompt("blue", box=[5, 5, 22, 22])
    for number in (2, 3, 4):
        found = together.step(frame(number))
        assert list(found) == ["red", "blue"]
        assert near(found["red"], red.step(frame(number))["red"])
        assert near(found["blue"], blue.step(frame(number))["blue"])
    assert together.forget("red") and not together.forget("red")
    assert together.objects == ("blue",)
    assert near(together.step(frame(5))["blue"], blue.step(frame(5))["blue"])
    together.reset()
    assert together.objects == () and together.held_frames == ()


@pytest.mark.parametrize("late", [1, 3])
def test_a_prompt_on_an_earlier_frame_is_as_one_in_time(tiny: lm.LMEEC, late: int) -> None:
    tracker, other = MatchingPromptTracker(tiny, hold=4), MatchingPromptTracker(tiny, hold=4)
    for number in range(4):
        tracker.step(frame(number))
        other.step(frame(number))
        if number == 3 - late:
            expected = other.prompt("red", points=[[32 + 2 * number, 32]])
    number = 3 - late
    found = tracker.prompt("red", points=[[32 + 2 * number, 32]], frame=number)
    expected = other._frames[-1].found["red"]
    assert near(found, expected)
    assert near(tracker.step(frame(4))["red"], other.step(frame(4))["red"])
    assert tracker.held_frames == (1, 2, 3, 4)
    with pytest.raises(InputError, match=r"frame 0 is not held; one of \[1, 2, 3, 4\]"):
        tracker.prompt("red", points=CENTRE, frame=0)


def test_memory_is_constant_in_time(tiny: lm.LMEEC) -> None:
    tracker = MatchingPromptTracker(tiny, conditioning_frames=2, hold=3)
    sizes = []
    for number in range(8):
        tracker.step(frame(number % 3))
        tracker.prompt("red", points=CENTRE)
        sizes.append(tracker.memory_bytes)
    assert sizes[3:] == sizes[3:4] * 5


def test_an_empty_mask_says_that_the_object_is_absent(tiny: lm.LMEEC) -> None:
    tracker = MatchingPromptTracker(tiny)
    tracker.step(frame(0))
    assert not tracker.prompt("red", mask=np.zeros((SIDE, SIDE), bool)).visible()
    assert not tracker.step(frame(1))["red"].visible()
    assert tracker.prompt("red", mask=disc(1)).visible()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "points, a box or a mask expected"),
        ({"points": [[1, 2]], "mask": np.zeros((4, 4), bool)}, "a mask must be given alone"),
        ({"points": [[1, 2]], "labels": [2]}, "0 or 1 for each of 1 points"),
        ({"points": [[1, 200]]}, "within the image of 64 x 64"),
        ({"box": [10, 10, 5, 20]}, "x0 < x1 and y0 < y1"),
        ({"points": CENTRE, "frame": 7}, "frame 7 is not held"),
    ],
)
def test_a_wrong_prompt_changes_nothing(tiny: lm.LMEEC, given: dict, text: str) -> None:
    tracker, other = MatchingPromptTracker(tiny, max_objects=1), MatchingPromptTracker(tiny)
    with pytest.raises(InputError, match="no frame yet"):
        tracker.prompt("red", points=CENTRE)
    for one in (tracker, other):
        one.step(frame(0))
        one.prompt("red", points=CENTRE)
    with pytest.raises(InputError, match=text):
        tracker.prompt("red", **given)
    with pytest.raises(InputError, match="at most 1 expected"):
        tracker.prompt("blue", points=BLUE)
    with pytest.raises(InputError, match="image"):
        tracker.step(np.zeros((4, 4), np.uint8))
    assert tracker.objects == ("red",) and tracker.held_frames == (0,)
    assert near(tracker.step(frame(1))["red"], other.step(frame(1))["red"])


def test_the_head_is_used_with_the_weights_that_it_was_trained_on(
    nano: lm.LMEEC, tiny: lm.LMEEC, caplog: pytest.LogCaptureFixture
) -> None:
    assert Marker(nano).head is not None  # type: ignore[arg-type]
    half = lm.load_model("nano", device="cpu", precision="bf16")
    assert Marker(half).head is not None  # type: ignore[arg-type]
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert Marker(tiny).head is None  # type: ignore[arg-type]
    assert "less accurate" in caplog.text


def test_the_head_reads_what_is_said(nano: lm.LMEEC) -> None:
    """A padded point is none, and objects in a batch are as objects alone."""
    head = Marker(nano).head  # type: ignore[arg-type]
    assert isinstance(head, ClickHead)
    inputs = torch.rand(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        seen = head.look(inputs, nano.encode_images(inputs))  # type: ignore[arg-type]
        points = torch.tensor([[[0.5, 0.5], [0.0, 0.0]], [[0.2, 0.3], [0.8, 0.8]]])
        labels = torch.tensor([[1, -1], [1, 0]])
        boxes = torch.tensor([[0.0] * 4, [0.1, 0.1, 0.6, 0.6]])

        def answer(rows: list[int], width: int = 2) -> torch.Tensor:
            of = seen.of([0] * len(rows))
            hints = Hints(points[rows, :width], labels[rows, :width], boxes[rows])
            return head(of.shared, of.fine, head.maps(of, hints))[0]

        both = answer([0, 1])
        assert torch.allclose(both[1], answer([1])[0], atol=1e-4)
        assert torch.allclose(both[0], answer([0], width=1)[0], atol=1e-4)
    assert torch.equal(head.of_network, fingerprint(nano))
