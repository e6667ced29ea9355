"""Prompts and tracking in one view compute what SAM 2's video predictor computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import lmeec_core as lm
from lmeec_core.errors import InputError
from lmeec_core.prompts.checks import check_prompt

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
TOLERANCE = 1e-4


def difference(ours: object, reference: np.ndarray) -> float:
    """Largest difference relative to the largest reference value; NaN is infinitely far."""
    ours = np.asarray(ours, dtype=np.float64)
    assert ours.shape == reference.shape
    apart = np.abs(ours - reference).max() / np.abs(reference).max()
    return float("inf") if np.isnan(apart) else float(apart)


def follow(tracker: lm.PromptTracker, golden: dict) -> list[lm.Tracked]:
    """Track a golden take; the answers on each frame, corrected where it is prompted."""
    prompts: dict[int, list] = {}
    for frame, kind, value in json.loads(str(golden["prompts"])):
        prompts.setdefault(frame, []).append((kind, value))
    found = []
    for number, image in enumerate(golden["frames"]):
        tracked = tracker.step(image)
        for kind, value in prompts.get(number, ()):
            given = {
                "points": lambda v=value: v,
                "box": lambda v=value: {"box": v},
                "mask": lambda: {"mask": golden["mask0"]},
            }[kind]()
            tracked["cup"] = tracker.prompt("cup", **given)
        found.append(tracked["cup"])
    return found


@pytest.mark.parametrize("case", ["click", "box", "mask", "absent", "correct"])
def test_parity_with_sam_2(case: str, golden_model: Callable[..., lm.LMEEC]) -> None:
    with np.load(GOLDEN / f"prompt_{case}.npz") as file:
        golden = dict(file)
    model = golden_model("mini", float(golden["score_bias"]))
    found = follow(lm.PromptTracker(model, num_frames=len(golden["frames"])), golden)
    differences = {
        "mask logits": difference([f.logits.numpy() for f in found], golden["low_res"]),
        "object pointers": difference([f.pointer.numpy() for f in found], golden["ptr"]),
        "presence": difference([[f.presence_logit] for f in found], golden["score"]),
    }
    print(", ".join(f"{name} {value:.1e}" for name, value in differences.items()))  # for -s
    assert max(differences.values()) < TOLERANCE, differences


@pytest.fixture(scope="module")
def model(golden_model: Callable[..., lm.LMEEC]) -> lm.LMEEC:
    return golden_model("mini", 0.75)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    with np.load(GOLDEN / "prompt_click.npz") as file:
        return file["frames"]


def near(one: lm.Tracked, other: lm.Tracked) -> bool:
    """The same answer but for the last bits, which depend on the size of a batch."""
    return (
        torch.allclose(one.logits, other.logits, rtol=1e-4, atol=2e-3)
        and torch.allclose(one.pointer, other.pointer, rtol=1e-3, atol=1e-3)
        and abs(one.presence_logit - other.presence_logit) < 1e-3
    )


def test_objects_come_go_and_are_corrected_without_touching_each_other(
    model: lm.LMEEC, frames: np.ndarray
) -> None:
    together, cup, knife = (lm.PromptTracker(model) for _ in range(3))
    for number, image in enumerate(frames):
        found = together.step(image)
        alone = cup.step(image) | knife.step(image)
        assert found.keys() == alone.keys()
        assert all(near(found[name], alone[name]) for name in found), number
        prompts = {
            0: ("cup", cup, {"points": [[38.4, 76.8]], "labels": [1]}),
            3: ("knife", knife, {"box": [70, 20, 100, 60]}),
            8: ("cup", cup, {"points": [[61, 62], [5, 5]], "labels": [1, 0]}),
        }
        if number in prompts:
            name, tracker, given = prompts[number]
            assert near(together.prompt(name, **given), tracker.prompt(name, **given))
        if number == 12:
            assert together.forget("knife") and knife.forget("knife")
            assert not together.forget("knife")
    assert together.objects == ("cup",)


def test_a_forgotten_object_starts_afresh(model: lm.LMEEC, frames: np.ndarray) -> None:
    tracker, fresh = lm.PromptTracker(model), lm.PromptTracker(model)
    tracker.step(frames[0])
    tracker.prompt("cup", points=[[20, 20]])
    tracker.step(frames[1])
    tracker.forget("cup")
    tracker.step(frames[2])
    fresh.step(frames[2])
    given = {"points": [[38.4, 76.8]]}
    assert near(tracker.prompt("cup", **given), fresh.prompt("cup", **given))
    assert near(tracker.step(frames[3])["cup"], fresh.step(frames[3])["cup"])


@pytest.mark.parametrize(("late", "corrections"), [(1, True), (3, False)])
def test_a_late_prompt_counts_as_one_in_time(
    model: lm.LMEEC, frames: np.ndarray, late: int, corrections: bool
) -> None:
    """Both a new object and a correction, after the memory is full; a frame prompted since stays
    as it was."""
    settings = {"condition_on_corrections": corrections, "hold": 4}
    in_time, belated = (lm.PromptTracker(model, **settings) for _ in range(2))
    prompts = {
        4: ("cup", {"points": [[38.4, 76.8]]}),
        5: ("knife", {"box": [70, 20, 100, 60]}),
        22: ("cup", {"points": [[61, 62], [5, 5]], "labels": [1, 0]}),
    }
    waiting: dict[int, int] = {}
    for number in range(26):
        image = frames[number % len(frames)]
        found, other = in_time.step(image), belated.step(image)
        if number in prompts:
            name, given = prompts[number]
            found[name] = in_time.prompt(name, **given)
            waiting[number + late] = number
        if number in waiting:
            name, given = prompts[waiting[number]]
            other[name] = belated.prompt(name, **given, frame=waiting.pop(number))
        if not waiting:
            assert all(near(found[name], other[name]) for name in found), number
    assert belated.held_frames == (22, 23, 24, 25)
    for number in belated.held_frames:  # all that SAM 2 attends to is still there
        features, _, pointers = belated._memory(belated._tracks["knife"], number)
        assert (len(features), len(pointers)) == (1 + 6, 1 + 15)
    with pytest.raises(InputError, match=r"frame 21 is not held; one of \[22, 23, 24, 25\]"):
        belated.prompt("cup", points=[[1, 1]], frame=21)


def test_frames_that_were_prompted_outlast_an_earlier_correction(
    model: lm.LMEEC, frames: np.ndarray
) -> None:
    tracker = lm.PromptTracker(model)
    for image in frames[:2]:
        tracker.step(image)
    mask = np.zeros(frames.shape[1:3], bool)
    mask[50:90, 20:60] = True
    kept = tracker.prompt("cup", mask=mask)
    assert tracker.prompt("cup", points=[[70, 30]], frame=0) is kept
    tracker.step(frames[2])
    assert [m.number for m in tracker._tracks["cup"].conditioning] == [0, 1]
    again = tracker.prompt("cup", mask=~mask, frame=1)
    assert [m.number for m in tracker._tracks["cup"].conditioning] == [0, 1]
    assert not near(again, tracker.step(frames[3])["cup"])


@pytest.mark.parametrize("corrections", [False, True])
def test_memory_stays_the_same_size(model: lm.LMEEC, frames: np.ndarray, corrections: bool) -> None:
    tracker = lm.PromptTracker(model, conditioning_frames=2, condition_on_corrections=corrections)
    tracker.step(frames[0])
    tracker.prompt("cup", box=[17, 55, 60, 98])
    sizes = []
    for turn in range(40):
        tracker.step(frames[turn % len(frames)])
        if turn % 5 == 4:
            tracker.prompt("cup", points=[[40, 70]])
        sizes.append(tracker.memory_bytes)
    assert sizes[24] == sizes[29] == sizes[34] == sizes[39]
    conditioning = tracker._tracks["cup"].conditioning
    assert [m.number for m in conditioning] == ([35, 40] if corrections else [0])


def test_a_second_prompt_for_the_first_frame_builds_on_its_mask(
    model: lm.LMEEC, frames: np.ndarray
) -> None:
    tracker, other = lm.PromptTracker(model), lm.PromptTracker(model)
    tracker.step(frames[0])
    other.step(frames[0])
    tracker.prompt("cup", points=[[38, 76]])
    second = tracker.prompt("cup", points=[[38, 76], [45, 80]])
    assert not near(second, other.prompt("cup", points=[[38, 76], [45, 80]]))
    assert [m.number for m in tracker._tracks["cup"].conditioning] == [0]


def test_a_mask_is_taken_as_it_is(model: lm.LMEEC, frames: np.ndarray) -> None:
    tracker = lm.PromptTracker(model)
    tracker.step(np.kron(frames[0], np.ones((3, 2, 1), np.uint8)))
    mask = np.zeros((384, 256), bool)
    mask[96:240, 64:160] = True
    found = tracker.prompt("cup", mask=mask)
    assert found.visible() and found.presence > 0.99
    assert (found.mask() != mask).mean() < 0.02
    gone = tracker.prompt("cup", mask=np.zeros_like(mask))
    assert not gone.visible() and not gone.mask().any()


def test_points_are_pixels_of_the_image_given(model: lm.LMEEC) -> None:
    tracker = lm.PromptTracker(model)
    marked = check_prompt("cup", [[64, 60]], [0], [0, 30, 128, 120], None, (120, 256))
    places, labels = tracker._places(marked, (120, 256))
    # Shares of the image, half a pixel of the model's 128 further, as SAM 2 has it.
    expected = torch.tensor([[[0, 0.25], [0.5, 1.0], [0.25, 0.5]]]) + 0.5 / 128
    assert torch.allclose(places, expected) and labels.tolist() == [[2, 3, 0]]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "points, a box or a mask expected"),
        ({"labels": [1]}, "labels without points"),
        ({"points": [[1, 2]], "mask": np.zeros((4, 4), bool)}, "a mask must be given alone"),
        ({"points": [[1, 2]], "labels": [2]}, "0 or 1 for each of 1 points"),
        ({"points": [[1, 2]], "labels": [1, 0]}, "0 or 1 for each of 1 points"),
        ({"points": [[1, 200]]}, "within the image of 128 x 128"),
        ({"points": [[float("nan"), 2]]}, "pairs of x and y in pixels"),
        ({"points": [1, 2]}, "pairs of x and y in pixels"),
        ({"points": []}, "pairs of x and y in pixels"),
        ({"box": [10, 10, 5, 20]}, "x0 < x1 and y0 < y1"),
        ({"box": [10, 10, 20]}, "x0, y0, x1, y1 in pixels"),
        ({"mask": np.full((4, 4), 7)}, "bool"),
    ],
)
def test_a_wrong_prompt_is_named_and_changes_nothing(
    model: lm.LMEEC, frames: np.ndarray, given: dict, text: str
) -> None:
    tracker, other = lm.PromptTracker(model), lm.PromptTracker(model)
    for one in (tracker, other):
        one.step(frames[0])
        one.prompt("cup", points=[[38, 76]])
    for name in ("cup", "new"):
        with pytest.raises((InputError, ValueError), match=text):
            tracker.prompt(name, **given)
    assert tracker.objects == ("cup",)
    assert near(tracker.step(frames[1])["cup"], other.step(frames[1])["cup"])


def test_limits_and_order_are_checked(model: lm.LMEEC, frames: np.ndarray) -> None:
    tracker = lm.PromptTracker(model, max_objects=1)
    with pytest.raises(InputError, match="no frame yet"):
        tracker.prompt("cup", points=[[1, 1]])
    assert tracker.step(frames[0]) == {}
    tracker.prompt("cup", points=[[38, 76]])
    with pytest.raises(InputError, match="at most 1 expected"):
        tracker.prompt("knife", points=[[1, 1]])
    with pytest.raises(InputError, match="conditioning_frames: 0"):
        lm.PromptTracker(model, conditioning_frames=0)
    with pytest.raises(InputError, match="view_tracker"):
        lm.PromptTracker(lm.load_model("nano"))
    tracker.reset()
    assert tracker.objects == () and tracker.memory_bytes == 0


SAM_2 = {
    "sam2_tiny": (96, (1, 2, 7, 2), 7, 38.9),
    "sam2_small": (96, (1, 2, 11, 2), 7, 46.0),
    "base_plus": (112, (2, 3, 16, 3), 14, 80.8),
    "sam2_large": (144, (2, 6, 36, 4), 7, 224.4),
}
"""Of SAM 2.1's public configurations: embed_dim, stages, window_pos_embed_bkg_spatial_size; and the
parameters, in millions, that its README gives."""


def encoder_shapes(width: int, stages: tuple[int, ...], side: int) -> dict[str, list[int]]:
    """Names and shapes of SAM 2's image encoder: Hiera and the convolutions of the neck."""
    shapes = {
        "trunk.pos_embed": [1, width, side, side],
        "trunk.pos_embed_window": [1, width, 8, 8],
        "trunk.patch_embed.proj.weight": [width, 3, 7, 7],
        "trunk.patch_embed.proj.bias": [width],
    }
    firsts = [sum(stages[:n]) for n in range(1, len(stages))]  # of the stages but the first
    given = width
    for block in range(sum(stages)):
        made = given * 2 if block in firsts else given
        layers = {
            "norm1": [given],
            "attn.qkv": [3 * made, given],
            "attn.proj": [made, made],
            "norm2": [made],
            "mlp.layers.0": [4 * made, made],
            "mlp.layers.1": [made, 4 * made],
        }
        if made != given:
            layers["proj"] = [made, given]
        for name, shape in layers.items():
            shapes[f"trunk.blocks.{block}.{name}.weight"] = shape
            shapes[f"trunk.blocks.{block}.{name}.bias"] = shape[:1]
        given = made
    for level in range(4):
        channels = width * 2 ** (3 - level)
        shapes[f"neck.convs.{level}.conv.weight"] = [256, channels, 1, 1]
        shapes[f"neck.convs.{level}.conv.bias"] = [256]
    return {f"image_encoder.{name}": shape for name, shape in shapes.items()}


@pytest.mark.parametrize("name", sorted(SAM_2))
def test_sam_2_checkpoints_fit_their_presets(name: str) -> None:
    """By name and shape: the encoder's by SAM 2's configuration, the rest as in base_plus, whose
    names were recorded from the release. MV-MoE is not SAM 2's."""
    width, stages, side, millions = SAM_2[name]
    recorded = json.loads((GOLDEN / "manifest_base_plus.json").read_text())
    expected = encoder_shapes(width, stages, side)
    expected |= {k: v for k, v in recorded.items() if not k.startswith("image_encoder.")}
    with torch.device("meta"):
        network = lm.build_model(lm.preset(name))
    found = {k: list(v.shape) for k, v in network.state_dict().items()}
    assert found == expected
    count = sum(p.numel() for n, p in network.named_parameters() if not n.startswith("MV_MoE"))
    assert count / 1e6 == pytest.approx(millions, abs=0.1)
    assert name == "base_plus" or network.config.image_size == 1024
