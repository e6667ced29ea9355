"""The checkpoint of a training: everything comes back, and nothing in it is executed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import lmeec_core as lm
from lmeec_core.training.stages import CPU_STAGES
from lmeec_core.training.store import SceneStore
from lmeec_core.training.trainer import CHECKPOINT, Schedule, Trainer

CPU = torch.device("cpu")


def trainer(folder: Path, seed: int) -> Trainer:
    store = SceneStore(folder / "train", 1, CPU)
    return Trainer(lm.preset("nano"), Schedule(CPU_STAGES, 1.0, seed=seed), store, folder, CPU)


def test_all_of_a_run_comes_back(tmp_path: Path) -> None:
    first = trainer(tmp_path, seed=1)
    for parameter in first.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    first.optimizer.step()
    first.step, first.spent = 7, 12.5
    first.history = [{"minutes": 0.2, "stage": "pairs", "eval iou": math.nan, "loss": 0.25}]
    first.save()
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    following = torch.rand(3)

    second = trainer(tmp_path, seed=2)
    assert torch.equal(torch.rand(3), following)
    assert (second.step, second.spent) == (7, 12.5)
    assert str(second.history) == str(first.history)  # as text, since NaN differs from itself
    for a, b in ((first.model, second.model), (first.averaged, second.averaged)):
        theirs = b.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())
    moments = [list(t.optimizer.state.values()) for t in (first, second)]
    assert len(moments[0]) > 100
    for a, b in zip(*moments, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.marker,))


def test_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    torch.save({"model": _Evil(tmp_path / "executed")}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: unreadable .*remove it to begin anew"):
        trainer(tmp_path, seed=1)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_that_is_cut_off_is_named(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ValueError, match=r"checkpoint\.pt: unreadable"):
        trainer(tmp_path, seed=1)
