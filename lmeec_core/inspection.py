"""What `lmeec info` says about a take or a bag."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmeec_core.takes import Take, TakeError, is_ego


def show(path: Path, console: Console) -> None:
    """Print what a take or a rosbag2 recording holds.

    Raises:
        TakeError, BagError: if it is neither, or broken.
    """
    if (path / "annotation.json").is_file():
        _show_take(Take.open(path), console)
        return
    from lmeec_ros.bags import is_bag  # rosbags only, no ROS

    if not is_bag(path):
        raise TakeError(
            path, "is neither a take (a folder with annotation.json) nor a rosbag2 recording"
        )
    _show_bag(path, console)


def _show_take(take: Take, console: Console) -> None:
    frames = take.common_frames()
    console.print(
        f"take {escape(take.name)}: {len(take.cameras)} cameras, {len(take.objects)} objects, "
        f"{len(frames)} frames in all cameras"
    )
    table = Table("camera", "view", "frames", "image size")
    for camera in take.cameras:
        numbers = take.frames(camera)
        size = "-"
        if numbers:
            height, width = take.image(camera, numbers[0]).shape[:2]
            size = f"{width} x {height}"
        table.add_row(escape(camera), "ego" if is_ego(camera) else "exo", str(len(numbers)), size)
    console.print(table)
    table = Table("object", *(f"masks in {escape(camera)}" for camera in take.cameras))
    for name in take.objects:
        counts = (str(len(take.mask_frames(name, camera))) for camera in take.cameras)
        table.add_row(escape(name), *counts)
    console.print(table)


def _show_bag(path: Path, console: Console) -> None:
    from lmeec_ros.bags import BagReader
    from lmeec_ros.take_bags import RecordingInfo

    with BagReader(path) as bag:
        console.print(f"bag {escape(str(path))}: {bag.duration_ns / 1e9:.1f} s")
        table = Table("topic", "type", "messages")
        for topic in sorted(bag.topics.values(), key=lambda topic: topic.name):
            table.add_row(topic.name, topic.type, str(topic.count))
        console.print(table)
        made = RecordingInfo.read(bag)
    if made is not None:
        objects = ", ".join(f"{label}:{name}" for label, name in made.objects.items())
        console.print(
            f"made from take {escape(made.take)}; query camera {made.query}, target cameras "
            f"{', '.join(made.targets)}, objects {escape(objects)}"
        )
