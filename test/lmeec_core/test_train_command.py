"""`lmeec train`: settings, and a short run on drawn scenes that is interrupted and goes on."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.checkpoint import seeded_model
from lmeec_core.cli.app import app
from lmeec_core.evaluation import iou
from lmeec_core.jobs import JobResult
from lmeec_core.training import rendering
from lmeec_core.training.distributed import Processes
from lmeec_core.training.evaluate import SLACK, best_mask_bias, evaluate_pairs, shift_masks
from lmeec_core.training.monitor import Monitor, RunMonitor, example_sheet, results_table
from lmeec_core.training.output import export
from lmeec_core.training.recipe import Budget
from lmeec_core.training.recipes import nano_run
from lmeec_core.training.recipes.nano import NanoRecipe
from lmeec_core.training.settings import CONFIGS, TrainConfig, find_config, read_config, remember
from lmeec_core.training.stages import CPU_MORE_STAGES, Schedule
from lmeec_core.training.store import SceneStore
from lmeec_core.training.tracking import Job, track_scene

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
SIDE = 64


def _scene(seed: int, frames: int = 4) -> np.ndarray:
    """Coloured squares that move, an ego and an exo camera: uint8 (frames, 2, 64, 64, 4)."""
    random = np.random.default_rng(seed)
    packed = np.zeros((frames, 2, SIDE, SIDE, 4), np.uint8)
    packed[..., :3] = random.integers(60, 120, (1, 2, SIDE, SIDE, 3))
    for label in range(1, 5):
        shade = random.integers(0, 256, 3)
        for camera in range(2):
            x, y = random.integers(0, SIDE - 20, 2)
            if label == 4 and camera:
                continue  # seen by the ego camera alone
            for frame in range(frames):
                spot = slice(y, y + 14), slice(x + frame, x + frame + 12)
                packed[frame, camera][spot] = (*shade, label)
    return packed


def _store(folder: Path, *scenes: np.ndarray) -> SceneStore:
    """These scenes on the disk."""
    folder.mkdir(exist_ok=True)
    for number, packed in enumerate(scenes):
        np.save(folder / f"train_{number:08d}.npy", packed)
    store = SceneStore(folder, len(scenes))
    assert store.refresh() == len(scenes)
    return store


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A run's folder with drawn scenes."""
    for split, count in (("train", 12), ("presence", 2), ("val", 1), ("test", 1)):
        folder = tmp_path / "run" / split
        folder.mkdir(parents=True)
        frames = 8 if split in ("train", "presence") else 2
        for seed in range(count):
            np.save(folder / f"{split}_{seed:08d}.npy", _scene(1000 * len(split) + seed, frames))
    return tmp_path / "run"


SHORT = {
    "minutes": 0.25, "render": False, "scenes": 12, "start_at": 12, "val_scenes": 1,
    "test_scenes": 1, "stages": "cpu", "device": "cpu", "evaluate_every": 0.1, "report_every": 0,
}  # fmt: skip


def _run(work: Path, *options: str, **changes: object) -> Any:
    given = [f"--set={k}={yaml.safe_dump(v).split()[0]}" for k, v in (SHORT | changes).items()]
    return runner.invoke(app, ["train", str(work), *given, *options])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_cut_off_goes_on(work: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = _run(work, session_minutes=0.05)  # a step is done at least
    assert first.exit_code == 3, first.output
    assert "run the same command again" in first.output
    begun = json.loads((work / "out" / "metrics.json").read_text())
    assert begun["steps"] and 0 < begun["minutes"] < 0.25 and begun["results"] is None

    second = _run(work)
    assert second.exit_code == 0, second.output
    ended = json.loads((work / "out" / "metrics.json").read_text())
    assert ended["steps"] > begun["steps"] and ended["minutes"] >= 0.25
    count = len(begun["history"])
    assert count and ended["history"][:count] == begun["history"]
    stages = [r["stage"] for r in ended["history"]]
    assert stages[0] == "contrast" and len(set(stages)) > 1  # which ones depends on the machine
    assert any("eval ego_to_exo iou" in r for r in ended["history"])
    assert all(np.isfinite(r["loss"]) for r in ended["history"] if "loss" in r)

    done = json.loads((work / "out" / "done.json").read_text())
    ego = done["test tracker"]["all"]
    assert (ego["ego_to_exo present"], ego["ego_to_exo absent"]) == (6, 2)  # of two frames
    # two scenes of two frames with full banks: four objects from ego to exo, one of them absent
    # there, and three back; in one scene an object is all but covered and does not count
    assert done["presence"] == {"scenes": 2, "correspondences": 24, "absent": 4}
    assert "Held-out scenes" in second.output and "tracker, ego to exo" in second.output
    assert f"{ego['ego_to_exo iou']:.3f}" in second.output and "6 + 2" in second.output
    lm.load_model("nano", checkpoint=work / "out" / "nano.safetensors", device="cpu")
    assert len(list((work / "train").glob("*.npy"))) == 12  # scenes that were brought stay

    events = EventAccumulator(str(work / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    steps = [e.step for e in events.Scalars("train/loss")]
    assert steps == [r["step"] for r in ended["history"] if "loss" in r]
    assert "validation/exo_to_ego existence" in events.Tags()["scalars"]
    assert events.Tags()["images"] == ["validation"]

    again = _run(work)
    assert again.exit_code == 0 and "Held-out scenes" in again.output
    assert json.loads((work / "out" / "metrics.json").read_text()) == ended


@pytest.mark.slow
def test_scenes_are_rendered_in_the_order_of_their_use(tmp_path: Path) -> None:
    remember(
        TrainConfig(
            minutes=1, val_scenes=1, test_scenes=1, presence_scenes=2, scenes=4, start_at=2,
            frames=4, size=64, workers=2,
        ),
        tmp_path,
    )  # fmt: skip
    assert rendering.start_rendering(tmp_path, tmp_path / "nano.log").wait(180) == 0
    made = sorted(tmp_path.glob("*/*.npy"), key=lambda path: path.stat().st_mtime_ns)
    folders = ["val", "test", "train", "train", "presence", "presence", "train", "train"]
    assert [path.parent.name for path in made] == folders
    assert {path.stem for path in made[2:4]} == {"train_00000000", "train_00000001"}
    assert {path.stem for path in made[4:6]} == {"train_05000000", "train_05000001"}


def test_without_minutes_the_weights_are_only_shifted_and_scored(work: Path) -> None:
    result = _run(work, minutes=0, start="bundled", presence_scenes=0, tensorboard=False)
    assert result.exit_code == 0, result.output
    metrics = json.loads((work / "out" / "metrics.json").read_text())
    assert metrics["steps"] == 0 and metrics["results"]["test tracker"]["all"]
    before = nano_run.start_weights("bundled")
    after = nano_run.start_weights(str(work / "out" / "nano.safetensors"))
    assert before is not None and after is not None
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    bias, head = "sam_mask_decoder.mask_bias", "matching.verification.mlp.layers.2.bias"
    assert changed <= {bias, head}
    shift = metrics["results"]["calibration"]["mask shift"]
    assert (after[bias] - before[bias]).item() == pytest.approx(shift, abs=1e-3)
    shifts = metrics["results"]["calibration"]["presence shifts"]
    assert any(shifts)
    assert (after[head] - before[head]).item() == pytest.approx(-sum(shifts), abs=1e-2)


def test_a_folder_keeps_its_settings(work: Path) -> None:
    remember(TrainConfig(minutes=5), work)
    remember(TrainConfig(minutes=5, workers=3, session_minutes=2), work)
    result = _run(work, seed=4, minutes=5)
    assert result.exit_code == 2
    assert "holds a run with other settings" in result.output and "seed 0 (now 4)" in result.output
    assert "workers" not in result.output


def test_too_few_scenes(tmp_path: Path) -> None:
    result = _run(tmp_path / "empty", tensorboard=False, presence_scenes=0)
    assert result.exit_code == 2
    assert "error: only 0 scenes; see" in result.output and "nano.log" in result.output


def test_no_scenes_for_the_verdict(work: Path) -> None:
    shutil.rmtree(work / "presence")
    result = _run(work, tensorboard=False)
    assert result.exit_code == 2
    assert f"error: {work / 'presence'} holds no scenes, 400 expected" in result.output
    assert "--seeds 5000000:5000400 --split train" in result.output


# -- what a person sees ------------------------------------------------------------------------


def test_example_sheet_and_tensorboard_of_a_resumed_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    store = _store(tmp_path / "scenes", _scene(5))
    torch.manual_seed(0)
    model = lm.build_model(lm.preset("nano").model_copy(update={"image_size": SIDE})).eval()
    sheet = example_sheet(model, store)
    assert sheet is not None and sheet.dtype == np.uint8 and sheet.shape[2] == 3
    assert sheet.shape[1] > 4 * SIDE  # two tiles of two views in a row, one for each direction
    console = Console(file=io.StringIO(), width=100)
    runs = (((1, 3.0), (2, 2.0), (3, 9.0)), ((3, 1.0), (4, 0.5)))  # killed after step 3, saved at 2
    for run in runs:
        with RunMonitor(console, tmp_path / "board") as monitor:
            for step, loss in run:
                record = {"stage": "pairs", "minutes": 0.1 * step, "step": step, "loss": loss}
                monitor.record(record | {"eval ego_to_exo iou": 0.25}, step / 4)
            monitor.picture(sheet, step)
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    found = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert found == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]
    assert events.Scalars("validation/ego_to_exo iou")[-1].value == 0.25
    assert events.Images("validation")[-1].width == sheet.shape[1]
    assert "0.4 min, step 4: ego_to_exo iou 0.250" in console.file.getvalue()


def test_example_sheet_of_scenes_where_nothing_counts(tmp_path: Path) -> None:
    store = _store(tmp_path, np.zeros((4, 2, SIDE, SIDE, 4), np.uint8))
    model = lm.build_model(lm.preset("nano").model_copy(update={"image_size": SIDE})).eval()
    assert example_sheet(model, store) is None


def test_table() -> None:
    scores = {"ego_to_exo iou": 0.5125, "ego_to_exo existence": 0.75, "ego_to_exo present": 7,
              "ego_to_exo absent": 3, "exo_to_ego iou": float("nan"),
              "exo_to_ego existence": float("nan"), "exo_to_ego present": 0,
              "exo_to_ego absent": 0}  # fmt: skip
    entry = {"all": scores, "by target area": {"30-75": {"iou": 0.3333, "count": 4}}}
    tracker = {"all": scores | {"ego_to_exo contour": 0.625}, "by target area": {}}
    console = Console(file=io.StringIO(), width=160)
    console.print(results_table({"test single frame": entry, "test tracker": tracker}))
    text = console.file.getvalue()
    for expected in ("7 + 3", "0.512", "0.750", "0.625", "30-75 pixels", "0.333"):
        assert expected in text
    assert "nan" not in text


# -- settings ----------------------------------------------------------------------------------


def test_settings_reach_the_run(tmp_path: Path) -> None:
    config = read_config(find_config("nano_sim"), ["start=bundled", "minutes=7.5", "seed=9"])
    assert isinstance(config, TrainConfig)
    run = nano_run.SceneRun(config, tmp_path, tmp_path / "out", torch.device("cpu"), Monitor())
    assert (run.budget, run.seed, run.clips.seed) == (Budget(None, 7.5), 9, 9)
    assert run.schedule.stages == CPU_MORE_STAGES and run.schedule.rate == 1e-3
    assert {name: store.capacity for name, store in run.stores.items()} == {
        "train": 4000, "val": 24, "test": 60, "presence": 400,
    }  # fmt: skip
    gentle = read_config(find_config("nano_sim"), ["stages=cpu_clips", "rate=3e-5"])
    assert isinstance(gentle, TrainConfig)
    run = nano_run.SceneRun(gentle, tmp_path, tmp_path, torch.device("cpu"), Monitor())
    assert (run.schedule.rate, run.schedule.bf16) == (3e-5, False)
    exact = read_config(find_config("nano_sim"), ["steps=30"])
    assert isinstance(exact, TrainConfig)
    run = nano_run.SceneRun(exact, tmp_path, tmp_path, torch.device("cpu"), Monitor())
    assert run.budget.steps == 30


def test_the_file_names_every_setting() -> None:
    content = yaml.safe_load((CONFIGS / "nano_sim.yaml").read_text())
    assert set(content) == set(TrainConfig.model_fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("minuts=3", "minuts: Extra inputs are not permitted"),
        ("frames=3", "frames: .*greater than or equal to 4.*3 given"),
        ("stages=fast", "stages: .*'gpu'"),
        ("rate=0", "rate: .*greater than 0"),
        ("minutes", "--set minutes: expected name=value"),
        ("keep=9", "keep: there is no such setting any more: the scenes now stay on the disk"),
    ],
)
def test_bad_settings_are_named(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(CONFIGS / "nano_sim.yaml", [change])


def test_pairs_score_as_the_tracker_does_on_a_first_frame(tmp_path: Path) -> None:
    store = _store(tmp_path, _scene(0))
    model = seeded_model(lm.preset("nano").model_copy(update={"image_size": SIDE}), 0)
    rows = evaluate_pairs(model, store, 1)
    assert len(rows) == 4 * (2 * 3 + 1)  # frames; seen by both, one not
    job = Job(0, store.paths[0], 1, None, tmp_path, "cpu", model.config)
    tracked = [one for step in track_scene(model, job) for one in step]
    for row, one in zip(rows[:7], tracked, strict=True):
        assert row[:3] == (int(one.query > 0), one.query_area, one.target_area)
        assert row.presence_logit == pytest.approx(one.found.presence_logit, abs=1e-4)
        if row.presence_logit > 0:
            assert row.iou == pytest.approx(iou(one.found.mask(), one.truth), abs=1e-4)


def test_the_smallest_good_mask_bias_is_found(tmp_path: Path) -> None:
    store = _store(tmp_path, _scene(0))
    model = seeded_model(lm.preset("nano").model_copy(update={"image_size": SIDE}), 0)

    def score(bias: float) -> float:
        shift_masks(model, bias)
        rows = [r for r in evaluate_pairs(model, store, 1, step=2) if r.target_area > 0]
        shift_masks(model, -bias)
        return float(np.mean([r.iou for r in rows]))

    best = best_mask_bias(model, store, 1, step=2)
    scores = {b / 5: score(b / 5) for b in range(-2, 8)}
    enough = max(scores.values()) - SLACK
    assert best == min(bias for bias, found in scores.items() if found >= enough)
    assert score(best) > min(score(-0.4), score(1.4))
    assert best_mask_bias(model, store, 0) == 0  # nothing tells


def test_weights_to_begin_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded_model(lm.preset("nano"), 3)
    export(model, tmp_path / "half.safetensors", {})
    start = nano_run.start_weights(str(tmp_path / "half.safetensors"))
    assert start is not None
    recipe = NanoRecipe(
        lm.preset("nano"), Schedule(CPU_MORE_STAGES, 1.0), SceneStore(tmp_path / "none", 1),
        torch.device("cpu"), start,
    )  # fmt: skip
    for name, value in recipe.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-3)
    assert nano_run.start_weights(None) is None
    with pytest.raises(lm.CheckpointError, match="absent.*no such file"):
        nano_run.start_weights(str(tmp_path / "absent"))
    monkeypatch.setattr(nano_run, "bundled_weights", lambda name: None)
    with pytest.raises(lm.CheckpointError, match="no weights come with this package"):
        nano_run.start_weights("bundled")


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file; the package brings .*nano_sim.yaml"):
        find_config("nano_simm")
    path = tmp_path / "own.yaml"
    for text, message in (("a: [", "not YAML"), ("- 1", "mapping"), ("seed: 1", "minutes: Field")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_config(find_config(str(path)))


def test_help() -> None:
    result = runner.invoke(app, ["train", "--help"])
    assert result.exit_code == 0
    for word in ("Examples", "tensorboard --logdir", "nano_sim.yaml", "--set"):
        assert word in result.output


def test_clips_longer_than_the_scenes_are_refused(work: Path) -> None:
    result = _run(work, stages="gpu", frames=4, tensorboard=False)
    assert result.exit_code == 2
    assert "frames: 4 given, the stages train on clips of 8 frames" in result.output
    shutil.rmtree(work / "out", ignore_errors=True)
    (work / "train.yaml").unlink()
    for path in (work / "train").glob("*.npy"):
        np.save(path, np.load(path)[:4])
    result = _run(work, stages="gpu", tensorboard=False)
    assert result.exit_code == 2 and f"in {work / 'train'}: 4 given" in result.output


def test_several_processes_are_refused(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def two(device: str) -> Iterator[Processes]:
        yield Processes(0, 2, torch.device("cpu"))

    monkeypatch.setattr(nano_run, "processes", two)
    result = _run(work, tensorboard=False)
    assert result.exit_code == 2 and "without torchrun" in result.output
    assert not (work / "train.yaml").exists()


def test_rendering_leaves_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=rendering.RESERVE - 1)
    monkeypatch.setattr(rendering.shutil, "disk_usage", lambda path: usage)
    asked: list[range] = []

    def fake(seeds: range, _: Any, frames: int, *__: Any, **named: Any) -> Iterator[JobResult]:
        asked.append(seeds)
        assert named["clip"] == frames == 8  # one run without a jump in time
        return (JobResult(None) for _ in seeds)

    monkeypatch.setattr(rendering, "render_many", fake)
    rendering.render(TrainConfig(minutes=1), tmp_path)
    assert (
        len(asked) == 1 and "the disk is nearly full: no more scenes after 1 of val" in caplog.text
    )
