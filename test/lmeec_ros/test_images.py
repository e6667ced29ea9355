"""Images of every plain encoding, and what is refused."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmeec_core.takes.images import ImageReader
from lmeec_ros.io import images

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[:, :, 0].copy()
DEEP = (GREY.astype(np.uint16) << 8) + 17


def message(pixels: np.ndarray, encoding: str, padding: int = 0, big: bool = False) -> Any:
    height, width = pixels.shape[:2]
    if pixels.dtype == np.uint16:
        pixels = pixels.astype(">u2" if big else "<u2")
    rows = pixels.reshape(height, -1).view(np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big),
        step=rows.shape[1],
        data=rows.tobytes(),
    )


def compressed(data: bytes, kind: str) -> Any:
    return SimpleNamespace(format=kind, data=data)


def encoded(pixels: np.ndarray, suffix: str) -> bytes:
    ok, data = cv2.imencode(suffix, pixels)
    assert ok
    return bytes(data.tobytes())


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB[:, :, ::-1], RGB),
        ("8UC3", RGB[:, :, ::-1], RGB),
        ("rgba8", np.dstack((RGB, GREY)), RGB),
        ("bgra8", np.dstack((RGB[:, :, ::-1], GREY)), RGB),
        ("mono8", GREY, np.dstack((GREY,) * 3)),
        ("8UC1", GREY, np.dstack((GREY,) * 3)),
    ],
)
def test_plain_encodings(
    encoding: str, pixels: np.ndarray, expected: np.ndarray, padding: int
) -> None:
    read = images.to_rgb(message(np.ascontiguousarray(pixels), encoding, padding))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_16_bit_grey_keeps_its_upper_byte(encoding: str, big: bool) -> None:
    msg = message(DEEP, encoding, padding=2, big=big)
    np.testing.assert_array_equal(images.to_rgb(msg), np.dstack((GREY,) * 3))
    np.testing.assert_array_equal(images.to_labels(msg), DEEP)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("mono16", [0]),
        ("16UC1", [0]),
        ("rgb16", [0, 1, 2]),
        ("bgr16", [2, 1, 0]),
        ("16UC3", [2, 1, 0]),
        ("rgba16", [0, 1, 2, 0]),
        ("bgra16", [2, 1, 0, 0]),
    ],
)
def test_16_bit_images_are_read_by_the_bits_in_use(
    encoding: str, order: list[int], bits: int, big: bool
) -> None:
    """Raw and as PNG alike, and the same as the 8-bit image."""
    pixels = RGB[:, :, order].astype(np.uint16) << (bits - 8)
    expected = np.dstack((GREY,) * 3) if len(order) == 1 else RGB
    reader = ImageReader("x")
    for _ in range(2):
        read = images.to_rgb(message(pixels, encoding, big=big), reader=reader)
        np.testing.assert_array_equal(read, expected)
    if len(order) == 1:
        png = compressed(encoded(pixels[:, :, 0], ".png"), "16UC1; png compressed")
        np.testing.assert_array_equal(images.compressed_to_rgb(png, reader=reader), expected)


def test_a_reader_keeps_the_brightness_of_a_camera() -> None:
    bright, dark = message(GREY.astype(np.uint16) << 4, "mono16"), message(DEEP >> 9, "mono16")
    reader = ImageReader("x")
    images.to_rgb(bright, reader=reader)
    kept = images.to_rgb(dark, reader=reader)[:, :, 0]
    np.testing.assert_array_equal(kept, DEEP >> 9 >> 4)
    np.testing.assert_array_equal(images.to_rgb(dark)[:, :, 0], DEEP >> 9)


@pytest.mark.parametrize("encoding", ["32FC1", "64FC4", "16SC1", "32SC2", "8UC2"])
def test_plain_numbers_are_no_colours(encoding: str) -> None:
    msg = message(RGB, "rgb8")
    msg.encoding = encoding
    with pytest.raises(images.ImageError, match=f"'{encoding}' given.*16UC1.*in millimetres"):
        images.to_rgb(msg)


@pytest.mark.parametrize(
    ("encoding", "asked", "pixels"),
    [("bayer_rggb8", "rgb8", RGB), ("bayer_grbg16", "rgb16", RGB.astype(np.uint16) << 2)],
)
def test_cv_bridge_is_asked_for_all_bits(
    monkeypatch: pytest.MonkeyPatch, encoding: str, asked: str, pixels: np.ndarray
) -> None:
    """A stand-in for cv_bridge, which is on no package index."""

    class Bridge:
        def imgmsg_to_cv2(self, msg: Any, desired_encoding: str) -> np.ndarray:
            assert (msg.encoding, desired_encoding) == (encoding, asked)
            return pixels

    monkeypatch.setitem(sys.modules, "cv_bridge", SimpleNamespace(CvBridge=Bridge))
    msg = message(RGB, "rgb8")
    msg.encoding = encoding
    np.testing.assert_array_equal(images.to_rgb(msg), RGB)


@pytest.mark.parametrize("encoding", ["rgb8", "rgba8"])
def test_no_copy_where_the_bytes_allow(encoding: str) -> None:
    msg = message(RGB if encoding == "rgb8" else np.dstack((RGB, GREY)), encoding, padding=5)
    msg.data = bytearray(msg.data)
    read = images.to_rgb(msg)
    msg.data[0] ^= 255
    assert read[0, 0, 0] == msg.data[0], "the array is not a view of the message's bytes"


def test_a_real_message_is_read(tools: Any) -> None:
    msg = tools.image_msg(RGB, "rgb8", 0)
    np.testing.assert_array_equal(images.to_rgb(msg), RGB)
    assert np.shares_memory(images.to_rgb(msg), np.frombuffer(msg.data, np.uint8))


def test_compressed_images() -> None:
    smooth = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_CUBIC)
    bgr = smooth[:, :, ::-1]
    png = images.compressed_to_rgb(compressed(encoded(bgr, ".png"), "png"))
    np.testing.assert_array_equal(png, smooth)
    jpeg = images.compressed_to_rgb(compressed(encoded(bgr, ".jpg"), "bgr8; jpeg compressed bgr8"))
    assert np.abs(jpeg.astype(int) - smooth).mean() < 12


@pytest.mark.parametrize("labels", [GREY, DEEP])
def test_png_labels_are_exact(labels: np.ndarray) -> None:
    read = images.compressed_to_labels(compressed(encoded(labels, ".png"), "png"))
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"data": b"\0" * 100}, "truncated buffer, 100 bytes given, 105 expected"),
        ({"data": b"\0" * 200}, "oversized buffer, 200 bytes given, 105 expected"),
        ({"width": 0}, "at least 1 x 1"),
        ({"height": 0}, "at least 1 x 1"),
        ({"step": 20}, "step 20 given, at least 21"),
        ({"width": 1 << 31, "height": 1 << 31}, "max_image_pixels"),
        ({"encoding": "abc7"}, "encoding 'abc7' given, which is unknown; one of .* cv_bridge"),
        ({"encoding": ""}, "'' given, which is unknown .*should probably set 'rgb8' or 'bgr8'"),
        ({"encoding": "", "step": 28}, "''.*should probably set 'rgba8' or 'bgra8'"),
        ({"encoding": "", "step": 23}, "'' given, which is unknown; one of rgb8"),
        ({"encoding": "bayer_rggb8"}, "needs the ROS package cv_bridge"),
    ],
)
def test_bad_images_are_refused(change: dict[str, Any], text: str) -> None:
    msg = message(RGB, "rgb8")
    vars(msg).update(change)
    with pytest.raises(images.ImageError, match=text):
        images.to_rgb(msg)


@pytest.mark.parametrize("looks", [str.upper, str.title, " {} ".format, "{}\0".format])
@pytest.mark.parametrize("encoding", ["rgb8", "bgra8", "mono16", "16UC1"])
def test_an_encoding_that_is_spelt_otherwise_is_guessed(looks: Any, encoding: str) -> None:
    if looks(encoding) == encoding:
        return
    with pytest.raises(images.ImageError, match=f"should probably set '{encoding}'") as told:
        images.to_rgb(message(RGB, looks(encoding)))
    assert "cv_bridge" not in str(told.value)  # it would not help


def test_the_limit_of_pixels_is_a_parameter() -> None:
    images.to_rgb(message(RGB, "rgb8"), max_pixels=35)
    with pytest.raises(images.ImageError, match="7 x 5 given, at most 34"):
        images.to_rgb(message(RGB, "rgb8"), max_pixels=34)


def bomb_png() -> bytes:
    data = bytearray(encoded(RGB, ".png"))
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    return bytes(data)


def bomb_jpeg() -> bytes:
    data = bytearray(encoded(RGB, ".jpg"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "begin with nothing"),
        (b"GIF89a" + b"\0" * 50, "JPEG or PNG image expected"),
        (encoded(RGB, ".jpg")[:-40], "JPEG of .* bytes is truncated"),
        (encoded(RGB, ".jpg")[:-80] + b"\xff\xd9", "JPEG of .* bytes is damaged: .*premature end"),
        (encoded(RGB, ".png")[:-20], "PNG of .* bytes is truncated"),
        (encoded(RGB, ".png")[:20], "PNG of .* bytes is truncated"),
        (b"\xff\xd8\xff" + b"\0" * 300 + b"\xff\xd9", "header is corrupt"),
        (bomb_png(), "100000 x 100000 given, at most"),
        (bomb_jpeg(), "65535 x 65535 given, at most"),
    ],
)
def test_bad_streams_are_refused(data: bytes, text: str) -> None:
    with pytest.raises(images.ImageError, match=text):
        images.compressed_to_rgb(compressed(data, "jpeg"))


def test_labels_refuse_what_holds_none() -> None:
    with pytest.raises(images.ImageError, match="'rgb8' given"):
        images.to_labels(message(RGB, "rgb8"))
    with pytest.raises(images.ImageError, match="JPEG given, PNG expected"):
        images.compressed_to_labels(compressed(encoded(GREY, ".jpg"), "jpeg"))
    with pytest.raises(images.ImageError, match="one channel of 8 or 16 bits"):
        images.compressed_to_labels(compressed(encoded(RGB, ".png"), "png"))


@settings(max_examples=300, deadline=None)
@given(
    encoding=st.sampled_from([*images._PLAIN, "yuv422", "x"]),
    width=st.integers(-2, 9) | st.integers(0, 2**32 - 1),
    height=st.integers(-2, 9) | st.integers(0, 2**32 - 1),
    step=st.integers(0, 64) | st.integers(0, 2**32 - 1),
    data=st.binary(max_size=600),
    big=st.booleans(),
)
def test_any_image_is_read_or_refused(
    encoding: str, width: int, height: int, step: int, data: bytes, big: bool
) -> None:
    msg = SimpleNamespace(
        encoding=encoding, width=width, height=height, step=step, data=data, is_bigendian=big
    )
    try:
        read = images.to_rgb(msg)
    except images.ImageError as error:
        assert str(error)
    else:
        assert read.shape == (height, width, 3)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", encoded(RGB, ".jpg")]),
    st.data(),
)
def test_any_stream_is_read_or_refused(tail: bytes, head: bytes, data: Any) -> None:
    cut = data.draw(st.integers(0, len(head)))
    for read in (images.compressed_to_rgb, images.compressed_to_labels):
        try:
            read(compressed(head[:cut] + tail + b"\xff\xd9", "jpeg"), 10_000)
        except images.ImageError as error:
            assert str(error)
