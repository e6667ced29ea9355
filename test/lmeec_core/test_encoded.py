"""Views are encoded once for all trackers of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import lmeec_core as lm
from lmeec_core.encoded import encode_views
from lmeec_core.errors import InputError
from lmeec_core.methods.cycle import CycleChecked
from lmeec_core.methods.lm_eec import LmEec
from lmeec_core.prompts import Prompt, PromptedTracker, view_tracker

CAMERAS = ("ego", "left", "right")


def picture(number: int) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (80 + number % 3, 60), interpolation=cv2.INTER_CUBIC)


def frame(number: int) -> dict[str, np.ndarray]:
    return {name: picture(3 * number + i) for i, name in enumerate(CAMERAS)}


@pytest.fixture(scope="module", params=["mini", "nano"])
def model(request: pytest.FixtureRequest, golden_model: Callable[..., lm.LMEEC]) -> lm.LMEEC:
    return golden_model("mini", 0.75) if request.param == "mini" else lm.load_model("nano")


@contextmanager
def counted(model: lm.LMEEC) -> Iterator[list[int]]:
    """The number of views in each call of the image encoder."""
    calls: list[int] = []

    def run(stage: str, options: Any, inputs: tuple[torch.Tensor, ...]) -> Any:
        if stage == "image_encoder":
            calls.append(len(inputs[0]))
        return model.compute(stage, options, inputs)

    before, model.runner = model.runner, run
    try:
        yield calls
    finally:
        model.runner = before


def prompted(model: lm.LMEEC, shared: bool) -> PromptedTracker:
    encode = partial(encode_views, model) if shared else None
    return PromptedTracker(CAMERAS, LmEec(model), lambda: view_tracker(model), encode=encode)


def test_each_image_is_encoded_once(model: lm.LMEEC) -> None:
    """Two objects with different query cameras; masks are given so that both are shown."""
    mask = np.zeros((60, 80), bool)
    mask[10:50, 20:60] = True
    found, calls = {}, {}
    for shared in (True, False):
        tracker = prompted(model, shared)
        with counted(model) as calls[shared]:
            for number in range(2):
                tracker.look(frame(number))
                for camera, name in (("ego", "cup"), ("left", "knife"))[: 1 + number]:
                    tracker.prompt(camera, Prompt(name, mask=mask))
                found[shared, number] = tracker.find()
                if shared:
                    assert sum(calls[True]) == 3 * (number + 1), number
    assert sum(calls[False]) > sum(calls[True]) == 6
    for number in range(2):
        with_, without = found[True, number], found[False, number]
        assert with_.keys() == without.keys()
        for camera, objects in with_.items():
            assert objects.keys() == without[camera].keys()
            for name, one in objects.items():
                other = without[camera][name]
                assert one.presence == pytest.approx(other.presence, abs=1e-3)
                assert (one.mask() == other.mask()).mean() > 0.99


@pytest.mark.parametrize(
    ("queries", "checked"),
    [(("left", "ego", "right"), False), (("left", "ego", "right"), True), (("ego", "ego"), True)],
)
def test_no_camera_is_encoded_twice_for_one_stamp(
    small: lm.LMEEC, queries: tuple[str, ...], checked: bool
) -> None:
    """Whatever the number of query cameras, of objects in each, and of looks back."""
    mask = np.zeros((60, 80), bool)
    mask[10:50, 20:60] = True
    method: Any = LmEec(small)
    encode = method.encode
    if checked:
        method = CycleChecked(method, encode)
    tracker = PromptedTracker(CAMERAS, method, lambda: view_tracker(small), encode=encode)
    marked = [(camera, Prompt(f"{i}", mask=mask)) for i, camera in enumerate(queries)]
    with counted(small) as calls:
        for number in range(2):
            before = sum(calls)
            found = tracker.step(frame(number), marked)
            assert sum(calls) - before == len(CAMERAS), number
            assert all(found[camera].keys() == {*"0", *"012"[: len(queries)]} for camera in found)


def test_an_image_that_is_prompted_late_is_not_encoded_again(model: lm.LMEEC) -> None:
    """It was a target's image when it was new; now an object is marked in it, and passed on."""
    mask = np.zeros((60, 80), bool)
    mask[10:50, 20:60] = True
    tracker = prompted(model, True)
    with counted(model) as calls:
        tracker.step(frame(0), [("ego", Prompt("cup", mask=mask))])
        tracker.look(frame(1))
        before = sum(calls)
        assert before == 4  # all three, and ego's
        tracker.prompt("left", Prompt("knife", mask=mask), 0)
        assert sum(calls) == before + 1  # left's newest image, to which it steps on


def test_nothing_is_encoded_while_no_object_is_marked(model: lm.LMEEC) -> None:
    tracker = prompted(model, shared=True)
    with counted(model) as calls:
        assert tracker.step(frame(0)) == {name: {} for name in CAMERAS}
        assert calls == []
        tracker.prompt("ego", Prompt("cup", points=((10, 10),)), 0)
        tracker.find()
    assert sum(calls) <= 3


def test_encoded_views_may_stand_for_some_of_the_images(model: lm.LMEEC) -> None:
    images = {"ego": picture(0), "left": picture(1), "right": picture(2)}
    mask = {"cup": picture(0)[..., 0] > 120}
    views = dict(zip(CAMERAS, encode_views(model, list(images.values())), strict=True))
    trackers = [lm.CorrespondenceTracker(model, "ego", ("left", "right")) for _ in range(3)]
    given = [images, views, images | {"left": views["left"]}]
    for _ in range(2):
        results = [tracker.step(one, mask) for tracker, one in zip(trackers, given, strict=True)]
    for result in results[1:]:
        for target in ("left", "right"):
            one, other = result[target]["cup"], results[0][target]["cup"]
            assert one.size == other.size == (60, 81 if target == "left" else 82)
            assert torch.allclose(one.logits, other.logits, rtol=1e-3, atol=5e-3)


def test_a_view_of_another_network_is_refused(model: lm.LMEEC) -> None:
    other = lm.load_model("mini", seed=1)
    (view,) = encode_views(other, [picture(0)])
    tracker = lm.CorrespondenceTracker(model, "ego", ("left",))
    with pytest.raises(InputError, match="'left'.*another network has encoded"):
        tracker.step({"ego": picture(0), "left": view}, {"cup": picture(0)[..., 0] > 9})
    assert tracker.objects == ()
    with pytest.raises(InputError, match="another network has encoded"):
        view_tracker(model).step(view)
