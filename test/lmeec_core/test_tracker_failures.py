"""Input that is refused and steps that fail, at whatever place: the memory stays as it was."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

import lmeec_core as lm

TARGETS = ("exo_left", "exo_right")
CAMERAS = ("ego", *TARGETS)
IMAGE = np.zeros((128, 128, 3), np.uint8)
MASK = np.ones((128, 128), bool)


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        ({"ego": IMAGE}, {"cup": MASK}, "'exo' is missing; given: \\['ego'\\]"),
        ({"ego": IMAGE, "exo": IMAGE[..., 0]}, {"cup": MASK}, "image 'exo': uint8 \\(128, 128\\)"),
        ({"ego": IMAGE, "exo": IMAGE.astype(float)}, {"cup": MASK}, "image 'exo': float64"),
        ({"ego": IMAGE, "exo": IMAGE[:0]}, {"cup": MASK}, "image 'exo': size \\(0, 128\\)"),
        ({"ego": IMAGE, "exo": "x"}, {"cup": MASK}, "image 'exo': str given"),
        ({"ego": IMAGE, "exo": IMAGE}, {"cup": MASK[None]}, "query mask 'cup': bool \\(1, 128"),
        ({"ego": IMAGE, "exo": IMAGE}, {"cup": MASK * np.nan}, "query mask 'cup': value nan"),
        ({"ego": IMAGE, "exo": IMAGE}, {"cup": MASK * np.uint8(7)}, "query mask 'cup': value 7"),
        ({"ego": IMAGE, "exo": IMAGE}, {"cup": MASK * 0.5}, "query mask 'cup': value 0.5"),
        ({"ego": IMAGE, "exo": IMAGE}, {"cup": MASK.astype(object)}, "dtype object"),
        ({"ego": IMAGE, "exo": IMAGE}, {"": MASK}, "object id ''"),
        ({"ego": IMAGE, "exo": IMAGE}, dict.fromkeys("abcd", MASK), "5 objects, at most 4"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(
    images: dict, masks: dict, message: str, small: lm.LMEEC, scene: Callable
) -> None:
    hit, spared = (lm.CorrespondenceTracker(small, "ego", ["exo"], max_objects=4) for _ in range(2))
    for step in range(3):
        good_images, good_masks = scene(step, objects=("known",))
        hit.step(good_images, good_masks)
        spared.step(good_images, good_masks)
    with pytest.raises(ValueError, match=message):
        hit.step(images, masks)
    assert hit.objects == spared.objects
    good_images, good_masks = scene(9, objects=("known", "new"))
    a, b = (t.step(good_images, good_masks)["exo"] for t in (hit, spared))
    assert list(a) == list(b) and all(torch.equal(a[n].logits, b[n].logits) for n in a)


def test_failure_in_the_middle_of_a_step_changes_nothing(
    golden_model: Callable[..., lm.LMEEC], scene: Callable
) -> None:
    """A stage that fails late (as a GPU without memory would) loses the step, not the memory."""
    model = golden_model("mini", 0.7)
    hit, spared = (lm.CorrespondenceTracker(model, "ego", ["exo"]) for _ in range(2))
    for step in range(3):
        images, masks = scene(step)
        hit.step(images, masks)
        spared.step(images, masks)
    hook = model.memory_encoder.out_proj.register_forward_hook(_fail_on_second_call())
    with pytest.raises(RuntimeError, match="out of memory"):
        hit.step(images, {**masks, "new": masks["cup"]})
    hook.remove()
    assert hit.objects == ("cup",)
    images, masks = scene(8)
    a, b = (t.step(images, masks)["exo"]["cup"] for t in (hit, spared))
    assert torch.equal(a.logits, b.logits) and torch.equal(a.pointer, b.pointer)


def _fail_on_second_call() -> Callable[..., None]:
    calls = []

    def hook(*_: object) -> None:
        calls.append(1)
        if len(calls) == 2:  # the first encodes the query, the second the targets
            raise RuntimeError("out of memory")

    return hook


@pytest.mark.parametrize("targets", [(), ("exo", "exo"), ("ego",)])
def test_wrong_targets_are_refused(targets: tuple[str, ...], small: lm.LMEEC) -> None:
    with pytest.raises(ValueError, match="targets"):
        lm.CorrespondenceTracker(small, "ego", targets)


def test_images_of_the_query_camera_and_names_are_still_needed(
    small: lm.LMEEC, scene: Callable
) -> None:
    tracker = lm.CorrespondenceTracker(small, "ego", TARGETS)
    images, masks = scene(0, CAMERAS)
    with pytest.raises(ValueError, match="image 'ego': NoneType given"):
        tracker.step({**images, "ego": None}, masks)
    del images["exo_right"]
    with pytest.raises(ValueError, match="'exo_right' is missing"):
        tracker.step(images, masks)
    assert tracker.objects == ()


def test_one_camera_as_a_text_is_not_taken_for_its_letters(small: lm.LMEEC) -> None:
    with pytest.raises(lm.InputError, match=r"targets: the text 'exo' given.*\['exo'\]"):
        lm.CorrespondenceTracker(small, "ego", "exo")


PLACES = (
    "lmeec_core.tracker.prepare_images",
    "lmeec_core.tracker.prepare_masks",
    "lmeec_core.tracker.guides",
    "lmeec_core.tracker.Correspondence",
    "lmeec_core.memory.bank.MemoryBank.plan",
    "lmeec_core.memory.bank.MemoryBank.commit",
    "lmeec_core.memory.bank.MemoryBank._reserve",
    "lmeec_core.memory.bank.PointerBank.push",
    "lmeec_core.memory.tracks.TrackMemory.place",
    "lmeec_core.model.LMEEC.encode_images",
    "lmeec_core.model.LMEEC.encode_target_memory",
    "lmeec_core.model.LMEEC.predict",
    "torch.Tensor.tolist",
    "torch.full",
)


def same_state(a: dict, b: dict) -> bool:
    return {n: list(p) for n, p in a.items()} == {n: list(p) for n, p in b.items()} and all(
        torch.equal(a[n][key], b[n][key]) for n in a for key in a[n]
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("late", [False, True])
def test_memory_is_unchanged_wherever_a_step_fails(
    place: str,
    late: bool,
    small: lm.LMEEC,
    scene: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every call of every place, before and after its work; a new and a skipped object are there.

    An asynchronous error of a GPU comes up where numbers are fetched (tolist).
    """
    tracker = lm.CorrespondenceTracker(small, "ego", TARGETS)
    for step in range(2):
        tracker.step(*scene(step, CAMERAS, ("cup", "knife")))
    images, masks = scene(5, CAMERAS, ("cup", "new"))
    masks["another"] = None
    before, objects, taken = tracker.memory_state(), tracker.objects, tracker.memory_bytes
    owner, _, name = place.rpartition(".")
    module, _, cls = owner.rpartition(".")
    imported = importlib.import_module(module if cls[:1].isupper() else owner)
    holder = getattr(imported, cls) if cls[:1].isupper() else imported
    inner, calls = getattr(holder, name), []

    def fail(*args: object, **kwargs: object) -> object:
        calls.append(name)
        if len(calls) != turn:
            return inner(*args, **kwargs)
        if late:
            inner(*args, **kwargs)
        raise RuntimeError("injected")

    failures = 0
    for turn in range(1, 4):
        calls.clear()
        with monkeypatch.context() as patched:
            patched.setattr(holder, name, fail)
            try:
                found = tracker.step(images, masks)
            except RuntimeError as error:
                assert str(error) == "injected"
            else:
                assert len(calls) < turn, "the step went on after an error"
                break
        failures += 1
        assert tracker.objects == objects and tracker.memory_bytes == taken
        assert same_state(tracker.memory_state(), before)
    assert failures > 0, "it is never called: the test shows nothing"
    if failures == 3:
        found = tracker.step(images, masks)
    assert set(found["exo_left"]) == {"cup", "knife", "new", "another"}
    assert not same_state(tracker.memory_state(), before)
