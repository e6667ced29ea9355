"""`lmeec track` on a bag in which a camera dies for a while: what the node would have published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from lmeec.msg import CorrespondenceMaskArray
from rclpy.serialization import deserialize_message
from typer.testing import CliRunner

from lmeec_core.bags.bag import BagReader
from lmeec_core.bags.take_bags import bag_from_take, stamp_of_frame
from lmeec_core.cli.app import app
from lmeec_core.takes import Take, TakeWriter
from lmeec_ros.inference.pipeline import load_processor
from lmeec_ros.io.synchronizer import stamp_of
from lmeec_ros.offline import bag_units

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
FRAMES = range(0, 180, 30)
DEAD = (60, 90)
CHANGES = {"model.preset": "mini", "model.seed": 0, "model.device": "cpu"}


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One ego and two exo cameras; the second has no images at two moments."""
    path = tmp_path_factory.mktemp("takes") / "take_8"
    with TakeWriter(path) as writer:
        for frame in FRAMES:
            for number, camera in enumerate(("aria01_214-1", "cam-1", "cam-2")):
                coarse = np.random.default_rng(frame + number).integers(0, 255, (6, 8, 3), np.uint8)
                if camera != "cam-2" or frame not in DEAD:
                    writer.image(camera, frame, cv2.resize(coarse, (80, 60)))
            mask = np.zeros((60, 80), bool)
            mask[10:45, 4 + frame // 10 : 40] = True
            writer.mask("cup", "aria01_214-1", frame, mask)
            writer.mask("cup", "cam-1", frame, mask)
    bag_from_take(Take.open(path), path.parent / "bag")
    return path.parent / "bag"


def sets(bag: Path, **changes: Any) -> dict[int, list[int]]:
    """Stamp of each set to the numbers of the cameras whose images it has."""
    config = bag_units.read_config(bag, None, {**CHANGES, **changes})
    return {
        stamp_of(given.query): [int(name[-1]) for name in given.targets]
        for _, given in bag_units.RecordedSets(bag, config)
    }


def node_messages(bag: Path) -> dict[tuple[str, int], Any]:
    """What the node's processor gives for the sets, both targets in one step."""
    config = bag_units.read_config(bag, None, CHANGES)
    processor = load_processor(config)
    found = {}
    for _, given in bag_units.RecordedSets(bag, config):
        for name, output in processor.process(given).items():
            found[name, stamp_of(output)] = output.message
    return found


def test_the_other_camera_goes_on_and_both_are_as_in_the_node(bag: Path, tmp_path: Path) -> None:
    expected = node_messages(bag)
    alive = {("cam_1", stamp_of_frame(frame)) for frame in FRAMES}
    alive |= {("cam_2", stamp_of_frame(frame)) for frame in FRAMES if frame not in DEAD}
    assert set(expected) == alive
    command = ["track", str(bag), "--preset", "mini", "--seed", "0", "--device", "cpu"]
    command += ["--out", str(tmp_path / "x.json"), "--bag", str(tmp_path / "masks")]
    result = runner.invoke(app, [*command, "--workers", "1"])
    assert result.exit_code == 0, result.output
    with BagReader(tmp_path / "masks") as masks:
        got = {}
        for _, stamp, data in masks.messages():
            message = deserialize_message(data, CorrespondenceMaskArray)
            got[message.target_camera, stamp] = message
    assert set(got) == alive
    for key, message in got.items():
        (one,), (other,) = message.masks, expected[key].masks
        assert one.presence == pytest.approx(other.presence, abs=1e-5), key
        assert one.score == pytest.approx(other.score, abs=1e-5), key
        assert abs(int(one.area) - int(other.area)) <= 5 and one.roi == other.roi
    view = ["view", str(bag), str(tmp_path / "masks"), "--out", str(tmp_path / "x.mp4")]
    result = runner.invoke(app, [*view, "--height", "96"])
    assert result.exit_code == 0, result.output


def test_with_little_patience_the_first_image_after_the_gap_is_late(bag: Path) -> None:
    """Nothing waits for a camera that has been silent; without partial sets all wait."""
    found = sets(bag, **{"pairing.partial_wait": 0.1})
    assert {stamp_of_frame(frame): [1] for frame in (*DEAD, 120)}.items() <= found.items()
    assert found[stamp_of_frame(150)] == [1, 2] and len(found) == len(FRAMES)
    whole = sets(bag, **{"pairing.partial": False})
    assert whole == {stamp_of_frame(frame): [1, 2] for frame in FRAMES if frame not in DEAD}


def test_a_damaged_image_is_left_out_of_its_set_alone(bag: Path) -> None:
    config = bag_units.read_config(bag, None, CHANGES)
    processor = load_processor(config)
    _, given = next(iter(bag_units.RecordedSets(bag, config)))
    given.targets["cam_2"].data = given.targets["cam_2"].data[:20]
    refused: dict[str, Exception] = {}
    assert list(processor.process(given, refused.__setitem__)) == ["cam_1"]
    assert "camera 'cam_2'" in str(refused["cam_2"])
    processor.config = bag_units.read_config(bag, None, {**CHANGES, "pairing.partial": False})
    with pytest.raises(bag_units.InputError, match="camera 'cam_2'"):
        processor.process(given)
