"""What the commands do with a bag of ROS 1, and with a bag that is cut off."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import yaml
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from typer.testing import CliRunner

from lmeec_core.bags.bag import (
    BagReader,
    typestore,
)
from lmeec_core.cli.app import app

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
ROS1 = get_typestore(Stores.ROS1_NOETIC)


def ros1_bag(path: Path, count: int = 3) -> Path:
    """Two cameras and label images, as ROS 1 has them."""
    types = ROS1.types
    with Writer1(path) as writer:
        topics = {
            topic: writer.add_connection(topic, "sensor_msgs/msg/Image", typestore=ROS1)
            for topic in ("/ego/image_raw", "/ego/label_image", "/exo/image_raw")
        }
        for number in range(count):
            stamp = (number + 1) * 100_000_000
            time = types["builtin_interfaces/msg/Time"](sec=0, nanosec=stamp)
            for topic, connection in topics.items():
                pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), np.uint8)
                if topic == "/ego/label_image":
                    pixels = np.zeros((24, 32, 1), np.uint8)
                    pixels[4:16, 4:20] = 1
                image = types["sensor_msgs/msg/Image"](
                    header=types["std_msgs/msg/Header"](seq=number, stamp=time, frame_id="c"),
                    height=24, width=32, encoding="rgb8" if pixels.shape[2] == 3 else "mono8",
                    is_bigendian=0, step=32 * pixels.shape[2], data=pixels.reshape(-1),
                )  # fmt: skip
                data = ROS1.serialize_ros1(image, "sensor_msgs/msg/Image")
                writer.write(connection, stamp, data)
    return path


VALUES = {"/**": {"ros__parameters": {"model": {"preset": "mini", "seed": 0, "engine": "eager"}}}}


def test_a_ros1_bag_is_read_and_tracked(tmp_path: Path) -> None:
    path = ros1_bag(tmp_path / "robot.bag")
    with BagReader(path) as bag:
        assert {t.name: (t.type, t.count) for t in bag.topics.values()} == {
            topic: ("sensor_msgs/msg/Image", 3)
            for topic in ("/ego/image_raw", "/ego/label_image", "/exo/image_raw")
        }
        image = bag.decode("/exo/image_raw", next(bag.messages(["/exo/image_raw"]))[2])
        assert (image.header.stamp.nanosec, image.header.frame_id) == (100_000_000, "c")
        expected = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
        np.testing.assert_array_equal(image.data, expected.reshape(-1))
    parameters = tmp_path / "my.yaml"
    parameters.write_text(yaml.safe_dump(VALUES))
    command = ["track", str(path), "--params", str(parameters), "--workers", "1"]
    result = runner.invoke(app, [*command, "--out", str(tmp_path / "x.json")])
    assert result.exit_code == 0 and "3 frames in" in result.output, result.output
    path.write_bytes(path.read_bytes()[:-500])
    result = runner.invoke(app, [*command, "--out", str(tmp_path / "y.json")])
    assert result.exit_code == 1 and "rosbag reindex robot.bag" in result.output


def test_every_command_reads_a_cut_bag_and_says_so(tmp_path: Path) -> None:
    """One reader for all: what is left of the recording is used, the exit code is 1."""
    whole = tmp_path / "whole"
    writer = Writer(whole, version=9, storage_plugin=StoragePlugin.MCAP)
    with writer, BagReader(ros1_bag(tmp_path / "a.bag", 4)) as bag:
        topics = {
            topic.name: writer.add_connection(topic.name, topic.type, typestore=typestore())
            for topic in bag.topics.values()
        }
        for topic, stamp, data in bag.messages():
            writer.write(topics[topic], stamp, data)
    data = (whole / "whole.mcap").read_bytes()
    path, parameters = tmp_path / "cut.mcap", tmp_path / "my.yaml"
    path.write_bytes(data[: data.rfind(b"mono8")])  # within the last label image
    parameters.write_text(yaml.safe_dump(VALUES))
    given = ["--params", str(parameters)]
    for command in (
        ["info", str(path)],
        ["track", str(path), *given, "--out", str(tmp_path / "x.json"), "--workers", "1"],
        ["view", str(path), *given, "--out", str(tmp_path / "x.mp4"), "--height", "64"],
        ["play", str(path), "--rate", "0", "--wait", "0"],
    ):
        result = runner.invoke(app, command)
        assert result.exit_code == 1, (command, result.output)
        assert result.output.count("cut.mcap: cut off at byte") == (
            2 if command[0] == "track" else 1
        )
        assert {"track": "3 frames in", "play": "done: 10 messages"}.get(command[0], "") in (
            result.output
        )
    garbled = tmp_path / "garbled.mcap"
    garbled.write_bytes(os.urandom(200))
    for name in ("track", "view"):
        result = runner.invoke(app, [name, str(garbled), *given])
        assert result.exit_code == 1 and str(garbled) in result.output
        assert "belongs to bags" not in result.output
