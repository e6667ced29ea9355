"""Frames of videos are those that players show, whatever the container; what is lost is named."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmeec_core.takes import RelationsFile, TakeError
from lmeec_core.takes.video import Video
from lmeec_core.takes.video_index import announced_size, make_index

WIDTH, HEIGHT = 128, 32
TIME_BASE = Fraction(1, 90000)
BIDIRECTIONAL = {"bf": "2"}


def picture(number: int) -> np.ndarray:
    """The number in eight bars, bright for 1."""
    bars = [220 if number >> bit & 1 else 30 for bit in range(8)]
    row = np.repeat(np.asarray(bars, np.uint8), WIDTH // 8)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_of(image: np.ndarray) -> int:
    width = image.shape[1] // 8
    bars = [image[HEIGHT // 2, bit * width + width // 2].mean() > 125 for bit in range(8)]
    return sum(1 << bit for bit, bright in enumerate(bars) if bright)


def encode(
    path: Path,
    count: int = 40,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    gop: int = 12,
    noise: int = 0,
) -> Path:
    """A video of numbered frames, at 30 a second or at times in 1/90000 s; noise needs bytes."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.gop_size = WIDTH, HEIGHT, gop
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = options or {}
        base = Fraction(1, 30) if times is None else TIME_BASE
        stream.codec_context.time_base = stream.time_base = base
        for number in range(count):
            image = picture(number) + random.integers(0, noise + 1, (HEIGHT, WIDTH, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (number if times is None else times[number]), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copied(
    source: Path, path: Path, first: int = 0, keep: int | None = None, shift: bool = False
) -> Path:
    """The packets from number `first` on, without encoding anew.

    Args:
        first: of the packets, in decoding order.
        keep: how many packets.
        shift: the video begins at the first packet's time; what lies before is hidden by an edit
            list where the container has one.
    """
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [p for p in old.demux(video=0) if p.size and p.dts is not None]
        start = packets[first].pts if shift else 0
        begin = first
        if shift:
            begin = max(n for n in range(first + 1) if packets[n].is_keyframe)
        for packet in packets[begin:][:keep]:
            packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, stream
            new.mux(packet)
    return path


def shown(path: Path) -> list[int]:
    """Numbers of the frames in the order in which a plain decoder gives them."""
    numbers = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            numbers += [number_of(frame.to_ndarray(format="rgb24")) for frame in frames]
    return numbers


def opencv(path: Path) -> list[int]:
    capture, numbers = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        numbers.append(number_of(read[1]))
    return numbers


def check(path: Path, order: Iterable[int] = ()) -> list[int]:
    """Compare with a decoder: in order, then in any order, then from another process's copy."""
    expected = shown(path)
    video = Video(path)
    assert len(video) == len(expected)
    assert [number_of(video.read(n)) for n in range(len(video))] == expected
    last = len(expected) - 1
    for n in (*order, last, 0, last // 2, last // 3, last, last // 3):
        assert number_of(video.read(n)) == expected[n], f"frame {n}"
    assert number_of(Video(path).read(last)) == expected[last], "the last one first"
    with pytest.raises(TakeError, match=f"no frame {last + 1}; the video has {last + 1} frames"):
        video.read(last + 1)
    return expected


VARYING = [int(t) for t in np.cumsum(np.random.default_rng(0).choice([3000, 3003, 9000], 40))]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "MP4": ("v.mp4", {"options": BIDIRECTIONAL}),
    "MP4, varying rate": ("v.mp4", {"options": BIDIRECTIONAL, "times": VARYING}),
    "MP4, open groups": ("v.mp4", {"options": {"bf": "2", "x264-params": "open-gop=1"}}),
    "MP4, MPEG-4": ("v.mp4", {"codec": "mpeg4", "options": BIDIRECTIONAL}),
    "MOV": ("v.mov", {"options": BIDIRECTIONAL}),
    "MKV": ("v.mkv", {"options": BIDIRECTIONAL}),
    "MKV, varying rate": ("v.mkv", {"options": BIDIRECTIONAL, "times": VARYING}),
    "MPEG-TS": ("v.ts", {"options": BIDIRECTIONAL}),
    "MPEG-TS, open groups": ("v.ts", {"options": {"bf": "2", "x264-params": "open-gop=1"}}),
    "AVI, no order of its own": ("v.avi", {"options": BIDIRECTIONAL}),
    "AVI, MPEG-4": ("v.avi", {"codec": "mpeg4", "options": BIDIRECTIONAL}),
    "AVI, JPEG": ("v.avi", {"codec": "mjpeg"}),
    "FLV": ("v.flv", {"options": BIDIRECTIONAL}),
    "no container": ("v.h264", {"options": BIDIRECTIONAL}),
    "WebM, hidden frames": (
        "v.webm",
        {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    ),
    "WebM, VP9": (
        "v.webm",
        {"codec": "libvpx-vp9", "options": {"lag-in-frames": "8", "cpu-used": "8"}},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_a_decoder_shows(tmp_path: Path, kind: str) -> None:
    name, arguments = KINDS[kind]
    path = encode(tmp_path / name, **arguments)
    numbers = check(path, order=(25, 24, 23, 12, 11, 13))
    assert numbers == list(range(40)) == opencv(path)
    assert Video(path).damage is None


@pytest.mark.parametrize("times", [None, VARYING], ids=["constant", "varying"])
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "ts"])
@pytest.mark.parametrize("options", ["", "open-gop=1"])
def test_trimmed_without_encoding(
    tmp_path: Path, suffix: str, options: str, times: list[int] | None
) -> None:
    """As `ffmpeg -ss T -c copy`: an edit list hides what comes before the first frame."""
    whole = encode(tmp_path / "whole.mp4", options={"bf": "2", "x264-params": options}, times=times)
    path = copied(whole, tmp_path / f"trimmed.{suffix}", first=20, shift=True)
    if suffix == "ts" and options:  # such a key frame cannot be the first of a stream
        with pytest.raises(TakeError, match="is damaged .*0 frames can be read"):
            len(Video(path))
        return
    numbers = check(path)
    assert numbers == opencv(path)
    if suffix in ("mp4", "mov"):
        first = numbers[0]
        assert 12 < first <= 20, "the edit list hides nothing, so nothing is tested"
        assert numbers == list(range(first, 40))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_stream_that_begins_between_key_frames(tmp_path: Path, suffix: str) -> None:
    path = copied(encode(tmp_path / "w.mp4", options=BIDIRECTIONAL), tmp_path / f"v.{suffix}", 7)
    assert check(path) == opencv(path)


def test_a_constant_rate_is_read_from_the_files_own_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither decoding nor reading through an hour of video is needed to count its frames."""
    path = encode(tmp_path / "v.mp4", options=BIDIRECTIONAL)
    for name in ("_of_packets", "_of_decoding"):
        monkeypatch.delattr(f"lmeec_core.takes.video_index.{name}")
    assert make_index(path).count == 40


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.data(),
    count=st.integers(2, 30),
    gop=st.integers(1, 15),
    frames=st.integers(0, 3),
    extra=st.sampled_from(["", "open-gop=1"]),
    suffix=st.sampled_from(["mp4", "mkv", "ts", "avi", "flv"]),
    varying=st.booleans(),
)
def test_generated_videos(
    tmp_path: Path, data: Any, count: int, gop: int, frames: int, extra: str, suffix: str,
    varying: bool,
) -> None:  # fmt: skip
    times = None
    if varying and suffix != "avi":  # which has a constant rate only
        steps = data.draw(st.lists(st.sampled_from([1500, 3000, 3003, 6000, 30000]),
                                   min_size=count, max_size=count))  # fmt: skip
        times = [int(t) for t in np.cumsum(steps)]
    options = {"bf": str(frames), "x264-params": extra}
    path = encode(tmp_path / "whole.mp4", count, options=options, times=times, gop=gop)
    first = data.draw(st.integers(0, count - 1))
    if suffix != "mp4" or data.draw(st.booleans()):
        shift = suffix in ("mp4", "mkv")
        try:
            path = copied(path, tmp_path / f"v.{suffix}", first, shift=shift)
        except av.error.FFmpegError:
            return  # the container cannot hold such a stream
    try:
        there = len(shown(path))
    except av.error.FFmpegError:  # not to be opened
        there = 0
    if not there:
        with pytest.raises(TakeError, match="has no frames|0 frames|not a readable video"):
            len(Video(path))
        return
    check(path, order=data.draw(st.lists(st.integers(0, there - 1), max_size=6)))


CUT = {
    "v.mp4": {"options": BIDIRECTIONAL},
    "v.mkv": {"options": BIDIRECTIONAL},
    "v.webm": {"codec": "libvpx"},
    "v.avi": {"codec": "mpeg4"},
    "j.avi": {"codec": "mjpeg"},
}


def with_index_first(path: Path) -> Path:
    """An MP4 whose index comes first, so that it can be opened when its end is missing."""
    moved = path.with_name("first.mp4")
    with (
        av.open(str(path)) as old,
        av.open(str(moved), "w", options={"movflags": "faststart"}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return moved


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_cut_off_video_says_what_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, share: float
) -> None:
    path = encode(tmp_path / name, noise=30, **CUT[name])
    if name == "v.mp4":
        path = with_index_first(path)
    data = path.read_bytes()
    assert announced_size(path) == len(data)
    assert Video(path).damage is None and not caplog.records
    path.write_bytes(data[: int(len(data) * share)])
    video = Video(path)
    there = len(video)
    assert there == len(shown(path)) and 0 < there < 40
    assert video.damage is not None
    assert video.damage.startswith(f"{path}: is cut off ({int(len(data) * share)} of {len(data)} b")
    assert f"{there} frames" in video.damage
    assert [r.getMessage() for r in caplog.records] == [video.damage], "said once"
    assert caplog.records[0].levelno == logging.WARNING
    assert [number_of(video.read(n)) for n in range(there)][: there - 1] == list(range(there - 1))
    with pytest.raises(TakeError, match=r"no frame 39.*is cut off"):
        video.read(39)


def test_a_cut_off_video_is_left_out_of_its_take(
    tmp_path: Path, relations: Callable, numbered_video: Callable
) -> None:
    mask = np.zeros((48, 64), bool)
    mask[9:20, 9:20] = True
    masks = {"cup": {c: {0: mask, 60: mask} for c in ("aria01_1", "cam01")}}
    file = relations(tmp_path / "r.json", {"u": {"take_name": "t", "masks": masks}})
    for camera in ("aria01_1", "cam01"):
        numbered_video(tmp_path / "v" / "t" / f"{camera}.mp4", 90)
    assert RelationsFile(file, tmp_path / "v").open("u").left_out == ()
    path = with_index_first(tmp_path / "v" / "t" / "cam01.mp4")
    path = path.rename(path.with_name("cam01.mp4"))
    path.write_bytes(path.read_bytes()[:-900])
    take = RelationsFile(file, tmp_path / "v").open("u")
    assert all(take.frames(camera) for camera in take.cameras)
    (text,) = take.left_out
    assert text.startswith(f"{path}: is cut off")


@pytest.mark.parametrize("pixels", ["gray16le", "rgb48le"])
def test_16_bit_video_is_scaled_by_the_bits_in_use(tmp_path: Path, pixels: str) -> None:
    path = tmp_path / "depth.mkv"
    grey = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint16)
    deep = grey * 4  # 10 bits
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=30)
        colour = pixels == "rgb48le"
        stream.width, stream.height, stream.pix_fmt = (
            WIDTH,
            HEIGHT,
            "gbrp16le" if colour else pixels,
        )
        array = np.repeat(deep[:, :, None], 3, axis=2) if colour else deep
        container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format=pixels)))
        container.mux(stream.encode(None))
    np.testing.assert_array_equal(Video(path).read(0), np.repeat(grey[:, :, None], 3, axis=2))
