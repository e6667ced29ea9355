"""One batch for all objects and targets, objects that come and go, memory that does not grow."""

from __future__ import annotations

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


def test_correspondences_can_be_compared_and_put_into_sets(
    small: lm.LMEEC, scene: Callable
) -> None:
    found = lm.CorrespondenceTracker(small, "ego", TARGETS).step(*scene(0, CAMERAS))
    one, other = (found[target]["cup"] for target in TARGETS)
    assert one == one and one != other and len({one, other, one}) == 2
