"""Bags by another maker (the rosbags library): storage, compression, rates, disorder, content."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from foreign_bags import (
    EGO,
    EXO,
    IMAGE,
    LABELS,
    MS,
    PERIOD,
    START,
    STORE,
    Message,
    found,
    header,
    labels,
    one_set,
    pairs,
    picture,
    raw,
    runner,
    steady,
    track,
    values,
    write,
)
from lmeec_core.bags.bag import BagReader, is_bag
from lmeec_core.cli.app import app
from lmeec_ros.inference.pipeline import InputError
from lmeec_ros.offline import bag_units
from lmeec_ros.parameters import config as parameters


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Predictions for the steady bag."""
    folder = tmp_path_factory.mktemp("reference")
    result = track(write(folder / "bag", steady()), folder / "x.json")
    assert result.exit_code == 0, result.output
    masks = found(folder / "x.json")
    assert [entry[2] for entry in masks] == [START, START + PERIOD]
    assert any(entry[4] > 0.5 for entry in masks)
    return masks


@pytest.mark.parametrize("version", [8, 9])
@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        (StoragePlugin.SQLITE3, None),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
        (StoragePlugin.MCAP, None),
        (StoragePlugin.MCAP, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.FILE),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
    ],
)
def test_every_storage_and_compression(
    tmp_path: Path,
    reference: list[Any],
    storage: StoragePlugin,
    compression: CompressionMode | None,
    version: int,
) -> None:
    bag = write(tmp_path / "bag", steady(), storage, compression, version)
    shown = runner.invoke(app, ["info", str(bag)])
    assert shown.exit_code == 0, shown.output
    for topic in (EGO, EXO, LABELS):
        line = next(line for line in shown.output.splitlines() if f" {topic} " in line)
        assert IMAGE in line and line.split()[-2] == "2"
    result = track(bag, tmp_path / "x.json")
    assert result.exit_code == 0, result.output
    assert found(tmp_path / "x.json") == reference
    # The storage file alone, without its folder's metadata.
    file = next(p for p in bag.iterdir() if p.name != "metadata.yaml")
    assert is_bag(file)
    with BagReader(file) as alone, BagReader(bag) as whole:
        assert list(alone.messages()) == list(whole.messages())
        assert alone.topics.keys() == whole.topics.keys()


def test_cameras_of_other_rates_and_clocks_that_differ(tmp_path: Path) -> None:
    """Query at 10 Hz, target at 30 Hz and 7 ms ahead, its messages recorded 60 ms late."""
    queries = [k * PERIOD for k in range(8)]
    targets = [7 * MS + round(k * PERIOD / 3) for k in range(24)]
    masks = [stamp + 2 * MS for stamp in queries]
    messages = [Message(EGO, s, raw(picture(s), "rgb8")) for s in queries]
    messages += [Message(LABELS, s, raw(labels(0), "mono8"), s + 30 * MS) for s in masks]
    messages += [Message(EXO, s, raw(picture(s), "rgb8"), s + 60 * MS) for s in targets]
    expected = [
        (q, min(masks, key=lambda s: abs(s - q)), min(targets, key=lambda s: abs(s - q)))  # noqa: B023
        for q in queries
    ]
    for storage in StoragePlugin:
        bag = write(tmp_path / storage.name, messages, storage)
        assert pairs(bag) == expected
        assert pairs(bag, pairing__tolerance=0.005) == []  # no target is that near


def test_missing_duplicated_and_disordered_messages(tmp_path: Path) -> None:
    messages = {(m.topic, m.stamp // PERIOD): m for m in steady(8)}
    del messages[EXO, 2], messages[EGO, 4], messages[LABELS, 5]
    again = [dataclasses.replace(messages[EXO, 1], log=PERIOD + MS)]
    again += [dataclasses.replace(messages[EGO, 6], log=6 * PERIOD + 3 * MS)]
    # The target image of 3 comes after that of 4, the query masks of 6 after those of 7: the
    # pairing has given these sets up by then, as it does in the node.
    messages[EXO, 3].log = 4 * PERIOD + 5 * MS
    messages[LABELS, 6].log = 7 * PERIOD + 5 * MS
    expected = [(k * PERIOD,) * 3 for k in (0, 1, 7)]
    whole = sorted([*messages.values(), *again], key=lambda m: m.stamp)
    for number, order in enumerate((whole, whole[::-1])):  # as written into the file
        for storage in StoragePlugin:
            bag = write(tmp_path / f"{storage.name}{number}", order, storage)
            assert pairs(bag) == expected, (storage, number)


def test_disordered_messages_give_what_the_node_would_give(tmp_path: Path) -> None:
    """Predictions do not depend on the storage format, and sets come in order of their stamps."""
    rng = np.random.default_rng(4)
    messages = steady(6)
    for message in messages:
        message.log = message.stamp + int(rng.integers(0, 180)) * MS
    outs = []
    for storage in StoragePlugin:
        bag = write(tmp_path / storage.name, messages, storage, CompressionMode.MESSAGE)
        stamps = pairs(bag)
        assert stamps == sorted(stamps) and len(stamps) >= 4
        out = tmp_path / f"{storage.name}.json"
        result = track(bag, out)
        assert result.exit_code == 0, result.output
        outs.append(found(out))
        assert [entry[2] - START for entry in outs[-1]] == [stamp[0] for stamp in stamps]
    assert outs[0] == outs[1]


def test_a_recording_that_loops_starts_afresh(tmp_path: Path, reference: list[Any]) -> None:
    first = [dataclasses.replace(m, stamp=m.stamp + 50 * PERIOD, log=m.stamp) for m in steady(3)]
    second = [dataclasses.replace(m, log=m.stamp + 10 * PERIOD) for m in steady(2)]
    bag = write(tmp_path / "bag", first + second)
    config = parameters.load(values())
    jumps = [jumped for jumped, _ in bag_units.RecordedSets(bag, config)]
    assert jumps == [False, False, False, True, False]
    assert track(bag, tmp_path / "x.json").exit_code == 0
    assert [one for one in found(tmp_path / "x.json") if one[2] <= START + PERIOD] == reference


def test_messages_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    messages = steady(4)
    messages[2].content = raw(picture(50), "yuv422")  # set 0
    messages[5].content = compressed_as_raw  # set 1
    messages[7].content = raw(picture(3), "mono8")  # set 2: labels of a size not their own
    bag = write(tmp_path / "bag", messages)
    result = track(bag, tmp_path / "x.json")
    assert result.exit_code == 1
    assert "'yuv422'" in result.output and "truncated" in result.output
    assert [entry[2] for entry in found(tmp_path / "x.json")] == [START + 3 * PERIOD]


def compressed_as_raw(stamp: int) -> Any:
    """An image whose buffer is too short."""
    return dataclasses.replace(raw(picture(50), "rgb8")(stamp), data=np.zeros(100, np.uint8))


def test_bytes_that_are_no_message(tmp_path: Path) -> None:
    with Writer(tmp_path / "bag", version=9) as writer:
        by_topic: dict[str, Any] = {}
        for number, message in enumerate(steady(2)):
            content = message.content(message.stamp)
            if message.topic not in by_topic:
                by_topic[message.topic] = writer.add_connection(
                    message.topic, IMAGE, typestore=STORE
                )
            data = bytes(STORE.serialize_cdr(content, IMAGE))
            cut = data[:40] if number == 2 else data
            writer.write(by_topic[message.topic], START + message.stamp, cut)
        writer.write(by_topic[EXO], START + PERIOD, b"")
    config = parameters.load(values())
    sets = [messages for _, messages in bag_units.RecordedSets(tmp_path / "bag", config)]
    assert len(sets) == 2 and isinstance(sets[0].targets["exo"], InputError)
    assert "cannot be decoded as sensor_msgs/msg/Image" in str(sets[0].targets["exo"])
    result = track(tmp_path / "bag", tmp_path / "x.json")
    assert result.exit_code == 1 and len(found(tmp_path / "x.json")) == 1


def test_types_that_nobody_knows_are_no_hindrance(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg("float64[3] levels\nstd_msgs/Header header", "odd/msg/Odd"))
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        odd = writer.add_connection("/odd", "odd/msg/Odd", typestore=store)
        empty = writer.add_connection("/camera/nothing", IMAGE, typestore=store)
        content = store.types["odd/msg/Odd"](levels=np.ones(3), header=header(0))
        by_topic: dict[str, Any] = {}
        for message in steady(1):
            by_topic[message.topic] = writer.add_connection(message.topic, IMAGE, typestore=store)
            data = store.serialize_cdr(message.content(0), IMAGE)
            writer.write(by_topic[message.topic], START, data)
            writer.write(odd, START, store.serialize_cdr(content, "odd/msg/Odd"))
    assert empty.topic == "/camera/nothing"
    with BagReader(tmp_path / "bag") as bag:
        ((_, _, data), *_) = bag.messages(["/odd"])
        assert list(bag.decode("/odd", data).levels) == [1, 1, 1]
        assert bag.topics["/camera/nothing"].count == 0
    assert pairs(tmp_path / "bag") == [(0, 0, 0)]
    assert "odd/msg/Odd" in runner.invoke(app, ["info", str(tmp_path / "bag")]).output
    result = runner.invoke(app, ["track", str(tmp_path / "bag"), "--out", str(tmp_path / "x")])
    assert result.exit_code == 1
    assert f"/camera/nothing, {EGO}, {LABELS}, {EXO}" in result.output and "--params" in (
        result.output
    )


def test_a_bag_in_several_files(tmp_path: Path) -> None:
    """As `ros2 bag record --max-bag-duration` leaves them."""
    messages = steady(6)
    whole = write(tmp_path / "whole", messages, StoragePlugin.SQLITE3)
    for number, part in enumerate((messages[:9], messages[9:])):
        bag = write(tmp_path / f"part_{number}", part, StoragePlugin.SQLITE3)
        (bag / f"part_{number}.db3").rename(whole / f"whole_{number}.db3")
    (whole / "whole.db3").unlink()
    content = yaml.safe_load((whole / "metadata.yaml").read_text())
    information = content["rosbag2_bagfile_information"]
    information["relative_file_paths"] = ["whole_0.db3", "whole_1.db3"]
    (whole / "metadata.yaml").write_text(yaml.safe_dump(content))
    assert pairs(whole) == [(k * PERIOD,) * 3 for k in range(6)]


def valued(path: Path, values: list[int]) -> Path:
    """A bag with a set for each value, which is that of the object's pixels."""
    images = [raw((labels(k) * value).astype(np.uint8), "mono8") for k, value in enumerate(values)]
    return write(path, [one for k, masks in enumerate(images) for one in one_set(k, masks)])


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("objects", [["1:cup"], [""]])
def test_no_object_in_any_set_is_a_failure(tmp_path: Path, value: int, objects: list[str]) -> None:
    result = track(valued(tmp_path / "bag", [value] * 2), tmp_path / "out.json", objects=objects)
    text = " ".join(result.output.split())
    assert result.exit_code == 1, text
    assert f"the query masks ({LABELS}) contain no object in any set" in text


def test_a_named_object_that_never_occurs_is_told(tmp_path: Path) -> None:
    named = ["1:cup", "2:knife", "3:fork"]
    result = track(valued(tmp_path / "bag", [0, 2, 1]), tmp_path / "out.json", objects=named)
    text = " ".join(result.output.split())
    assert result.exit_code == 0, text
    assert f"the query masks ({LABELS}) never contain 'fork', which the parameter objects" in text


def test_objects_that_occur_need_no_note(tmp_path: Path) -> None:
    result = track(valued(tmp_path / "bag", [0, 1]), tmp_path / "out.json")
    assert result.exit_code == 0 and "query masks" not in result.output, result.output
