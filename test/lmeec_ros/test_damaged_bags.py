"""Recordings that are not whole: what is there is read, what is lost is said and named."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapReader
from typer.testing import CliRunner

from lmeec_core.bags.bag import (
    BagError,
    BagReader,
    is_bag,
    typestore,
)
from lmeec_core.cli.app import app

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
TYPE = "std_msgs/msg/UInt8MultiArray"
COUNT = 12
Item = tuple[str, int, bytes]


def message(number: int, size: int) -> bytes:
    """A serialised message whose bytes occur nowhere else."""
    types = typestore().types
    layout = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    data = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
    return bytes(typestore().serialize_cdr(types[TYPE](layout=layout, data=data), TYPE))


def items(size: int = 300_000, count: int = COUNT) -> list[Item]:
    return [(f"/t{k % 3}", 10 * k, message(k, size)) for k in range(count)]


def write(
    path: Path,
    content: Sequence[Item],
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode | None = None,
) -> Path:
    """A bag; returns its storage file."""
    writer = Writer(path, version=9, storage_plugin=storage)
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        topics = {
            topic: writer.add_connection(topic, TYPE, typestore=typestore())
            for topic in ("/t0", "/t1", "/t2")
        }
        for topic, stamp, data in content:
            writer.write(topics[topic], stamp, data)
    return next(file for file in path.iterdir() if file.name != "metadata.yaml")


def read(path: Path) -> tuple[list[Item], list[str]]:
    with BagReader(path) as bag:
        return list(bag.messages()), list(bag.lost)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The storage file of a sound bag, made once for each kind."""
    root, made = tmp_path_factory.mktemp("whole"), dict[Any, Path]()

    def make(storage: StoragePlugin, compression: CompressionMode | None = None) -> Path:
        key = (storage, compression)
        if key not in made:
            made[key] = write(root / str(len(made)), items(), storage, compression)
        return made[key]

    return make


@given(share=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_an_mcap_file_is_read_up_to_the_cut(whole: Callable[..., Path], share: float) -> None:
    file = whole(StoragePlugin.MCAP)
    data = file.read_bytes()
    cut = int(share * (len(data) - 1))
    path = file.with_name("cut.mcap")
    path.write_bytes(data[:cut])
    expected = [one for one in items() if 0 <= data.find(one[2]) <= cut - len(one[2])]
    if not expected:
        with pytest.raises(BagError, match="cut.mcap"):
            read(path)
        return
    found, lost = read(path)
    assert found == expected
    assert len(expected) == COUNT or f"cut.mcap: cut off at byte {cut}; {len(found)} me" in lost[0]


@given(share=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_whole_chunks_of_a_compressed_file_are_read(
    whole: Callable[..., Path], share: float
) -> None:
    file = whole(StoragePlugin.MCAP, CompressionMode.STORAGE)
    reader = McapReader(file)
    reader.open()
    ends = [(c.chunk_start_offset + c.chunk_length, c.channel_count) for c in reader.chunks]
    assert len(ends) >= 3
    data = file.read_bytes()
    cut = int(share * (len(data) - 1))
    path = file.with_name("cut.mcap")
    path.write_bytes(data[:cut])
    least = sum(sum(counts.values()) for end, counts in ends if end <= cut)
    reader.close()
    try:
        found, lost = read(path)
    except BagError:
        assert least == 0
        return
    assert len(found) >= least and found == items()[: len(found)]
    assert len(found) == COUNT or "cut.mcap: cut off" in lost[0]


def test_only_the_index_is_cut_off(whole: Callable[..., Path], tmp_path: Path) -> None:
    data = whole(StoragePlugin.MCAP).read_bytes()
    (tmp_path / "x.mcap").write_bytes(data[:-400])
    (tmp_path / "profile.mcap").write_bytes(data.replace(b"ros2", b"none", 1))
    for name, text in (("x", "cut off after its last message"), ("profile", "Profile is not")):
        with BagReader(tmp_path / f"{name}.mcap") as bag:
            assert list(bag.messages()) == items() and bag.lost == []
            assert len(bag.notes) == 1 and text in bag.notes[0]
            assert "all messages are there" in bag.notes[0]


def test_a_damaged_chunk_is_passed_over(whole: Callable[..., Path], tmp_path: Path) -> None:
    """The index is sound, so the damage shows only when the chunk is read."""
    file = shutil.copy(whole(StoragePlugin.MCAP, CompressionMode.STORAGE), tmp_path / "x.mcap")
    reader = McapReader(file)
    reader.open()
    chunk = reader.chunks[1]
    first = sum(reader.chunks[0].channel_count.values())
    second = sum(chunk.channel_count.values())
    place = chunk.chunk_start_offset + chunk.chunk_length - chunk.compressed_size
    reader.close()
    with file.open("r+b") as content:
        content.seek(place)
        content.write(bytes(64))
    with BagReader(file) as bag:
        assert bag.lost == []
        assert list(bag.messages()) == items()[:first] + items()[first + second :]
        assert "x.mcap: 1 damaged chunks are left out" in bag.lost[0]


@given(share=st.floats(0.02, 1))
@settings(max_examples=20, deadline=None)
def test_a_database_is_read_as_far_as_it_goes(whole: Callable[..., Path], share: float) -> None:
    file = whole(StoragePlugin.SQLITE3)
    data = file.read_bytes()
    cut = int(share * (len(data) - 1))
    path = file.with_name("cut.db3")
    path.write_bytes(data[:cut])
    try:
        found, lost = read(path)
    except BagError as error:
        assert "cut.db3" in str(error) and share < 0.3
        return
    assert set(found) <= set(items()) and found == sorted(found, key=lambda one: one[1])
    assert f"cut.db3: cut off at byte {cut} of {len(data)}; {len(found)} messages" in lost[0]
    assert len(found) >= int(share * COUNT) - 4


def test_a_compressed_file_that_is_cut_off(whole: Callable[..., Path], tmp_path: Path) -> None:
    for storage in StoragePlugin:
        packed = whole(storage, CompressionMode.FILE)
        assert packed.suffix == ".zstd"
        path = tmp_path / packed.name
        path.write_bytes(packed.read_bytes()[: packed.stat().st_size * 2 // 3])
        found, lost = read(path)
        assert 3 <= len(found) < COUNT and set(found) < set(items())
        assert path.name in lost[0] and "cut off" in lost[0]


KILLED = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
rows = database.execute("select topic_id, timestamp, data from messages").fetchall()
database.execute("delete from messages")
database.commit()
database.execute("pragma journal_mode = wal")
database.execute("pragma wal_autocheckpoint = 0")
def put(rows):
    database.executemany("insert into messages(topic_id, timestamp, data) values (?, ?, ?)", rows)
    database.commit()
half = int(sys.argv[2])
put(rows[:half])
database.execute("pragma wal_checkpoint(truncate)")
put(rows[half:])
os._exit(9)
"""


@pytest.mark.parametrize("half", [0, 5, 11])
@pytest.mark.parametrize("name", ["rec", "100 % # of?it"])
def test_the_journal_of_a_database_is_read_and_left_alone(
    tmp_path: Path, half: int, name: str
) -> None:
    file = write(tmp_path / "bag", items(2000), StoragePlugin.SQLITE3)
    file = (tmp_path / "bag").rename(tmp_path / name) / file.name
    process = subprocess.run([sys.executable, "-c", KILLED, file, str(half)], check=False)
    assert process.returncode == 9
    assert file.with_name(f"{file.name}-wal").stat().st_size
    before = {one: one.read_bytes() for one in file.parent.iterdir()}
    for path in (file, file.parent):
        with BagReader(path) as bag:
            assert sorted(bag.messages()) == sorted(items(2000))
            assert bag.lost == [] and f"{file.name}-wal" in bag.notes[0]
    assert {one: one.read_bytes() for one in file.parent.iterdir()} == before


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize("name", ["a#b", "a?mode=rw", "100%", "%23", " a b ", "ключ'\""])
def test_any_character_may_be_in_a_path(tmp_path: Path, name: str, storage: StoragePlugin) -> None:
    file = write(tmp_path / "bag", items(100), storage)
    file = (tmp_path / "bag").rename(tmp_path / name) / file.name
    file = file.rename(file.with_name(f"{name}{file.suffix}"))
    change(file.parent, relative_file_paths=[file.name], files=[])
    assert read(file.parent) == (items(100), []) and read(file) == (items(100), [])


def split(folder: Path, parts: int, storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """A bag in several files, as `ros2 bag record --max-bag-size` leaves it."""
    content, files, each = items(500), [], COUNT // parts
    folder.mkdir()
    for number in range(parts):
        part = content[number * each : (number + 1) * each]
        file = write(folder / f"part_{number}", part, storage)
        name = f"rec_{number}{file.suffix}"
        file.rename(folder / name)
        if number == 0:
            (folder / "part_0" / "metadata.yaml").rename(folder / "metadata.yaml")
        files.append({"path": name, "message_count": len(part)})
        shutil.rmtree(folder / f"part_{number}")
    change(folder, relative_file_paths=[one["path"] for one in files], files=files)
    return folder


def change(folder: Path, **values: Any) -> None:
    content = yaml.safe_load((folder / "metadata.yaml").read_text())
    content["rosbag2_bagfile_information"].update(values)
    (folder / "metadata.yaml").write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_a_folder_without_metadata_is_put_together_from_its_files(
    tmp_path: Path, storage: StoragePlugin
) -> None:
    folder = split(tmp_path / "rec", 12, storage)  # rec_10 comes after rec_9
    assert read(folder) == (items(500), [])
    for content in (None, "", "{", "a: b", "rosbag2_bagfile_information: {files: [1]}"):
        (folder / "metadata.yaml").unlink(missing_ok=True)
        if content is not None:
            (folder / "metadata.yaml").write_text(content)
        (folder / "._rec_0.mcap").write_bytes(b"of another system")
        assert is_bag(folder)
        with BagReader(folder) as bag:
            assert list(bag.messages()) == items(500) and bag.lost == []
            assert "metadata.yaml" in bag.notes[0]


def remove(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garble(file: Path) -> None:
    file.write_bytes(b"no bag" * 100)


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60])


@pytest.mark.parametrize("spoil", [remove, empty, garble, shorten])
@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_the_sound_files_of_a_bag_are_read_and_the_others_named(
    tmp_path: Path, spoil: Callable[[Path], None], number: int, storage: StoragePlugin
) -> None:
    folder = split(tmp_path / "rec", 4, storage)
    file = next(folder.glob(f"rec_{number}.*"))
    spoil(file)
    found, lost = read(folder)
    assert found == items(500)[: 3 * number] + items(500)[3 * number + 3 :]
    assert len(lost) == 1 and str(file) in lost[0]
    shown = runner.invoke(app, ["info", str(folder)])
    assert shown.exit_code == 1 and f"lost: {file}" in shown.output
    if file.exists():
        with pytest.raises(BagError, match=file.name):
            read(file)


def test_fewer_messages_than_the_metadata_say(tmp_path: Path) -> None:
    folder = split(tmp_path / "rec", 2)
    files = [{"path": f"rec_{n}.mcap", "message_count": 6 + n} for n in (0, 1)]
    change(folder, files=files)
    _, lost = read(folder)
    assert len(lost) == 1
    assert "rec_1.mcap: 6 messages can be read, metadata.yaml says 7" in lost[0]


def test_files_that_the_metadata_do_not_name(tmp_path: Path) -> None:
    """A recorder that is killed may have written its metadata before the last files."""
    folder = split(tmp_path / "rec", 4)
    change(folder, relative_file_paths=["rec_0.mcap", "rec_1.mcap"], storage_identifier="")
    write(tmp_path / "other", items(100)).rename(folder / "other_0.mcap")
    with BagReader(folder) as bag:
        assert list(bag.messages()) == items(500) and bag.lost == []
        assert [note.partition(":")[0][-10:] for note in bag.notes] == ["rec_2.mcap", "rec_3.mcap"]
    (folder / "metadata.yaml").unlink()
    write(tmp_path / "base", items(100), StoragePlugin.SQLITE3).rename(folder / "rec_4.db3")
    with pytest.raises(BagError, match="several kinds"):
        BagReader(folder)


def test_what_ros2_bag_play_has_unpacked_is_not_read_twice(tmp_path: Path) -> None:
    packed = write(tmp_path / "rec", items(100), compression=CompressionMode.FILE)
    plain = write(tmp_path / "plain", items(100))
    shutil.copy(plain, packed.with_suffix(""))
    assert read(packed.parent) == (items(100), [])
    (packed.parent / "metadata.yaml").unlink()
    assert read(packed.parent) == (items(100), [])


def test_an_empty_bag_is_whole(tmp_path: Path) -> None:
    for storage in StoragePlugin:
        file = write(tmp_path / storage.name, [], storage)
        with BagReader(file.parent) as bag:
            assert bag.topics["/t1"].count == 0 and bag.duration_ns == 0
            assert list(bag.messages()) == [] and bag.lost == []


def test_a_database_of_another_program(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.db3") as database:
        database.execute("create table things(name text)")
    with pytest.raises(BagError, match=r"x\.db3: is no readable rosbag2 recording"):
        BagReader(tmp_path / "x.db3")
