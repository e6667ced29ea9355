"""Generated bags: damaged files of both storages, other types, names that lead elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.rosbag2 import (
    CompressionFormat,
    CompressionMode,
    StoragePlugin,
    Writer,
    reader,
    storage_mcap,
)

from lmeec_core.bags import unpacking
from lmeec_core.bags.bag import (
    BagError,
    BagReader,
    find_definition,
    split_type,
    typestore,
)
from lmeec_core.bags.message_types import _TYPE_NAME
from lmeec_core.bags.take_bags import RecordingInfo, bag_from_take
from lmeec_core.takes import Take, TakeWriter
from lmeec_ros.tools.play import message_class

pytestmark = pytest.mark.fuzz
Bounded = Callable[..., Any]


def write_words(path: Path, storage: StoragePlugin, compression: CompressionMode | None) -> None:
    """A bag of several types."""
    store = typestore()
    writer = Writer(path, version=9, storage_plugin=storage)
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        kinds = {"/words": "std_msgs/msg/String", "/numbers": "std_msgs/msg/Int32MultiArray"}
        lines = {t: writer.add_connection(t, k, typestore=store) for t, k in kinds.items()}
        layout = store.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
        for index in range(4):
            word = store.types["std_msgs/msg/String"](data=f"word {index}")
            number = store.types["std_msgs/msg/Int32MultiArray"](
                layout=layout, data=np.arange(index, dtype=np.int32)
            )
            for topic, message in (("/words", word), ("/numbers", number)):
                data = bytes(store.serialize_cdr(message, kinds[topic]))
                writer.write(lines[topic], index * 10, data)


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sound bags: one made from a take, others of both storages with and without compression."""
    root = tmp_path_factory.mktemp("bags")
    with TakeWriter(root / "take") as writer:
        for frame in (0, 30):
            for camera in ("aria01", "cam01"):
                writer.image(camera, frame, np.full((6, 8, 3), frame, np.uint8))
            writer.mask("cup", "aria01", frame, np.eye(6, 8, dtype=bool))
    bag_from_take(Take.open(root / "take"), root / "made", masks="mask_array")
    for number, (storage, compression) in enumerate(
        [
            (StoragePlugin.MCAP, None),
            (StoragePlugin.MCAP, CompressionMode.STORAGE),
            (StoragePlugin.SQLITE3, None),
            (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
            (StoragePlugin.SQLITE3, CompressionMode.FILE),
        ]
    ):
        write_words(root / f"words_{number}", storage, compression)
    return [root / "made", *(root / f"words_{number}" for number in range(5))]


def read_all(path: Path) -> int:
    """Everything that the package asks of a bag; the number of messages that could be decoded."""
    with BagReader(path) as bag:
        assert all(topic.count >= 0 for topic in bag.topics.values())
        assert bag.duration_ns >= 0
        RecordingInfo.read(bag)
        count = 0
        for topic, stamp, data in bag.messages():
            assert isinstance(stamp, int)
            bag.decode(topic, data)
            count += 1
        return count


def test_packed_bombs_are_refused(
    bounded: Bounded, bags: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks, messages and whole files of zeros, in each place where a bag may be compressed."""
    assert read_all(bags[0])  # reading any bag sets the limits
    monkeypatch.setattr(unpacking, "MOST_BYTES", 2**22)
    zeros = bytes(2**16)
    zstd, lz4 = unpacking.zstd.compress(zeros) * 300, unpacking.lz4.frame.compress(zeros) * 300
    copy = tmp_path / "bag"
    shutil.copytree(bags[5], copy)
    next(copy.glob("*.zstd")).write_bytes(zstd)
    with bounded(10.0, 20):
        with pytest.raises(BagError, match="times as large"):
            BagReader(copy)
        with pytest.raises(ValueError, match="become more than"):
            reader.zstd.decompress(zstd)
        for kind, packed in (("zstd", zstd), ("lz4", lz4)):
            with pytest.raises(ValueError, match="become more than"):
                storage_mcap.decompress(packed, kind, 300 * len(zeros), 0)
            with pytest.raises(ValueError, match="cut off"):
                storage_mcap.decompress(packed[: len(packed) // 300 - 5], kind, 1, 0)


WORDS = st.sampled_from(
    [b"..", b"/", b"-1", b"{", b"&a [*a]", b"99999999999999999999", b"std_msgs/msg/Header",
     b"os/path/join", b"!!python/object/apply:os.getpid []", b"null", b"\xff", b"zstd", b"message"]
)  # fmt: skip


@st.composite
def damage(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """What to do to a file: kind, place (0 to 1), bytes."""
    kinds = st.sampled_from(["flip", "flip", "cut", "put", "insert"])
    places = st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.99, 1.0])
    content = st.binary(min_size=1, max_size=8) | WORDS
    return draw(st.lists(st.tuples(kinds, places, content), min_size=1, max_size=3))


def spoil(file: Path, what: list[tuple[str, float, bytes]]) -> None:
    data = bytearray(file.read_bytes())
    for kind, share, content in what:
        place = int(share * max(0, len(data) - 1))
        if kind == "flip" and data:
            data[place] ^= content[0] or 1
        elif kind == "cut":
            del data[place:]
        elif kind == "put":
            data[place : place + len(content)] = content
        elif kind == "insert":
            data[place:place] = content
    file.write_bytes(data)


def test_the_bags_are_sound(bags: list[Path]) -> None:
    assert [read_all(bag) for bag in bags] == [6, 8, 8, 8, 8, 8]


@pytest.mark.parametrize("metadata", [False, True])
@given(number=st.integers(0, 5), what=damage(), alone=st.booleans())
def test_damaged_bags(
    bounded: Bounded,
    bags: list[Path],
    number: int,
    what: list[tuple[str, float, bytes]],
    alone: bool,
    metadata: bool,
) -> None:
    copy = bags[0].parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(bags[number], copy)
    storage = next(file for file in copy.iterdir() if file.name != "metadata.yaml")
    spoil(copy / "metadata.yaml" if metadata else storage, what)
    path = storage if alone and storage.suffix in (".mcap", ".db3") else copy
    with bounded():
        try:
            read_all(path)
        except BagError as error:
            assert str(path) in str(error) or "message type" in str(error), error
            assert len(str(error)) < 10_000


TYPES = st.sampled_from(
    ["std_msgs/msg/String", "sensor_msgs/msg/Image", "lmeec/msg/CorrespondenceMaskArray",
     "diagnostic_msgs/msg/DiagnosticArray", "sensor_msgs/msg/PointCloud2", "std_msgs/msg/Empty"]
)  # fmt: skip


@given(TYPES, st.binary(max_size=200), st.booleans())
def test_messages_of_any_bytes(
    bounded: Bounded, bags: list[Path], kind: str, data: bytes, headed: bool
) -> None:
    data = b"\0\1\0\0" * headed + data
    with BagReader(bags[0]) as bag:
        topic = next(iter(bag.topics))
        storage = bag._files.parts[0].storage
        storage.connections[:] = [
            c._replace(msgtype=kind) if c.topic == topic else c for c in storage.connections
        ]
        with bounded():
            try:
                bag.decode(topic, data)
            except BagError as error:
                assert str(bags[0]) in str(error) and kind in str(error)


PARTS = st.sampled_from(
    ["std_msgs", "msg", "String", "..", "", "os", "path", "join", "etc", "a b", "srv", "this",
     "lmeec", "Image\n"]
) | st.text(max_size=3)  # fmt: skip


@given(st.lists(PARTS, max_size=5).map("/".join))
def test_type_names_lead_to_message_packages_only(name: str) -> None:
    before, valid = set(sys.modules), _TYPE_NAME.fullmatch(name)
    for use in (split_type, find_definition, message_class):
        try:
            use(name)
            assert valid
        except BagError as error:
            assert repr(name[:80]) in str(error) or name in str(error)
    assert valid or set(sys.modules) == before


def test_a_type_name_imports_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module beside the bag, or any installed one, must not be run by a bag's type name."""
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "x.py").write_text("raise SystemExit('executed')")
    (tmp_path / "x.msg").write_text("string data")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "prefix"))
    for name in ("trap/x/Name", f"../../{tmp_path.name}/msg/x", "std_msgs/msg/../../x"):
        with pytest.raises(BagError, match="package/msg/Name expected"):
            message_class(name)
        with pytest.raises(BagError, match="package/msg/Name expected"):
            find_definition(name)
