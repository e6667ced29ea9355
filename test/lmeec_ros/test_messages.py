"""Masks to messages and back, with real messages and the real serialisation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lmeec.msg import CorrespondenceMask, CorrespondenceMaskArray
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header

from lmeec_core.bags.mask_messages import label_image
from lmeec_ros.io import messages
from lmeec_ros.io.messages import MESSAGES, LabelTable, MessageError

SIZE = (12, 20)


def found(presence: float = 0.75, iou: float = 0.5) -> Any:
    return SimpleNamespace(presence=presence, score=iou)


def box(y: int, x: int, h: int, w: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y : y + h, x : x + w] = True
    mask[y, x] = h * w == 1  # an L shape, if it is large enough
    return mask


def array_message(masks: dict[str, np.ndarray], table: LabelTable) -> CorrespondenceMaskArray:
    header = Header(frame_id="exo_optical")
    header.stamp.sec = 7
    return messages.mask_array_message(
        {name: found() for name in masks},
        masks,
        table,
        header,
        Header(frame_id="ego_optical"),
        ("ego", "exo"),
        SIZE,
    )


def test_the_message_of_an_object() -> None:
    mask = box(2, 3, 4, 5)
    msg = MESSAGES.mask("cup", 7, mask, Header(frame_id="f"), 0.75, 0.5)
    roi = msg.roi
    assert (msg.object_id, msg.label, msg.visible) == ("cup", 7, True)
    assert (msg.presence, msg.score, msg.area) == (0.75, 0.5, 19)
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (3, 2, 5, 4)
    assert (msg.mask.encoding, msg.mask.width, msg.mask.height, msg.mask.step) == ("mono8", 5, 4, 5)
    rows, columns = np.nonzero(mask)
    assert (msg.centroid_x, msg.centroid_y) == pytest.approx((columns.mean(), rows.mean()))
    assert set(msg.mask.data) == {0, 255}
    np.testing.assert_array_equal(np.array(msg.mask.data).reshape(4, 5) > 0, mask[2:6, 3:8])


def test_an_absent_object_has_an_entry() -> None:
    msg = MESSAGES.mask("cup", 1, np.zeros(SIZE, bool), Header(), 0.25, 0.5)
    assert (msg.visible, msg.area, msg.presence) == (False, 0, 0.25)
    assert (msg.roi.width, msg.mask.width, len(msg.mask.data)) == (0, 0, 0)


def test_the_array_comes_back_through_the_wire() -> None:
    table = LabelTable({1: "cup", 2: "knife"})
    masks = {"cup": box(0, 0, 3, 3), "knife": np.zeros(SIZE, bool), "new": box(11, 19, 1, 1)}
    sent = array_message(masks, table)
    msg = deserialize_message(serialize_message(sent), CorrespondenceMaskArray)
    assert (msg.width, msg.height, msg.query_camera, msg.target_camera) == (20, 12, "ego", "exo")
    assert msg.header.frame_id == "exo_optical" and msg.query_header.frame_id == "ego_optical"
    assert [(m.object_id, m.label) for m in msg.masks] == [("cup", 1), ("knife", 2), ("new", 3)]
    other = LabelTable({9: "spoon"})
    back = messages.masks_from_array(msg, other)
    assert back["knife"] is None and back["spoon"] is None
    for name in ("cup", "new"):
        np.testing.assert_array_equal(back[name], masks[name])
    assert other.label_of("new") == 3, "the sender's label is kept where it is free"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), min_size=240, max_size=240))
def test_any_mask_comes_back(bits: list[bool]) -> None:
    mask = np.array(bits).reshape(SIZE)
    back = messages.masks_from_array(array_message({"cup": mask}, LabelTable()), LabelTable())
    if mask.any():
        np.testing.assert_array_equal(back["cup"], mask)
    else:
        assert back["cup"] is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: setattr(m.masks[0].roi, "x_offset", 18), "inside 20 x 12 expected"),
        (lambda m: setattr(m.masks[0].roi, "width", 0), "region 0 x 3"),
        (lambda m: setattr(m.masks[0].roi, "y_offset", 2**32 - 1), "region 3 x 3 at"),
        (lambda m: setattr(m.masks[0].mask, "width", 4), "mask 4 x 3 mono8 given, 3 x 3 mono8"),
        (lambda m: setattr(m.masks[0].mask, "encoding", "rgb8"), "3 x 3 rgb8 given"),
        (lambda m: m.masks[0].mask.data.pop(), "buffer of 8 bytes"),
        (lambda m: setattr(m.masks[0].mask, "step", 1), "with step 1 given"),
        (lambda m: setattr(m, "width", 0), "mask array of 0 x 12"),
        (lambda m: setattr(m, "width", 2**31), "pixels expected"),
        (lambda m: setattr(m.masks[1], "object_id", "cup"), "object id 'cup' given"),
        (lambda m: setattr(m.masks[0], "object_id", ""), "object id '' given"),
    ],
)
def test_bad_mask_arrays_are_refused(change: Any, text: str) -> None:
    msg = array_message({"cup": box(0, 0, 3, 3), "knife": box(4, 4, 2, 2)}, LabelTable())
    change(msg)
    with pytest.raises(MessageError, match=text):
        messages.masks_from_array(msg, LabelTable())


def test_labels_are_split_by_name() -> None:
    labels = np.zeros(SIZE, np.uint16)
    labels[:3], labels[5:, 4] = 1, 40_000
    masks = messages.masks_from_labels(labels, LabelTable({1: "cup", 2: "knife"}))
    assert list(masks) == ["cup", "knife", "object_40000"]
    assert masks["knife"] is None
    np.testing.assert_array_equal(masks["cup"], labels == 1)
    np.testing.assert_array_equal(masks["object_40000"], labels == 40_000)


def test_a_camera_image_is_no_label_image() -> None:
    noise = np.random.default_rng(0).integers(0, 255, SIZE, dtype=np.uint8)
    with pytest.raises(MessageError, match="is it a label image at all"):
        messages.masks_from_labels(noise, LabelTable())


def test_labels_are_stable_and_unique() -> None:
    table = LabelTable({2: "cup"})
    assert table.label_of("a") == 1
    assert table.label_of("b", wish=2) == 3
    assert table.label_of("c", wish=700) == 700
    assert table.id_of(700) == "c" and table.id_of(5) == "object_5"
    assert [table.label_of(x) for x in ("a", "b", "cup", "object_5")] == [1, 3, 2, 5]


def test_label_image_and_its_message() -> None:
    labels, _ = label_image({300: box(1, 1, 2, 2)}, SIZE, np.uint16)
    msg = MESSAGES.image(Header(frame_id="f"), labels, "16UC1")
    assert (msg.step, msg.is_bigendian, msg.header.frame_id) == (40, 0, "f")
    np.testing.assert_array_equal(np.array(msg.data).view("<u2").reshape(SIZE), labels)
    assert set(np.unique(labels)) == {0, 300}


def test_a_strided_array_is_written_row_by_row() -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)[:, ::2, ::-1]
    msg = MESSAGES.image(Header(), pixels, "rgb8")
    assert bytes(msg.data) == pixels.tobytes() and msg.step == 9
    assert isinstance(CorrespondenceMask().mask.data, type(msg.data))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("named", [{}, {255: "rim"}])
@pytest.mark.parametrize("ignored", [(), (0,), (255,), (3, 255), (3, 65535)])
def test_labels_that_are_ignored(
    dtype: Any, named: dict[int, str], ignored: tuple[int, ...]
) -> None:
    labels = np.zeros(SIZE, dtype)
    labels[0], labels[1], labels[2] = 2, 3, 255
    told: list[str] = []
    table = LabelTable({2: "cup", **named}, ignored, told.append)
    gone = {3} & set(ignored)
    if 255 in ignored and not named and dtype is np.uint8:
        gone.add(255)
    names = {2: "cup", 3: "object_3", 255: named.get(255, "object_255")}
    for _ in range(2):
        masks = messages.masks_from_labels(labels, table, max_objects=3 - len(gone))
        assert set(masks) == {name for label, name in names.items() if label not in gone}
    assert table.met == gone and len(told) == len(gone)
    assert all("parameter ignore_labels" in text for text in told)
