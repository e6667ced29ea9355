"""The checkpoint of a training: everything comes back, and nothing in it is executed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import lmeec_core as lm
from lmeec_core.training.checkpoints import CHECKPOINT, FORMAT
from lmeec_core.training.distributed import Processes
from lmeec_core.training.loop import Trainer
from lmeec_core.training.recipes.nano import NanoRecipe
from lmeec_core.training.stages import CPU_STAGES, Schedule
from lmeec_core.training.store import SceneStore

CPU = torch.device("cpu")


def trainer(folder: Path, seed: int) -> Trainer:
    store = SceneStore(folder / "train", 1)
    schedule = Schedule(CPU_STAGES, 1.0, seed=seed)
    return Trainer(
        NanoRecipe(lm.preset("nano"), schedule, store, CPU), folder, Processes(0, 1, CPU)
    )


def test_all_of_a_run_comes_back(tmp_path: Path) -> None:
    first = trainer(tmp_path, seed=1)
    for parameter in first.recipe.loss.parameters():
        parameter.grad = torch.ones_like(parameter)
    first.optimizer.step()
    assert first.average is not None
    for _ in range(3):
        first.average.update_parameters(first.model)
    first.step, first.spent = 7, 12.5
    first.history = [{"minutes": 0.2, "stage": "pairs", "eval iou": math.nan, "loss": 0.25}]
    first.save()
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]

    second = trainer(tmp_path, seed=2)
    assert (second.step, second.spent) == (7, 12.5)
    assert str(second.history) == str(first.history)  # as text, since NaN differs from itself
    assert second.average is not None and int(second.average.n_averaged) == 3
    for a, b in ((first.recipe.loss, second.recipe.loss), (first.trained, second.trained)):
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


@pytest.mark.parametrize(
    ("content", "found"),
    [({"model": {}, "step": 3}, "1"), ({"format": FORMAT + 1}, str(FORMAT + 1)), ([], "none")],
)
def test_checkpoints_of_other_versions_are_refused(
    tmp_path: Path, content: object, found: str
) -> None:
    torch.save(content, tmp_path / CHECKPOINT)
    with pytest.raises(lm.InputError, match=rf"format {found}, {FORMAT} expected.*start=FILE"):
        trainer(tmp_path, seed=1)
