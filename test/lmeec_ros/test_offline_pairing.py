"""Recordings of which nothing, or little, can be paired: the node's reasons, told offline."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lmeec_core.bags.bag import BagWriter
from lmeec_core.bags.mask_messages import BAG
from lmeec_core.cli.app import app
from lmeec_core.takes import Results
from lmeec_ros.offline.bag_sets import RecordedSets
from lmeec_ros.parameters import config as parameters

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
EGO, LABELS, EXO, EXO2 = "/ego/image_raw", "/ego/label_image", "/exo/image_raw", "/side/image_raw"
MS = 1_000_000
PERIOD = 300 * MS
COUNT = 4
Stamp = Callable[[str, int], int | None]
"""Topic and number of the frame to the stamp; None: there is no such message."""


def write(
    path: Path, stamp: Stamp, topics: tuple[str, ...] = (EGO, LABELS, EXO), label: int = 1
) -> Path:
    """Frames at 0.3 s, 0.6 s, ... in each topic, with the stamps that are given."""
    with BagWriter(path) as bag:
        for topic in topics:
            bag.add_topic(topic, "sensor_msgs/msg/Image")
        for number in range(COUNT):
            for topic in topics:
                at = stamp(topic, (number + 1) * PERIOD)
                if at is None:
                    continue
                pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), np.uint8)
                if topic == LABELS:
                    pixels = np.zeros((24, 32), np.uint8)
                    pixels[2:10, 2:10], pixels[4:16, 12:24] = 255, label
                encoding = "mono8" if topic == LABELS else "rgb8"
                image = BAG.image(BAG.header(at, "c"), pixels, encoding)
                bag.write(topic, (number + 1) * PERIOD, image)
    return path


def in_step(_: str, time: int) -> int:
    return time


def without(topic: str) -> Stamp:
    return lambda name, time: None if name == topic else time


def shifted(topic: str, by: int) -> Stamp:
    return lambda name, time: time + by if name == topic else time


CASES: dict[str, tuple[Stamp, int, list[str]]] = {
    "no stamps": (lambda *_: 0, 1, ["no_stamps", "only 1 of 4", "make the publishers set header"]),
    "another clock": (
        shifted(EXO, 1_530_018_381 * 1000 * MS), 0,
        ["out_of_step", "+15300183", "with the same clock"],
    ),
    "100 ms apart": (shifted(EXO, 100 * MS), 0, ["out_of_step", "set pairing.tolerance to 0.12"]),
    "no masks": (without(LABELS), 0, ["no_query_masks", "without query masks nothing is tracked"]),
    "no target": (without(EXO), 0, ["silent: exo", "no message on /exo/image_raw"]),
    "no query": (without(EGO), 0, ["silent: ego", "no message on /ego/image_raw"]),
    "one in four": (
        lambda name, time: time + 100 * MS * (name == EXO and time > PERIOD), 1,
        ["out_of_step", "only 1 of 4 possible sets", "set pairing.tolerance to 0.12"],
    ),
}  # fmt: skip


def parameter_file(folder: Path, **values: Any) -> list[str]:
    file = folder / "my.yaml"
    given = {"model": {"preset": "mini", "seed": 0, "engine": "eager"}, **values}
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": given}}))
    return ["--params", str(file)]


@pytest.mark.parametrize("case", CASES)
def test_track_and_view_say_what_the_node_would_say(tmp_path: Path, case: str) -> None:
    stamp, sets, texts = CASES[case]
    bag = write(tmp_path / "bag", stamp)
    given, out = parameter_file(tmp_path), tmp_path / "x.json"
    command = ["track", str(bag), *given, "--out", str(out), "--workers", "1"]
    video = ["view", str(bag), *given, "--out", str(tmp_path / "x.mp4"), "--height", "64"]
    for one in (command, command, video):  # the second time from the finished units
        result = runner.invoke(app, one)
        assert result.exit_code == 1, result.output
        for text in texts:
            assert text in result.output, result.output
    assert f"{sets} frames in" in runner.invoke(app, [*command, "--capacity", "5"]).output
    assert len(Results.read(out).frames(bag.name)) == sets


def test_missing_frames_are_counted(tmp_path: Path) -> None:
    def stamp(topic: str, time: int) -> int | None:
        gone = {(EXO, 2 * PERIOD), (LABELS, 4 * PERIOD)}
        return None if (topic, time) in gone else time

    bag = write(tmp_path / "bag", stamp)
    command = ["track", str(bag), *parameter_file(tmp_path), "--out", str(tmp_path / "x.json")]
    result = runner.invoke(app, [*command, "--workers", "1"])
    assert result.exit_code == 0 and "2 frames in" in result.output, result.output
    assert (
        "exo: 2 sets; not in a set: 2 of 4 ego (no_partner 2); 1 of 3 query masks" in result.output
    )


def test_a_target_whose_clock_is_off_does_not_hide_behind_the_others(tmp_path: Path) -> None:
    bag = write(tmp_path / "bag", shifted(EXO2, 5000 * MS), (EGO, LABELS, EXO, EXO2))
    names = {"camera_names": ["ego", "exo", "side"], "target_cameras": ["exo", "side"]}
    command = ["track", str(bag), *parameter_file(tmp_path, **names), "--workers", "1"]
    result = runner.invoke(app, [*command, "--out", str(tmp_path / "x.json")])
    assert result.exit_code == 1
    assert "side is out of step: +" in result.output and "exo is out" not in result.output
    assert "4 frames in" in result.output


@given(
    shift=st.integers(21, 290).flatmap(lambda ms: st.sampled_from([ms, -ms])),
    topic=st.sampled_from([EXO, LABELS]),
)
@settings(max_examples=25, deadline=None)
def test_the_remedy_is_one(
    tmp_path_factory: pytest.TempPathFactory, shift: int, topic: str
) -> None:
    """With the tolerance that the text names all frames are paired."""
    bag = write(tmp_path_factory.mktemp("bag") / "bag", shifted(topic, shift * MS))
    sets = RecordedSets(bag, parameters.load({}))
    found = list(sets)
    text = sets.problem("exo")
    assert ("out_of_step" in text) == (2 * len(found) < COUNT - 1), text
    named = re.search(r"pairing.tolerance to (\d+\.\d+)", text)
    if named and abs(shift) <= 150:  # else another frame is nearer
        sets = RecordedSets(bag, parameters.load({"pairing.tolerance": float(named[1])}))
        assert len(list(sets)) == COUNT and sets.problem("exo") == "" == sets.account("exo")


def test_a_slow_target_is_no_fault(tmp_path: Path) -> None:
    """A camera of a lower rate than the query camera leaves out query images by its nature."""
    bag = write(
        tmp_path / "bag", lambda name, time: time if name != EXO or time == PERIOD else None
    )
    sets = RecordedSets(bag, parameters.load({}))
    assert len(list(sets)) == 1 and sets.problem("exo") == ""
    assert "3 of 4 ego" in sets.account("exo")


@pytest.mark.parametrize(
    ("values", "objects"),
    [
        ({}, ["object_1"]),
        ({"objects": ["1:cup", "255:rim"]}, ["cup", "rim"]),
        ({"ignore_labels": [0]}, ["object_1", "object_255"]),
        ({"ignore_labels": [1, 255]}, []),
    ],
)
def test_labels_to_ignore(tmp_path: Path, values: dict[str, Any], objects: list[str]) -> None:
    bag = write(tmp_path / "bag", in_step)
    given, out = parameter_file(tmp_path, **values), tmp_path / "x.json"
    command = ["track", str(bag), *given, "--out", str(out), "--workers", "1"]
    result = runner.invoke(app, command)
    assert result.exit_code == (not objects), result.output  # nothing was searched without any
    assert sorted({p.object_name for p in Results.read(out).predictions()}) == objects
    text = " ".join(result.output.split())
    said = re.search(r"ignored in label images: [0-9, ]*255", text) is not None
    assert said == ("object_255" not in objects and "rim" not in objects)
