"""The index of a video: the frames that a decoder returns, in order; made once per file.

Packets are not frames: edit lists hide some, the first ones cannot be shown if a stream does not
begin with a key frame, and some codecs have packets without a picture. So packets are counted only
if that gives the same result (MP4 and Matroska, codecs with one frame per packet, beginning with a
key frame); other videos are decoded once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

COUNTED_CONTAINERS = ("mov", "matroska")
COUNTED_CODECS = ("h264", "hevc", "av1", "vp9", "mjpeg", "prores", "dnxhd", "ffv1", "rawvideo")
SOUGHT_CONTAINERS = (*COUNTED_CONTAINERS, "mpegts")
"""Containers whose frames have the same times after a seek."""
_BOXES = b"ftyp moov mdat moof mfra free skip wide uuid sidx styp udta meta pnot prft emsg".split()


@dataclass(frozen=True)
class Index:
    """The frames of a video.

    Attributes:
        count: number of frames shown.
        times: timestamp of each frame in the stream's units, increasing; None if frames cannot be
            found by timestamps, and have to be counted from the beginning.
        damage: a text about lost parts; None if the video is complete, as far as can be known.
        regular: whether each packet is a frame. Only then are several frames decoded in parallel;
            otherwise, this would lose frames near an error.
    """

    count: int
    times: NDArray[np.int64] | None
    damage: str | None = None
    regular: bool = False


def shown(
    container: Any, stream: Any, failed: Callable[[Exception], object] = lambda _: None
) -> Iterator[Any]:
    """The frames of a stream from the container's current position, as players show them.

    Args:
        container, stream: PyAV objects.
        failed: called for packets that cannot be decoded; they are skipped, as in players.
    """
    import av

    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            failed(error)
            continue
        yield from frames


def make_index(path: Path) -> Index:
    """Make the index of a video.

    Raises:
        av.error.FFmpegError, OSError, IndexError: the file cannot be opened, or has no video
            stream.
    """
    import av

    cut = cut_off(path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        countable = (
            not cut
            and container.format.name.startswith(COUNTED_CONTAINERS)
            and stream.codec_context.name.startswith(COUNTED_CODECS)
        )
        times = _of_constant_rate(container, stream) if countable else None
        if times is None and countable:
            times = _of_packets(container, stream)
    if times is not None:
        return Index(len(times), times, regular=True)
    return _of_decoding(path, cut)


def _of_constant_rate(container: Any, stream: Any) -> NDArray[np.int64] | None:
    """Timestamps from the file's own index; None without an index, or if the rate varies."""
    entries = stream.index_entries
    count = len(entries)
    if count < 2 or count != stream.frames or stream.start_time is None:
        return None
    stamps = np.fromiter((e.timestamp for e in entries), np.int64, count)  # decoding order
    steps = np.diff(stamps)
    if (steps != steps[0]).any() or steps[0] <= 0 or any(e.is_discard for e in entries):
        return None
    first = next(container.demux(stream))
    if not entries[0].is_keyframe or first.pts != stream.start_time:
        return None  # frames before the first key frame may not be shown
    return int(stream.start_time) + np.arange(count, dtype=np.int64) * int(steps[0])


def _of_packets(container: Any, stream: Any) -> NDArray[np.int64] | None:
    """Timestamps from the packets; None if these may differ from the frames shown."""
    container.seek(0, backward=True, stream=stream)
    packets = [
        (p.pts, p.is_keyframe, p.is_discard, p.is_corrupt)
        for p in container.demux(stream)
        if p.size
    ]
    stamps = [pts for pts, _, _, _ in packets]
    if not packets or None in stamps or any(corrupt for *_, corrupt in packets):
        return None
    if not packets[0][1] or packets[0][0] != min(stamps) or len(set(stamps)) < len(stamps):
        return None
    return np.asarray(sorted(pts for pts, _, hidden, _ in packets if not hidden), np.int64)


def _of_decoding(path: Path, cut: str) -> Index:
    import av

    stamps: list[int | None] = []
    failures: list[str] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        announced = stream.frames if container.format.name.startswith(("mov", "avi")) else 0
        sought = container.format.name.startswith(SOUGHT_CONTAINERS)
        try:
            for frame in shown(container, stream, lambda error: failures.append(str(error))):
                stamps.append(frame.pts)
        except av.error.FFmpegError as error:
            failures.append(str(error))
    times = None
    if sought and None not in stamps:
        times = np.asarray(stamps, np.int64)
        if (np.diff(times) <= 0).any():
            times = None
    damage = cut or (f"is damaged ({len(failures)} errors, {failures[0]})" if failures else None)
    if damage:
        of = f" of {announced}" if announced > len(stamps) else ""
        damage += f": {len(stamps)} frames{of} can be read"
    return Index(len(stamps), times, damage)


def cut_off(path: Path) -> str:
    """A message if a file is truncated; "" if not, as far as its container shows."""
    whole, size = announced_size(path), path.stat().st_size
    return "" if whole is None or whole <= size else f"is cut off ({size} of {whole} bytes)"


def announced_size(path: Path) -> int | None:
    """The number of bytes that a file should have according to its container; None if unknown.

    It is known for MP4, AVI and Matroska, unless they were recorded live. A shorter file is
    truncated.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[4:8] in _BOXES:
            return _end_of_boxes(file)
        if head[:4] == b"RIFF":
            return _end_of_riff(file)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return _end_of_segment(file)
    return None


def _end_of_boxes(file: BinaryIO) -> int:
    end = 0
    while len(head := file.read(8)) == 8 and head[4:] in _BOXES:
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        if size < 8:  # 0: up to the end of the file
            break
        end += size
        file.seek(end)
    return end


def _end_of_riff(file: BinaryIO) -> int:
    end = 0
    while len(head := file.read(8)) == 8 and head[:4] == b"RIFF":
        end += 8 + struct.unpack("<I", head[4:])[0]
        file.seek(end)
    return end


def _end_of_segment(file: BinaryIO) -> int | None:
    """End of Matroska's only segment, which follows a short header."""

    def element() -> tuple[bytes, int | None]:
        identity = file.read(4)
        first = file.read(1)
        length = 9 - first[0].bit_length() if first and first[0] else 0
        rest = file.read(length - 1) if length > 1 else b""
        if not length or len(rest) != length - 1:
            return identity, None
        bits = 7 * length
        size = int.from_bytes(first + rest, "big") & ((1 << bits) - 1)
        return identity, None if size == (1 << bits) - 1 else size

    _, size = element()
    if size is None:
        return None
    file.seek(size, 1)
    identity, size = element()
    if identity != b"\x18\x53\x80\x67" or size is None:
        return None
    return file.tell() + size
