"""`lmeec info`: print the contents of takes or of a bag."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from lmeec_core.bags.layout import is_bag
from lmeec_core.errors import InputError
from lmeec_core.takes import RelationsTake, Take, TakeError, Takes, is_ego, open_takes
from lmeec_core.takes.images import check_stream

LISTED = 20
"""Maximum number of takes of a dataset that are opened and listed."""


def show(path: Path, console: Console, offsets: bool = False) -> int:
    """Print the contents of takes of any kind, or of a rosbag2 recording.

    Args:
        path: a take, a folder or dataset of takes, a relations file, or a bag.
        console: where to print.
        offsets: for a bag, also estimate the offsets between the cameras' clocks.

    Returns:
        The exit code: 1 if a take, a part of a take or a part of a bag is broken.

    Raises:
        TakeError, BagError: the path holds neither takes nor a bag, or a single, broken take.
        InputError: ``offsets`` for takes.
    """
    if is_bag(path):
        code = _show_bag(path, console)
        return max(code, _show_offsets(path, console)) if offsets else code
    if offsets:
        raise InputError(
            f"--offsets given for {path}, which is not a bag; the frames of takes have no clocks"
        )
    try:
        takes = open_takes(path)
    except TakeError as error:
        raise TakeError(
            path, f"is neither takes nor a rosbag2 recording ({str(error).partition(': ')[2]})"
        ) from error
    if takes.kind == "take":
        problems = _show_take(takes.open(takes.names[0]), console)
    else:
        problems = _show_takes(takes, console)
    for text in problems:
        console.print(f"[bold red]broken:[/] {escape(text)}", highlight=False, soft_wrap=True)
    return int(bool(problems))


def _show_takes(takes: Takes, console: Console) -> list[str]:
    """Print the contents of the first takes; returns a text for each part that is broken."""
    console.print(f"{takes.kind} {escape(str(takes.path))}: {len(takes)} takes")
    table = Table("take", "scenario", "cameras", "objects", "frames", "images")
    left_out: list[str] = []
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
            problems = _cut_off(take, console)
            _count_masks(take, problems, console)
            left_out += [f"take {take.name}: {text}" for text in (*take.left_out, *problems)]
        except TakeError as error:
            takes.report(error)
        else:
            table.add_row(escape(take.name), *map(escape, cells))
    console.print(table)
    if len(takes) > LISTED:
        console.print(f"and {len(takes) - LISTED} more")
    return [*map(str, takes.broken), *left_out]


def _show_take(take: Take, console: Console) -> list[str]:
    """Print the contents of a take; returns a text for each part that is broken."""
    problems: list[str] = []
    table = Table("camera", "view", "frames", "image size")
    for camera in take.cameras:
        numbers, size = _frames_and_size(take, camera, problems)
        table.add_row(escape(camera), "ego" if is_ego(camera) else "exo", str(numbers), size)
    try:
        common = str(len(take.common_frames()))
    except TakeError:
        common = "-"
    console.print(
        f"take {escape(take.name)}: {len(take.cameras)} cameras, {len(take.objects)} objects, "
        f"{common} frames in all cameras"
    )
    console.print(table)
    counts = _count_masks(take, problems, console)
    table = Table("object", *(f"masks in {escape(camera)}" for camera in take.cameras))
    for name in take.objects:
        table.add_row(escape(name), *(counts[name, camera] for camera in take.cameras))
    console.print(table)
    problems += [text for text in _cut_off(take, console) if text not in problems]
    return [*take.left_out, *problems]  # left_out is complete only after videos and masks are read


def _cut_off(take: Take, console: Console) -> list[str]:
    """A text for each file that is truncated or not an image; files are read, not decoded.

    Videos are not checked here: opening them already reports lost frames.
    """
    if isinstance(take, RelationsTake):
        return []
    images = []
    for camera in take.cameras:
        with suppress(TakeError):  # already reported
            images += [(camera, frame) for frame in take.frames(camera)]
    problems = []
    for image in track(images, f"images of {escape(take.name)}", console=console, transient=True):
        try:
            check_stream(take.image_bytes(*image))
        except TakeError as error:
            problems.append(str(error))
        except InputError as error:
            problems.append(f"{take.image_path(*image)}: {error}")
    return problems


def _frames_and_size(take: Take, camera: str, problems: list[str]) -> tuple[str, str]:
    """Number of a camera's frames, and the size of its first image; "-" if unreadable."""
    try:
        numbers = take.frames(camera)
        if not numbers:
            problems.append(f"take {take.name}: camera {camera!r} has no frames")
            return "0", "-"
        height, width = take.image(camera, numbers[0]).shape[:2]
    except TakeError as error:
        problems.append(str(error))
        return "-", "-"
    return str(len(numbers)), f"{width} x {height}"


def _count_masks(take: Take, problems: list[str], console: Console) -> dict[tuple[str, str], str]:
    """Number of each object's masks in each camera; reads every mask once to check it."""
    places = [(name, camera) for name in take.objects for camera in take.cameras]
    shown = track(places, f"masks of {escape(take.name)}", console=console, transient=True)
    return {place: _masks(take, *place, problems) for place in shown}


def _masks(take: Take, name: str, camera: str, problems: list[str]) -> str:
    """Number of an object's masks in a camera, null ones included; broken ones are reported."""
    try:
        frames = take.mask_frames(name, camera)
    except TakeError as error:
        problems.append(str(error))
        return "-"
    broken = []
    for frame in frames:
        try:
            take.mask(name, camera, frame, (1, 1))  # checks the run lengths without a large image
        except TakeError as error:
            broken.append(str(error))
    if broken:
        problems.append(f"{len(broken)} masks are broken; the first: {broken[0]}")
    return str(len(frames))


def _show_bag(path: Path, console: Console) -> int:
    from lmeec_core.bags.bag import BagReader
    from lmeec_core.bags.take_bags import RecordingInfo

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
    return int(bool(lost))


def _show_offsets(path: Path, console: Console) -> int:
    """Print each camera's clock offset from the first camera; 1 if an image cannot be read."""
    from lmeec_core.cli.plugins import provider
    from lmeec_core.sync.offsets import estimate_offset

    problems: list[str] = []
    motions = provider("bag_motion").bag_motion(path, problems)
    if len(motions) < 2:
        console.print(f"offsets: {len(motions)} cameras with images; at least two are needed")
    first, *others = sorted(motions) or [""]
    for topic in others:
        found = estimate_offset(motions[first], motions[topic])
        text = f"offset of {escape(topic)} from {escape(first)}: "
        if found is None:
            text += "unknown (less than 3 s in common, or nothing moves)"
        elif found.doubt:
            text += f"unknown; {found.seconds:+.3f} s fits best, but {found.doubt}"
        else:
            text += (
                f"time_offset: {found.seconds:.3f} (correlation of the motion "
                f"{found.correlation:.2f})"
            )
        console.print(text, soft_wrap=True, highlight=False)
    for text in problems:
        console.print(f"[bold red]broken:[/] {escape(text)}", soft_wrap=True, highlight=False)
    return int(bool(problems))
