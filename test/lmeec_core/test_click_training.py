"""Training of the click head, and the experiment that scores clicks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import lmeec_core as lm
from lmeec_core.checkpoint import read_state_dict
from lmeec_core.experiments.prompts import excursions, summary
from lmeec_core.networks import seeded_model
from lmeec_core.training.clicks import Trainer, correct, first_hints, main
from lmeec_core.training.store import SceneStore

SIDE = 64


@pytest.fixture
def store(tmp_path: Path) -> SceneStore:
    """Two scenes of one camera, with two squares."""
    random = np.random.default_rng(0)
    folder = tmp_path / "scenes"
    folder.mkdir()
    for number in range(2):
        packed = random.integers(0, 255, (2, 1, 96, 96, 4)).astype(np.uint8)
        packed[..., 3] = 0
        packed[:, :, 10:60, 10:50, 3] = 1
        packed[:, :, 50:90, 55:90, 3] = 2
        np.save(folder / f"train_{number}.npy", packed)
    scenes = SceneStore(folder, 10)
    scenes.refresh()
    return scenes


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    store: SceneStore, tmp_path: Path
) -> None:
    config = lm.preset("nano").model_copy(update={"image_size": SIDE})
    model = seeded_model(config, 0)
    whole = Trainer(store, tmp_path / "whole", 2, 1e-3, 0, model)
    losses = [numbers["loss"] for numbers in whole.run()]
    part = Trainer(store, tmp_path / "part", 2, 1e-3, 0, model)
    steps = part.run()
    assert next(steps)["loss"] == losses[0]
    part.save()
    again = Trainer(store, tmp_path / "part", 2, 1e-3, 0, model)
    assert again.step == 1
    assert [numbers["loss"] for numbers in again.run()] == losses[1:]
    again.save()
    weights = read_state_dict(tmp_path / "part" / "nano_clicks.safetensors")
    assert weights["of_network"].dtype == torch.float32 and weights["mask.weight"].isfinite().all()
    with pytest.raises(lm.InputError, match="same options"):
        Trainer(store, tmp_path / "part", 2, 1e-3, 1, model)


def test_prompts_of_training_say_the_truth() -> None:
    random = np.random.default_rng(0)
    truth = torch.zeros(40, 48, 48, dtype=torch.bool)
    truth[:, 10:30, 12:20] = True
    hints = first_hints(truth, random)
    prompted = (hints.labels == 1).any(1) | (hints.boxes != 0).any(1)
    assert prompted.all()
    hints = correct(hints, (~truth).float(), truth, 2, random, share=1.0)
    for i in range(len(truth)):
        for (x, y), label in zip(hints.points[i] * 48, hints.labels[i], strict=True):
            if label >= 0:
                assert truth[i, int(y), int(x)] == bool(label)


def test_without_scenes_it_says_how_to_render_some(tmp_path: Path) -> None:
    with pytest.raises(lm.InputError, match="shards"):
        main(["--scenes", str(tmp_path), "--out", str(tmp_path / "out")])


def test_what_is_scored() -> None:
    def row(since: int, area: int, iou: float | None, seen: bool) -> dict:
        pairs = [[0.5, 0.6]] if area else []
        return {"object": "cup", "since": since, "area": area, "iou": iou, "seen": seen,
                "targets": pairs}  # fmt: skip

    away = [row(i, 0, None, i == 3) for i in range(2, 6)]
    rows = [row(0, 200, 0.9, True), row(1, 200, 0.7, True), *away, row(6, 200, 0.8, True)]
    assert list(excursions(rows)) == [True]
    assert list(excursions([*rows[:-1], row(6, 200, 0.1, True)])) == [False]
    assert list(excursions([*rows[:4], rows[-1]])) == []  # away for too short a time
    found = summary({"one": rows, "two": rows[:1]})
    spans = found["query view, IoU by frames after the click"]
    assert spans["0 to 0"]["mean"] == pytest.approx(0.9) and spans["0 to 0"]["takes"] == 2
    assert spans["1 to 10"]["mean"] == pytest.approx(0.75) and spans["51 to 200"] is None
    assert found["said absent where it is"]["mean"] == pytest.approx(0.75)
    assert found["targets, IoU lost"]["mean"] == pytest.approx(0.1)
    assert found["found again"]["mean"] == 1
