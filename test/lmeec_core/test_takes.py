"""Takes on disk: lazy reading, odd data, broken files, atomic writing, result files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from lmeec_core.takes import (
    Results,
    Take,
    TakeError,
    TakeWriter,
    decode_image,
    decode_mask,
    encode_jpeg,
    encode_mask,
    read_split,
    resize_mask,
)


def gradient(height: int, width: int) -> np.ndarray:
    """A smooth RGB image with red rising to the right and green downwards."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = np.linspace(0, 250, width).astype(np.uint8)
    image[..., 1] = np.linspace(0, 250, height).astype(np.uint8)[:, None]
    return image


def block(height: int, width: int, top: int = 2, left: int = 3) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + 5, left : left + 4] = True
    return mask


@pytest.fixture
def odd_take(tmp_path: Path) -> Path:
    """Two exo cameras, one of them portrait, "/" in a name, masks twice the images' size, null."""
    path = tmp_path / "odd take"
    with TakeWriter(path, extra={"scenario": "Cooking"}) as take:
        for frame in (0, 30, 300):
            take.image("aria01_214-1", frame, gradient(40, 40))
            take.image("cam02", frame, gradient(30, 50))
        take.image("cam01", 30, gradient(50, 30))
        take.mask("salt/pepper mill", "aria01_214-1", 0, block(80, 80))
        take.mask("salt/pepper mill", "aria01_214-1", 30, None)
        take.mask("salt/pepper mill", "cam01", 30, block(100, 60))
        take.add_object("never seen")
    return path


def test_reads_cameras_frames_images_and_masks(odd_take: Path) -> None:
    take = Take.open(odd_take)
    assert take.name == "odd take"
    assert take.cameras == ("aria01_214-1", "cam01", "cam02")
    assert take.ego == "aria01_214-1"
    assert take.exos == ("cam01", "cam02")
    assert take.objects == ("salt/pepper mill", "never seen")
    assert take.frames(take.ego) == (0, 30, 300)  # by number, not by name
    assert take.frames("cam01") == (30,)
    assert take.common_frames() == (30,)
    assert take.common_frames(take.ego, "cam02") == (0, 30, 300)
    assert take.subsample_idx == (0, 30, 300)
    assert take.annotation["scenario"] == "Cooking"
    assert take.image("cam01", 30).shape == (50, 30, 3)
    difference = take.image(take.ego, 0).astype(int) - gradient(40, 40)
    assert np.abs(difference).mean() < 8  # JPEG, channels in the right order


def test_masks_null_missing_and_of_another_size(odd_take: Path) -> None:
    take = Take.open(odd_take)
    mill = "salt/pepper mill"
    mask = take.mask(mill, take.ego, 0)
    assert mask is not None and mask.dtype == bool
    np.testing.assert_array_equal(mask, block(80, 80))
    portrait = take.mask(mill, "cam01", 30)
    assert portrait is not None and portrait.shape == (100, 60)
    assert take.mask(mill, take.ego, 30) is None  # null
    assert take.annotated(mill, take.ego, 30)
    assert take.mask(mill, take.ego, 300) is None  # no entry
    assert not take.annotated(mill, take.ego, 300)
    assert take.mask_frames(mill, take.ego) == (0, 30)
    assert take.mask_frames(mill, "cam02") == ()
    assert take.mask("never seen", "cam01", 30) is None
    assert take.rle(mill, take.ego, 30) is None


def test_nothing_is_loaded_before_it_is_needed(odd_take: Path) -> None:
    (odd_take / "annotation.json").write_text("{broken")
    (odd_take / "cam01" / "30.jpg").write_bytes(b"no image")
    take = Take.open(odd_take)  # neither file is looked into
    assert take.frames("cam02") == (0, 30, 300)
    assert take.image("cam02", 30).shape == (30, 50, 3)


@pytest.mark.parametrize("content", ["", "{broken", "[1, 2]", '{"masks": []}', "\udcff"])
def test_broken_annotation_is_reported_with_its_path(odd_take: Path, content: str) -> None:
    (odd_take / "annotation.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(TakeError, match=r"annotation\.json") as failure:
        _ = Take.open(odd_take).objects
    assert failure.value.path == str(odd_take / "annotation.json")


@pytest.mark.parametrize("keep", [0, 1, 20, 0.5, 0.95])
def test_broken_image_is_reported_with_its_path(odd_take: Path, keep: float) -> None:
    file = odd_take / "cam02" / "30.jpg"
    data = file.read_bytes()
    file.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    take = Take.open(odd_take)
    with pytest.raises(TakeError, match=r"cam02/30\.jpg"):
        take.image("cam02", 30)
    assert take.image("cam02", 300).shape == (30, 50, 3)


def test_errors_name_what_there_is(odd_take: Path, tmp_path: Path) -> None:
    take = Take.open(odd_take)
    with pytest.raises(TakeError, match=r"'cam07'.*cam01"):
        take.frames("cam07")
    with pytest.raises(TakeError, match=r"'cam07'.*cam01"):
        take.image("cam07", 0)
    with pytest.raises(TakeError, match=r"cam01/31\.jpg"):
        take.image("cam01", 31)
    with pytest.raises(TakeError, match=r"'spoon'.*salt/pepper mill"):
        take.mask("spoon", "cam01", 30)
    with pytest.raises(TakeError, match="no such take"):
        Take.open(tmp_path / "absent")
    with pytest.raises(TakeError, match=r"annotation\.json: missing"):
        Take.open(odd_take / "cam01")
    os.rename(odd_take / "aria01_214-1", odd_take / "head")
    with pytest.raises(TakeError, match="no ego camera"):
        _ = Take.open(odd_take).ego


def test_other_files_in_a_camera_folder_are_ignored(odd_take: Path) -> None:
    for name in ("notes.txt", "thumb.jpg", ".30.jpg", "60.png"):
        (odd_take / "cam02" / name).write_text("x")
    (odd_take / ".cache").mkdir()
    take = Take.open(odd_take)
    assert take.frames("cam02") == (0, 30, 300)
    assert ".cache" not in take.cameras


def test_broken_mask_names_object_camera_and_frame(odd_take: Path) -> None:
    content = json.loads((odd_take / "annotation.json").read_text())
    content["masks"]["salt/pepper mill"]["cam01"]["30"]["counts"] = "0"
    (odd_take / "annotation.json").write_text(json.dumps(content))
    with pytest.raises(TakeError, match=r"salt/pepper mill.*cam01.*30"):
        Take.open(odd_take).mask("salt/pepper mill", "cam01", 30)


def test_writer_leaves_nothing_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "take"

    def fail() -> None:
        with TakeWriter(path) as take:
            take.image("aria", 0, gradient(8, 8))
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_writer_replaces_only_when_asked_and_not_before_the_end(odd_take: Path) -> None:
    with pytest.raises(FileExistsError, match="overwrite"):
        TakeWriter(odd_take)
    with TakeWriter(odd_take, overwrite=True) as take:
        take.image("aria", 5, gradient(8, 8))
        assert Take.open(odd_take).ego == "aria01_214-1"
    assert Take.open(odd_take).cameras == ("aria",)
    assert [p.name for p in odd_take.parent.iterdir()] == ["odd take"]


def test_writer_takes_jpeg_bytes_as_they_are_and_refuses_folders(tmp_path: Path) -> None:
    data = encode_jpeg(gradient(9, 7), 80)
    with TakeWriter(tmp_path / "take") as take:
        take.image("aria", 1, data)
        for name in ("", "a/b", ".hidden"):
            with pytest.raises(TakeError, match="camera name"):
                take.image(name, 1, data)
    assert Take.open(tmp_path / "take").image_bytes("aria", 1) == data


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**31))
def test_rle_round_trip(height: int, width: int, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    rle = encode_mask(mask)
    assert json.loads(json.dumps(rle)) == rle
    np.testing.assert_array_equal(decode_mask(rle), mask)
    np.testing.assert_array_equal(coco.decode(rle), mask)


def test_rle_of_other_forms() -> None:
    mask = block(12, 10)
    rle = encode_mask(mask.astype(np.uint8) * 255)
    as_bytes = {"size": rle["size"], "counts": rle["counts"].encode()}
    np.testing.assert_array_equal(decode_mask(as_bytes), mask)
    column_major = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(np.r_[False, column_major, not column_major[-1]]))
    runs = np.diff(np.r_[0, changes]).tolist()
    np.testing.assert_array_equal(decode_mask({"size": [12, 10], "counts": runs}), mask)


@pytest.mark.parametrize(
    "rle",
    [
        None,
        {},
        {"size": [4], "counts": "0"},
        {"size": [4, 4], "counts": None},
        {"size": [4, 4], "counts": ""},
        {"size": [4, 4], "counts": "5"},
        {"size": [0, 4], "counts": "0"},
        {"size": [4, 4], "counts": [3, 4]},
        {"size": [4, 4], "counts": "zzzzzzzzzzzzzzzzzzz"},
        {"size": [4, 4], "counts": "\n\n"},
    ],
)
def test_rle_that_is_broken_raises(rle: object) -> None:
    with pytest.raises(ValueError, match="mask"):
        decode_mask(rle)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12))
def test_rle_of_any_text_decodes_or_raises(text: str) -> None:
    try:
        mask = decode_mask({"size": [6, 7], "counts": text})
    except ValueError:
        return
    assert mask.shape == (6, 7)
    # Whatever is accepted says the same when it is written again.
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)


def test_resize_mask_is_nearest() -> None:
    mask = block(10, 10)
    np.testing.assert_array_equal(resize_mask(mask, (20, 30)), mask.repeat(2, 0).repeat(3, 1))
    assert resize_mask(mask, (10, 10)) is not None
    assert resize_mask(mask * 255, (5, 5)).dtype == bool


def test_decode_image_refuses_what_is_no_image() -> None:
    for data in (b"", b"hello", b"\xff\xd8\xff\xd9", encode_jpeg(gradient(30, 30))[:-2]):
        with pytest.raises(ValueError, match="image|JPEG"):
            decode_image(data)
    with pytest.raises(ValueError, match="float"):
        encode_jpeg(np.zeros((4, 4, 3)))  # type: ignore[arg-type]


def test_split_file(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text('{"train": ["a", "b"], "test": [], "bad": "a"}')
    assert read_split(path, "train") == ("a", "b")
    assert read_split(path, "test") == ()
    for split in ("val", "bad"):
        with pytest.raises(TakeError, match=split):
            read_split(path, split)
    with pytest.raises(TakeError, match=r"absent\.json"):
        read_split(tmp_path / "absent.json", "train")
    path.write_text("nonsense")
    with pytest.raises(TakeError, match="JSON"):
        read_split(path, "train")


def test_result_file_round_trip(tmp_path: Path) -> None:
    results = Results("exo-ego")
    results.set_frames("take", [0, 30])
    results.add("take", "a/b", "cam_1", "aria_2", 30, block(20, 10), 0.75)
    results.add("take", "a/b", "cam_1", "aria_2", 0, encode_mask(block(20, 10, 1)), 0)
    path = tmp_path / "deep" / "masks.json"
    results.write(path)
    content = json.loads(path.read_text())
    entry = content["exo-ego"]["results"]["take"]
    assert set(content["exo-ego"]) == {"version", "challenge", "results"}
    assert entry["subsample_idx"] == [0, 30]
    assert entry["masks"]["a/b"]["cam_1_aria_2"]["30"]["confidence"] == 0.75
    assert [p.name for p in path.parent.iterdir()] == ["masks.json"]

    read = Results.read(path)
    assert read.direction == "exo-ego" and read.takes == ("take",)
    assert read.frames("take") == (0, 30)
    assert [p.frame for p in read.predictions()] == [0, 30]
    found = read.get("take", "a/b", "cam_1", "aria_2", 30)
    assert found is not None and found.confidence == 0.75
    np.testing.assert_array_equal(found.mask, block(20, 10))
    assert read.get("take", "a/b", "cam_1", "aria_2", 60) is None
    assert read.get("other", "a/b", "cam_1", "aria_2", 30) is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"ego-exo": 3}', '{"ego-exo": {"results": {"t": 1}}}']
)
def test_result_file_that_is_broken_names_itself(tmp_path: Path, content: str) -> None:
    path = tmp_path / "masks.json"
    path.write_text(content)
    with pytest.raises(TakeError, match=r"masks\.json"):
        Results.read(path)


def test_result_file_of_an_unknown_direction() -> None:
    with pytest.raises(ValueError, match="ego-exo"):
        Results("left-right")
