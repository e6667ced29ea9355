"""Bags made from takes and read back; bags of other makers; bags that are broken."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from lmeec.msg import CorrespondenceMaskArray
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage, Image
from typer.testing import CliRunner

from lmeec_core.bags.bag import (
    BagError,
    BagReader,
    BagWriter,
    is_bag,
    typestore,
)
from lmeec_core.bags.mask_messages import label_image
from lmeec_core.bags.take_bags import (
    RecordingInfo,
    bag_from_take,
    frame_of,
    stamp_of_frame,
    topic_name,
)
from lmeec_core.cli.app import app
from lmeec_core.takes import Take, TakeError, TakeWriter


def block(left: int, height: int = 40, width: int = 60) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[5:25, left : left + 10] = True
    return mask


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """Frames 0, 1, 30 in ego and cam-1 (portrait); cam-2 lacks frame 1. Masks of another size."""
    with TakeWriter(tmp_path / "take") as writer:
        for frame in (0, 1, 30):
            writer.image("aria01_214-1", frame, np.full((20, 30, 3), 40 + frame, np.uint8))
            writer.image("cam-1", frame, np.full((30, 20, 3), (200, 10, 40), np.uint8))
            if frame != 1:
                writer.image("cam-2", frame, np.full((20, 30, 3), 90, np.uint8))
        writer.mask("cup/red", "aria01_214-1", 0, block(0))
        writer.mask("knife", "aria01_214-1", 0, block(5))  # overlaps the cup
        writer.mask("knife", "aria01_214-1", 30, None)
        writer.mask("knife", "cam-1", 30, block(9))
    return Take.open(tmp_path / "take")


def test_compressed_images_are_the_takes_files_and_label_images_the_masks(
    take: Take, tmp_path: Path
) -> None:
    made = bag_from_take(take, tmp_path / "bag")
    assert made.query == "aria01_214_1" and made.targets == ["cam_1", "cam_2"]
    assert made.overlaps == 5 * 20
    seen: dict[str, list[int]] = {}
    with BagReader(tmp_path / "bag") as bag:
        assert RecordingInfo.read(bag) == made
        assert bag.topics["/cam_2/image_raw/compressed"].count == 2
        assert bag.duration_ns == 1_000_000_000
        for topic, stamp, data in bag.messages():
            frame = frame_of(stamp)
            seen.setdefault(topic, []).append(frame)
            if topic.endswith("compressed"):  # as ROS itself reads it
                message = deserialize_message(data, CompressedImage)
                camera = made.cameras[topic.split("/")[1]]
                assert message.format == "jpeg"
                assert bytes(message.data) == take.image_bytes(camera, frame)
                assert message.header.frame_id == topic_name(camera)
            else:
                message = deserialize_message(data, Image)
                assert (message.encoding, message.height, message.width) == ("8UC1", 40, 60)
                labels = np.asarray(message.data).reshape(40, message.step)
                expected = np.zeros((40, 60), np.uint8)
                if frame == 0:
                    expected[block(0)] = 1
                    expected[block(5)] = 2
                np.testing.assert_array_equal(labels, expected)
            assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == stamp
    assert seen == {
        "/aria01_214_1/image_raw/compressed": [0, 1, 30],
        "/cam_1/image_raw/compressed": [0, 1, 30],
        "/cam_2/image_raw/compressed": [0, 30],
        "/aria01_214_1/label_image": [0, 1, 30],
    }


def test_raw_images_and_mask_arrays_from_exo_to_ego(take: Take, tmp_path: Path) -> None:
    made = bag_from_take(
        take, tmp_path / "bag", query="exo", objects=["knife"], raw=True, masks="mask_array"
    )
    assert (made.query, made.targets) == ("cam_1", ["aria01_214_1"])
    arrays = []
    with BagReader(tmp_path / "bag") as bag:
        for topic, _, data in bag.messages(["/cam_1/image_raw", "/cam_1/masks"]):
            if topic == "/cam_1/masks":
                arrays.append(deserialize_message(data, CorrespondenceMaskArray))
                continue
            message = deserialize_message(data, Image)
            assert (message.encoding, message.step) == ("rgb8", 60)
            pixels = np.asarray(message.data).reshape(30, 20, 3)
            assert abs(pixels[15, 10].astype(int) - (200, 10, 40)).max() < 6
    assert [[entry.object_id for entry in array.masks] for array in arrays] == [["knife"]] * 3
    assert [array.masks[0].visible for array in arrays] == [False, False, True]
    entry = arrays[2].masks[0]
    assert (entry.label, entry.area) == (1, 200)
    roi = entry.roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (9, 5, 10, 20)
    assert (entry.mask.encoding, entry.mask.height, entry.mask.width) == ("mono8", 20, 10)
    assert set(entry.mask.data) == {255}
    assert (arrays[2].width, arrays[2].height) == (60, 40)
    assert arrays[0].masks[0].mask.height == 0


def test_targets_by_name_and_names_that_are_not_there(take: Take, tmp_path: Path) -> None:
    made = bag_from_take(take, tmp_path / "bag", query="cam-2", targets=["ego", "cam_1", "cam-1"])
    assert made.targets == ["aria01_214_1", "cam_1"]
    for arguments, text in (
        ({"query": "cam-9"}, "cam-9"),
        ({"objects": ["spoon"]}, "spoon"),
        ({"targets": ["ego"]}, "no target camera"),
        ({"masks": "polygons"}, "label_image"),
    ):
        with pytest.raises(BagError, match=text):
            bag_from_take(take, tmp_path / "other", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


def test_a_broken_image_leaves_no_bag(take: Take, tmp_path: Path) -> None:
    (take.path / "cam-2" / "30.jpg").unlink()
    (take.path / "cam-2" / "30.jpg").mkdir()
    with pytest.raises(TakeError, match=r"cam-2/30\.jpg"):
        bag_from_take(take, tmp_path / "bag")
    assert [p.name for p in tmp_path.iterdir()] == ["take"]


def test_a_bag_is_replaced_only_when_asked_and_nothing_else_ever(
    take: Take, tmp_path: Path
) -> None:
    bag_from_take(take, tmp_path / "bag")
    with pytest.raises(BagError, match="overwrite"):
        bag_from_take(take, tmp_path / "bag")
    bag_from_take(take, tmp_path / "bag", objects=["knife"], overwrite=True)
    with BagReader(tmp_path / "bag") as bag:
        made = RecordingInfo.read(bag)
    assert made is not None and made.objects == {1: "knife"}
    with pytest.raises(BagError, match="not a bag"):
        bag_from_take(take, take.path, overwrite=True)
    assert Take.open(take.path).objects == ("cup/red", "knife")


def test_more_than_255_objects_take_16_bits() -> None:
    labels, _ = label_image({3: block(0), 300: block(30)}, (40, 60))
    assert labels.dtype == np.uint16 and set(np.unique(labels)) == {0, 3, 300}
    assert label_image({}, (4, 5))[0].shape == (4, 5)
    with pytest.raises(BagError, match="mask_array"):
        label_image({1: block(0), 2: block(0, 50)}, (40, 60))


def test_stamps_and_frames_are_inverse() -> None:
    assert stamp_of_frame(0) == 1_000_000_000 and stamp_of_frame(45) == 2_500_000_000
    assert all(frame_of(stamp_of_frame(frame)) == frame for frame in range(0, 100_000, 7))


@pytest.mark.parametrize(
    ("camera", "topic"),
    [
        ("aria01_214-1", "aria01_214_1"),
        ("cam 2", "cam_2"),
        ("2nd", "camera_2nd"),
        ("--", "camera_"),
    ],
)
def test_topic_names(camera: str, topic: str) -> None:
    assert topic_name(camera) == topic


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        (StoragePlugin.SQLITE3, None),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
        (StoragePlugin.MCAP, None),
        (StoragePlugin.MCAP, CompressionMode.FILE),
    ],
)
def test_reads_bags_of_other_makers(
    tmp_path: Path, storage: StoragePlugin, compression: CompressionMode | None
) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    text = store.types["std_msgs/msg/String"]
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=storage)
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/words", "std_msgs/msg/String", typestore=store)
        for index in range(5):
            message = store.serialize_cdr(text(data=f"word {index}"), "std_msgs/msg/String")
            writer.write(connection, index * 10, message)
    with BagReader(tmp_path / "bag") as bag:
        found = [(stamp, bag.decode(t, data).data) for t, stamp, data in bag.messages()]
        assert RecordingInfo.read(bag) is None
    assert found == [(index * 10, f"word {index}") for index in range(5)]


def test_a_single_storage_file_is_a_bag_too(take: Take, tmp_path: Path) -> None:
    bag_from_take(take, tmp_path / "bag")
    file = tmp_path / "bag" / "bag.mcap"
    assert is_bag(file) and is_bag(tmp_path / "bag") and not is_bag(take.path)
    with BagReader(file) as bag:
        assert len(list(bag.messages())) == 11


def test_broken_bags_are_named(take: Take, tmp_path: Path) -> None:
    path = tmp_path / "bag"
    bag_from_take(take, path)
    with BagReader(path) as bag, pytest.raises(BagError, match=r"'/nothing'.*/cam_1"):
        list(bag.messages(["/nothing"]))
    with pytest.raises(BagError, match="no such bag"):
        BagReader(tmp_path / "absent")
    with pytest.raises(BagError, match="take"):
        BagReader(take.path)
    (path / "bag.mcap").write_bytes(b"no bag")
    for metadata in ((path / "metadata.yaml").read_text(), "{"):
        (path / "metadata.yaml").write_text(metadata)
        with pytest.raises(BagError, match=r"bag\.mcap"):
            BagReader(path)


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with BagWriter(tmp_path / "bag") as bag:
            bag.add_topic("/words", "std_msgs/msg/String")
            bag.write("/words", 1, typestore().types["std_msgs/msg/String"](data="a"))
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with BagWriter(tmp_path / "bag") as bag, pytest.raises(BagError, match="nowhere/msg/Thing"):
        bag.add_topic("/x", "nowhere/msg/Thing")


def test_the_messages_hash_is_that_of_the_installed_package(take: Take, tmp_path: Path) -> None:
    """ROS refuses to connect types of the same name with different definitions."""
    bag_from_take(take, tmp_path / "bag", masks="mask_array")
    prefixes = [Path(p) for p in os.environ["AMENT_PREFIX_PATH"].split(":")]
    described = [p / "share/lmeec/msg/CorrespondenceMaskArray.json" for p in prefixes]
    content = json.loads(next(p for p in described if p.is_file()).read_text())
    hashes = {entry["type_name"]: entry["hash_string"] for entry in content["type_hashes"]}
    metadata = (tmp_path / "bag" / "metadata.yaml").read_text()
    assert hashes["lmeec/msg/CorrespondenceMaskArray"] in metadata


@pytest.mark.parametrize(("images", "compressed"), [(3, 1), (1, 3)])
def test_a_topic_with_two_types(tmp_path: Path, images: int, compressed: int) -> None:
    kinds = {"sensor_msgs/msg/Image": images, "sensor_msgs/msg/CompressedImage": compressed}
    with Writer(tmp_path / "bag", version=9) as writer:
        for kind, count in kinds.items():
            connection = writer.add_connection("/cam", kind, typestore=typestore())
            for stamp in range(count):
                writer.write(connection, stamp, b"\x00\x01\x00\x00" + kind.encode())
    kept = max(kinds, key=kinds.__getitem__)
    with BagReader(tmp_path / "bag") as bag:
        assert (bag.topics["/cam"].type, bag.topics["/cam"].count) == (kept, 3)
        assert {data[4:] for _, _, data in bag.messages()} == {kept.encode()}
        assert "the 1 of" in bag.lost[0] and f"the 3 of {kept} are read" in bag.lost[0]
    runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
    result = runner.invoke(app, ["info", str(tmp_path / "bag")])
    assert result.exit_code == 1 and "several types" in result.output
