"""The space-time memory network around MV-MoE: reading, fusing, and the experiment in small."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmeec_core.checkpoint import load_model
from lmeec_core.config import Fusion
from lmeec_core.errors import InputError
from lmeec_core.experiments.space_time import __main__ as experiment
from lmeec_core.experiments.space_time.network import Seen, SpaceTime, read_out
from lmeec_core.experiments.space_time.training import Run, score, train
from lmeec_core.simulation.sets import SETS, SetName
from lmeec_core.simulation.shards import shard_path

FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
GRID, WIDTH, DIM = 6, 16, 32
SIZE = 96


def network(fusion: Fusion) -> SpaceTime:
    torch.manual_seed(0)
    return SpaceTime(8, DIM, 4, fusion, WIDTH).eval()


def views(shift: tuple[int, int]) -> tuple[Seen, Seen]:
    """Three frames of two views: the second is the first, rolled."""
    generator = torch.Generator().manual_seed(1)
    embedding = torch.randn(1, DIM, GRID, GRID, generator=generator).expand(3, -1, -1, -1)
    unit = torch.nn.functional.normalize(embedding, dim=1)
    first = Seen(torch.ones(3, 8, GRID, GRID), unit, torch.ones(3, 4, 2 * GRID, 2 * GRID))
    return first, first._replace(embedding=unit.roll(shift, dims=(2, 3)))


@settings(max_examples=10, deadline=None)
@given(
    places=st.integers(1, 6), memory=st.integers(1, 9), objects=st.integers(1, 3),
    top=st.integers(1, 12),
)  # fmt: skip
def test_a_place_reads_the_most_similar_places(
    places: int, memory: int, objects: int, top: int
) -> None:
    generator = torch.Generator().manual_seed(places * memory)
    asked, keys = (torch.randn(n, 4, generator=generator) for n in (places, memory))
    values = torch.randn(memory, objects, 5, generator=generator)
    expected = torch.zeros(objects, 5, places)
    for place in range(places):
        similarity = -(asked[place] - keys).square().sum(dim=1) / 4**0.5
        best = similarity.argsort(descending=True)[:top]
        weights = similarity[best].softmax(dim=0)
        expected[:, :, place] = (weights[:, None, None] * values[best]).sum(dim=0)
    torch.testing.assert_close(read_out(asked, keys, values, top), expected)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("shift", [(0, 0), (2, 1)])
def test_untrained_it_finds_what_looks_the_same(fusion: Fusion, shift: tuple[int, int]) -> None:
    """On every frame: from the query view alone, and from the memory."""
    masks = torch.zeros(3, 2, 2 * GRID, 2 * GRID)
    masks[:, 0, 2:6, 4:8] = 1
    masks[:, 1, 8:10, 0:4] = 1
    with torch.inference_mode():
        logits = network(fusion)(*views(shift), masks)
    rolled = masks.roll((2 * shift[0], 2 * shift[1]), dims=(2, 3))
    assert torch.equal(logits > 0, rolled > 0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_only_memory_alone_does_not_see_the_present_query(fusion: Fusion) -> None:
    masks = torch.zeros(3, 1, 2 * GRID, 2 * GRID)
    masks[:, 0, 2:6, 4:8] = 1
    other = masks.clone()
    other[2] = 0
    net = network(fusion)
    with torch.inference_mode():
        found: list[Tensor] = [net(*views((0, 0)), m) for m in (masks, other)]
    assert torch.equal(found[0][:2], found[1][:2])
    assert torch.equal(found[0][2], found[1][2]) == (fusion == "none")


def test_the_fusions_begin_with_the_same_weights() -> None:
    states = {fusion: network(fusion).state_dict() for fusion in FUSIONS}
    for fusion, state in states.items():
        own = {name for name in state if name.startswith("MV_MoE.")}
        assert bool(own) == (fusion == "mv_moe")
        for name in state.keys() - own:
            assert torch.equal(state[name], states["add"][name])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_loss_reaches_all_weights(fusion: Fusion) -> None:
    net = network(fusion).train()
    torch.nn.init.ones_(net.fine[-1].weight)  # zero at the start
    masks = torch.rand(3, 1, 2 * GRID, 2 * GRID, generator=torch.Generator().manual_seed(0))
    net(*views((1, 0)), masks).square().mean().backward()
    for name, value in net.named_parameters():
        assert value.grad is not None and value.grad.abs().sum() > 0, name


def test_wrong_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--frames 1: 2 or more expected"):
        experiment.main([str(tmp_path / "work"), "--frames", "1"])
    assert not (tmp_path / "work").exists()


def draw_scenes(work: Path, name: SetName, count: int) -> None:
    """Scenes of two frames and an ego and an exo camera, in the place of rendered ones."""
    (work / name).mkdir(parents=True)
    for seed in SETS[name].seeds(count):
        packed = np.random.default_rng(seed).integers(0, 99, (2, 2, SIZE, SIZE, 4), np.uint8)
        packed[..., 3] = 0
        for camera, left in enumerate((8, 50)):
            packed[:, camera, 20:44, left : left + 24] = (250, 40, 10, 1)
        packed[:, 0, 60:80, 10:30] = (10, 40, 250, 2)  # not in the exo view
        path = shard_path(work / name, SETS[name].split, seed)
        np.save(path, packed)
        path.with_suffix(".json").write_text(json.dumps({"objects": ["cup", "box"]}))


def test_the_experiment_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains, scores and writes; again, it does none of it anew."""
    monkeypatch.setattr(experiment, "SIZE", SIZE)
    monkeypatch.setattr(experiment, "IMAGE", SIZE)
    draw_scenes(tmp_path, "space_time_training", 1)
    draw_scenes(tmp_path, "space_time", 2)
    command = [
        str(tmp_path), "--scenes", "1", "--test", "2", "--frames", "2", "--test-frames", "2",
        "--steps", "1", "--seeds", "2",
    ]  # fmt: skip
    assert experiment.main(command) == 0
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*_*_1.*")}
    assert len(written) == 3 * 2 * 2  # fusions, seeds, weights and scores
    result = json.loads((tmp_path / "space_time.json").read_text())
    for direction in ("ego_to_exo", "exo_to_ego"):
        scores = result["scores"][direction]
        assert list(scores) == ["mv_moe", "add", "none"]
        for found in scores.values():
            assert found["iou"]["frames"] == 2 * 2  # seeds and scenes; the second frame's cup
            assert found["iou"]["mean"] == pytest.approx(sum(found["iou by seed"]) / 2)
            assert (found["existence"] is not None) == (direction == "ego_to_exo")
        assert "iou difference" in scores["mv_moe"] and "iou difference" not in scores["add"]
    assert experiment.main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert json.loads((tmp_path / "space_time.json").read_text()) == result
    # One that is stopped before it is saved is not scored, and begins again.
    stopped, model = Run("add", 7, 2), load_model("nano", device="cpu")
    store = experiment.scenes(tmp_path, "space_time", 2, 2)
    next(train(stopped, store, model, tmp_path))
    with pytest.raises(InputError, match="add_7_2.pt: 0 steps trained, 2 expected"):
        score(stopped, store, model, tmp_path)
    assert [numbers["step"] for numbers in train(stopped, store, model, tmp_path)] == [1, 2]
