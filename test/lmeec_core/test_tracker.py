"""One batch for all objects and targets, objects that come and go, errors that change nothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

import lmeec_core as lm

TARGETS = ("exo_left", "exo_right")
CAMERAS = ("ego", *TARGETS)


def assert_same(a: lm.Correspondence, b: lm.Correspondence) -> None:
    assert a.presence_logit == pytest.approx(b.presence_logit, rel=1e-4, abs=1e-4)
    assert a.predicted_iou == pytest.approx(b.predicted_iou, rel=1e-4, abs=1e-4)
    torch.testing.assert_close(a.logits, b.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(a.pointer, b.pointer, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("compression", ["keep_first", "average", "fifo", "iou", "cluster"])
def test_batch_equals_single_runs(compression: str, small: lm.LMEEC, scene: Callable) -> None:
    """N objects and K targets together equal N * K runs alone, also when one object skips."""
    memory = lm.MemoryConfig(compression=compression, capacity=3)
    objects = ("cup", "knife", "bowl")
    together = lm.CorrespondenceTracker(small, "ego", TARGETS, memory)
    alone = {
        (o, t): lm.CorrespondenceTracker(small, "ego", [t], memory)
        for o in objects
        for t in TARGETS
    }
    presence = set()
    for step in range(7):
        images, masks = scene(step, CAMERAS, objects)
        if step in (2, 5):
            masks["knife"] = None
        if step == 0:
            del masks["bowl"]  # appears later
        found = together.step(images, masks)
        for (o, t), tracker in alone.items():
            if o in masks:
                single = tracker.step(images, {o: masks[o]})[t][o]
                assert (single.skipped is None) == (found[t][o].skipped is None)
                assert_same(found[t][o], single)
                presence.add(single.visible())
    assert presence == {True, False}


def test_direction_is_only_names(small: lm.LMEEC, scene: Callable) -> None:
    images, masks = scene(0)
    swapped = {"ego": images["exo"], "exo": images["ego"]}
    forward = lm.CorrespondenceTracker(small, "ego", ["exo"]).step(images, masks)["exo"]["cup"]
    back = lm.CorrespondenceTracker(small, "exo", ["ego"]).step(swapped, masks)["ego"]["cup"]
    assert torch.equal(forward.logits, back.logits)


def test_new_object_starts_empty_while_others_are_full(small: lm.LMEEC, scene: Callable) -> None:
    tracker = lm.CorrespondenceTracker(small, "ego", ["exo"])
    for step in range(9):
        images, masks = scene(step)
        tracker.step(images, masks)
    images, masks = scene(100, objects=("cup", "new"))
    found = tracker.step(images, masks)["exo"]
    fresh = lm.CorrespondenceTracker(small, "ego", ["exo"])
    assert_same(found["new"], fresh.step(images, {"new": masks["new"]})["exo"]["new"])
    assert tracker.objects == ("cup", "new")


@pytest.mark.parametrize(("mask", "why"), [(None, "no query"), (np.zeros((9, 9), bool), "empty")])
def test_skipped_object_says_so_and_keeps_its_memory(
    mask: object, why: str, small: lm.LMEEC, scene: Callable
) -> None:
    skipping, steady = (lm.CorrespondenceTracker(small, "ego", ["exo"]) for _ in range(2))
    for step in range(4):
        images, masks = scene(step)
        skipping.step(images, masks)
        steady.step(images, masks)
    images, _ = scene(4, size=(60, 80))
    skipped = skipping.step(images, {"cup": mask})["exo"]["cup"]
    assert skipped.skipped and skipped.skipped.startswith(why)
    assert not skipped.visible() and skipped.presence == 0 and not skipped.mask().any()
    assert skipped.mask().shape == (60, 80)
    images, masks = scene(5)
    assert_same(*(t.step(images, masks)["exo"]["cup"] for t in (skipping, steady)))


def test_known_object_without_mask_is_reported(small: lm.LMEEC, scene: Callable) -> None:
    tracker = lm.CorrespondenceTracker(small, "ego", TARGETS)
    images, masks = scene(0, CAMERAS, ("cup", "knife"))
    tracker.step(images, masks)
    found = tracker.step(images, {"knife": masks["knife"]})
    for target in TARGETS:
        assert list(found[target]) == ["cup", "knife"]
        assert found[target]["cup"].skipped and not found[target]["knife"].skipped


def test_forget_and_reset(small: lm.LMEEC, scene: Callable) -> None:
    tracker = lm.CorrespondenceTracker(small, "ego", ["exo"])
    images, masks = scene(0, objects=("a", "b", "c"))
    first = tracker.step(images, masks)["exo"]["b"]
    tracker.step(images, masks)
    before = tracker.memory_bytes
    assert tracker.forget("b") and not tracker.forget("b")
    assert tracker.objects == ("a", "c")
    again = tracker.step(images, masks)["exo"]["b"]
    assert_same(first, again)
    assert tracker.memory_bytes == before, "the freed place is used again"
    tracker.reset()
    assert tracker.objects == () and tracker.memory_bytes == 0
    assert_same(first, tracker.step(images, masks)["exo"]["b"])


@pytest.mark.parametrize("compression", ["keep_first", "average", "fifo", "iou", "cluster"])
def test_memory_is_constant_in_time(compression: str, small: lm.LMEEC, scene: Callable) -> None:
    memory = lm.MemoryConfig(compression=compression, capacity=2)
    tracker = lm.CorrespondenceTracker(small, "ego", ["exo"], memory)
    sizes = set()
    for step in range(22):
        images, masks = scene(step)
        tracker.step(images, masks)
        if step:
            sizes.add(tracker.memory_bytes)
            assert tracker._tracks.target.length(0) <= 2
            assert tracker._tracks.pointers.length(0) == min(step + 1, 15)
    assert len(sizes) == 1


@pytest.mark.parametrize(
    "memory",
    [
        lm.MemoryConfig(query_bank=False),
        lm.MemoryConfig(target_bank=False),
        lm.MemoryConfig(query_bank=False, target_bank=False),
        lm.MemoryConfig(fusion="add"),
        lm.MemoryConfig(fusion="none"),
        lm.MemoryConfig(capacity=4),
        lm.MemoryConfig(capacity=8),
    ],
)
def test_switches_change_the_result_after_the_first_frame(
    memory: lm.MemoryConfig, small: lm.LMEEC, scene: Callable
) -> None:
    release, other = (
        lm.CorrespondenceTracker(small, "ego", ["exo"], m) for m in (lm.MemoryConfig(), memory)
    )
    for step in range(9):
        images, masks = scene(step)
        a, b = (t.step(images, masks)["exo"]["cup"].pointer for t in (release, other))
        if step == 0:
            assert torch.equal(a, b)
    assert not torch.allclose(a, b)
    assert (other._tracks.query.nbytes > 0) == memory.query_bank
    assert (other._tracks.target.nbytes > 0) == memory.target_bank


def test_masks_have_the_target_images_size(small: lm.LMEEC, scene: Callable) -> None:
    images, masks = scene(3, size=(90, 160))
    images["exo"] = np.ascontiguousarray(images["exo"][:70, :40])
    found = lm.CorrespondenceTracker(small, "ego", ["exo"]).step(images, masks)["exo"]["cup"]
    assert found.size == (70, 40) and found.mask().shape == (70, 40)
    assert found.mask().dtype == np.bool_ and found.logits.shape == (32, 32)
    assert found.logits.dtype == torch.float32


def test_masks_in_0_1_and_0_255_are_the_same(small: lm.LMEEC, scene: Callable) -> None:
    images, masks = scene(1)
    results = [
        lm.CorrespondenceTracker(small, "ego", ["exo"]).step(images, {"cup": m})["exo"]["cup"]
        for m in (masks["cup"], masks["cup"].astype(np.uint8), masks["cup"].astype(np.uint8) * 255)
    ]
    assert all(torch.equal(results[0].logits, r.logits) for r in results[1:])


def test_exclusive_masks_do_not_overlap(small: lm.LMEEC, scene: Callable) -> None:
    tracker = lm.CorrespondenceTracker(small, "ego", ["exo"])
    for seed in range(30):
        images, masks = scene(seed, objects=("a", "b", "c"))
        found = tracker.step(images, masks)["exo"]
        free = [c.mask() for c in found.values()]
        if np.sum(free, axis=0).max() > 1:
            break
    else:
        pytest.fail("no overlap in 30 scenes: the test shows nothing")
    apart = lm.exclusive_masks(found)
    assert np.sum(list(apart.values()), axis=0).max() == 1
    assert np.array_equal(np.any(list(apart.values()), axis=0), np.any(free, axis=0))


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


def test_num_frames_sets_the_pointer_window(small: lm.LMEEC, scene: Callable) -> None:
    trackers = [
        lm.CorrespondenceTracker(small, "ego", ["exo"], num_frames=n) for n in (None, 16, 40, 4)
    ]
    for step in range(6):
        images, masks = scene(step)
        live, exact, long, short = (t.step(images, masks)["exo"]["cup"] for t in trackers)
    assert torch.equal(live.pointer, exact.pointer) and torch.equal(live.pointer, long.pointer)
    assert not torch.equal(live.pointer, short.pointer)
    assert trackers[3]._tracks.pointers.length(0) == 3
    with pytest.raises(ValueError, match="num_frames"):
        lm.CorrespondenceTracker(small, "ego", ["exo"], num_frames=0)


def test_single_frame_recording(small: lm.LMEEC, scene: Callable) -> None:
    images, masks = scene(0)
    tracker = lm.CorrespondenceTracker(small, "ego", ["exo"], num_frames=1)
    assert tracker.step(images, masks)["exo"]["cup"].skipped is None


def test_bf16_stays_close_to_fp32(golden_model: Callable[..., lm.LMEEC], scene: Callable) -> None:
    model = golden_model("mini", 3.0)
    outputs = []
    for precision in ("fp32", "bf16"):
        model.precision = precision
        tracker = lm.CorrespondenceTracker(model, "ego", ["exo"])
        for step in range(9):
            images, masks = scene(step)
            found = tracker.step(images, masks)["exo"]["cup"]
        assert found.logits.dtype == torch.float32
        outputs.append(found.logits)
    scale = outputs[0].abs().max()
    assert 0 < (outputs[0] - outputs[1]).abs().max() / scale < 0.1


@pytest.mark.parametrize("objects", [("cup",), ("cup", "knife", "bowl")])
@pytest.mark.parametrize("compression", ["keep_first", "cluster"])
def test_a_target_without_image_keeps_its_memory_and_stops_no_other(
    objects: tuple[str, ...], compression: str, small: lm.LMEEC, scene: Callable
) -> None:
    """Targets with gaps together equal each target alone with its gaps."""
    memory = lm.MemoryConfig(compression=compression, capacity=3)
    together = lm.CorrespondenceTracker(small, "ego", TARGETS, memory)
    alone = {t: lm.CorrespondenceTracker(small, "ego", [t], memory) for t in TARGETS}
    gaps = {"exo_right": (0, 3, 4, 5), "exo_left": (5, 7)}  # absent from the start; both at 5
    for step in range(9):
        images, masks = scene(step, CAMERAS, objects)
        for target in TARGETS:
            images[target] = None if step in gaps[target] else images[target]
        before = together.memory_state()
        found = together.step(images, masks)
        assert list(found) == [t for t in TARGETS if images[t] is not None]
        for k, target in enumerate(TARGETS):
            single = alone[target].step(images, masks)
            if images[target] is not None:
                for name in objects:
                    assert_same(found[target][name], single[target][name])
                continue
            assert single == {}
            for name, parts in before.items():
                after = together.memory_state()[name]
                for key in (f"{k}.frames", f"{k}.scores", f"{k}.pointers"):
                    assert (key in parts) == (key in after)
                    assert key not in parts or torch.equal(parts[key], after[key])
        query = [state["query.frames"] for state in together.memory_state().values()]
        assert all(len(frames) == min(step + 1, 3) for frames in query), "it sees every frame"


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


def test_correspondences_can_be_compared_and_put_into_sets(
    small: lm.LMEEC, scene: Callable
) -> None:
    found = lm.CorrespondenceTracker(small, "ego", TARGETS).step(*scene(0, CAMERAS))
    one, other = (found[target]["cup"] for target in TARGETS)
    assert one == one and one != other and len({one, other, one}) == 2


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
