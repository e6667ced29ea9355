"""`lmeec dataset`: recordings with their masks, read back by libraries that are not ours."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.datasets import episode as episodes
from lmeec_core.datasets import run as dataset_run
from lmeec_core.datasets.clock import Tally, rate_of, resample
from lmeec_core.datasets.provenance import QUERY
from lmeec_core.datasets.stats import QUANTILES, ImageStats, column_stats, merged
from lmeec_core.jobs import JobResult
from lmeec_core.takes import Results, TakeWriter, write_results
from lmeec_core.viewing.moments import Moment, View

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
OBJECTS = ("cup/red", "knife", "bowl")
SIZES = {"aria01": (48, 64), "cam-1": (48, 64), "cam-2": (33, 41)}
FRAMES = range(0, 6 * 3, 3)  # 10 Hz
STEP = 3
RNG = np.random.default_rng(5)


def blob(seed: int, size: tuple[int, int]) -> np.ndarray:
    """A mask of no regular shape."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[: size[0], : size[1]]
    middle = rng.uniform(0.3, 0.7, 2) * size
    turn = np.arctan2(rows - middle[0], columns - middle[1])
    radius = 0.15 * min(size) * (1.3 + np.sin(3 * turn + rng.uniform(0, 6)))
    return np.hypot(rows - middle[0], columns - middle[1]) < radius


def picture(seed: int, size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    scale = np.ones((-(-size[0] // 4), -(-size[1] // 4), 1), np.uint8)
    return np.kron(coarse, scale)[: size[0], : size[1]]


def make_take(path: Path, frames: Any = FRAMES, lacking: tuple[str, int] | None = None) -> Path:
    """A take with three cameras; the bowl is only annotated in the target cameras."""
    with TakeWriter(path) as writer:
        for name in OBJECTS:
            writer.add_object(name)
        for frame in frames:
            for number, (camera, size) in enumerate(SIZES.items()):
                if (camera, frame) != lacking:
                    writer.image(camera, frame, picture(frame + number, size))
                for name in OBJECTS:
                    if (name == "bowl") != (camera == "aria01") and (frame + number) % 4:
                        writer.mask(name, camera, frame, blob(hash_of(name, camera, frame), size))
    return path


def hash_of(*what: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:4], "big")


def predicted(name: str, camera: str, frame: int) -> tuple[np.ndarray, float]:
    """The prediction of an object: at the half size, sometimes empty, sometimes improbable."""
    height, width = SIZES[camera]
    seed = hash_of("p", name, camera, frame)
    mask = blob(seed, (height // 2 + height % 2, width // 2 + width % 2))
    if seed % 5 == 0:
        mask = np.zeros_like(mask)
    return mask, seed % 100 / 100


def make_results(path: Path, *takes: str, cameras: tuple[str, ...] = ("cam-1", "cam-2")) -> Path:
    found = Results("ego-exo")
    for take in takes:
        for name in OBJECTS:
            found.add_object(take, name)
        for name in OBJECTS[:2]:
            for camera in cameras:
                for frame in FRAMES:
                    mask, presence = predicted(name, camera, frame)
                    found.add(take, name, "aria01", camera, frame, mask, presence)
    write_results(path, found)
    return path


def export(*arguments: Any, code: int = 0) -> str:
    result = runner.invoke(app, ["dataset", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_take(tmp_path_factory.mktemp("takes") / "take_7")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("results") / "found.json", "take_7", "take_8")


@pytest.fixture(scope="module")
def lerobot(take: Path, found: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sets") / "set"
    export(take, found, "--out", out, "--task", "set the table")
    return out


def expected_masks(camera: str, frame: int) -> dict[str, tuple[np.ndarray | None, float]]:
    """Mask and probability by object, as they went in."""
    if camera != "aria01":
        there = {name: predicted(name, camera, frame) for name in OBJECTS[:2]}
        return {n: (m if m.any() else None, p) for n, (m, p) in there.items()}
    if not frame % 4:
        return {}
    return {n: (blob(hash_of(n, camera, frame), SIZES[camera]), 1.0) for n in OBJECTS[:2]}


def data_of(out: Path, number: int = 0) -> dict[str, list[Any]]:
    return parquet.read_table(out / f"data/chunk-000/file-{number:03d}.parquet").to_pydict()


def test_lerobots_masks_and_boxes_are_those_that_went_in(lerobot: Path) -> None:
    columns, info = data_of(lerobot), json.loads((lerobot / "meta/info.json").read_text())
    assert columns["frame_index"] == columns["index"] == list(range(len(FRAMES)))
    assert np.allclose(columns["timestamp"], np.arange(len(FRAMES)) / 10)
    slots = info["features"]["observation.objects.cam-1.bbox"]["names"]
    assert sorted(slots) == sorted(OBJECTS) and info["fps"] == 10
    for camera, size in SIZES.items():
        part = f"observation.objects.{camera}"
        for row, frame in enumerate(FRAMES):
            assert columns[f"observation.stamp.{camera}"][row] == 10**9 + round(frame * 1e9 / 30)
            rles = json.loads(columns[f"{part}.mask_rle"][row])
            wanted = expected_masks(camera, frame)
            for slot, name in enumerate(slots):
                mask, probability = wanted.get(name, (None, 0.0))
                got = {
                    key: np.asarray(columns[f"{part}.{key}"][row][slot])
                    for key in ("known", "visible", "score", "bbox", "centroid", "area")
                }
                assert got["known"] == (name in wanted)
                assert got["score"] == np.float32(probability)
                assert got["visible"] == (mask is not None and probability >= 0.5)
                assert (rles[slot] is None) == (mask is None)
                if mask is not None:
                    assert (coco.decode(rles[slot]) == mask).all()
                if not got["visible"]:
                    assert not any(got[key].any() for key in ("bbox", "centroid", "area"))
                    continue
                y, x = np.nonzero(mask)
                scale = np.array([size[1] / mask.shape[1], size[0] / mask.shape[0]])
                box = [x.min(), y.min(), x.max() + 1, y.max() + 1] * np.tile(scale, 2)
                assert np.allclose(got["bbox"], box)
                middle = (np.array([x.mean(), y.mean()]) + 0.5) * scale - 0.5
                assert np.allclose(got["centroid"], middle, atol=1e-4)
                assert math.isclose(got["area"], mask.mean(), rel_tol=1e-6)


def test_lerobots_videos_and_tables(lerobot: Path, take: Path) -> None:
    info = json.loads((lerobot / "meta/info.json").read_text())
    for camera, size in SIZES.items():
        key = f"observation.images.{camera}"
        path = info["video_path"].format(video_key=key, chunk_index=0, file_index=0)
        with av.open(str(lerobot / path)) as video:
            stream = video.streams.video[0]
            assert stream.average_rate == 10
            frames = list(video.decode(video=0))
            about = info["features"][key]["info"]
            assert stream.codec_context.pix_fmt == about["video.pix_fmt"]
        assert [frame.time for frame in frames] == pytest.approx(np.arange(len(FRAMES)) / 10)
        for frame, given_ in zip(frames, FRAMES, strict=True):
            image = frame.to_ndarray(format="rgb24").astype(int)
            assert image.shape == (*size, 3)
            stored = np.asarray(Image.open(take / camera / f"{given_}.jpg")).astype(int)
            assert np.abs(image - stored).mean() < 6
    row = parquet.read_table(lerobot / "meta/episodes/chunk-000/file-000.parquet").to_pylist()[0]
    assert row["length"] == row["dataset_to_index"] == len(FRAMES)
    assert row["tasks"] == ["set the table"]
    assert row["videos/observation.images.cam-2/to_timestamp"] == pytest.approx(0.6)
    tasks = parquet.read_table(lerobot / "meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0], "__index_level_0__": ["set the table"]}
    stats = json.loads((lerobot / "meta/stats.json").read_text())
    assert set(stats) == {k for k, f in info["features"].items() if f["dtype"] != "string"}
    assert np.shape(stats["observation.images.cam-1"]["mean"]) == (3, 1, 1)
    assert np.shape(stats["observation.objects.cam-1.bbox"]["q50"]) == (3, 4)


def test_side_files_say_where_masks_come_from(lerobot: Path, take: Path, found: Path) -> None:
    about = json.loads((lerobot / "meta/provenance.json").read_text())
    assert about["masks"] == {
        "aria01": QUERY, "cam-1": "predictions", "cam-2": "predictions",
    }  # fmt: skip
    assert about["predictions"][0]["sha256"] == hashlib.sha256(found.read_bytes()).hexdigest()
    assert "not known" in about["predictions"][0]["note"]  # lmeec track has not made it
    objects = json.loads((lerobot / "meta/objects.json").read_text())
    by_id = {one["id"]: one for one in objects}
    marked = [row for row, frame in enumerate(FRAMES) if frame % 4]
    assert by_id["knife"]["episodes"]["0"]["aria01"] == {
        "first": marked[0], "last": marked[-1], "visible": len(marked),
    }  # fmt: skip
    assert not by_id["bowl"]["episodes"]
    cameras = json.loads((lerobot / "meta/cameras.json").read_text())["cameras"]
    assert cameras["cam-2"] == {
        "role": "target", "width": 41, "height": 33, "lens": None, "pose": None,
    }  # fmt: skip


def test_the_settings_of_track_are_in_the_provenance(take: Path, tmp_path: Path) -> None:
    path = make_results(tmp_path / "own.json", "take_7")
    (tmp_path / "own.json.work").mkdir()
    head = {"unit": {}, "settings": {"preset": "nano", "weights": "sha256:12"}}
    (tmp_path / "own.json.work" / "1.jsonl").write_text(json.dumps(head) + "\n{}\n")
    export(take, path, "--out", tmp_path / "set")
    about = json.loads((tmp_path / "set/meta/provenance.json").read_text())
    assert about["predictions"][0]["settings"] == head["settings"]


def test_without_predictions_the_annotations_are_taken(take: Path, tmp_path: Path) -> None:
    export(take, "--out", tmp_path / "set", "--object", "bowl", "--object", "knife")
    columns = data_of(tmp_path / "set")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert info["features"]["observation.objects.cam-1.area"]["names"] == ["knife", "bowl"]
    for row, frame in enumerate(FRAMES):
        rle = json.loads(columns["observation.objects.cam-2.mask_rle"][row])[1]
        if not (frame + 2) % 4:
            assert rle is None
            continue
        assert (coco.decode(rle) == blob(hash_of("bowl", "cam-2", frame), SIZES["cam-2"])).all()


def test_what_is_left_out_is_named(take: Path, found: Path, tmp_path: Path) -> None:
    other = make_take(tmp_path / "take_8", lacking=("cam-1", FRAMES[1]))
    some = make_results(tmp_path / "some.json", "take_7", "take_8", cameras=("cam-1",))
    said = export(take, other, some, "--slots", 2, "--out", tmp_path / "a", code=1)
    for text in (
        "3 objects, but --slots 2: left out: 'bowl'",
        "take_8: 1 frames without an image of camera cam-1",
        "take_7: camera cam-2 has no masks",
    ):
        assert text in said, said
    columns = data_of(tmp_path / "a", 1)
    assert columns["observation.stamp.cam-1"][1] == -1
    assert columns["episode_index"] == [1] * 6 and columns["index"] == list(range(6, 12))
    assert "cam-2 has no masks" in (tmp_path / "a/meta/provenance.json").read_text()
    alone = make_take(tmp_path / "take_9")
    said = export(take, alone, found, "--out", tmp_path / "b", code=1)
    assert "no take 'take_9'" in said
    assert json.loads((tmp_path / "b/meta/info.json").read_text())["total_episodes"] == 1
    thirty = make_take(tmp_path / "thirty" / "take_8", range(18))
    said = export(take, thirty, found, "--fps", 30, "--out", tmp_path / "c")
    assert "ticks repeat the frame before" in said  # a note
    assert "take_8: 12 of 18 ticks without any mask of camera cam-2" in said  # a note, too
    said = export(take, thirty, "--fps", 10, "--out", tmp_path / "d")
    assert "11 of 18 frames fall between the ticks of 10 Hz" in said  # as it was asked for


def test_inputs_that_make_no_dataset(take: Path, found: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert "holds masks, but no images" in export(found, "--out", out, code=1)
    said = export(take, found, make_results(tmp_path / "2.json", "take_7"), "--out", out, code=1)
    assert "only one result file" in said
    assert "no object 'spoon'" in export(take, "--object", "spoon", "--out", out, code=1)
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert "no dataset of lmeec" in export(take, "--out", out, "--overwrite", code=1)
    assert (out / "mine.txt").read_text() == "mine" and sorted(tmp_path.iterdir())[-1] == out


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_killed_run_goes_on_where_it_was(
    take: Path, found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_take(tmp_path / "take_8")
    command = (take, other, found, "--task", "tidy up")
    made: list[str] = []
    make = episodes._write

    def stop(job: episodes.Job, ticks: Iterator[Any], folder: Path) -> dict[str, Any]:
        if job.episode.name == "take_8" and len(made) < 2:
            for _ in range(3):
                next(ticks)
            raise KeyboardInterrupt
        made.append(job.episode.name)
        return make(job, ticks, folder)

    monkeypatch.setattr(episodes, "_write", stop)
    result = runner.invoke(app, ["dataset", *map(str, command), "--out", str(tmp_path / "a")])
    assert result.exit_code != 0 and not (tmp_path / "a").exists() and made == ["take_7"]
    monkeypatch.setattr(episodes, "_write", make)
    said = export(*command, "--out", tmp_path / "a")
    assert "1 of 2 episodes were finished before" in said
    assert not (tmp_path / "a.work").exists()
    export(*command, "--out", tmp_path / "b", "--workers", 2)
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert a == b and len(a) == 7 + 2 + 6
    assert "exists already" in export(*command, "--out", tmp_path / "a", code=1)
    export(take, found, "--out", tmp_path / "a", "--overwrite")
    assert len(contents(tmp_path / "a")) == 7 + 1 + 3


def test_a_cluster_gets_jobs_that_work_in_any_folder(
    take: Path, found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its nodes are played by this process, in another folder, with jobs that were serialised."""
    asked: list[str] = []
    other = tmp_path / "other"
    other.mkdir()

    def nodes(work: Any, jobs: Any, address: str) -> Iterator[JobResult]:
        asked.append(address)
        for job in jobs:
            there = pickle.loads(pickle.dumps(job))
            with contextlib.chdir(other):
                value = pickle.loads(pickle.dumps(work))(there)
            yield JobResult(there, value)

    monkeypatch.setattr(dataset_run, "run_on_ray", nodes)
    shutil.copytree(take, tmp_path / "take_7")
    shutil.copy(found, tmp_path / "found.json")
    export(take, found, "--out", tmp_path / "here")
    with contextlib.chdir(tmp_path):
        export("take_7", "found.json", "--out", "there", "--cluster", "auto")
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    del here["meta/provenance.json"], there["meta/provenance.json"]  # has the paths given
    assert here == there and asked == ["auto"] and not list(other.iterdir())


def test_what_a_cluster_fails_at_is_named(
    take: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_take(tmp_path / "take_8")

    def nodes(work: Any, jobs: Any, address: str) -> Iterator[JobResult]:
        for job in jobs:
            broken = job.episode.name == "take_8"
            yield JobResult(job, "frame 30 is broken" if broken else work(job))

    monkeypatch.setattr(dataset_run, "run_on_ray", nodes)
    said = export(take, other, "--out", tmp_path / "set", "--cluster", "auto", code=1)
    assert "take_8: left out: frame 30 is broken" in said and "1 episodes" in said

    def elsewhere(work: Any, jobs: Any, address: str) -> Iterator[JobResult]:
        yield from (JobResult(job) for job in jobs)  # made, on a disk of its own

    monkeypatch.setattr(dataset_run, "run_on_ray", elsewhere)
    said = export(take, "--out", tmp_path / "x", "--cluster", "auto", code=1)
    assert f"take_7: left out: was made, but not into {tmp_path / 'x.work'}" in said

    def died(work: Any, jobs: Any, address: str) -> Iterator[JobResult]:
        yield JobResult(jobs[0], error="worker died")

    monkeypatch.setattr(dataset_run, "run_on_ray", died)
    said = export(take, "--out", tmp_path / "y", "--cluster", "auto", code=1)
    assert "take_7: worker died; the finished episodes are kept" in said


@pytest.mark.slow
def test_a_ray_cluster_makes_the_same_dataset(take: Path, found: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    command = (take, make_take(tmp_path / "take_8"), found)
    export(*command, "--out", tmp_path / "a")
    export(*command, "--out", tmp_path / "b", "--cluster", "local")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_points_in_space_where_two_cameras_are_calibrated(tmp_path: Path) -> None:
    from lmeec_core.calibration import read_calibration

    path = tmp_path / "cameras.yaml"
    lens = "width: 128, height: 96, k: [100, 0, 63.5, 0, 100, 47.5, 0, 0, 1]"
    turned = "orientation: [0, -0.38268343, 0, 0.92387953]"
    path.write_text(
        f"""frame: table
cameras:
  aria01: {{{lens}, position: [0, 0, 0], orientation: [0, 0, 0, 1]}}
  cam-1: {{{lens}, position: [2, 0, 0], {turned}}}
  cam-2: {{{lens}, position: [2, 0, 0], {turned}}}
"""
    )
    point = np.array([0.1, -0.2, 2.0])
    given_ = read_calibration(path)
    with TakeWriter(tmp_path / "take") as writer:
        for frame in (0, 30):
            for camera, size in SIZES.items():
                writer.image(camera, frame, np.zeros((*size, 3), np.uint8))
                seen = given_.poses[camera].to_camera(point[None])
                x, y = (given_.lenses[camera].project(seen)[0] + 0.5) * size[1] / 128 - 0.5
                rows, columns = np.ogrid[: size[0], : size[1]]
                disc = np.hypot(columns - x, rows - y) < 6
                if frame == 0 or camera == "aria01":
                    writer.mask("ball", camera, frame, disc)
    said = export(tmp_path / "take", "--calibration", path, "--out", tmp_path / "set", code=1)
    assert "calibration: camera 'cam-2': image of 41 x 33 given" in said  # of another shape
    columns = data_of(tmp_path / "set")
    assert columns["observation.objects.position_valid"] == [True, False]
    assert np.allclose(columns["observation.objects.position"][0], point, atol=0.02)
    assert columns["observation.objects.position"][1] == [[0, 0, 0]]
    cameras = json.loads((tmp_path / "set/meta/cameras.json").read_text())
    assert cameras["frame"] == "table"
    assert cameras["cameras"]["cam-1"]["pose"]["position"] == [2, 0, 0]
    assert cameras["cameras"]["cam-1"]["lens"]["K"][0] == [100, 0, 63.5]


def moment(number: int, seconds: float) -> Moment:
    return Moment(number, seconds, View("ego", None, {}), [])


@given(st.lists(st.floats(0.001, 0.4), min_size=0, max_size=40), st.integers(1, 60), st.booleans())
def test_every_tick_shows_the_nearest_moment(steps: list[float], fps: int, back: bool) -> None:
    times = [0.0, *np.cumsum(steps)]
    given_ = [moment(i, s) for i, s in enumerate(times)]
    if back and len(given_) > 2:
        given_.insert(2, moment(99, 0.0))  # a clock that jumps back
    tally = Tally()
    shown = list(resample(given_, fps, tally))
    assert [tick for tick, _ in shown] == list(range(len(shown))) and tally.ticks == len(shown)
    assert len(shown) - 1 <= times[-1] * fps + 0.5 and len(shown) > times[-1] * fps - 0.5
    for tick, one in shown:
        assert abs(one.seconds - tick / fps) <= min(abs(s - tick / fps) for s in times) + 1e-9
    used = {one.frame for _, one in shown}
    assert tally.moments == len(given_) == len(used) + tally.unused
    assert tally.ticks == len(used) + tally.repeated
    problems, notes = tally.texts(fps, given=False)
    assert bool(problems or notes) == bool(tally.unused or tally.repeated)
    assert bool(tally.texts(fps, given=True)[0]) == (tally.longest > max(1.0, 2 / fps))


def test_the_rate_is_the_median_steps() -> None:
    assert rate_of([moment(i, s) for i, s in enumerate((0, 0.033, 0.067, 0.5, 0.533))]) == 30
    assert rate_of([moment(0, 0), moment(1, 7.0)]) == 1 == rate_of([moment(0, 0)])


def test_statistics_are_numpys() -> None:
    values = RNG.normal(size=(50, 3, 4))
    found = column_stats(values)
    for name, share in QUANTILES.items():
        assert np.allclose(found[name], np.quantile(values, share, axis=0))
    parts = [column_stats(values[:20]), column_stats(values[20:])]
    whole = merged(parts)
    for name in ("min", "max", "mean", "std", "count"):
        assert np.allclose(whole[name], found[name]), name
    images = RNG.integers(0, 256, (5, 16, 12, 3), dtype=np.uint8)
    counted = ImageStats()
    for image in images:
        counted.add(image)
    some = images[:, ::4, ::4] / 255.0
    result = counted.result()
    assert np.allclose(np.ravel(result["mean"]), some.mean(axis=(0, 1, 2)))
    assert np.allclose(np.ravel(result["std"]), some.std(axis=(0, 1, 2)))
    assert np.allclose(np.ravel(result["q50"]), np.quantile(some, 0.5, axis=(0, 1, 2)), atol=0.05)


def recorded_by_others(source: Path, out: Path) -> Path:
    """A LeRobot dataset without objects, but with an action."""
    for path in (p for p in sorted(source.rglob("*")) if p.is_file()):
        target = out / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet" and path.parts[-4:-2] != ("meta", "tasks"):
            table = parquet.read_table(path)
            foreign = [n for n in table.column_names if "objects" in n or "observation.stamp" in n]
            parquet.write_table(table.drop_columns(foreign), target)
        elif path.suffix == ".mp4":
            target.write_bytes(path.read_bytes())
    stats = json.loads((source / "meta/stats.json").read_text())
    foreign = [k for k in stats if "objects" in k or "observation.stamp" in k]
    (out / "meta/stats.json").write_text(json.dumps({k: stats[k] for k in stats.keys() - foreign}))
    info = json.loads((source / "meta/info.json").read_text())
    kept = {k: f for k, f in info["features"].items() if "images" in k or "." not in k}
    (out / "meta/info.json").write_text(json.dumps(info | {"features": kept, "mine": 1}))
    return out


def test_a_dataset_of_others_gets_objects(take: Path, found: Path, tmp_path: Path) -> None:
    other = make_take(tmp_path / "take_8")
    export(take, other, found, "--out", tmp_path / "whole")
    base = recorded_by_others(tmp_path / "whole", tmp_path / "base")
    before = contents(base)
    export(take, other, found, "--enrich", base, "--out", tmp_path / "set")
    assert contents(base) == before
    now = contents(tmp_path / "set")
    assert all(now[name] == content for name, content in before.items() if name.endswith(".mp4"))
    for number in range(2):
        want, got = data_of(tmp_path / "whole", number), data_of(tmp_path / "set", number)
        assert want == got and list(data_of(base, number)) == list(got)[:5]
    info = json.loads(now["meta/info.json"])
    whole = json.loads((tmp_path / "whole/meta/info.json").read_text())
    assert info["features"] == whole["features"] and info["mine"] == 1
    assert json.loads(now["meta/stats.json"]) == json.loads(
        (tmp_path / "whole/meta/stats.json").read_text()
    )
    rows = [
        parquet.read_table(tmp_path / name / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
        for name in ("whole", "set")
    ]
    assert rows[0] == rows[1]
    assert json.loads(now["meta/provenance.json"])["masks"]["cam-1"] == "predictions"
    said = export(take, other, found, "--enrich", tmp_path / "set", "--out", tmp_path / "x", code=1)
    assert "has objects already" in said
    said = export(take, found, "--enrich", base, "--out", tmp_path / "x", code=1)
    assert "has 2 episodes, 1 recordings were read" in said
    short = make_take(tmp_path / "short" / "take_8", FRAMES[:4])
    said = export(take, short, found, "--enrich", base, "--out", tmp_path / "x", code=1)
    assert "episode 1 has 6 frames, the recording take_8 has 4" in said
    assert "is given twice" in export(take, take, found, "--out", tmp_path / "x", code=1)
    assert not (tmp_path / "x").exists()
