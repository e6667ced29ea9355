"""`lmeec track` and `lmeec view` on raw relations files with their videos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.cli.app import app
from lmeec_core.evaluation.evaluate import evaluate
from lmeec_core.offline.compute import track_take
from lmeec_core.offline.take_plan import plan_take
from lmeec_core.offline.units import Settings
from lmeec_core.takes import RelationsFile, Results, Take, TakeWriter, open_takes

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
SAMPLE = Path(__file__).parents[1] / "data" / "sample_take"
CAMERAS = EGO, EXO = "aria01", "cam01"
OBJECTS = ("mushroom_1", "goblet_1")  # the first is not seen by the ego camera at first
FRAMES = (0, 30, 60)
MINI = ("--preset", "mini", "--seed", "0", "--device", "cpu", "--workers", "1")
SETTINGS = Settings(preset="mini", seed=0, weights="seed:0")


def write_video(path: Path, images: list[np.ndarray]) -> None:
    """H.264 of RGB without loss; every image stands for a second, the last for one frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264rgb", rate=30, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "rgb24"
        for number in range(30 * (len(images) - 1) + 1):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(images[number // 30])))
        file.mux(stream.encode(None))


def command(*arguments: Any) -> Any:
    return runner.invoke(app, [str(argument) for argument in arguments])


class Both(NamedTuple):
    """The first seconds of the simulated sample take in both layouts."""

    processed: Path
    videos: Path
    entry: dict[str, Any]
    """Its entry for the fixture ``relations``."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    sample, root = Take.open(SAMPLE), tmp_path_factory.mktemp("both")

    def seen(name: str, camera: str) -> list[int]:
        return [n for n in FRAMES if sample.annotated(name, camera, n)]

    masks = {
        name: {
            camera: {n: sample.mask(name, camera, n) for n in seen(name, camera)}
            for camera in CAMERAS
        }
        for name in OBJECTS
    }
    with TakeWriter(root / "take_7", extra={"scenario": "Cooking"}) as writer:
        for camera in CAMERAS:
            for frame in FRAMES:
                writer.image(camera, frame, sample.image_bytes(camera, frame))
            images = [sample.image(camera, frame) for frame in FRAMES]
            write_video(root / "videos" / "cook_7" / f"{camera}.mp4", images)
        for name, cameras in masks.items():
            for camera, found in cameras.items():
                for frame, mask in found.items():
                    writer.mask(name, camera, frame, mask)
    listed = {name: {camera: list(FRAMES) for camera in CAMERAS} for name in OBJECTS}
    entry = {"take_name": "cook_7", "masks": masks, "annotated_frames": listed}
    return Both(root / "take_7", root / "videos", entry)


@pytest.fixture
def raw(both: Both, relations: Callable[..., Path], tmp_path: Path) -> Path:
    """EgoExo4D's folder: annotations/relations_val.json and takes/cook_7/."""
    shutil.copytree(both.videos, tmp_path / "egoexo" / "takes")
    path = tmp_path / "egoexo" / "annotations" / "relations_val.json"
    return relations(path, {"take_7": both.entry})


def test_a_raw_take_gives_the_predictions_of_its_processed_one(
    both: Both, raw: Path, tmp_path: Path
) -> None:
    processed, found = tmp_path / "processed.json", tmp_path / "raw.json"
    result = command("track", both.processed, "--out", processed, *MINI)
    assert result.exit_code == 0, result.output
    result = command("track", raw, "--out", found, *MINI)
    assert result.exit_code == 0, result.output
    assert found.read_bytes() == processed.read_bytes()  # the videos are without loss
    results = Results.read(found, "ego-exo")
    assert sum(bool(one.mask.any()) for one in results.predictions()) > 2
    scores = [
        evaluate(results, open_takes(truth), "official").scores for truth in (raw, both.processed)
    ]
    assert scores[0] == scores[1] and scores[0].frames == 5


def test_a_raw_take_is_resumed_unless_its_own_annotation_or_video_changed(
    both: Both, raw: Path, relations: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "x.json"
    track = ("track", raw.parents[1], "--out", out, *MINI, "--direction", "exo-ego")
    assert command(*track, "--split", "val").exit_code == 0
    first = out.read_bytes()
    shutil.move(raw.parents[1] / "takes", tmp_path / "elsewhere")
    relations(raw, {"other": {"masks": {}}, "take_7": both.entry})
    moved = (*track, "--take", "take_7", "--videos", tmp_path / "elsewhere")
    again = command(*moved)
    assert again.exit_code == 0 and "1 of 1 units were already finished" in again.output
    assert out.read_bytes() == first
    content = json.loads(raw.read_text())
    del content["annotations"]["take_7"]["object_masks"]["goblet_1"][EXO]["annotation"]["30"]
    raw.write_text(json.dumps(content))
    changed = command(*moved)
    assert changed.exit_code == 0 and "the recording has changed" in changed.output
    assert Results.read(out).get("take_7", "goblet_1", EXO, EGO, 30) is None
    before = RelationsFile(raw, tmp_path / "elsewhere").open("take_7").digest()
    write_video(tmp_path / "elsewhere" / "cook_7" / f"{EXO}.mp4", [np.zeros((64, 64, 3), np.uint8)])
    assert RelationsFile(raw, tmp_path / "elsewhere").open("take_7").digest() != before


def test_broken_takes_and_videos_are_named_and_left_out(
    both: Both, raw: Path, relations: Callable[..., Path], tmp_path: Path
) -> None:
    third = f"{EXO}b"
    masks = {"cup": {c: {0: np.ones((8, 8), bool)} for c in (EGO, EXO, third)}}
    entry = {"take_name": "cook_8", "masks": masks}
    relations(raw, {"t0": {"masks": {}}, "t1": {"masks": masks}, "t2": entry, "t3": {"masks": {}}})
    text = raw.read_text().replace('"name_t0"', "name_t0")
    raw.write_text(text)
    videos = raw.parents[1] / "takes" / "cook_8"
    shutil.copytree(videos.with_name("cook_7"), videos)
    (videos / f"{third}.mp4").write_bytes((videos / f"{EXO}.mp4").read_bytes()[:3000])
    out = tmp_path / "x.json"
    result = command("track", raw, "--out", out, *MINI, "--direction", "ego-exo")
    assert result.exit_code == 1
    for named in (
        f"{raw}: take t0: is not valid JSON",
        f"{raw}: take t1: no videos (expected ",
        f"{videos / third}.mp4: ",
        f"{raw}: take t3: no cameras",
    ):
        assert f"left out: {named}" in result.output, result.output
    results = Results.read(out)
    assert results.takes == ("t2",)
    assert {p.pair for p in results.predictions()} == {f"{EGO}_{EXO}"}
    gone = command("track", raw, "--take", "t1", "--out", tmp_path / "y.json", *MINI)
    assert gone.exit_code == 1 and "nothing to track" in gone.output


def test_masks_that_do_not_decode_are_named_by_every_tool(raw: Path, tmp_path: Path) -> None:
    """They count as null, as in the benchmark's preprocessing, but not in silence."""
    content = json.loads(raw.read_text())
    cameras = content["annotations"]["take_7"]["object_masks"]["goblet_1"]
    for camera in CAMERAS:
        entry = cameras[camera]["annotation"]["30"]
        entry["encodedMask"] = entry["encodedMask"][:-9]
    raw.write_text(json.dumps(content))
    told = (
        f"object 'goblet_1', camera '{EGO}': 1 masks cannot be decoded and count as null, the first"
    )
    out = tmp_path / "x.json"
    for arguments in (
        ("info", raw),
        ("track", raw, "--out", out, *MINI, "--direction", "ego-exo"),
        ("evaluate", out, raw, "--out", tmp_path / "report"),
        ("view", raw, "--out", tmp_path / "x.mp4", "--height", "120"),
    ):
        result = command(*arguments)
        asked = EXO if arguments[0] == "evaluate" else EGO  # of the truth the target view is read
        assert told.replace(EGO, asked) in result.output, (arguments[0], result.output)
        assert result.exit_code == 1, (arguments[0], result.output)


@pytest.mark.parametrize("height", [48.7, "48", None, [48]])
def test_a_mask_whose_size_is_no_whole_number_is_named(raw: Path, height: Any) -> None:
    content = json.loads(raw.read_text())
    entry = content["annotations"]["take_7"]["object_masks"]["goblet_1"][EGO]["annotation"]["30"]
    entry["height"] = height
    raw.write_text(json.dumps(content))
    result = command("info", raw)
    assert result.exit_code == 1 and "'size': [" in " ".join(result.output.split())


@pytest.mark.slow
def test_a_raw_take_of_3000_frames_is_tracked_in_constant_memory(
    relations: Callable[..., Path], numbered_video: Callable, tmp_path: Path
) -> None:
    """Null masks: the network, whose memory has tests of its own, has nothing to do."""
    masks: dict[str, Any] = {EGO: dict.fromkeys(range(3000)), EXO: {}}
    listed = {"cup": {EXO: list(range(3000))}}
    entry = {"take_name": "t", "masks": {"cup": masks}, "annotated_frames": listed}
    path = relations(tmp_path / "r.json", {"u": entry})
    video = numbered_video(tmp_path / "takes" / "t" / f"{EGO}.mp4", 3000)
    shutil.copy(video, video.with_stem(EXO))
    (unit,) = plan_take(open_takes(path).open("u"), ["ego-exo"], (), 32).units
    problems: list[str] = []
    process, after, images = psutil.Process(), 0, 0
    for record in track_take(unit, SETTINGS, problems):
        images += record.image
        if record.frame == 300:
            after = process.memory_info().rss
    assert (images, record.frame, problems) == (3000, 2999, [])
    assert process.memory_info().rss - after < 20e6


def test_a_raw_take_is_shown(both: Both, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.mp4"
    result = command("view", raw, "--out", out, "--query", EXO, "--height", "120")
    assert result.exit_code == 0, result.output
    with av.open(str(out)) as video:
        assert len(list(video.decode(video=0))) == len(FRAMES)


def test_of_many_takes_one_is_chosen_to_be_shown(
    both: Both, raw: Path, relations: Callable[..., Path], tmp_path: Path
) -> None:
    relations(raw, {"take_7": both.entry, "lost": {**both.entry, "take_name": "lost_7"}})
    result = command("view", raw)
    assert result.exit_code == 1 and "--take: take_7, lost" in result.output
    result = command("view", raw, "--take", "lost")
    assert result.exit_code == 1 and f"frame_aligned_videos/{EGO}.mp4" in result.output
    broken = raw.parents[1] / "takes" / "cook_7" / f"{EXO}.mp4"
    data = broken.read_bytes()
    middle = data.index(b"mdat") + 20_000
    for damaged in (data[:5000], data[:middle] + bytes(60_000) + data[middle + 60_000 :]):
        broken.write_bytes(damaged)
        result = command("view", raw, "--take", "take_7", "--out", tmp_path / "x.mp4")
        assert result.exit_code == 1 and f"left out: {broken}: " in result.output
        assert (tmp_path / "x.mp4").stat().st_size > 10_000


def test_the_length_of_a_take_is_told_to_the_tracker_on_demand(both: Both) -> None:
    take = Take.open(both.processed)
    (unit,) = plan_take(take, ["ego-exo"], (), 32).units
    model = lm.load_model("mini", seed=0, device="cpu")
    presence = {}
    for name, length in (("stream", None), ("take", 3)):
        settings = SETTINGS.model_copy(update={"num_frames": name})
        found = [
            {one.object_id: one.presence for one in record.objects}
            for record in track_take(unit, settings, [])
        ]
        tracker = lm.CorrespondenceTracker(model, EGO, (EXO,), num_frames=length)
        for frame, row in zip(FRAMES, found, strict=True):
            images = {camera: take.image(camera, frame) for camera in CAMERAS}
            masks = {one: take.mask(one, EGO, frame) for one in unit.objects}
            step = tracker.step(images, masks)[EXO]
            assert row == {one: step[one].presence for one in unit.objects}
        presence[name] = found
        assert settings.identity()["num_frames"] == name
    assert presence["stream"][0] == presence["take"][0]
    assert presence["stream"][2] != presence["take"][2]
