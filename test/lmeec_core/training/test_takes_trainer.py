"""Runs on takes: resumed, killed, spread over processes, on broken data, and to IoU > 0.9."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lmeec_core.training.checkpoints import CHECKPOINT
from lmeec_core.training.distributed import Processes
from lmeec_core.training.loop import Trainer
from lmeec_core.training.monitor import Monitor
from lmeec_core.training.recipes.egoexo4d import TakeRecipe, start_model
from lmeec_core.training.settings import TakeTrainConfig
from lmeec_core.training.take_validation import validate

Settings = Callable[..., TakeTrainConfig]
ALONE = Processes(0, 1, torch.device("cpu"))
ROOT = Path(__file__).parents[3]


class Notes(Monitor):
    """Remembers what it is told; ``stop_at`` ends the run at that step like a Ctrl-C."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.notes: list[str] = []
        self.records: list[dict[str, Any]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def record(self, record: dict[str, Any], progress: float) -> None:
        self.records.append(record | {"progress": progress})
        if record["step"] == self.stop_at:
            raise KeyboardInterrupt


def make(settings: TakeTrainConfig, folder: Path, monitor: Monitor | None = None) -> Trainer:
    recipe = TakeRecipe(settings, folder / "out", ALONE, Monitor())
    return Trainer(recipe, folder, ALONE, monitor)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / CHECKPOINT, weights_only=True)["model"]


def command(settings: TakeTrainConfig, work: Path, path: Path) -> tuple[list[str], dict[str, str]]:
    """`lmeec train` with these settings as a command of its own, and its environment."""
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    called = ["-m", "lmeec_core.cli", "train", str(work), "--config", str(path)]
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(":")]
    return called, os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": ":".join(filter(None, paths)),
    }


# -- resume ------------------------------------------------------------------------------------


def test_a_resumed_run_has_the_same_weights(settings: Settings, tmp_path: Path) -> None:
    """Stopped between two checkpoints, so that steps are done twice; curve and weights agree."""
    short = settings(save_steps=2, conv=True, report_steps=3, steps=5)
    make(short.model_copy(update={"workers": 1}), tmp_path / "whole").run()
    with pytest.raises(KeyboardInterrupt):
        make(short, tmp_path / "cut", Notes(stop_at=3)).run()
    assert torch.load(tmp_path / "cut" / CHECKPOINT, weights_only=True)["step"] == 2
    half = tmp_path / "cut" / f".{CHECKPOINT}.0a1b.partial"  # of a kill while writing
    half.write_bytes(b"half")
    trainer = make(short, tmp_path / "cut")
    assert trainer.step == 2 and not half.exists()
    trainer.run()
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[n], cut[n]) for n in whole)
    begun = start_model(short, Monitor()).state_dict()
    assert any(not torch.equal(begun[n], whole[n]) for n in whole)
    timeless = [
        [{k: v for k, v in r.items() if k not in ("minutes", "steps_per_s")} for r in history]
        for history in (
            trainer.history,
            torch.load(tmp_path / "whole" / CHECKPOINT, weights_only=True)["history"],
        )
    ]
    assert timeless[0] == timeless[1] and [r["step"] for r in timeless[0]] == [3, 5]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """This process computes with one thread, as the commands do: sums depend on the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_killed_command_goes_on(settings: Settings, tmp_path: Path, one_thread: None) -> None:
    """kill -9 once a checkpoint is there, at whatever moment that meets; then the same command."""
    short = settings(steps=12, batch=1, frames=2)
    make(short, tmp_path / "whole").run()
    work = tmp_path / "run"
    called, environment = command(short, work, tmp_path / "short.yaml")
    with subprocess.Popen([sys.executable, "-P", *called], env=environment,
                          stdout=subprocess.DEVNULL) as process:  # fmt: skip
        while not (work / CHECKPOINT).is_file() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert 1 <= torch.load(work / CHECKPOINT, weights_only=True)["step"] < 12
    done = subprocess.run(
        [sys.executable, "-P", *called], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    whole, cut = weights(tmp_path / "whole"), weights(work)
    assert all(torch.equal(whole[n], cut[n]) for n in whole)
    shipped = load_file(work / "out" / "mini.safetensors")
    assert all(torch.equal(shipped[n], whole[n]) for n in whole)
    assert "0 of 12 clips could not be read" in done.stdout
    assert "continued at step" in (work / "train.log").read_text()


def test_another_number_of_clips_per_step_is_refused(settings: Settings, tmp_path: Path) -> None:
    make(settings(steps=1), tmp_path / "run").run()
    with pytest.raises(ValueError, match=r"2 clips per step.*batch 3 x accumulate 1 x 1.*= 3"):
        make(settings(steps=1, batch=3), tmp_path / "run")
    assert make(settings(steps=1, batch=1, accumulate=2), tmp_path / "run").step == 1


def test_other_takes_are_refused(
    settings: Settings, draw: Callable[..., None], data: Path, tmp_path: Path
) -> None:
    make(settings(steps=1), tmp_path / "run").run()
    shutil.copytree(data, tmp_path / "moved")
    assert make(settings(steps=1, data=str(tmp_path / "moved")), tmp_path / "run").step == 1
    draw(data / "train" / "take_7")
    with pytest.raises(ValueError, match="began with other takes"):
        make(settings(steps=1), tmp_path / "run")


# -- several processes -------------------------------------------------------------------------


def test_accumulated_batches_are_one_batch(settings: Settings, tmp_path: Path) -> None:
    notes = [Notes(), Notes()]
    make(settings(steps=2, conv=True), tmp_path / "a", notes[0]).run()
    make(settings(steps=2, conv=True, batch=1, accumulate=2), tmp_path / "b", notes[1]).run()
    assert_close_runs(notes[0].records, notes[1].records)


def assert_close_runs(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> None:
    """The same losses and gradient norms, up to rounding."""
    assert len(a) == len(b) > 1
    for one, other in zip(a, b, strict=True):
        for name in (
            "focal loss",
            "dice loss",
            "iou loss",
            "presence loss",
            "norm",
            "iou",
            "draws",
        ):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_two_processes_compute_what_one_does(settings: Settings, tmp_path: Path) -> None:
    """torchrun with two processes of one clip each against one process of two."""
    alone = settings(steps=3, conv=True)
    notes = Notes()
    trainer = make(alone, tmp_path / "one", notes)
    begun = {n: p.clone() for n, p in trainer.model.state_dict().items()}
    trainer.run()
    called, environment = command(
        settings(steps=3, conv=True, batch=1, val_takes=2), tmp_path / "two", tmp_path / "two.yaml"
    )
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", *called], env=environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "two" / "out" / "metrics.json").read_text())
    assert content["processes"] == 2
    assert_close_runs(notes.records, [r for r in content["history"] if "loss" in r])
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    apart = sum((one[n] - two[n]).abs().sum().item() for n in one)
    moved = sum((one[n] - begun[n]).abs().sum().item() for n in one)
    assert moved > 0 and apart < 0.01 * moved
    assert "ego to exo" in done.stdout  # the validation's table, once
    assert done.stdout.count("weights:") == 1


# -- broken data -------------------------------------------------------------------------------


def spoil(data: Path) -> Path:
    path = data / "train" / "take_1" / "aria01" / "60.jpg"
    path.write_bytes(b"no image")
    return path


def test_broken_images_are_reported_once_and_counted(
    settings: Settings, data: Path, tmp_path: Path
) -> None:
    path, notes = spoil(data), Notes()
    make(settings(steps=6, frames=4, max_corrupt=1.0), tmp_path / "run", notes).run()
    last = notes.records[-1]
    assert last["unreadable"] >= 2 and last["draws"] == 12 + last["unreadable"]
    assert len(notes.notes) == 1 and f"skipped: {path}" in notes.notes[0]


def test_too_many_broken_images_stop_the_run(
    settings: Settings, data: Path, tmp_path: Path
) -> None:
    path = spoil(data)
    with pytest.raises(RuntimeError, match=r"3 of \d+ clips.*max_corrupt = 0.02") as failure:
        make(settings(steps=60, frames=4), tmp_path / "run").run()
    assert str(path) in str(failure.value)


def test_takes_that_are_too_short(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="without a clip of 9 annotated frames"):
        make(settings(frames=9), tmp_path / "run").run()


def test_a_gradient_that_is_not_finite(settings: Settings, tmp_path: Path) -> None:
    trainer = make(settings(steps=30, batch=1, frames=2), tmp_path / "run")
    with torch.no_grad():
        trainer.model.no_obj_ptr.fill_(float("nan"))
        trainer.model.maskmem_tpos_enc.fill_(float("nan"))
    before = {n: p.clone() for n, p in trainer.model.named_parameters()}
    with pytest.raises(RuntimeError, match="not finite for 10 steps in a row, up to step 9"):
        trainer.run()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]) or parameter.isnan().all()


# -- learning ----------------------------------------------------------------------------------


def test_a_tiny_network_learns_one_take_by_heart(
    settings: Settings, draw: Callable[..., None], tmp_path: Path
) -> None:
    """IoU > 0.9 in both directions, by the real tracker over the whole take."""
    folder = tmp_path / "one"
    draw(folder / "train" / "take", 10)
    chosen = settings(
        conv=True, data=str(folder), steps=45, frames=2, rate=3e-3, encoder_rate=3e-3,
        layer_decay=1, clip=1, weight_decay=0.01, augment=None, save_steps=100, report_steps=100,
    )  # fmt: skip
    trainer = make(chosen, tmp_path / "run")
    before = validate(trainer.model, [folder / "train" / "take"])
    trainer.run()
    found = validate(trainer.model, [folder / "train" / "take"])
    assert not found.errors
    for direction in ("ego-exo", "exo-ego"):
        assert len(found.scores[direction].ious) == 20  # two objects in ten frames
        assert before.scores[direction].iou < 0.3 < 0.9 < found.scores[direction].iou
