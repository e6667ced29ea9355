"""`lmeec dataset`: recordings with their masks, read back by libraries that are not ours."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from pycocotools import mask as coco

from dataset_takes import (
    FRAMES,
    OBJECTS,
    SIZES,
    blob,
    contents,
    export,
    hash_of,
    make_results,
    make_take,
    predicted,
)
from lmeec_core.datasets.provenance import QUERY
from lmeec_core.takes import TakeWriter


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
    assert "unknown" in about["predictions"][0]["note"]  # lmeec track has not made it
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
        "take_8: 1 frames have no image from camera cam-1",
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
    assert "take_8: 12 of 18 ticks have no mask in camera cam-2" in said  # a note, too
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
    assert "not made by lmeec dataset" in export(take, "--out", out, "--overwrite", code=1)
    assert (out / "mine.txt").read_text() == "mine" and sorted(tmp_path.iterdir())[-1] == out


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
    assert "already has objects" in said
    said = export(take, found, "--enrich", base, "--out", tmp_path / "x", code=1)
    assert "has 2 episodes, but 1 recordings were read" in said
    short = make_take(tmp_path / "short" / "take_8", FRAMES[:4])
    said = export(take, short, found, "--enrich", base, "--out", tmp_path / "x", code=1)
    assert "episode 1 has 6 frames, but the recording take_8 has 4" in said
    assert "given twice" in export(take, take, found, "--out", tmp_path / "x", code=1)
    assert not (tmp_path / "x").exists()
