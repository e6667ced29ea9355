"""What `lmeec info` says about takes or a bag."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmeec_core.takes import Take, TakeError, Takes, is_ego, open_takes

LISTED = 20
"""So many takes of a dataset are opened and listed."""


def show(path: Path, console: Console) -> int:
    """Print what takes of any kind, or a rosbag2 recording, hold.

    Returns:
        How many takes, or parts of a bag, turned out to be broken.

    Raises:
        TakeError, BagError: if it is neither, or a single take is broken.
    """
    from lmeec_ros.bags import is_bag  # rosbags only, no ROS

    if is_bag(path):
        return _show_bag(path, console)
    try:
        takes = open_takes(path)
    except TakeError as error:
        raise TakeError(
            path, f"is neither takes nor a rosbag2 recording ({str(error).partition(': ')[2]})"
        ) from error
    if takes.kind == "take":
        _show_take(takes.open(takes.names[0]), console)
        return 0
    _show_takes(takes, console)
    return len(takes.broken)


def _show_takes(takes: Takes, console: Console) -> None:
    console.print(f"{takes.kind} {escape(str(takes.path))}: {len(takes)} takes")
    table = Table("take", "scenario", "cameras", "objects", "frames", "images")
    listed = islice(takes, LISTED) if len(takes) > LISTED else takes
    for take in listed:
        try:
            cells = (
                take.scenario or "-",
                ", ".join(take.cameras),
                str(len(take.objects)),
                str(take.length),
                "yes" if take.has_images else "no",
            )
        except TakeError as error:
            takes.report(error)
        else:
            table.add_row(escape(take.name), *map(escape, cells))
    console.print(table)
    if len(takes) > LISTED:
        console.print(f"and {len(takes) - LISTED} more")
    for broken in takes.broken:
        console.print(f"[bold red]broken:[/] {escape(str(broken))}", soft_wrap=True)


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


def _show_bag(path: Path, console: Console) -> int:
    from lmeec_ros.bags import BagReader
    from lmeec_ros.take_bags import RecordingInfo

    with BagReader(path) as bag:
        console.print(f"bag {escape(str(path))}: {bag.duration_ns / 1e9:.1f} s")
        table = Table("topic", "type", "messages")
        for topic in sorted(bag.topics.values(), key=lambda topic: topic.name):
            table.add_row(topic.name, topic.type, str(topic.count))
        console.print(table)
        made = RecordingInfo.read(bag)
        lost, notes = list(bag.lost), list(bag.notes)
    if made is not None:
        objects = ", ".join(f"{label}:{name}" for label, name in made.objects.items())
        console.print(
            f"made from take {escape(made.take)}; query camera {made.query}, target cameras "
            f"{', '.join(made.targets)}, objects {escape(objects)}"
        )
    for text in notes:
        console.print(f"[yellow]note:[/] {escape(text)}", soft_wrap=True, highlight=False)
    for text in lost:
        console.print(f"[bold red]lost:[/] {escape(text)}", soft_wrap=True, highlight=False)
    return len(lost)
