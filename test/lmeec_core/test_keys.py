"""Frame keys, names of images, cameras and objects in a take: read in one way, or refused."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lzstring import LZString
from typer.testing import CliRunner

from lmeec_core.calibration import CalibrationError, read_calibration
from lmeec_core.cli.app import app
from lmeec_core.errors import InputError
from lmeec_core.evaluation.truth import pairs_of
from lmeec_core.offline.take_plan import plan_take
from lmeec_core.takes import (
    DIRECTIONS,
    RelationsFile,
    Results,
    Take,
    TakeError,
    TakeWriter,
    encode_jpeg,
    keys,
    open_takes,
)
from lmeec_core.takes.keys import by_frame, frame_number, frame_numbers
from lmeec_core.training.take_clips import TakeClips
from lmeec_core.viewing.take_view import choose_query

EGO, EXO = "aria01", "cam01"
IMAGE = np.full((12, 16, 3), 90, np.uint8)
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def square(left: int) -> np.ndarray:
    mask = np.zeros((12, 16), bool)
    mask[2:8, left : left + 5] = True
    return mask


def make_take(
    path: Path, frames: tuple[int, ...] = (0, 30), egos: tuple[str, ...] = (EGO,)
) -> Take:
    with TakeWriter(path) as take:
        for camera in (*egos, EXO, "cam02"):
            for frame in frames:
                take.image(camera, frame, IMAGE)
                take.mask("cup", camera, frame, square(frame % 7))
    return Take.open(path)


def packed(rle: dict[str, Any]) -> dict[str, Any]:
    """A mask as EgoExo4D's raw files have it."""
    text = LZString().compressToEncodedURIComponent(rle["counts"])
    return {"width": rle["size"][1], "height": rle["size"][0], "encodedMask": text}


def run(*arguments: object) -> tuple[int, str]:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


# -- keys ------------------------------------------------------------------------------------


@given(st.integers(0, 2**63 - 1), st.integers(0, 30))
@example(0, 5000)
def test_a_frame_is_its_number_however_it_is_written(number: int, zeros: int) -> None:
    text = "0" * zeros + str(number)
    assert frame_number(text) == frame_number(number) == number
    assert frame_numbers([text, number]) == (number, number)


@pytest.mark.parametrize(
    "key",
    ["", " 30", "30 ", "30.0", "+30", "-30", "3e1", "0x1e", "٣٠", "³", "a", "9" * 5000, 2**63, -1,
     30.0, True, None, float("nan"), ["30"]],
)  # fmt: skip
def test_what_is_no_frame_number_is_named(key: object) -> None:
    with pytest.raises(InputError, match="not a frame number") as caught:
        frame_number(key)
    shown = ascii(key) if isinstance(key, str) else repr(key)
    assert str(caught.value).startswith(shown[:60]) and len(str(caught.value)) < 300


@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 5))
def test_two_keys_of_one_frame_are_both_named(number: int, one: int, other: int) -> None:
    first, second = str(number).zfill(one), str(number).zfill(one + other)
    entries = {first: 1, "5000": 2, second: 3}
    if first == second:
        assert by_frame(entries) == {number: 3, 5000: 2}
    else:
        with pytest.raises(InputError, match=f"'{first}' and '{second}' are both frame {number}"):
            by_frame(entries)


@st.composite
def written(draw: st.DrawFn) -> dict[int, tuple[str, str]]:
    """Frames with how their key and their image's name are written."""
    frames = draw(st.sets(st.integers(0, 2000), min_size=1, max_size=4))
    suffixes = st.sampled_from([".jpg", ".JPG", ".jpeg", ".Jpeg"])
    return {
        frame: (
            str(frame).zfill(draw(st.integers(0, 8))),
            str(frame).zfill(draw(st.integers(0, 8))) + draw(suffixes),
        )
        for frame in sorted(frames)
    }


@settings(max_examples=25, deadline=None)
@given(forms=written())
def test_takes_of_any_padding_answer_as_plain_ones(
    tmp_path_factory: pytest.TempPathFactory, forms: dict[int, tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("padded")
    plain = make_take(folder / "plain", tuple(forms))
    content = json.loads((plain.path / "annotation.json").read_text())
    other = folder / "other"
    for camera in plain.cameras:
        (other / camera).mkdir(parents=True)
        for frame, (_, name) in forms.items():
            data = encode_jpeg(IMAGE - np.uint8(frame % 50), 95)
            (plain.path / camera / f"{frame}.jpg").write_bytes(data)
            (other / camera / name).write_bytes(data)
        entries = content["masks"]["cup"][camera]
        content["masks"]["cup"][camera] = {forms[int(n)][0]: rle for n, rle in entries.items()}
    content["subsample_idx"] = [key for key, _ in forms.values()]
    (other / "annotation.json").write_text(json.dumps(content))
    raw = {
        camera: {"annotation": {n: packed(rle) for n, rle in entries.items()},
                 "annotated_frames": content["subsample_idx"]}
        for camera, entries in content["masks"]["cup"].items()
    }  # fmt: skip
    takes = {
        "take": content,
        "raw": {"object_masks": {"cup": raw}, "subsample_idx": content["subsample_idx"]},
    }
    (folder / "truth.json").write_text(json.dumps({"annotations": takes}))
    truth = RelationsFile(folder / "truth.json")
    assert truth.open("raw").annotated_frames("cup", EXO) == set(forms)

    for take in (Take.open(other), truth.open("take"), truth.open("raw")):
        assert take.subsample_idx == plain.subsample_idx == tuple(forms)
        for camera in plain.cameras:
            assert take.frames(camera) == plain.frames(camera)
            assert take.mask_frames("cup", camera) == plain.mask_frames("cup", camera)
            for frame in forms:
                assert take.annotated("cup", camera, frame)
                ours, theirs = (one.mask("cup", camera, frame) for one in (take, plain))
                np.testing.assert_array_equal(ours, theirs)
                if take.path == other:
                    image = take.image(camera, frame)
                    np.testing.assert_array_equal(image, plain.image(camera, frame))


def test_two_images_of_one_frame_are_named(tmp_path: Path) -> None:
    take = make_take(tmp_path / "take")
    (take.path / EXO / "000030.JPG").write_bytes((take.path / EXO / "30.jpg").read_bytes())
    for reading in (lambda: take.frames(EXO), lambda: take.image(EXO, 30)):
        with pytest.raises(TakeError, match=r"cam01.*'000030.JPG' and '30.jpg' are both frame 30"):
            reading()
    assert take.frames(EGO) == (0, 30)


def test_images_that_nothing_reads_are_named_by_every_command(tmp_path: Path) -> None:
    take = make_take(tmp_path / "take")
    for name in ("frame_000060.jpg", "90.PNG", "-1.jpg"):
        (take.path / "cam02" / name).write_bytes(b"")
    for name in ("._30.jpg", "notes.txt"):
        (take.path / "cam02" / name).write_bytes(b"")
    take = Take.open(take.path)
    (text,) = take.left_out
    assert "3 images are not read ('-1.jpg', '90.PNG', 'frame_000060.jpg')" in text
    assert plan_take(take, DIRECTIONS, (), 32).problems == (text,)
    results = Results("ego-exo")
    for pair in pairs_of(take, "ego-exo"):
        for frame in (0, 30):
            results.add("take", "cup", pair.query, pair.target, frame, square(1), 1.0)
    results.write(tmp_path / "found.json")
    for command in (
        ("info", take.path),
        ("view", take.path, "--out", tmp_path / "x.mp4", "--height", "64"),
        ("evaluate", tmp_path / "found.json", take.path, "--out", tmp_path / "out"),
        ("bag", take.path, tmp_path / "bag"),
    ):
        code, output = run(*command)
        assert code == 1 and "3 images are not read" in output, output


def test_a_camera_of_other_images_is_no_empty_camera(tmp_path: Path) -> None:
    take = make_take(tmp_path / "take")
    for frame in (0, 30):
        (take.path / EXO / f"{frame}.jpg").rename(take.path / EXO / f"{frame}.png")
    take = Take.open(take.path)
    with pytest.raises(TakeError, match=r"cam01: no frames: 2 images are not read \('0.png'"):
        take.frames(EXO)
    plan = plan_take(take, DIRECTIONS, (), 32)
    assert {unit.query for unit in plan.units} == {EGO, "cam02"}
    assert len(plan.problems) == 1 and "2 images are not read" in plan.problems[0]
    code, output = run("info", take.path)
    assert code == 1 and "no frames: 2 images" in output and "cam02" in output


def test_keys_are_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = make_take(tmp_path / "take", tuple(range(0, 600, 30)))
    count = 0

    def counted(key: object) -> int:
        nonlocal count
        count += 1
        return frame_number(key)

    monkeypatch.setattr(keys, "frame_number", counted)
    for frame in take.mask_frames("cup", EGO) * 3:
        assert take.annotated("cup", EGO, frame)
        assert take.rle("cup", EGO, frame) is not None
    assert count == 20


# -- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Cup", "cup ", unicodedata.normalize("NFD", "café")])
def test_names_that_look_alike_are_told_apart(tmp_path: Path, name: str) -> None:
    there = unicodedata.normalize("NFC", name).strip().lower()
    with TakeWriter(tmp_path / "take") as writer:
        writer.image(EGO, 0, IMAGE)
        writer.mask(there, EGO, 0, square(1))
    with pytest.raises(TakeError) as caught:
        Take.open(tmp_path / "take").mask(name, EGO, 0)
    assert f"{ascii(there)} exists, but not {ascii(name)}" in str(caught.value)
    with pytest.raises(TakeError, match="'cam01' exists, but not 'Cam01'"):
        make_take(tmp_path / "other").frames("Cam01")


def test_a_folder_without_a_name_in_unicode(tmp_path: Path) -> None:
    make_take(tmp_path / "take").path.rename(tmp_path / "take\udcff")
    with pytest.raises(TakeError, match="not Unicode text"):
        Take.open(tmp_path / "take\udcff")
    assert str(open_takes(tmp_path).names)
    assert list(open_takes(tmp_path)) == []


# -- what a take holds -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "egos", [("aria01",), ("aria02", "aria01"), ("Aria_b", "aria_a", "x-ARIA")]
)
def test_all_agree_on_the_pairs_of_cameras(tmp_path: Path, egos: tuple[str, ...]) -> None:
    take = make_take(tmp_path / "takes" / "take", egos=egos)
    trained: set[tuple[str, str]] = {
        (pair.query, pair.target) for pair in TakeClips(tmp_path / "takes", 64, frames=1).pairs
    }
    told: set[tuple[str, str]] = set()
    for direction in DIRECTIONS:
        there = [(ego, exo) for ego in sorted(egos) for exo in (EXO, "cam02")]
        wanted = there if direction == "ego-exo" else [pair[::-1] for pair in there]
        assert list(take.pairs(direction)) == wanted
        plan = plan_take(take, [direction], (), 32)
        assert [(unit.query, unit.target) for unit in plan.units] == wanted
        assert [(pair.query, pair.target) for pair in pairs_of(take, direction)] == wanted
        for query in dict.fromkeys(query for query, _ in wanted):
            shown, targets = choose_query(take, direction, query)
            assert [(shown, target) for target in targets] == [p for p in wanted if p[0] == query]
        told |= set(wanted)
    assert trained == told


def test_a_tracked_take_of_two_egos_is_complete(tmp_path: Path) -> None:
    take = make_take(tmp_path / "take", egos=("aria01", "aria02"))
    out = tmp_path / "found.json"
    code, output = run(
        "track", take.path, "--out", out, "--direction", "exo-ego", "--preset", "mini",
        "--seed", "0", "--workers", "1", "--engine", "eager",
    )  # fmt: skip
    assert code == 0, output
    code, output = run("evaluate", out, take.path, "--out", tmp_path / "report", "--worst", "0")
    assert code == 0 and "incomplete" not in output, output


def test_an_annotated_camera_without_a_folder_is_named(tmp_path: Path) -> None:
    take = make_take(tmp_path / "take")
    take.path.joinpath("cam02").rename(take.path / "Cam02")
    take = Take.open(take.path)
    told = "camera 'cam02' is annotated but has no folder; 'Cam02' exists, but not 'cam02'"
    assert any(told in text for text in plan_take(take, DIRECTIONS, (), 32).problems)
    code, output = run("info", take.path)
    assert code == 1 and told in output


def test_a_take_without_annotations_is_not_passed_over(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        make_take(tmp_path / split / name)
    (tmp_path / "train" / "b" / "annotation.json").unlink()
    (tmp_path / "train" / "notes").mkdir()
    (tmp_path / "train" / ".cache" / "cam01").mkdir(parents=True)
    for takes in (open_takes(tmp_path), open_takes(tmp_path, "train")):
        assert "b" in takes.names and "b" not in [take.name for take in takes]
        assert [Path(error.path).parent.name for error in takes.broken] == ["b"]


def test_info_names_what_is_broken_and_shows_the_rest(tmp_path: Path) -> None:
    take = make_take(tmp_path / "take")
    (take.path / EGO / "0.jpg").write_bytes(b"")
    content: dict[str, Any] = json.loads((take.path / "annotation.json").read_text())
    content["masks"]["cup"][EXO]["30"]["counts"] = "5"
    # So many that their number in eight bits is 0.
    content["masks"] |= {f"o{n}": {EXO: {"0": 3}} for n in range(254)}
    (take.path / "annotation.json").write_text(json.dumps(content))
    code, output = run("info", take.path)
    assert code == 1 and output.count("broken:") == 256
    assert "aria01/0.jpg" in output and "1 masks are broken; the first" in output
    assert "16 x 12" in output and "frame 30: the runs" in output


# -- calibrations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["frame: 2020-13-45", 'a: !!int ""', "a: !!bool 3", "a: !!timestamp x", "a: 0b_", "[", "ÿ"],
)
def test_a_calibration_that_is_no_yaml_names_its_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(CalibrationError, match=r"own\.yaml: cannot be read"):
        read_calibration(path)
