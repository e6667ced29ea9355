"""Generated images, compressed images, label images and mask arrays: read right, or refused."""

from __future__ import annotations

import io
import struct
import zlib
from array import array
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lmeec.msg import CorrespondenceMask, CorrespondenceMaskArray
from PIL import Image as Pillow
from sensor_msgs.msg import CompressedImage, Image

from lmeec_ros.io import images
from lmeec_ros.io.images import ImageError
from lmeec_ros.io.messages import (
    MAX_ID,
    LabelTable,
    MessageError,
    masks_from_array,
    masks_from_labels,
)

pytestmark = pytest.mark.fuzz
Bounded = Callable[..., Any]

LIMIT = 40_000  # pixels
UINT32 = st.integers(0, 40) | st.sampled_from([0, 1, 255, 60_000, 2**31, 2**32 - 1])
ENCODINGS = (*images._PLAIN, "yuv422", "bayer_rggb8", "32FC1", "64FC4", "RGB8", "", "x" * 300)


def bytes_of(pixels: np.ndarray) -> array[int]:
    return array("B", pixels.tobytes())


@st.composite
def raw_images(draw: st.DrawFn) -> Image:
    """sensor_msgs/Image: a sound one, of which any field may be another."""
    msg = Image(encoding=draw(st.sampled_from(ENCODINGS)))
    samples = images._PLAIN.get(msg.encoding, (1, 1))
    msg.height, msg.width = draw(st.integers(0, 12)), draw(st.integers(0, 12))
    msg.step = msg.width * samples[0] * samples[1] + draw(st.sampled_from([0, 0, 1, 7]))
    msg.is_bigendian = draw(st.sampled_from([0, 1, 255]))
    length = msg.height * msg.step
    for field in draw(st.sets(st.sampled_from(["height", "width", "step", "data"]), max_size=2)):
        if field == "data":
            length = draw(st.integers(0, 3000))
        else:
            setattr(msg, field, draw(UINT32))
    msg.data = bytes_of(np.arange(length, dtype=np.uint32).astype(np.uint8))
    return msg


def is_sound(msg: Image) -> bool:
    """Whether an image is as sensor_msgs defines it, and small enough."""
    size, samples = images._PLAIN.get(msg.encoding, (0, 0))
    return (
        size > 0
        and 0 < msg.width * msg.height <= LIMIT
        and msg.step >= msg.width * size * samples
        and len(msg.data) == msg.step * msg.height
    )


@given(raw_images())
def test_raw_images(bounded: Bounded, msg: Image) -> None:
    with bounded():
        try:
            read = images.to_rgb(msg, LIMIT)
        except ImageError as error:
            assert not is_sound(msg), error
            names = (repr(msg.encoding)[:40], f"{msg.width} x {msg.height}")
            assert any(name in str(error) for name in names)
        else:
            assert is_sound(msg)
            assert read.shape == (msg.height, msg.width, 3) and read.dtype == np.uint8


@given(raw_images())
def test_raw_label_images(bounded: Bounded, msg: Image) -> None:
    table = LabelTable({1: "cup"})
    with bounded():
        try:
            labels = images.to_labels(msg, LIMIT)
            masks = masks_from_labels(labels, table, max_objects=8)
        except (ImageError, MessageError) as error:
            assert "expected" in str(error) or "accepted" in str(error)
            return
    seen = {int(n) for n in np.unique(labels)} - {0}
    assert len(seen) <= 8 and set(masks) == {table.id_of(n) for n in seen} | {"cup"}
    for label in seen:
        np.testing.assert_array_equal(masks[table.id_of(label)], labels == label)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, extra: bytes = b"") -> bytes:
    """A PNG whose pixels are all 1 (of a palette of two), with chunks before the pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    bits = width * channels * depth
    sample = bytes([0, 1]) if depth == 16 else bytes([sum(1 << n for n in range(0, 8, depth))])
    row = b"\0" + (sample * (bits // 8 + 1))[: -(-bits // 8)]
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(6))) if colour == 3 else b""
    body = chunk(b"IDAT", zlib.compress(row * height)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + extra + body


def pillow(mode: str, kind: str, **options: Any) -> bytes:
    picture = Pillow.linear_gradient("L").resize((24, 16)).convert("RGB").convert(mode)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def animated() -> bytes:
    frames = [Pillow.new("RGB", (24, 16), (n, n, n)) for n in (10, 90, 200)]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    return file.getvalue()


STREAMS = (
    pillow("RGB", "JPEG"),
    pillow("L", "JPEG"),
    pillow("CMYK", "JPEG"),
    pillow("RGB", "JPEG", progressive=True),
    pillow("RGB", "PNG"),
    pillow("RGBA", "PNG"),
    pillow("LA", "PNG"),
    pillow("P", "PNG"),
    pillow("1", "PNG"),
    png(24, 16, 16, 0),
    png(24, 16, 16, 6),
    png(24, 16, 4, 3),
    png(24, 16, 8, 0, chunk(b"tRNS", b"\0\1")),
    animated(),
    pillow("RGB", "GIF"),
    pillow("RGB", "TIFF"),
    pillow("RGB", "WEBP"),
    pillow("RGB", "BMP"),
)
INTACT = frozenset(s for s in STREAMS if s[:2] == b"\xff\xd8" or s[1:4] == b"PNG")


@st.composite
def streams(draw: st.DrawFn) -> CompressedImage:
    """sensor_msgs/CompressedImage: sound ones, cut, flipped, spliced, with other sizes."""
    data = bytearray(draw(st.sampled_from(STREAMS)))
    kinds = st.sampled_from(["cut", "flip", "size", "insert", "splice"])
    for kind in draw(st.lists(kinds, max_size=3)):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        if kind == "cut":
            data = data[:place]
        elif kind == "flip" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "insert":
            data[place:place] = draw(st.binary(max_size=12))
        elif kind == "splice":
            data[place:] = draw(st.sampled_from(STREAMS))[place:]
        elif kind == "size":
            number = draw(st.sampled_from([0, 1, 255, 60_000, 65_535]))
            at = 16 if data[1:4] == b"PNG" else max(0, data.find(b"\xff\xc0") + 5)
            form = ">II" if at == 16 else ">HH"
            data[at : at + struct.calcsize(form)] = struct.pack(form, number, number)
    return CompressedImage(format=draw(st.sampled_from(["jpeg", "png", ""])), data=bytes(data))


@given(streams())
def test_compressed_images(bounded: Bounded, msg: CompressedImage) -> None:
    data = bytes(msg.data)
    with bounded():
        try:
            read = images.compressed_to_rgb(msg, LIMIT)
        except ImageError as error:
            assert data not in INTACT, error
            assert str(error).startswith("compressed image") and len(str(error)) > 30
        else:
            assert read.dtype == np.uint8 and read.ndim == 3 and read.shape[2] == 3
            assert 0 < read.shape[0] * read.shape[1] <= LIMIT
            size = images.check_stream(data, LIMIT)
            assert sorted(size) == sorted(read.shape[:2])  # a JPEG may say that it lies on a side


@given(streams())
def test_compressed_label_images(bounded: Bounded, msg: CompressedImage) -> None:
    with bounded():
        try:
            read = images.compressed_to_labels(msg, LIMIT)
        except ImageError as error:
            assert str(error).startswith("label image") and len(str(error)) > 30
        else:
            assert read.ndim == 2 and read.dtype in (np.uint8, np.uint16)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_labels_of_few_bits_are_refused(depth: int) -> None:
    """OpenCV stretches them to 8 bits: label 1 would come out as 255, 85 or 17."""
    msg = CompressedImage(format="png", data=png(8, 8, depth, 0))
    with pytest.raises(ImageError, match=f"PNG with {depth} bits and colour type 0 given, one"):
        images.compressed_to_labels(msg)


@pytest.mark.parametrize("depth", [8, 16])
def test_labels_of_8_and_16_bits_are_kept(depth: int) -> None:
    msg = CompressedImage(format="png", data=png(8, 8, depth, 0))
    assert set(np.unique(images.compressed_to_labels(msg))) == {1}


@pytest.mark.parametrize("colour", [2, 3, 4, 6])
def test_labels_of_colours_and_palettes_are_refused(colour: int) -> None:
    msg = CompressedImage(format="png", data=png(8, 8, 8, colour))
    with pytest.raises(ImageError, match=f"8 bits and colour type {colour} given"):
        images.compressed_to_labels(msg)


def jpeg_of_size(width: int, height: int) -> bytearray:
    data = bytearray(STREAMS[0])
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return data


def hidden_bomb() -> bytes:
    """A JPEG of 16000 x 16000 in which a careless reader finds 16 x 16."""
    data = jpeg_of_size(16_000, 16_000)
    at = data.index(b"\xff\xc0")
    data[at:at] = b"\xff\x01"  # a marker without a length; what follows must not be taken for one
    data = data[:-2].ljust(at + 2 + 0xFFC0, b"\0")
    return bytes(data) + b"\xff\xc0\x00\x11\x08\x00\x10\x00\x10" + bytes(20) + b"\xff\xd9"


BOMBS = {
    "png": png(60_000, 1, 8, 0)[:20] + struct.pack(">I", 60_000) + png(60_000, 1, 8, 0)[24:],
    "flat png": png(20_000, 4_000, 1, 0),
    "jpeg": bytes(jpeg_of_size(65_500, 65_500)),
    "hidden": hidden_bomb(),
    "scans": STREAMS[3][:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 20_000 + b"\xff\xd9",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_memory_is_taken(bounded: Bounded, name: str) -> None:
    msg = CompressedImage(format="jpeg", data=BOMBS[name])
    with bounded(2.0, 20), pytest.raises(ImageError, match="at most"):
        images.compressed_to_rgb(msg)


def test_the_largest_raw_image_is_refused_before_memory_is_taken(bounded: Bounded) -> None:
    msg = Image(encoding="mono8", width=2**32 - 1, height=2**32 - 1, step=2**32 - 1)
    with bounded(1.0, 20), pytest.raises(ImageError, match="at most 64000000 pixels"):
        images.to_rgb(msg)


NAMES = st.sampled_from(["cup", "knife", "", "object_3", "../x", "a" * 300, "é\n"]) | st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=4
)


@st.composite
def mask_arrays(draw: st.DrawFn) -> CorrespondenceMaskArray:
    """Sound arrays of masks, of which some fields may be others."""
    msg = CorrespondenceMaskArray(height=draw(st.integers(0, 20)), width=draw(st.integers(0, 20)))
    if draw(st.integers(0, 9)) == 0:
        msg.width = draw(UINT32)
    for _ in range(draw(st.integers(0, 6))):
        one = CorrespondenceMask(object_id=draw(NAMES), visible=draw(st.booleans()))
        one.label = draw(st.integers(0, 3) | st.just(65_535))
        one.roi.width, one.roi.height = draw(st.integers(0, 8)), draw(st.integers(0, 8))
        one.roi.x_offset, one.roi.y_offset = draw(st.integers(0, 9)), draw(st.integers(0, 9))
        one.mask.encoding = draw(st.sampled_from(["mono8", "mono8", "mono8", "8UC1", "rgb8"]))
        one.mask.width, one.mask.height = one.roi.width, one.roi.height
        one.mask.step = one.mask.width + draw(st.sampled_from([0, 0, 3]))
        if draw(st.integers(0, 5)) == 0:
            part, field = draw(
                st.sampled_from(
                    [(one.roi, "x_offset"), (one.roi, "width"), (one.mask, "step"),
                     (one.mask, "height")]
                )
            )  # fmt: skip
            setattr(part, field, draw(UINT32))
        length = min(4000, one.mask.step * one.mask.height) + draw(st.sampled_from([0, 0, 0, -1]))
        one.mask.data = bytes_of(np.full(max(0, length), 255, np.uint8))
        msg.masks.append(one)
    return msg


@given(mask_arrays(), st.sampled_from([{}, {1: "cup"}, {2: "object_3", 3: "knife"}]))
def test_mask_arrays(bounded: Bounded, msg: CorrespondenceMaskArray, named: dict[int, str]) -> None:
    table, untouched = LabelTable(named), LabelTable(named)
    with bounded():
        try:
            masks = masks_from_array(msg, table, LIMIT, max_objects=4)
        except MessageError as error:
            assert str(error).startswith("mask array") and "given" in str(error)
            assert vars(table) == vars(untouched), "a refused message left something behind"
            return
    given_ids = [one.object_id for one in msg.masks]
    assert len(set(given_ids)) == len(given_ids) <= 4 and set(masks) == {
        *given_ids,
        *named.values(),
    }
    labels = [table.label_of(name) for name in given_ids]
    assert len(set(labels)) == len(labels) and all(1 <= n <= 65_535 for n in labels)
    assert [table.id_of(label) for label in labels] == given_ids
    for one in msg.masks:
        mask = masks[one.object_id]
        assert (mask is not None) == one.visible and len(one.object_id) <= MAX_ID
        if mask is not None:
            x, y, w, h = one.roi.x_offset, one.roi.y_offset, one.roi.width, one.roi.height
            assert mask.shape == (msg.height, msg.width) and mask.sum() == w * h
            assert mask[y : y + h, x : x + w].all()


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 6), st.integers(0, 6)), max_size=30))
def test_labels_and_ids_stay_one_to_one(steps: list[tuple[bool, int, int]]) -> None:
    table = LabelTable({2: "object_4"})
    seen: dict[int, str] = {}
    for by_label, number, wish in steps:
        name = table.id_of(number) if by_label else f"object_{number}"
        label = number if by_label else table.label_of(name, wish)
        assert seen.setdefault(label, name) == name
    assert len(set(seen.values())) == len(seen)


def test_a_small_message_does_not_take_much_memory(bounded: Bounded) -> None:
    one = CorrespondenceMask(object_id="a", visible=True)
    one.roi.width = one.roi.height = one.mask.width = one.mask.height = one.mask.step = 1
    one.mask.encoding, one.mask.data = "mono8", array("B", [255])
    msg = CorrespondenceMaskArray(width=8000, height=8000, masks=[one] * 1000)
    with bounded(1.0, 20), pytest.raises(MessageError, match="1000 objects given, at most 32"):
        masks_from_array(msg, LabelTable())


def test_every_stream_of_the_corpus_is_what_it_claims() -> None:
    """The corpus reaches the decoders: JPEG and PNG of all kinds are read, others refused."""
    for data in STREAMS:
        msg = CompressedImage(format="", data=data)
        if data in INTACT:
            assert images.compressed_to_rgb(msg).shape == (16, 24, 3)
            assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
        else:
            with pytest.raises(ImageError, match="JPEG or PNG image expected"):
                images.compressed_to_rgb(msg)
