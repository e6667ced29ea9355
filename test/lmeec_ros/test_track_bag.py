"""`lmeec track` and `lmeec view` on bags: the same as the take, the same as the node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from lmeec.msg import CorrespondenceMaskArray
from rclpy.serialization import deserialize_message
from typer.testing import CliRunner

from lmeec_core.bags.bag import BagError, BagReader
from lmeec_core.bags.take_bags import bag_from_take, stamp_of_frame
from lmeec_core.cli.app import app
from lmeec_core.takes import Results, Take, TakeWriter
from lmeec_ros.inference.pipeline import load_processor
from lmeec_ros.io.messages import LabelTable, masks_from_array
from lmeec_ros.io.synchronizer import stamp_of
from lmeec_ros.offline import bag_units
from lmeec_ros.parameters import config as parameters

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
MINI = ["--preset", "mini", "--seed", "0", "--device", "cpu", "--workers", "1"]
FRAMES = (0, 30, 60)


def picture(number: int, height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Take:
    path = tmp_path_factory.mktemp("takes") / "take_7"
    with TakeWriter(path) as writer:
        for frame in FRAMES:
            for number, camera in enumerate(("aria01_214-1", "cam-1", "cam-2")):
                writer.image(camera, frame, picture(frame + number, 60, 80))
            for name, left in (("cup/red", 4), ("knife", 30)):
                mask = np.zeros((60, 80), bool)
                mask[10:45, left + frame // 10 : left + 26] = True
                if name == "cup/red" or frame != 30:
                    writer.mask(name, "aria01_214-1", frame, mask)
                writer.mask(name, "cam-1", frame, mask)
    return Take.open(path)


@pytest.fixture(scope="module")
def tracked(take: Take, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The take and its bag (raw images), tracked: take.json, bag.json, and the masks' bags."""
    folder = tmp_path_factory.mktemp("tracked")
    bag_from_take(take, folder / "input")
    for source, name in ((take.path, "take"), (folder / "input", "bag")):
        command = ["track", str(source), "--out", str(folder / f"{name}.json"), *MINI]
        command += ["--direction", "ego-exo", "--bag", str(folder / f"{name}_masks")]
        result = runner.invoke(app, command)
        assert result.exit_code == 0, result.output
    return folder


def test_a_take_and_its_bag_give_the_same_predictions(tracked: Path) -> None:
    through_take = json.loads((tracked / "take.json").read_text())["ego-exo"]
    through_bag = json.loads((tracked / "bag.json").read_text())["ego-exo"]
    assert through_take == through_bag
    found = list(Results.read(tracked / "bag.json").predictions())
    assert len(found) == 2 * (3 + 2) and sum(bool(p.mask.any()) for p in found) > 5


def test_twice_gives_the_same_bytes_and_replaces_only_its_own_bags(
    tracked: Path, tmp_path: Path
) -> None:
    out, masks = tmp_path / "again.json", tmp_path / "masks"
    command = ["track", str(tracked / "input"), "--out", str(out), "--bag", str(masks), *MINI]
    assert runner.invoke(app, command).exit_code == 0
    assert out.read_bytes() == (tracked / "bag.json").read_bytes()
    first = (masks / "masks.mcap").read_bytes()
    assert runner.invoke(app, command).exit_code == 0
    assert (masks / "masks.mcap").read_bytes() == first
    command[command.index(str(masks))] = str(tracked / "input")
    result = runner.invoke(app, command)
    assert result.exit_code == 1 and "not made by this command" in result.output
    with BagReader(tracked / "input") as bag:
        assert "/cam_1/image_raw/compressed" in bag.topics


def test_masks_in_the_bag_are_what_the_node_publishes(take: Take, tracked: Path) -> None:
    """The node's processor, both targets in one step, on the sets of the bag."""
    changes = {"model.preset": "mini", "model.seed": 0, "model.device": "cpu"}
    config = bag_units.read_config(tracked / "input", None, changes)
    processor = load_processor(config)
    expected = {}
    for jumped, given in bag_units.RecordedSets(tracked / "input", config):
        assert not jumped
        for name, output in processor.process(given).items():
            expected[name, stamp_of(output)] = output.message
    assert len(expected) == 6
    for which in ("bag_masks", "take_masks"):
        with BagReader(tracked / which) as bag:
            read = [
                (topic, stamp, deserialize_message(data, CorrespondenceMaskArray))
                for topic, stamp, data in bag.messages()
            ]
        assert [stamp for _, stamp, _ in read] == sorted(stamp_of_frame(f) for f in FRAMES * 2)
        for topic, stamp, message in read:
            wanted = expected[message.target_camera, stamp]
            assert topic == f"/lmeec/{message.target_camera}/masks"
            assert message.header == wanted.header and message.query_header == wanted.query_header
            assert (message.width, message.height) == (wanted.width, wanted.height) == (80, 60)
            assert message.query_camera == wanted.query_camera
            masks = masks_from_array(message, LabelTable())
            for name, mask in masks_from_array(wanted, LabelTable()).items():
                assert (masks[name] is None) == (mask is None)
                assert mask is None or np.mean(masks[name] != mask) < 1e-3
            for one, other in zip(message.masks, wanted.masks, strict=True):
                assert (one.object_id, one.label, one.visible) == (
                    other.object_id,
                    other.label,
                    other.visible,
                )
                assert one.presence == pytest.approx(other.presence, abs=1e-5)
                assert one.score == pytest.approx(other.score, abs=1e-5)


def test_the_nodes_own_parameter_file_is_read(tracked: Path, tools: Any) -> None:
    """config/lmeec.yaml itself, and one whose cameras have other names than the take's."""
    values = parameters.read_file(tools.REPOSITORY / "config" / "lmeec.yaml")
    assert values["cameras.ego.topic"] == "ego/image_raw" and values["memory.capacity"] == 6
    config = parameters.load(values)
    defaults = parameters.load({})
    assert config.cameras == defaults.cameras and config.query_masks == defaults.query_masks
    assert config.memory == defaults.memory and config.objects == {}
    with pytest.raises(BagError, match=r"no topic '/ego/image_raw'.*/aria01_214_1/label_image"):
        bag_units.plan_bag(tracked / "input", config)


def test_parameters_of_the_users_own(tracked: Path, tmp_path: Path) -> None:
    given = {
        "camera_names": ["head", "left-1"],
        "cameras": {
            "head": {"topic": "/aria01_214_1/image_raw/compressed", "transport": "compressed"},
            "left-1": {"topic": "/cam_1/image_raw/compressed", "transport": "compressed"},
        },
        "query_camera": "head",
        "target_cameras": ["left-1"],
        "query_masks": {"topic": "/aria01_214_1/label_image"},
        "objects": ["1:cup/red"],
        "model": {"preset": "mini", "seed": 0, "device": "cpu"},
    }
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": given}}))
    out, masks = tmp_path / "x.json", tmp_path / "masks"
    command = ["track", str(tracked / "input"), "--params", str(file), "--out", str(out)]
    result = runner.invoke(app, [*command, "--bag", str(masks), "--workers", "1"])
    assert result.exit_code == 0, result.output
    found = {(p.pair, p.object_name) for p in Results.read(out).predictions()}
    assert found == {("aria01_214-1_cam-1", name) for name in ("cup/red", "object_2")}
    with BagReader(masks) as bag:
        assert list(bag.topics) == ["/lmeec/left_1/masks"]
        (_, _, data), *_ = bag.messages()
        assert bag.decode("/lmeec/left_1/masks", data).target_camera == "left-1"

    for refused in (["--object", "cup/red"], ["--videos", "."], ["--num-frames", "take"]):
        result = runner.invoke(app, [*command, *refused])
        assert result.exit_code == 1 and "is a bag: " in result.output
        assert refused[0] in result.output

    given["cameras"]["head"]["transport"] = "raw"  # type: ignore[index]
    file.write_text(yaml.safe_dump({"/lmeec": {"ros__parameters": given}}))
    result = runner.invoke(app, [*command, "--workers", "1"])
    assert result.exit_code == 1
    assert "is sensor_msgs/msg/CompressedImage, but the parameters need" in result.output
    for content, text in (("- 1", "ros__parameters"), ("{", "cannot be read")):
        file.write_text(content)
        result = runner.invoke(app, command)
        assert result.exit_code == 1 and text in result.output
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"camera_name": ["a"]}}}))
    result = runner.invoke(app, command)
    assert result.exit_code == 1 and "did you mean 'camera_names'" in result.output


def test_videos_of_a_bag_with_masks_of_either_kind(tracked: Path, tmp_path: Path) -> None:
    import av

    for predictions in ("bag.json", "bag_masks"):
        out = tmp_path / f"{predictions}.mp4"
        command = ["view", str(tracked / "input"), str(tracked / predictions), "--out", str(out)]
        result = runner.invoke(app, [*command, "--height", "96"])
        assert result.exit_code == 0, result.output
        with av.open(str(out)) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert len(frames) == 3 and frames[0].shape[1] > 3 * 96
        # A target's view is not the camera's picture alone: masks are drawn on it.
        plain = cv2.resize(picture(1, 60, 80), (128, 96)).astype(int)
        left = 128 + 4
        shown = frames[0][-96:, left : left + 128].astype(int)
        assert np.mean(np.abs(shown - plain).max(axis=2) > 60) > 0.05


@pytest.mark.parametrize("name", ["knife ", " knife", "чашка", "a:b ", "\u00a0"])
def test_names_survive_the_way_through_a_bag(tmp_path: Path, name: str) -> None:
    path = tmp_path / "take"
    mask = np.zeros((60, 80), bool)
    mask[10:45, 4:30] = True
    with TakeWriter(path) as writer:
        for number, camera in enumerate(("aria01_214-1", "cam-1")):
            writer.image(camera, 0, picture(number, 60, 80))
        writer.mask(name, "aria01_214-1", 0, mask)
        writer.mask("knife", "aria01_214-1", 0, ~mask)
    bag_from_take(Take.open(path), tmp_path / "bag")
    found = []
    for source in (path, tmp_path / "bag"):
        out = tmp_path / f"{source.name}.json"
        command = ["track", str(source), "--out", str(out), *MINI, "--direction", "ego-exo"]
        assert runner.invoke(app, command).exit_code == 0
        found.append(json.loads(out.read_text())["ego-exo"])
    assert found[0] == found[1]
    predictions = Results.read(tmp_path / "bag.json").predictions()
    assert {p.object_name for p in predictions} == {name, "knife"}


@pytest.mark.slow
def test_the_nodes_recorded_output_of_the_same_bag_scores_the_same(
    take: Take, tmp_path: Path
) -> None:
    """The installed node as a process, over DDS, in lock-step; then the bag offline."""
    from lmeec_core.evaluation import Scores, score_pair

    out = tmp_path / "demo"
    command = ["demo", "--take", str(take.path), "--preset", "mini", "--device", "cpu"]
    result = runner.invoke(app, [*command, "--out", str(out)])
    assert result.exit_code == 0, result.output
    offline = tmp_path / "offline.json"
    command = ["track", str(out / "input_bag"), "--params", str(out / "parameters.yaml")]
    result = runner.invoke(app, [*command, "--out", str(offline), "--workers", "1"])
    assert result.exit_code == 0, result.output
    numbers = []
    for path in (out / "masks.json", offline):
        scores = Scores()
        for name in take.objects:
            for camera in take.exos:
                pair = (name, "aria01_214-1", camera)
                scores.add(score_pair(Results.read(path), take, *pair))
        numbers.append(scores.summary())
    assert numbers[0]["frames"] == numbers[1]["frames"] and numbers[0]["frames_missing"] == 0
    for key in ("iou", "location_error", "contour_accuracy", "existence_balanced_accuracy"):
        assert numbers[1][key] == pytest.approx(numbers[0][key], abs=1e-3), key


def test_what_omama_is_told_counts_for_a_bag() -> None:
    plain = bag_units.settings_of(parameters.load({"method": "omama"}), 1)
    told = {"method": "omama", "candidates.most": 7, "omama.follow": True, "text.cup": "a mug",
            "objects": ["1:cup"]}  # fmt: skip
    settings = bag_units.settings_of(parameters.load(told), 1)
    assert settings.candidates.most == 7 and settings.omama.follow
    assert settings.text == {"cup": "a mug"}
    absent = bag_units._never_searched({"pan"}, parameters.load({**told, "text.object_7": "x"}))
    assert (
        len(absent) == 2 and "never contain 'cup', which the parameter objects names" in absent[0]
    )
    assert "never contain 'cup', 'object_7', which the parameter text describes" in absent[1]
    assert settings.identity() != plain.identity()
