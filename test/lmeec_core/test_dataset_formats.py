"""`lmeec dataset` in the formats besides LeRobot, read back by libraries that are not ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.takes import Results, TakeWriter, resize_mask, write_results

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
OBJECTS = ("cup/red", "bowl")
CAMERAS = ("aria01", "cam 1")
SIZE, SMALL = (40, 56), (20, 28)
FRAMES = range(0, 12, 3)
TAKES = ("take_7", "take 8")


def disc(take: int, name: str, camera: str, frame: int) -> np.ndarray | None:
    """The mask that goes in: predictions are small, and the cup's and the bowl's overlap."""
    slot = OBJECTS.index(name)
    if (frame // 3 + slot) % 4 == 3:
        return None
    size = SIZE if camera == "aria01" else SMALL
    rows, columns = np.ogrid[: size[0], : size[1]]
    middle = (size[0] * (0.4 + 0.1 * slot), size[1] * (0.3 + 0.1 * slot + frame / 60 + take / 20))
    return np.hypot(rows - middle[0], columns - middle[1]) < size[0] / 5


def wanted(take: int, name: str, camera: str, frame: int) -> np.ndarray:
    """The mask at the image's size."""
    mask = disc(take, name, camera, frame)
    return np.zeros(SIZE, bool) if mask is None else resize_mask(mask, SIZE)


def labels(take: int, camera: str, frame: int) -> np.ndarray:
    image = np.zeros(SIZE, int)
    for slot, name in enumerate(OBJECTS):
        image[wanted(take, name, camera, frame)] = slot + 1
    return image


def cases() -> Iterator[tuple[int, str, int, int]]:
    """take, camera, tick, frame of all images."""
    for take in range(len(TAKES)):
        for camera in CAMERAS:
            for tick, frame in enumerate(FRAMES):
                yield take, camera, tick, frame


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two takes and a result file; in the target camera one prediction is improbable."""
    folder = tmp_path_factory.mktemp("recordings")
    found = Results("ego-exo")
    for number, take in enumerate(TAKES):
        with TakeWriter(folder / take) as writer:
            for frame in FRAMES:
                for camera in CAMERAS:
                    shade = 20 * number + 10 * frame
                    writer.image(camera, frame, np.full((*SIZE, 3), shade, np.uint8))
                for name in OBJECTS:
                    mask = disc(number, name, "aria01", frame)
                    if mask is not None:
                        writer.mask(name, "aria01", frame, mask)
                    mask = disc(number, name, "cam 1", frame)
                    shown = np.ones(SMALL, bool) if mask is None else mask
                    sure = 0.25 if mask is None else 0.75
                    found.add(take, name, "aria01", "cam 1", frame, shown, sure)
    write_results(folder / "found.json", found)
    return [*(folder / take for take in TAKES), folder / "found.json"]


def export(recordings: list[Path], kind: str, out: Path, code: int = 0) -> str:
    command = ["dataset", *map(str, recordings), "--format", kind, "--out", str(out)]
    result = runner.invoke(app, command)
    assert result.exit_code == code, result.output
    about = json.loads((out / "provenance.json").read_text())
    assert about["format"] == kind and about["masks"]["cam 1"] == "predictions"
    assert {one["id"] for one in json.loads((out / "objects.json").read_text())} == set(OBJECTS)
    return result.output


def test_hdf5(recordings: list[Path], tmp_path: Path) -> None:
    export(recordings, "hdf5", tmp_path / "set")
    with h5py.File(tmp_path / "set" / "data.hdf5") as file:
        data = file["data"]
        assert data.attrs["total"] == 2 * len(FRAMES)
        assert json.loads(data.attrs["objects"]) == list(OBJECTS)
        for take, camera, tick, frame in cases():
            obs, name = data[f"demo_{take}/obs"], camera.replace(" ", "_")
            assert data[f"demo_{take}"].attrs["num_samples"] == len(FRAMES)
            assert obs[name].shape == (len(FRAMES), *SIZE, 3) and obs[name].dtype == np.uint8
            assert np.abs(obs[name][tick].astype(int) - 20 * take - 10 * frame).max() <= 2  # JPEG
            assert obs[f"{name}_stamp"][tick] == 10**9 + frame * 10**9 // 30
            for slot, one in enumerate(OBJECTS):
                masks = obs[f"{name}_mask_{slot}"]
                assert masks.dtype == bool and masks.chunks == (1, *SIZE)
                assert masks.compression == "gzip" and masks.attrs["object"] == one
                assert (masks[tick] == wanted(take, one, camera, frame)).all()
                there = disc(take, one, camera, frame) is not None
                assert obs[f"{name}_visible"][tick, slot] == there
        assert data["demo_0/obs/aria01_bbox"].shape == (len(FRAMES), 2, 4)


def test_coco(recordings: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "set"
    export(recordings, "coco", out)
    read = COCO(str(out / "instances.json"))
    by_place = {}
    for image in read.loadImgs(read.getImgIds()):
        by_place[image["file_name"]] = image
        assert Image.open(out / "images" / image["file_name"]).size == SIZE[::-1]
    assert len(by_place) == 2 * 2 * len(FRAMES)
    tracks = json.loads((out / "video_instances.json").read_text())
    videos = {video["id"]: video for video in tracks["videos"]}
    names = {one["id"]: one["name"] for one in read.loadCats(read.getCatIds())}
    assert sorted(names.values()) == sorted(OBJECTS)
    instances: dict[int, set[tuple[int, str]]] = {}
    for take, camera, tick, frame in cases():
        folder = f"{TAKES[take].replace(' ', '_')}_{camera.replace(' ', '_')}"
        image = by_place[f"{folder}/{tick:06d}.jpg"]
        assert image["frame_id"] == tick and videos[image["video_id"]]["name"] == folder
        found = {}
        for one in read.loadAnns(read.getAnnIds(imgIds=image["id"])):
            found[names[one["category_id"]]] = read.annToMask(one).astype(bool)
            x, y, width, height = one["bbox"]
            rows, columns = np.nonzero(found[names[one["category_id"]]])
            assert [x, y, width, height] == [
                columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1,
            ]  # fmt: skip
            assert one["area"] == len(rows)
            place = (image["video_id"], names[one["category_id"]])
            instances.setdefault(one["instance_id"], set()).add(place)
        for name in OBJECTS:
            there = disc(take, name, camera, frame) is not None
            assert (name in found) == there
            track = next(
                one for one in tracks["annotations"]
                if one["video_id"] == image["video_id"] and names[one["category_id"]] == name
            )  # fmt: skip
            rle = track["segmentations"][tick]
            assert (rle is None) == (track["bboxes"][tick] is None) == (not there)
            if there:
                assert (found[name] == wanted(take, name, camera, frame)).all()
                assert (coco_masks.decode(rle) == found[name]).all()
    assert all(len(places) == 1 for places in instances.values()) and len(instances) == 8


def test_davis(recordings: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "set"
    said = export(recordings, "davis", out, code=1)
    assert "pixels belong to several objects" in said  # which a label image cannot hold
    folders = (out / "ImageSets" / "train.txt").read_text().split()
    assert folders == ["take_7_aria01", "take_7_cam_1", "take_8_aria01", "take_8_cam_1"]
    for number, (take, camera, tick, frame) in enumerate(cases()):
        folder = folders[number // len(FRAMES)]
        image = Image.open(out / "Annotations" / folder / f"{tick:05d}.png")
        assert image.mode == "P"
        assert image.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
        assert (np.asarray(image) == labels(take, camera, frame)).all()
        assert (out / "JPEGImages" / folder / f"{tick:05d}.jpg").is_file()


def test_mots(recordings: list[Path], tmp_path: Path) -> None:
    export(recordings, "mots", tmp_path / "set", code=1)
    found: dict[tuple[str, int], np.ndarray] = {}
    for file in sorted((tmp_path / "set" / "instances_txt").iterdir()):
        for line in file.read_text().splitlines():
            tick, number, kind, height, width, counts = line.split(" ")
            rle = {"size": [int(height), int(width)], "counts": counts.encode()}
            image = found.setdefault((file.stem, int(tick)), np.zeros(SIZE, int))
            mask = coco_masks.decode(rle).astype(bool)
            assert kind == "1" and not image[mask].any()  # a pixel has one object
            image[mask] = int(number) - 1000
    for take, camera, tick, frame in cases():
        name = f"{TAKES[take]}_{camera}".replace(" ", "_")
        want = labels(take, camera, frame)
        assert (found.get((name, tick), np.zeros(SIZE, int)) == want).all()


def test_webdataset(recordings: list[Path], tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    export(recordings, "webdataset", tmp_path / "set")
    shards = sorted(map(str, (tmp_path / "set" / "shards").iterdir()))
    assert [Path(one).name for one in shards] == ["take_7-0000.tar", "take_8-0000.tar"]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert len(samples) == 2 * len(FRAMES)
    for take, camera, tick, frame in cases():
        sample = samples[take * len(FRAMES) + tick]
        assert sample["__key__"] == f"{TAKES[take].replace(' ', '_')}/{tick:06d}"
        image = sample[f"{camera.replace(' ', '_')}.jpg"]
        assert image.shape == (*SIZE, 3)
        assert np.abs(image.astype(int) - 20 * take - 10 * frame).max() <= 3
        objects = sample["json"]["cameras"][camera]["objects"]
        for name in OBJECTS:
            mask = disc(take, name, camera, frame)
            assert (mask is not None) == (name in objects and objects[name]["visible"])
            if mask is not None:
                assert (coco_masks.decode(objects[name]["mask"]) == mask).all()


def test_two_recordings_of_one_name_are_kept_apart(recordings: list[Path], tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "elsewhere" / "take_7"
    shutil.copytree(recordings[0], other)
    export([recordings[0], other, recordings[2]], "webdataset", tmp_path / "set")
    shards = sorted(path.name for path in (tmp_path / "set" / "shards").iterdir())
    assert shards == ["take_7-0000.tar", "take_7_2-0000.tar"]
