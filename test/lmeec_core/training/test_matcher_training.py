"""Training of O-MaMa's matcher: resumed, on odd data, and to the right choice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lmeec_core.checkpoint import CheckpointError, seeded_model
from lmeec_core.config import ModelConfig
from lmeec_core.errors import ExplainedError, InputError
from lmeec_core.methods.omama.features import EncoderFeatures, PatchView
from lmeec_core.methods.omama.match import embed_asked, embed_given
from lmeec_core.methods.omama.network import Layout
from lmeec_core.takes import Take, TakeWriter
from lmeec_core.training.checkpoints import CHECKPOINT
from lmeec_core.training.distributed import Processes
from lmeec_core.training.match_clips import MatchClips, sought, stack_matches, unstack_matches
from lmeec_core.training.match_loss import choices
from lmeec_core.training.match_views import DescribedViews
from lmeec_core.training.monitor import Monitor
from lmeec_core.training.recipes.omama import WEIGHTS, MatchRecipe, run
from lmeec_core.training.settings import MatchTrainConfig, find_config, read_config

from .conftest import TINY_CONV

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)


class Patches:
    """Features without a network: mean colours of patches, in 8 channels."""

    fingerprint = "patches"

    def __init__(self) -> None:
        self.seen = 0

    def layout(self, reverse: bool) -> Layout:
        return Layout(8, 2, *(((4, 6), (5, 5)) if reverse else ((5, 5), (4, 6))))

    def see(self, images: Sequence[np.ndarray], ego: Sequence[bool]) -> list[PatchView]:
        self.seen += len(images)
        mix = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
        views = []
        for image in images:
            cells = (image.shape[1] // 14, image.shape[0] // 14)
            small = cv2.resize(image, cells, interpolation=cv2.INTER_AREA) / 128 - 1
            views.append(
                PatchView(torch.einsum("cd,hwd->chw", mix, torch.from_numpy(small).float()))
            )
        return views


def tiles(image: np.ndarray, side: int = 18) -> np.ndarray:
    """Candidates: squares side by side, and an empty one among them."""
    height, width = image.shape[:2]
    found = [np.zeros((height, width), bool)]
    for y in range(0, height, side):
        for x in range(0, width, side):
            mask = np.zeros((height, width), bool)
            mask[y : y + side, x : x + side] = True
            found.append(mask)
    return np.stack(found[1:3] + found[:1] + found[3:])


def row(image: np.ndarray) -> np.ndarray:
    """Candidates whose centroids lie on one line."""
    found = np.zeros((5, *image.shape[:2]), bool)
    for i in range(5):
        found[i, 30:36, 8 * i : 8 * i + 6] = True
    return found


def nothing(image: np.ndarray) -> np.ndarray:
    """No candidates."""
    return np.zeros((0, *image.shape[:2]), bool)


def write_take(
    path: Path, exos: tuple[str, ...] = ("cam01",), size: tuple[int, int] = (56, 84),
    there: bool = True,
) -> None:  # fmt: skip
    """A cup and a pan on grey ground, three frames; without ``there`` the cup is in one exo frame
    alone."""
    with TakeWriter(path) as take:
        for t in range(3):
            for camera, shape in (("aria01", (70, 70)), *((exo, size) for exo in exos)):
                image = np.full((*shape, 3), 90, np.uint8)
                for thing, shade, y in (("cup", (230, 30, 30), 4), ("pan", (30, 30, 230), 30)):
                    mask = np.zeros(shape, np.uint8)
                    mask[y : y + 16, 6 + 8 * t : 22 + 8 * t] = 1
                    if thing == "cup" and camera != "aria01" and not there and t:
                        continue
                    image[mask > 0] = shade
                    take.mask(thing, camera, 30 * t, mask)
                take.image(camera, 30 * t, image)


class Stop(Monitor):
    """Ends a run at a step, like a Ctrl-C."""

    def __init__(self, at: int) -> None:
        self.at = at

    def record(self, record: dict[str, Any], progress: float) -> None:
        if record["step"] == self.at and "loss" in record:
            raise KeyboardInterrupt


def settings(data: Path, **changes: Any) -> MatchTrainConfig:
    values: dict[str, Any] = {
        "recipe": "omama", "data": str(data), "features": "nano", "steps": 6, "batch": 4,
        "candidates": 8, "rate": 1e-3, "report_steps": 1, "save_steps": 1, "device": "cpu",
        "validate_steps": 100, "val_split": None, "tensorboard": False,
    }  # fmt: skip
    return MatchTrainConfig(**(values | changes))


def recipe(
    given: MatchTrainConfig, folder: Path, candidates: Callable[..., Any] = tiles,
    features: Any = None,
) -> MatchRecipe:  # fmt: skip
    return MatchRecipe(
        given, folder, folder / "out", CPU, Monitor(), features or Patches(), candidates
    )


def saved(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / CHECKPOINT, weights_only=True)["model"]


@pytest.fixture
def takes(tmp_path: Path) -> Path:
    """A folder with two training takes and one for validation."""
    for name in ("train/one", "train/two", "val/three"):
        write_take(tmp_path / "data" / name)
    return tmp_path / "data"


@pytest.mark.parametrize("stop", [1, 4])
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    takes: Path, tmp_path: Path, stop: int
) -> None:
    given = settings(takes)
    run(recipe(given, tmp_path / "whole"), tmp_path / "whole", ALONE, Monitor())
    folder = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        run(recipe(given, folder), folder, ALONE, Stop(stop + 1))
    again = run(recipe(given, folder), folder, ALONE, Monitor())
    assert again.step == 6
    whole, parts = saved(tmp_path / "whole"), saved(folder)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    with pytest.raises(InputError, match="clips: this run began with"):
        run(recipe(settings(takes, seed=1), folder), folder, ALONE, Monitor())


def test_it_learns_to_choose_with_the_features_of_a_network(data: Path, tmp_path: Path) -> None:
    """Also whether the object is there: red is not in the other view in half of the frames."""
    torch.manual_seed(0)
    features = EncoderFeatures(seeded_model(ModelConfig.model_validate(TINY_CONV), 0))
    given = settings(data, steps=40, batch=6, rate=2e-3, none=True, val_split="val")
    trainer = run(recipe(given, tmp_path, tiles, features), tmp_path, ALONE, Monitor())
    reports = [record for record in trainer.history if "loss" in record]
    assert reports[-1]["loss"] < 0.5 * reports[0]["loss"]
    assert reports[-1]["right"] > 0.9 and reports[-1]["presence accuracy"] > 0.8
    scored = trainer.history[-1]
    assert scored["eval ego_to_exo iou"] > 0.5 * scored["eval ego_to_exo best candidate"] > 0.1
    assert (tmp_path / "out" / WEIGHTS).is_file()
    more = settings(data, start=str(tmp_path / "out" / WEIGHTS))
    assert recipe(more, tmp_path / "more", tiles, features).model.layout.dim == 96
    with pytest.raises(CheckpointError, match="misshapen"):
        recipe(more, tmp_path / "other")


@pytest.mark.parametrize("candidates", [tiles, row])
@pytest.mark.parametrize(
    "take",
    [{}, {"size": (84, 56)}, {"exos": ("cam01", "cam02")}, {"there": False}],
    ids=["landscape", "portrait", "two exo cameras", "object not visible"],
)
def test_any_take_can_be_learnt_from(
    tmp_path: Path, take: dict[str, Any], candidates: Callable[..., Any]
) -> None:
    """Centroids on a line and empty candidates as well; grids of several sizes in one step."""
    write_take(tmp_path / "data" / "train" / "odd", **take)
    write_take(tmp_path / "data" / "train" / "usual")
    made = recipe(settings(tmp_path / "data"), tmp_path, candidates)
    drawn = [made.clips[number] for number in range(16)]
    assert not any(one.errors for one in drawn)
    clips = [one.clip for one in drawn]
    loss, figures = made.loss(made.stage(0), torch.tensor(16.0), *stack_matches(clips))
    loss.backward()
    used = [n for n, p in made.model.named_parameters() if p.grad is not None and p.grad.any()]
    assert len(used) == len(list(made.model.parameters())) and torch.isfinite(loss)
    absent = [clip for clip in clips if int(clip.true) < 0]
    assert int(figures["there"]) == 16 - len(absent)
    assert bool(absent) == (take.get("there") is False)
    if absent:  # an object that is not visible teaches as well
        made.model.zero_grad()
        made.loss(made.stage(0), torch.tensor(1.0), *absent[0].tensors)[0].backward()
        assert made.model.mlp.mlp[0].weight.grad.any()
    if "exos" in take:
        pairs = {(p.query, p.target) for p in made.clips.pairs if p.take.name == "odd"}
        assert len(pairs) == 4
        odd = [tmp_path / "data" / "train" / "odd"]
        found = list(choices(made.model, odd, made.views, "both", []))
        assert len(found) == 2 * 2 * 2 * 3  # directions, exo cameras, objects, frames


def test_alignment_is_a_term_of_visible_objects_and_off_by_itself(
    takes: Path, tmp_path: Path
) -> None:
    made = recipe(settings(takes), tmp_path)
    aligned = recipe(settings(takes, align=100.0), tmp_path)
    clip = next(c for n in range(9) if int((c := made.clips[n].clip).true) == 0)
    one = torch.tensor(1.0)
    asked = embed_asked(made.model, clip.asked[None].float(), clip.target.float())
    true = embed_given(made.model, clip.given[:1].float(), clip.query.float())
    distance = (asked - true).norm()
    losses = [m.loss(m.stage(0), one, *stack_matches([clip]))[0] for m in (made, aligned)]
    assert 100 * distance > 0.1
    torch.testing.assert_close(losses[1] - losses[0], 100 * distance, atol=1e-3, rtol=1e-3)
    absent = clip._replace(true=torch.tensor(-1))
    losses = [m.loss(m.stage(0), one, *stack_matches([absent]))[0] for m in (made, aligned)]
    assert losses[0] == losses[1]


def test_clips_hold_the_true_mask_and_nothing_twice(takes: Path, tmp_path: Path) -> None:
    made = recipe(settings(takes, candidates=40), tmp_path)
    for number in range(8):
        clip = made.clips[number].clip
        assert int(clip.true) == 0 and clip.given.shape[1] == clip.asked.shape[0] == 16
        assert 2 < len(clip.given) < 40  # all that there are, and none twice
        assert len(torch.unique(clip.given, dim=0)) > 1
    whole = [made.clips[number].clip for number in range(3)]
    for one, other in zip(whole, unstack_matches(stack_matches(whole)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))


def test_directions_and_what_is_not_known(takes: Path, tmp_path: Path) -> None:
    one = recipe(settings(takes, direction="exo-ego"), tmp_path).clips
    assert {p.query for p in one.pairs} == {"cam01"}
    take = Take.open(takes / "train" / "one")
    every = sought(take, "aria01", "cam01")
    assert len(every) == 6
    # null in the file: nobody knows whether the object is there
    path = take.path / "annotation.json"
    content = json.loads(path.read_text())
    content["masks"]["cup"]["cam01"]["30"] = None
    path.write_text(json.dumps(content))
    known = sought(Take.open(take.path), "aria01", "cam01")
    assert sorted(set(every) - set(known)) == [("cup", 30)]


def test_nothing_to_choose_from_is_said(takes: Path, tmp_path: Path) -> None:
    made = recipe(settings(takes), tmp_path, nothing)
    with pytest.raises(ExplainedError, match="no object with a query mask.*candidates"):
        run(made, tmp_path, ALONE, Monitor())
    val = [takes / "val" / "three"]
    found = list(choices(made.model, val, made.views, "ego-exo", []))
    assert {(one.similarity, one.overlap) for one in found} == {(-1.0, 0.0)}


def test_images_are_described_once(takes: Path, tmp_path: Path) -> None:
    features = Patches()
    views = DescribedViews(tmp_path / "views", features, tiles)
    take = takes / "train" / "one"
    first = views.view(take, "cam01", 30)
    again = DescribedViews(tmp_path / "views", features, tiles).view(take, "cam01", 30)
    assert features.seen == 1
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first.shown.sum() == len(first.shown) - 1 and first.row("cup") is not None
    assert (first.overlap[:, ~first.shown] == 0).all() and first.hard.any()
    path = next((tmp_path / "views").rglob("*.npz"))
    path.write_bytes(path.read_bytes()[:300])  # cut off
    views.view(take, "cam01", 30)
    assert features.seen == 2


def test_the_file_of_settings_is_the_published_recipe(tmp_path: Path) -> None:
    found = read_config(find_config("omama"), [f"data={tmp_path}"])
    assert isinstance(found, MatchTrainConfig)
    published = (found.candidates, found.batch, found.temperature, found.rate, found.none)
    assert published == (32, 24, 0.07, 8e-5, False)
    assert found.rate * found.floor == pytest.approx(1e-6)
    with pytest.raises(InputError, match="the folder with the takes must be given"):
        read_config(find_config("omama.yaml"))


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        MatchClips(tmp_path / "none", DescribedViews(tmp_path, Patches(), tiles))
