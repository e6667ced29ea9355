"""Takes tracked offline: results, resumption after a kill, worker processes, a Ray cluster."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.cli.app import app
from lmeec_core.cli.sources import TakeSource
from lmeec_core.engine import chosen_engines, make_engine
from lmeec_core.engine.eager import EagerEngine
from lmeec_core.evaluation import benchmark_size
from lmeec_core.model.stages import STAGES
from lmeec_core.offline import compute, pool
from lmeec_core.offline.records import parse
from lmeec_core.offline.store import UnitStore, engines_before
from lmeec_core.offline.take_plan import plan_take
from lmeec_core.offline.units import Job, Settings, Unit
from lmeec_core.takes import Results, Take, TakeWriter, resize_mask

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
SETTINGS = Settings(preset="mini", seed=0, weights="seed:0")
MINI = ["--preset", "mini", "--seed", "0", "--device", "cpu"]


def picture(number: int, height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def square(left: int, height: int = 48, width: int = 64) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[8:40, left : left + 30] = True
    return mask


def write_take(path: Path, frames: tuple[int, ...] = (0, 30, 60)) -> Take:
    """Two exo cameras, one of them portrait; cam-2 lacks frame 30, the knife is null at 60."""
    with TakeWriter(path) as take:
        take.add_object("never asked")
        for frame in frames:
            take.image("aria01", frame, picture(frame, 96, 128))
            take.image("cam-1", frame, picture(frame + 1, 60, 80))
            if frame != 30:
                take.image("cam-2", frame, picture(frame + 2, 80, 60))
            take.mask("cup/red", "aria01", frame, square(frame % 30))
            take.mask("cup/red", "cam-1", frame, square(5))
            take.mask("knife", "aria01", frame, None if frame == 60 else square(20))
        take.mask("knife", "cam-2", 0, square(10, 64, 48))
    return Take.open(path)


@pytest.fixture
def take(tmp_path: Path) -> Take:
    return write_take(tmp_path / "take_7")


def track(source: Path, out: Path, *more: str) -> Any:
    arguments = ["track", str(source), "--out", str(out), *more]
    return runner.invoke(app, [*arguments, *([] if "--workers" in more else ["--workers", "1"])])


def test_predictions_are_the_trackers_with_an_entry_for_every_query_mask(
    take: Take, tmp_path: Path
) -> None:
    out = tmp_path / "found.json"
    result = track(take.path, out, *MINI, "--direction", "ego-exo")
    assert result.exit_code == 0, result.output
    assert "masks mean nothing" in result.output
    results = Results.read(out)
    assert results.direction == "ego-exo" and results.takes == ("take_7",)
    assert results.frames("take_7") == (0, 30, 60)
    content = json.loads(out.read_text())["ego-exo"]["results"]["take_7"]["masks"]
    assert list(content) == ["never asked", "cup/red", "knife"] and content["never asked"] == {}
    assert {(p.object_name, p.pair, p.frame) for p in results.predictions()} == {
        (name, pair, frame)
        for name in ("cup/red", "knife")
        for pair in ("aria01_cam-1", "aria01_cam-2")
        for frame in (0, 30, 60)
    }
    model = lm.load_model("mini", seed=0, device="cpu")
    tracker = lm.CorrespondenceTracker(model, "aria01", ("cam-2",))
    visible = 0
    for frame in (0, 60):
        images = {c: take.image(c, frame) for c in ("aria01", "cam-2")}
        masks = {name: take.mask(name, "aria01", frame) for name in ("cup/red", "knife")}
        for name, found in tracker.step(images, masks)["cam-2"].items():
            given = results.get("take_7", name, "aria01", "cam-2", frame)
            assert given is not None and given.confidence == pytest.approx(found.presence, abs=1e-6)
            expected = resize_mask(found.mask(), benchmark_size(80, 60))
            assert given.mask.shape == (480, 360)
            assert np.mean(given.mask != expected) < 1e-3
            visible += bool(given.mask.any())
    assert visible == 3  # the knife has no mask on frame 60
    gone = results.get("take_7", "cup/red", "aria01", "cam-2", 30)
    assert gone is not None and gone.confidence == 0 and not gone.mask.any()


def test_both_directions_lie_in_one_file_and_objects_can_be_chosen(
    take: Take, tmp_path: Path
) -> None:
    out = tmp_path / "found.json"
    assert track(take.path, out, *MINI, "--object", "cup/red").exit_code == 0
    back = Results.read(out, "exo-ego")
    assert {(p.pair, p.frame) for p in back.predictions()} == {
        ("cam-1_aria01", frame) for frame in (0, 30, 60)
    }
    assert all(p.mask.shape == (360, 480) for p in back.predictions())
    assert back.frames("take_7") == (0, 30, 60)
    assert Results.read(out, "ego-exo").takes == ("take_7",)
    result = track(take.path, tmp_path / "x.json", *MINI, "--object", "spoon")
    assert result.exit_code == 1 and "'spoon'" in result.output


def test_many_objects_are_cut_into_sets(take: Take) -> None:
    plan = plan_take(take, ["ego-exo"], (), 1)
    assert [(u.target, u.objects) for u in plan.units] == [
        ("cam-1", ("cup/red",)),
        ("cam-1", ("knife",)),
        ("cam-2", ("cup/red",)),
        ("cam-2", ("knife",)),
    ]
    assert len({u.key for u in plan.units}) == 4


def test_finished_units_are_kept_and_other_settings_are_noticed(take: Take, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    work = tmp_path / "found.json.work"
    assert track(take.path, out, *MINI, "--direction", "ego-exo").exit_code == 0
    first, files = out.read_bytes(), {f: f.stat().st_mtime_ns for f in work.glob("*.jsonl")}
    again = track(take.path, out, *MINI, "--direction", "ego-exo")
    assert "2 of 2 units were already finished" in again.output
    assert out.read_bytes() == first
    assert {f: f.stat().st_mtime_ns for f in work.glob("*.jsonl")} == files
    other = track(take.path, out, *MINI, "--direction", "ego-exo", "--compression", "fifo")
    assert "2 stored units are not reused: memory.compression was 'keep_first', is now 'fifo'" in (
        other.output
    )
    other = track(take.path, out, "--preset", "mini", "--seed", "1", "--direction", "ego-exo")
    assert "weights was 'seed:0', is 'seed:1'" in other.output and out.read_bytes() != first
    take.image_path("cam-1", 60).write_bytes(b"")
    broken = track(take.path, out, "--preset", "mini", "--seed", "1", "--direction", "ego-exo")
    assert "the recording has changed" in broken.output
    assert broken.exit_code == 1 and "cam-1/60.jpg" in broken.output
    lost = Results.read(out).get("take_7", "cup/red", "aria01", "cam-1", 60)
    assert lost is not None and not lost.mask.any()


def test_a_damaged_unit_is_computed_again_and_partial_files_are_never_read(
    take: Take, tmp_path: Path
) -> None:
    out, work = tmp_path / "found.json", tmp_path / "found.json.work"
    assert track(take.path, out, *MINI, "--direction", "ego-exo").exit_code == 0
    first = out.read_bytes()
    cut, other = sorted(work.glob("*.jsonl"))
    data = cut.read_bytes()
    with pytest.raises(ValueError, match="cut off"):
        parse(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cut off"):
        parse(b"\n".join(data.split(b"\n")[:-3]) + b"\n" + data.split(b"\n")[-2] + b"\n")
    cut.write_bytes(data[: len(data) // 2])
    other.rename(other.with_suffix(".partial"))
    result = track(take.path, out, *MINI, "--direction", "ego-exo")
    assert result.exit_code == 0 and "not readable" in result.output
    assert "finished before" not in result.output
    assert out.read_bytes() == first and not list(work.glob("*.partial"))


def test_only_one_process_works_in_a_folder_and_foreign_files_are_not_replaced(
    take: Take, tmp_path: Path
) -> None:
    out = tmp_path / "found.json"
    out.write_text("mine")
    result = track(take.path, out, *MINI)
    assert result.exit_code == 1 and "--overwrite" in result.output
    assert out.read_text() == "mine"
    out.unlink()
    with UnitStore(tmp_path / "found.json.work", SETTINGS):
        result = track(take.path, out, *MINI)
    assert result.exit_code == 1 and "another process works there" in result.output


def test_killed_at_once_and_resumed_the_file_is_the_same(take: Take, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "killed.json"
    assert track(take.path, whole, *MINI).exit_code == 0
    command = [sys.executable, "-P", "-m", "lmeec_core.cli", "track", str(take.path)]
    command += ["--out", str(out), "--workers", "1", *MINI]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    work = tmp_path / "killed.json.work"
    end = time.monotonic() + 200
    while not list(work.glob("*.jsonl")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {file: file.stat().st_mtime_ns for file in work.glob("*.jsonl")}
    assert kept
    result = track(take.path, out, *MINI)
    assert result.exit_code == 0, result.output
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert out.read_bytes() == whole.read_bytes()


class Elsewhere(EagerEngine):
    """Stands for an engine that is faster at times."""

    name = "openvino"


def test_auto_chooses_once_for_all_units_processes_and_later_runs(
    take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each measurement may come out another way; the masks must not depend on it."""
    measured: list[int] = []

    def choose(model: lm.LMEEC, *_: Any, **__: Any) -> dict[Any, Any]:
        measured.append(1)
        engines = {stage: make_engine(model, "eager") for stage in STAGES}
        return engines | {"decoder": Elsewhere(model)} if len(measured) == 1 else engines

    monkeypatch.setattr("lmeec_core.engine.select.choose", choose)
    monkeypatch.setattr(
        "lmeec_core.engine.select.make_engine",
        lambda model, name: Elsewhere(model) if name == "openvino" else make_engine(model, name),
    )
    compute.forget_method()
    out = tmp_path / "found.json"
    arguments = [*MINI, "--engine", "auto"]
    assert track(take.path, out, *arguments).exit_code == 0
    files = sorted((tmp_path / "found.json.work").glob("*.jsonl"))
    first = {file: file.read_bytes() for file in files}
    heads = [parse(data).head["settings"] for data in first.values()]
    assert len(heads) > 2 and len(measured) == 1
    wanted = dict.fromkeys(STAGES, "eager") | {"decoder": "openvino"}
    assert all(head["engine"] == "auto" and head["engines"] == wanted for head in heads)
    files[0].unlink()  # as if it had been stopped there
    compute.forget_method()
    result = track(take.path, out, *arguments)
    assert result.exit_code == 0 and f"{len(files) - 1} of {len(files)} units" in result.output
    assert {file: file.read_bytes() for file in files} == first and len(measured) == 1
    # What a worker process makes of the settings that it is given.
    model = next(iter(compute._LOADED.values())).model
    assert chosen_engines(model) == wanted
    settings = Settings(preset="mini", seed=0, weights="seed:0", engine="auto")
    assert engines_before(tmp_path / "found.json.work", settings) == wanted
    other = settings.model_copy(update={"presence_threshold": 0.4})
    assert engines_before(tmp_path / "found.json.work", other) is None


def test_datasets_and_folders_of_takes(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for split, name in (("train", "a"), ("test", "b"), ("test", "c")):
        write_take(root / split / name, (0,))
    (root / "split.json").write_text(json.dumps({"train": ["a"], "test": ["b", "c"]}))
    (root / "test" / "b" / "annotation.json").write_text('{"masks": {"cup": {"aria01": []')
    out = tmp_path / "found.json"
    result = track(root, out, *MINI, "--split", "test", "--direction", "ego-exo")
    assert result.exit_code == 1 and "b/annotation.json" in result.output
    assert Results.read(out).takes == ("c",)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--preset", "nano_"], "nano_"),
        (["--preset", "mini"], "--seed 0"),
        (["--checkpoint", "nowhere.pt"], "nowhere.pt"),
        ([*MINI, "--params", "x.yaml"], "apply only to bags"),
        ([*MINI, "--threads", "0"], "--threads"),
        ([*MINI, "--cluster", "127.0.0.1:1"], "--cluster 127.0.0.1:1"),
    ],
)
def test_errors_say_what_to_do(take: Take, tmp_path: Path, arguments: list[str], text: str) -> None:
    if "--cluster" in arguments:
        pytest.importorskip("ray", reason="the extra ray is not installed")
    result = track(take.path, tmp_path / "x.json", *arguments)
    assert result.exit_code in (1, 2) and text in result.output
    assert not (tmp_path / "x.json").exists()


def test_a_checkpoint_that_does_not_fit_stops_at_once(take: Take, tmp_path: Path) -> None:
    file = tmp_path / "broken.safetensors"
    file.write_bytes(b"nothing")
    result = track(take.path, tmp_path / "x.json", "--preset", "mini", "--checkpoint", str(file))
    assert result.exit_code == 1 and result.output.count("broken.safetensors") == 1


def jobs_of(take: Take, folder: Path | None = None) -> list[Job]:
    units = plan_take(take, ["ego-exo"], (), 32).units
    return [Job(TakeSource(), u, SETTINGS, str(folder / u.key) if folder else None) for u in units]


def test_worker_processes_give_the_same_bytes_and_a_killed_one_is_replaced(
    take: Take, tmp_path: Path
) -> None:
    expected = {o.unit.key: o.data for o in pool.here(jobs_of(take), lambda *_: None)}
    assert all(expected.values())
    mine = {child.pid for child in psutil.Process().children()}

    def kill_one() -> None:
        end = time.monotonic() + 200
        while time.monotonic() < end:
            for child in psutil.Process().children():
                spawned = child.pid not in mine and "spawn_main" in " ".join(child.cmdline())
                if spawned and child.cpu_times().user > 0.5:  # at work or loading
                    os.kill(child.pid, signal.SIGKILL)
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_one)
    killer.start()
    retried: list[tuple[Unit, str]] = []
    outcomes = list(
        pool.on_processes(jobs_of(take, tmp_path), 2, lambda *what: retried.append(what))
    )
    killer.join()
    assert [reason for _, reason in retried] == ["worker died, exit code -9"]
    assert {o.unit.key: o.data for o in outcomes} == expected
    assert (tmp_path / outcomes[0].unit.key).read_text() == "3"  # frames done


def test_a_worker_that_always_dies_is_reported_and_nothing_is_written(
    take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text("import os\n\ndef work(job):\n    os._exit(7)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pool, "work", importlib.import_module("deadly").work)
    out = tmp_path / "x.json"
    result = track(take.path, out, *MINI, "--workers", "2", "--direction", "ego-exo")
    assert result.exit_code == 1 and not out.exists()
    assert result.output.count("tried again") == 4
    assert "2 units: worker died, exit code 7 (3 attempts)" in result.output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_moments_with_worker_processes(take: Take, tmp_path: Path) -> None:
    def command(name: str) -> list[str]:
        folder = tmp_path / name
        return [
            *(sys.executable, "-P", "-m", "lmeec_core.cli", "track", str(take.path), *MINI),
            *("--out", str(folder / "x.json"), "--bag", str(folder / "masks"), "--workers", "2"),
        ]

    def files(name: str) -> tuple[bytes, bytes]:
        folder = tmp_path / name
        return (folder / "x.json").read_bytes(), (folder / "masks" / "masks.mcap").read_bytes()

    begin = time.monotonic()
    subprocess.run(command("whole"), check=True, stdout=subprocess.DEVNULL)
    duration = time.monotonic() - begin
    rng, killed = np.random.default_rng(time.time_ns()), 0
    for attempt in range(4):
        patience = float(rng.uniform(0.3, 1.2)) * duration if attempt < 3 else None
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL)
        try:
            process.wait(patience)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    assert process.returncode == 0
    assert files("killed") == files("whole"), f"after {killed} kills"


@pytest.mark.slow
def test_scaling_compares_the_bytes(take: Take, tmp_path: Path) -> None:
    result = track(take.path, tmp_path / "x.json", *MINI, "--scaling", "1,2")
    assert result.exit_code == 0, result.output
    assert "speed-up" in result.output and result.output.count("the same") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["take_7"]


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_file_also_when_a_worker_is_killed(
    take: Take, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    assert track(take.path, here, *MINI).exit_code == 0
    killed: list[int] = []

    def kill_one() -> None:
        end = time.monotonic() + 250
        while not killed and time.monotonic() < end:
            for child in psutil.Process().children(recursive=True):
                with_name = " ".join(child.cmdline()) if child.is_running() else ""
                if with_name.startswith("ray::work"):
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)
                    return
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    result = track(take.path, there, *MINI, "--cluster", "local")
    killer.join()
    assert result.exit_code == 0, result.output
    assert killed and there.read_bytes() == here.read_bytes()
