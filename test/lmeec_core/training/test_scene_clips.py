"""Clips of simulated scenes: what follows from the number, crops, objects; and an exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lmeec_core as lm
from lmeec_core.training.augment import crop_image, crop_labels, crop_matrix
from lmeec_core.training.checkpoints import CHECKPOINT
from lmeec_core.training.clips import Clip, stack
from lmeec_core.training.distributed import Processes
from lmeec_core.training.loop import Trainer
from lmeec_core.training.monitor import Monitor
from lmeec_core.training.recipe import Every
from lmeec_core.training.recipes.nano import NanoRecipe
from lmeec_core.training.scene_clips import SceneClips, SceneKey, choose_objects, draw_views
from lmeec_core.training.stages import STAGES as CURRICULA
from lmeec_core.training.stages import Schedule, Stage
from lmeec_core.training.store import LABELS, Scene, SceneStore

from .conftest import TINY_CONV

BN = "model.image_encoder.trunk.stages.0.1.running_mean"
CPU = torch.device("cpu")
SIDE = 64
COLOURS = np.array([(90, 90, 90), (230, 30, 30), (30, 30, 230), (30, 200, 30)], np.uint8)
STAGES = (
    Stage("contrast", "contrast", 0.4, 64, 2, (0.6, 0.9), sought=2, objects=3),
    Stage("pairs", "pairs", 0.3, 32, 2, (0.8, 1.0), sought=2, objects=3),
    Stage("clips", "clips", 0.3, 64, 1, (0.8, 1.0), 2, 2, times=3, fixed_norms=True,
          encoder_rate=0.0),
)  # fmt: skip


def draw_scene(path: Path, seed: int) -> None:
    """Four frames of three cameras: red and blue discs everywhere, green for camera 0 alone."""
    random = np.random.default_rng(seed)
    packed = np.zeros((4, 3, SIDE, SIDE, 4), np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE]
    for camera in range(3):
        places = random.permutation([(16, 16), (46, 16), (16, 46)])
        for frame in range(4):
            labels = np.zeros((SIDE, SIDE), np.uint8)
            for label, (row, column) in enumerate(places, start=1):
                if label < 3 or camera == 0:
                    labels[(y - row) ** 2 + (x - column - frame) ** 2 < 100] = label
            packed[frame, camera] = np.dstack((COLOURS[labels], labels))
    np.save(path, packed)


@pytest.fixture
def store(tmp_path: Path) -> SceneStore:
    """Four scenes."""
    (tmp_path / "train").mkdir()
    for seed in range(4):
        draw_scene(tmp_path / "train" / f"train_{seed:08d}.npy", seed)
    store = SceneStore(tmp_path / "train", 9)
    assert store.refresh() == 4
    return store


def same(a: Clip, b: Clip) -> bool:
    pairs = zip(a, b, strict=True)
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


# -- clips -------------------------------------------------------------------------------------


def drawn(store: SceneStore, seed: int, number: int, stage: Stage) -> Clip:
    recipe = make(store, seed=seed)
    clip = recipe.clips[recipe.keys(range(number, number + 1), stage)[0]].clip
    assert clip is not None
    return clip


def make(store: SceneStore, seed: int = 0, **changes: Any) -> NanoRecipe:
    schedule = Schedule(STAGES, 0.0, seed=seed, bf16=False, **changes)
    return NanoRecipe(lm.ModelConfig.model_validate(TINY_CONV), schedule, store, CPU)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_clip_follows_from_seed_and_number(store: SceneStore, stage: Stage) -> None:
    clips = [drawn(store, 3, number, stage) for number in (0, 1, 7)]
    assert same(drawn(store, 3, 7, stage), clips[2]) and same(drawn(store, 3, 0, stage), clips[0])
    assert not same(clips[0], clips[1]) and not same(drawn(store, 4, 0, stage), clips[0])


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_masks_lie_on_their_object_in_both_views(store: SceneStore, stage: Stage) -> None:
    """However a view is cropped, turned and coloured: a mask's pixels are of one colour."""
    recipe, absent, present = make(store), 0, 0
    for key in recipe.keys(range(24), stage):
        clip = recipe.clips[key].clip
        assert clip is not None and clip.regions is not None and clip.identity is not None
        n, objects = clip.filled // 2, clip.identity % LABELS
        assert clip.masks.shape == (stage.times, 2 * n, stage.size, stage.size)
        assert torch.equal(clip.counts, clip.masks.flatten(2).any(dim=2).float())
        for i in range(clip.filled):
            query = 0 if i < n else 1
            for t in range(stage.times):
                for masks, view in ((clip.masks, query), (clip.truth, 1 - query)):
                    assert (clip.regions[t, view][masks[t, i]] == 1).all()
                if objects[i] == 0:
                    assert not clip.masks[t, i].any() and not clip.truth[t, i].any()
            if objects[i] and i % n < stage.sought:
                assert clip.masks[0, i].any()
                present += bool(clip.truth[:, i].any())
                absent += not clip.truth[:, i].any()
    assert present > 20 and absent > 5


def test_some_target_views_show_none_of_the_objects(store: SceneStore) -> None:
    """Red and blue are everywhere, so the other view is of another scene."""
    recipe, empty = make(store), 0
    for key in recipe.keys(range(150), STAGES[1]):
        clip = recipe.clips[key].clip
        assert clip is not None and clip.identity is not None
        if clip.truth.any():
            assert len(set((clip.identity // LABELS).tolist())) == 1
            continue
        empty += 1
        n = clip.filled // 2
        assert clip.masks[0, 0].any() and clip.masks[0, n].any() and " and " in clip.name
        given = [set(clip.identity[half].tolist()) for half in (slice(n), slice(n, None))]
        assert not given[0] & given[1]  # equal labels of two scenes are no pair
    assert 4 < empty < 30


def test_clips_do_not_jump_in_time(tmp_path: Path) -> None:
    """Where runs end is told by the steps beside a shard."""
    draw_scene(tmp_path / "a.npy", 0)
    path = tmp_path / "b.npy"
    np.save(path, np.repeat(np.load(tmp_path / "a.npy"), 2, axis=0))
    path.with_suffix(".json").write_text('{"steps": [5, 8, 11, 40, 43, 46, 49, 90]}')
    scene = Scene(path)
    assert (scene.run, Scene(tmp_path / "a.npy").run) == (4, 4)
    assert scene.starts(4).tolist() == [3] and scene.starts(3).tolist() == [0, 3, 4]
    assert scene.starts(1).tolist() == list(range(8))
    random = np.random.default_rng(0)
    drawn = [draw_views(scene, scene, 3, random).frames for _ in range(40)]
    assert {tuple(sorted(f[:, 0])) for f in drawn} == {(0, 1, 2), (3, 4, 5), (4, 5, 6)}
    with pytest.raises(lm.InputError, match=r"b.npy: its longest run has 4 frames, 5 expected"):
        scene.starts(5)
    path.with_suffix(".json").write_text('{"steps": [1, 2]}')
    with pytest.raises(lm.InputError, match=r"b.json: 2 steps given, 8 frames expected"):
        Scene(path).starts(1)


@pytest.mark.parametrize("name", CURRICULA)
def test_banks_are_full_at_the_end_of_every_curriculum(name: str) -> None:
    last, capacity = CURRICULA[name][-1], lm.MemoryConfig().capacity
    assert last.kind == "clips" and last.share >= 0.1
    assert last.times > capacity  # the last frames meet banks that lose their oldest one


def test_a_crop_cuts_image_and_labels_alike() -> None:
    random = np.random.default_rng(0)
    labels = np.zeros((80, 80), np.uint8)
    labels[20:60, 30:50] = 3
    image = np.repeat(labels[..., None] * 60, 3, axis=2)
    for _ in range(5):
        matrix = crop_matrix(random.uniform(-0.2, 0.2, 2), 0.8, -1.0, 80, 48, random)
        cut, found = crop_image(image, matrix, 48)[..., 0], crop_labels(labels, matrix, 48)
        assert 100 < (found == 3).sum() < 1500
        assert ((cut > 90) == (found == 3)).mean() > 0.98


def test_a_crop_of_everything_is_the_image() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)

    class Nothing:
        def normal(self) -> float:
            return 0.0

    matrix = crop_matrix(np.zeros(2), 1.0, 1.0, 32, 32, Nothing())  # type: ignore[arg-type]
    assert (crop_image(image, matrix, 32) == image).all()
    mirrored = crop_matrix(np.zeros(2), 1.0, -1.0, 32, 32, Nothing())  # type: ignore[arg-type]
    assert (crop_image(image, mirrored, 32) == image[:, ::-1]).all()


@given(
    st.sets(st.integers(1, 32), max_size=12),
    st.sets(st.integers(1, 32), max_size=12),
    st.integers(1, 4),
    st.integers(0, 4),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
def test_objects_are_chosen_among_those_that_there_are(
    there: set[int], gone: set[int], sought: int, more: int, share: float, seed: int
) -> None:
    gone -= there
    positive, negative = np.zeros(LABELS, bool), np.zeros(LABELS, bool)
    positive[list(there)], negative[list(gone)] = True, True
    random = np.random.default_rng(seed)
    chosen = choose_objects(positive, negative, sought, sought + more, share, random).tolist()
    assert len(chosen) == sought + more
    assert set(chosen[:sought]) <= ((there | gone) or {0})
    assert set(chosen[sought:]) <= there | {0}
    rest = [label for label in chosen[sought:] if label]
    new = there - set(chosen[:sought])
    assert set(rest) <= new and len(rest) == len(set(rest)) == min(more, len(new))


def test_scenes_that_are_none_are_left_out_with_the_reason(store: SceneStore) -> None:
    folder = store.folder
    (folder / "train_00000007.npy").write_bytes(b"half a file")
    np.save(folder / "train_00000008.npy", np.zeros((4, 3, 32, 32, 4), np.uint8))
    np.save(folder / "train_00000009.npy", np.zeros(3))
    draw_scene(folder / "train_00000010.npy", 10)
    assert store.refresh() == 5 and store.paths[-1].stem == "train_00000010"
    draw_scene(folder / "train_00000005.npy", 10)
    assert store.refresh() == 6 and store.paths == sorted(store.paths)
    assert store.rejected.keys() == {f"train_0000000{i}.npy" for i in (7, 8, 9)}
    assert "(4, 3, 64, 64, 4) expected" in store.rejected["train_00000008.npy"]
    assert "uint8 (F, cameras, S, S, 4) expected" in store.rejected["train_00000009.npy"]


def test_a_scene_that_is_gone_is_named(store: SceneStore, tmp_path: Path) -> None:
    gone = tmp_path / "gone.npy"
    one = SceneClips(0)[SceneKey(0, (gone, gone, gone), STAGES[0])]
    assert one.clip is None and str(gone) in one.errors[0]


# -- runs --------------------------------------------------------------------------------------


class Stopped(Monitor):
    """Ends a run at a step like a Ctrl-C."""

    def __init__(self, step: int) -> None:
        self.step = step

    def record(self, record: dict[str, Any], progress: float) -> None:
        if record["step"] == self.step:
            raise KeyboardInterrupt


def run(
    store: SceneStore, folder: Path, monitor: Monitor | None = None, workers: int = 0
) -> Trainer:
    recipe = make(store, steps=6, rate=1e-2)
    recipe.workers = workers
    recipe.save, recipe.report = Every(2), Every(1)
    trainer = Trainer(recipe, folder, Processes(0, 1, CPU), monitor)
    trainer.run()
    return trainer


def test_a_resumed_run_has_the_same_weights(store: SceneStore, tmp_path: Path) -> None:
    """Through all stages, cut off between two checkpoints; network, average and curve agree."""
    whole = run(store, tmp_path / "whole", workers=1)
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path / "cut", Stopped(3))
    assert torch.load(tmp_path / "cut" / CHECKPOINT, weights_only=True)["step"] == 2
    torch.manual_seed(9)  # nothing else that is random matters
    cut = run(store, tmp_path / "cut")
    for a, b in ((whole.recipe.loss, cut.recipe.loss), (whole.trained, cut.trained)):
        theirs = b.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())
    curves = [
        [{k: v for k, v in r.items() if k not in ("minutes", "steps_per_s")} for r in t.history]
        for t in (whole, cut)
    ]
    assert curves[0] == curves[1]
    assert [r["stage"] for r in curves[0]] == ["contrast"] * 3 + ["pairs"] * 2 + ["clips"]
    fresh = make(store).model.state_dict()
    assert not torch.equal(whole.trained.state_dict()["MV_MoE.mlp1.0.weight"],
                           fresh["MV_MoE.mlp1.0.weight"])  # fmt: skip


def test_a_run_of_steps_needs_the_same_scenes(store: SceneStore, tmp_path: Path) -> None:
    recipe = make(store, steps=1)
    Trainer(recipe, tmp_path / "run", Processes(0, 1, CPU)).save()
    draw_scene(store.folder / "train_00000002b.npy", 5)
    grown = SceneStore(store.folder, 9)
    assert grown.refresh() == 5 and recipe.keys(range(9), STAGES[0]) and store.count == 4
    with pytest.raises(lm.InputError, match=r"checkpoint.pt: scenes: .* began with 4 .* now .* 5 "):
        Trainer(make(grown, steps=1), tmp_path / "run", Processes(0, 1, CPU))


def test_the_average_is_the_exponential_mean(store: SceneStore, tmp_path: Path) -> None:
    """With a decay that grows towards the given one: 1 - 9 / (10 + step)."""
    trainer = Trainer(make(store, ema=0.5), tmp_path / "run", Processes(0, 1, CPU))
    assert trainer.average is not None
    name, expected = "MV_MoE.mlp1.0.bias", torch.zeros(())
    parameter = dict(trainer.model.named_parameters())[name]
    for step in range(1, 12):
        with torch.no_grad():
            parameter.fill_(step)
        trainer.average.update_parameters(trainer.model)
        decay = min(0.5, (1 + step) / (10 + step)) if step > 1 else 0.0
        expected = decay * expected + (1 - decay) * step
        torch.testing.assert_close(trainer.trained.state_dict()[name],
                                   torch.full_like(parameter, float(expected)))  # fmt: skip


def test_a_step_that_is_not_finite_leaves_nothing_behind(
    store: SceneStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the statistics of batch normalisation nor in the mean of the weights."""
    recipe = make(store, steps=40)
    recipe.report = Every(1)
    trainer = Trainer(recipe, tmp_path / "run", Processes(0, 1, CPU))
    forward = recipe.loss.forward
    clips = [recipe.clips[key].clip for key in recipe.keys(range(2), STAGES[0])]
    whole = [clip for clip in clips if clip is not None]

    def spoilt(*given: Any) -> Any:
        loss, figures = forward(*given)
        return loss * float("nan"), figures

    trainer.train_step(whole, STAGES[0])
    before = {
        n: v.clone() for m in (recipe.loss, trainer.average) for n, v in m.state_dict().items()
    }
    monkeypatch.setattr(recipe.loss, "forward", spoilt)
    trainer.train_step(whole, STAGES[0])
    assert (trainer.step, trainer.lost) == (2, 1)
    for module in (recipe.loss, trainer.average):
        assert module is not None
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    trainer._sums = {}
    trainer._report(STAGES[0], 1.0)  # all of its steps were left out
    assert trainer.history[-1]["left out"] == 1 and "loss" not in trainer.history[-1]
    monkeypatch.setattr(recipe.loss, "forward", forward)
    trainer.train_step(whole, STAGES[0])
    assert not torch.equal(recipe.loss.state_dict()[BN], before[BN])


def test_steps_that_are_not_finite_are_few_or_the_run_ends(
    store: SceneStore, tmp_path: Path
) -> None:
    """Every second one: never many in a row. The count goes on in a resumed run."""
    trainer = Trainer(make(store, steps=40), tmp_path / "run", Processes(0, 1, CPU))
    parameters = list(trainer.model.parameters())

    def update(value: float) -> None:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, value)
        trainer._update()

    for _ in range(8):
        update(float("inf"))
        update(0.0)
    trainer.save()
    trainer = Trainer(make(store, steps=40), tmp_path / "run", Processes(0, 1, CPU))
    parameters = list(trainer.model.parameters())
    assert trainer.lost == 8
    with pytest.raises(lm.errors.ExplainedError, match="not finite for 11 steps in all"):
        for _ in range(8):
            update(float("inf"))
            update(0.0)


def test_a_batch_that_does_not_fit_is_computed_in_parts(
    store: SceneStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make(store, steps=1)
    trainer = Trainer(recipe, tmp_path / "run", Processes(0, 1, CPU))
    forward, sizes = recipe.loss.forward, []

    def limited(stage: Stage, total: torch.Tensor, *batch: torch.Tensor) -> Any:
        sizes.append(batch[0].shape[1])
        if sizes[-1] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(stage, total, *batch)

    monkeypatch.setattr(recipe.loss, "forward", limited)
    limit = 1
    assert trainer.run() and sizes == [2, 1, 1]
    limit = 0
    clips = [recipe.clips[key].clip for key in recipe.keys(range(2), STAGES[0])]
    with pytest.raises(lm.errors.ExplainedError, match="memory is too small for a batch of 2"):
        trainer.train_step([clip for clip in clips if clip is not None], STAGES[0])


def test_parts_of_a_batch_weigh_by_their_share(store: SceneStore) -> None:
    recipe = make(store)
    clips = [recipe.clips[key].clip for key in recipe.keys(range(2), STAGES[0])]
    batch = stack([clip for clip in clips if clip is not None])
    with torch.no_grad():
        whole, _ = recipe.loss(STAGES[0], torch.tensor(12.0), *batch)
        half, figures = recipe.loss(STAGES[0], torch.tensor(24.0), *batch)
    assert half.item() == pytest.approx(whole.item() / 2, rel=1e-5)
    losses = sum(v.item() for name, v in figures.items() if name != "hit")
    assert losses == pytest.approx(half.item(), rel=1e-5)
