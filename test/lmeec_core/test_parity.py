"""The network and the tracker compute what the released implementation computes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import lmeec_core as lm
from lmeec_core.engine.compare import difference, largest
from lmeec_core.memory import strategy

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
TOLERANCE = 1e-4


def check(
    model: lm.LMEEC, golden: dict, inputs: dict, memory: lm.MemoryConfig
) -> lm.CorrespondenceTracker:
    """Run a golden take and compare every output; the tracker is returned before its last step."""
    count = len(inputs["ego"])
    tracker = lm.CorrespondenceTracker(model, "ego", ["exo"], memory, num_frames=count)
    found = []
    for t in range(count):
        banks = (tracker._tracks.query, tracker._tracks.target)
        if t == count - 1 and "ego_bank" in golden:
            for bank, name in zip(banks, ("ego_bank", "exo_bank"), strict=True):
                assert difference(bank.read([0])[0], golden[name]) < TOLERANCE, name
        images = {"ego": inputs["ego"][t], "exo": inputs["exo"][t]}
        found.append(tracker.step(images, {"object": inputs["mask"][t]})["exo"]["object"])
    frames = golden.get("low_res_frames", np.arange(count))
    differences = {
        "mask logits": difference([found[t].logits.numpy() for t in frames], golden["low_res"]),
        "object pointers": difference([c.pointer.numpy() for c in found], golden["ptr"]),
        "predicted IoU": difference([[c.predicted_iou] for c in found], golden["iou"]),
        "presence": difference([[c.presence_logit] for c in found], golden["score"]),
    }
    print(", ".join(f"{name} {value:.1e}" for name, value in differences.items()))  # for -s
    assert largest(differences.values()) < TOLERANCE, differences
    return tracker


def load(name: str) -> dict:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    ("case", "preset", "compression"),
    [
        ("mini_present", "mini", "keep_first"),
        ("mini_absent", "mini", "keep_first"),
        ("mini_fifo", "mini", "fifo"),
        ("base_plus", "base_plus", "keep_first"),
    ],
)
def test_take(
    case: str, preset: str, compression: str, golden_model: Callable[..., lm.LMEEC]
) -> None:
    golden = load(case)
    model = golden_model(preset, float(golden["score_bias"]))
    check(model, golden, golden, lm.MemoryConfig(compression=compression))


def synthetic_take(
    seed: int, frames: int, size: int, blobs: int = 3, cells: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two views with moving discs on a smooth background, and the first disc's mask in the first.

    Integers only, so that every machine makes the same pixels.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    y, x = np.mgrid[:size, :size]
    at = np.arange(size) * ((cells - 1) * 64) // size
    low, part = at // 64, at % 64
    views = []
    for _ in ("ego", "exo"):
        grid = rng.integers(0, 256, (cells, cells, 3))
        rows = grid[low] * (64 - part)[:, None, None] + grid[low + 1] * part[:, None, None]
        full = rows[:, low] * (64 - part)[:, None] + rows[:, low + 1] * part[:, None]
        views.append(full // 4096)
    colour = rng.integers(0, 256, (blobs, 3))
    radius = rng.integers(size // 10, size // 5, blobs)
    start = rng.integers(0, size, (2, blobs, 2))
    speed = rng.integers(-size // 16, size // 16 + 1, (2, blobs, 2))
    images = np.empty((2, frames, size, size, 3), np.uint8)
    mask = np.zeros((frames, size, size), bool)
    for v, t in np.ndindex(2, frames):
        image = views[v].copy()
        for b in range(blobs - 1, -1, -1):  # disc 0 is in front: the object
            place = (start[v, b] + t * speed[v, b]) % (2 * size)
            place = np.where(place >= size, 2 * size - 1 - place, place)  # bounce
            disc = (y - place[0]) ** 2 + (x - place[1]) ** 2 <= radius[b] ** 2
            image[disc] = colour[b]
            if v == 0 and b == 0:
                mask[t] = disc
        images[v, t] = image
    return images[0], images[1], mask


@pytest.mark.parametrize("case", ["size192", "long", "presence", "fifo", "short", "native"])
def test_further_takes(case: str, golden_model: Callable[..., lm.LMEEC]) -> None:
    """Other sizes, seeds, lengths, and objects that come and go; see test/data/golden."""
    golden = load(f"extra_{case}")
    take = synthetic_take(*(int(golden[k]) for k in ("seed", "frames", "take_size")))
    ego, exo, mask = (a[:, : int(golden["height"])] for a in take)
    assert zlib.crc32(ego.tobytes() + exo.tobytes() + mask.tobytes()) == golden["input_crc32"]
    config = lm.preset("mini").model_copy(update={"image_size": int(golden["image_size"])})
    model = golden_model(config, float(golden["score_bias"]), str(golden["salt"]))
    memory = lm.MemoryConfig(compression=str(golden["compression"]))
    check(model, golden, {"ego": ego, "exo": exo, "mask": mask}, memory)


@pytest.mark.parametrize("compression", ["keep_first", "average"])
def test_compression(compression: str) -> None:
    golden = load("compress")
    compress = strategy(lm.MemoryConfig(compression=compression))
    (frames, scores), *others = compress(
        torch.from_numpy(golden["bank"])[None], torch.ones(1, 7), capacity=6
    )
    assert not others and scores.shape == (6,)
    np.testing.assert_array_equal(frames.numpy(), golden[compression])


@pytest.mark.parametrize("preset", ["mini", "base_plus"])
def test_state_dict_is_the_checkpoints(preset: str) -> None:
    manifest = json.loads((GOLDEN / f"manifest_{preset}.json").read_text())
    own = lm.build_model(lm.preset(preset)).state_dict()
    assert {name: list(value.shape) for name, value in own.items()} == manifest
