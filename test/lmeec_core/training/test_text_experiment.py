"""The ablation of texts: it finds what texts are worth where that is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmeec_core.experiments import text as experiment
from lmeec_core.methods.conditions import HashedWords
from lmeec_core.methods.conditions.scoring import FORMS
from lmeec_core.training.match_views import DescribedViews

from .test_matcher_training import Patches, tiles, write_take

WORDS = ("red", "blue", "green")
DIM = 12


def scene(take: str, seed: int) -> experiment.Scene:
    """One object, whose candidates differ by their colour alone, which only the text tells."""
    random = np.random.default_rng(seed)
    true = int(random.integers(3))
    others = torch.eye(3).repeat_interleave(4, dim=1)
    others += 0.05 * torch.from_numpy(random.standard_normal((3, DIM)))
    overlap = np.zeros((1, 3), np.float32)
    overlap[0, true] = 1
    return experiment.Scene(
        take, "ego-exo", [f"a {WORDS[true]} mug"], torch.ones(1, DIM) + 0.1 * others[:1], others,
        torch.zeros(1, 3), torch.tensor([true]), torch.ones(1, 3, dtype=torch.bool), overlap,
    )  # fmt: skip


def test_only_words_as_keys_and_values_tell_a_single_object_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With MCFuse and one object the text has no effect; exchanged texts mislead the other form."""
    monkeypatch.setattr(experiment, "RATE", 1e-2)
    monkeypatch.setattr(experiment, "BATCH", 3)
    texts = experiment.Texts(HashedWords(known=(*WORDS, "mug")))
    seen = [scene(f"t{i}", i) for i in range(40)]
    held = {"val": [scene(f"v{i}", 100 + i) for i in range(30)]}
    scorers: Any = {
        form: [experiment.train(form, seen, texts, 64, seed, 25) for seed in (0, 1)]
        for form in FORMS
    }
    found = experiment.compare(held, scorers, texts)
    rows = found["val ego-exo"]
    mean = {name: row["iou"]["mean"] for name, row in rows.items() if name != "best candidate"}
    assert mean["words"] > 0.95 and mean["none"] < 0.6 and mean["mcfuse"] < 0.6
    assert mean["mcfuse"] == mean["mcfuse, wrong texts"] and mean["words, wrong texts"] < 0.6
    assert rows["words"]["difference"]["low"] > 0.2 and rows["best candidate"] == 1
    assert len(rows["words"]["seeds"]) == 2 and rows["words"]["seeds sd"] < 0.05
    shown = experiment.table(found)
    assert shown.count("\n") == 2 + len(rows) - 1 and "| val | ego-exo | words | " in shown
    one = experiment.compare({"val": held["val"][:1]}, scorers, texts)
    assert one["val ego-exo"]["words"]["iou"]["low"] is None  # a single take has no interval
    assert "nan" not in experiment.table(one)


def test_scenes_are_of_both_directions_and_know_the_true_masks(tmp_path: Path) -> None:
    write_take(tmp_path / "one", there=False)
    path = tmp_path / "one" / "annotation.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "descriptions": {"cup": "a red cup"}}))
    views = DescribedViews(tmp_path / "views", Patches(), tiles)
    scenes = list(experiment.scenes_of(tmp_path / "one", views, Patches(), 2))
    assert [one.direction for one in scenes] == ["ego-exo", "ego-exo", "exo-ego", "exo-ego"]
    first, second, _, last = scenes
    assert first.texts == ["a red cup", ""] and last.texts == [""]
    assert (first.true >= 0).tolist() == [True, True] and second.true.tolist()[0] == -1
    for k in range(2):
        # The true mask is most like itself, and is no negative.
        assert first.allowed[k, first.true[k]] and first.overlap[k].max() > 0.2
        assert first.scores[k, first.true[k]] == pytest.approx(float(first.scores[k].max()), abs=3)
    own = experiment.overlaps(None, scenes, experiment.Texts(HashedWords()))
    assert own["one"][1] == 2 + 1 + 2 + 1
