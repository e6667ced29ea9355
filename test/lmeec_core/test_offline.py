"""Takes tracked offline: results, resumption after a kill, the choice of engines, errors."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmeec_core as lm
from lmeec_core.engine import chosen_engines, make_engine
from lmeec_core.engine.eager import EagerEngine
from lmeec_core.evaluation import benchmark_size
from lmeec_core.model.stages import STAGES
from lmeec_core.offline import compute
from lmeec_core.offline.records import parse
from lmeec_core.offline.store import UnitStore, engines_before
from lmeec_core.offline.take_plan import plan_take
from lmeec_core.offline.units import Settings
from lmeec_core.takes import Results, Take, resize_mask
from tracked_takes import MINI, SETTINGS, command, track, write_take


@pytest.fixture
def take(tmp_path: Path) -> Take:
    return write_take(tmp_path / "take_7")


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
    assert "weights was 'seed:0', is now 'seed:1'" in other.output and out.read_bytes() != first
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
    assert "already finished" not in result.output
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
    assert result.exit_code == 1 and "in use by another process" in result.output


def test_killed_at_once_and_resumed_the_file_is_the_same(take: Take, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "killed.json"
    assert track(take.path, whole, *MINI).exit_code == 0
    process = subprocess.Popen(
        command(take, out, "--workers", "1"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
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
