"""Generated takes, result files, run lengths, settings: read right, or refused by name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from lmeec_core.takes import (
    Results,
    Take,
    TakeError,
    TakeWriter,
    decode_mask,
    encode_mask,
    read_split,
)
from lmeec_core.training.settings import CONFIGS, TrainConfig, read_config, remember

pytestmark = pytest.mark.fuzz
Bounded = Callable[..., Any]

MASK = encode_mask(np.eye(6, 7, dtype=bool))
ANNOTATION = {
    "masks": {"cup": {"aria01": {"0": MASK, "30": None}, "cam01": {"0": MASK}}, "jar": {}},
    "subsample_idx": [0, 30],
}
RESULT = {
    "ego-exo": {
        "version": "00",
        "challenge": "xview",
        "results": {
            "take": {
                "masks": {"cup": {"aria01_cam01": {"0": {"pred_mask": MASK, "confidence": 0.5}}}},
                "subsample_idx": [0],
            }
        },
    }
}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 9)
    | st.floats()
    | st.sampled_from(["", "0", "-1", "1e9", "30", "9" * 5000, "cup", "..", "/etc", "²", "\0"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
RLES = st.fixed_dictionaries(
    {},
    optional={
        "size": st.lists(st.integers(-1, 9) | st.sampled_from([60_000, 2**40, 2.0]), max_size=3),
        "counts": st.text(max_size=8) | st.lists(st.integers(-1, 60) | SCALARS, max_size=4),
    },
)


def paths_of(content: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something lies in nested dictionaries and lists."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    found = [here]
    for key, value in items:
        inner = isinstance(value, dict | list)
        found += paths_of(value, (*here, key)) if inner else [(*here, key)]
    return found


@st.composite
def changed(draw: st.DrawFn, sound: dict[str, Any]) -> dict[str, Any]:
    """A copy of something sound, with values replaced, removed or renamed."""
    content: Any = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(0, 2))):
        if not isinstance(content, dict) or len(paths := paths_of(content)) < 2:
            break
        *path, last = draw(st.sampled_from(paths[1:]))
        place = content
        for key in path:
            place = place[key]
        kind = draw(st.sampled_from(["value", "rle", "remove", "rename"]))
        if kind in ("value", "rle"):
            place[last] = draw(JSON if kind == "value" else RLES)
        else:
            value = place.pop(last)
            if kind == "rename" and isinstance(place, dict):
                place[draw(st.text(max_size=3) | st.sampled_from(["..", "-1", "9" * 30]))] = value
    return content


@st.composite
def texts(draw: st.DrawFn, sound: dict[str, Any]) -> bytes:
    """The JSON of something changed, or bytes that are cut, flipped or nested deeply."""
    data = bytearray(json.dumps(draw(changed(sound))).encode())
    kind = draw(st.sampled_from(["whole", "whole", "whole", "cut", "flip", "nest", "junk"]))
    place = draw(st.integers(0, len(data) - 1))
    if kind == "cut":
        return bytes(data[:place])
    if kind == "flip":
        data[place] ^= 1 << draw(st.integers(0, 7))
    if kind == "nest":
        data[place:place] = b"[" * 100_000
    return draw(st.binary(max_size=30)) if kind == "junk" else bytes(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A take, a file beside it that nothing may read, and room for other files."""
    root = tmp_path_factory.mktemp("fuzz")
    with TakeWriter(root / "take") as take:
        for camera in ("aria01", "cam01"):
            take.image(camera, 0, np.zeros((6, 7, 3), np.uint8))
    (root / "secret").mkdir()
    (root / "secret" / "0.jpg").write_bytes((root / "take" / "cam01" / "0.jpg").read_bytes())
    return root


@given(texts(ANNOTATION), st.sampled_from(["cup", "jar", "../x"]), st.sampled_from([0, 30]))
@example(b'{"masks": {"cup": {"aria01": {"0": []}}}, "subsample_idx": [0]}', "cup", 0)
def test_annotations(bounded: Bounded, folder: Path, data: bytes, name: str, frame: int) -> None:
    (folder / "take" / "annotation.json").write_bytes(data)
    take = Take.open(folder / "take")
    readings: list[Callable[[], Any]] = [
        lambda: take.objects,
        lambda: take.subsample_idx,
        *(
            lambda read=read, camera=camera: read(name, camera, frame)
            for read in (take.mask, take.rle, take.annotated)
            for camera in take.cameras
        ),
        lambda: [take.mask_frames(one, camera) for one in take.objects for camera in take.cameras],
    ]
    with bounded():
        for reading in readings:
            try:
                reading()
            except TakeError as error:
                assert str(folder / "take" / "annotation.json") in str(error)
                assert len(str(error)) < 3000


@given(texts(RESULT))
def test_result_files(bounded: Bounded, folder: Path, data: bytes) -> None:
    path = folder / "masks.json"
    path.write_bytes(data)
    with bounded():
        try:
            results = Results.read(path)
        except TakeError as error:
            assert str(path) in str(error) and len(str(error)) < 3000
            return
        for take in results.takes:
            assert all(isinstance(frame, int) for frame in results.frames(take))
        places = [
            (take, name, pair, frame)
            for take in results.takes
            for name in results.objects(take)
            for pair in results.pairs(take, name)
            for frame in results.pair_frames(take, name, pair)
        ]
        whole = []
        for take, name, pair, frame in places:  # a broken one does not spoil the others
            try:
                one = results.prediction(take, name, pair, frame)
                assert one is None or abs(one.confidence) <= 1e6
                whole.append(one)
                assert one is None or one.mask.shape == tuple(one.rle["size"])
            except ValueError as error:
                assert "mask" in str(error) and len(str(error)) < 500
        results.write(folder / "again.json")
    again = Results.read(folder / "again.json", results.direction)
    assert again.takes == results.takes
    if len(whole) == len(places):
        assert list(again.predictions()) == list(results.predictions())


@given(
    RLES | st.just(MASK) | JSON,
    st.integers(0, 40),
)
def test_run_lengths(bounded: Bounded, rle: Any, limit: int) -> None:
    with bounded():
        try:
            mask = decode_mask(rle, max_pixels=limit)
        except ValueError as error:
            assert "mask" in str(error) and len(str(error)) < 500
        else:
            assert mask.shape == tuple(rle["size"]) and mask.size <= limit
            np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [60_000, 60_000], "counts": [3_600_000_000]},
        {"size": [2**40, 2**40], "counts": "0"},
        {"size": [6, 7], "counts": [2**62, 2**62, 2**62, 2**62 + 42]},  # 42 in 64 bits
        {"size": [6, 7], "counts": [10**30]},
        {"size": [8000, 8000], "counts": [64_000_001]},
    ],
)
def test_run_length_bombs(bounded: Bounded, rle: dict[str, Any]) -> None:
    with bounded(1.0, 20), pytest.raises(ValueError, match="mask"):
        decode_mask(rle)


@given(st.binary(max_size=40), st.integers(0, 700), st.booleans())
def test_images_of_a_take(
    bounded: Bounded, folder: Path, junk: bytes, place: int, cut: bool
) -> None:
    good = (folder / "secret" / "0.jpg").read_bytes()
    data = good[:place] + (b"" if cut else junk + good[place + len(junk) :])
    (folder / "take" / "cam01" / "0.jpg").write_bytes(data)
    with bounded():
        try:
            image = Take(folder / "take").image("cam01", 0)
        except TakeError as error:
            assert str(folder / "take" / "cam01" / "0.jpg") in str(error)
        else:
            assert image.ndim == 3


NAMES = st.sampled_from(
    ["../secret", "..", ".", "", "/etc", "cam01/../../secret", "cam01/", "./cam01", "a\0b"]
) | st.text(st.sampled_from("./\\c\0"), max_size=6)


@given(NAMES, NAMES)
def test_names_do_not_lead_out_of_a_take(folder: Path, camera: str, name: str) -> None:
    (folder / "take" / "annotation.json").write_text(json.dumps(ANNOTATION))
    take = Take.open(folder / "take")
    with pytest.raises(TakeError, match="no camera"):
        take.image_bytes(camera, 0)
    with pytest.raises(TakeError, match="no camera"):
        take.frames(camera)
    with pytest.raises(TakeError, match="no object"):
        take.mask(name, camera, 0)
    (folder / "split.json").write_text(json.dumps({"train": ["take", name]}))
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        with pytest.raises(TakeError, match="not the name of a take"):
            read_split(folder / "split.json", "train")
    before = sorted(p for p in folder.rglob("*") if "made" not in p.parts)
    with TakeWriter(folder / "made", overwrite=True) as writer:
        try:
            writer.image(camera, 0, np.zeros((6, 7, 3), np.uint8))
        except TakeError as error:
            assert repr(camera) in str(error)
        writer.mask(name, camera, 0, None)
    assert sorted(p for p in folder.rglob("*") if "made" not in p.parts) == before
    assert {p.parent.parent for p in (folder / "made").rglob("*.jpg")} <= {folder / "made"}


SETTINGS = yaml.safe_load((CONFIGS / "nano_sim.yaml").read_text())
TEXT = (CONFIGS / "nano_sim.yaml").read_text().encode()
BOMB = (
    "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    + "minutes: *a11\n"
)


@st.composite
def yaml_files(draw: st.DrawFn) -> bytes:
    """The package's settings with other values, or as a text that is cut, flipped or spliced."""
    if draw(st.booleans()):
        content = dict(SETTINGS)
        for _ in range(draw(st.integers(1, 3))):
            name = draw(st.sampled_from([*SETTINGS, "minuts", 3, "..", None]))
            content[name] = draw(JSON)
        file = io.StringIO()
        yaml.safe_dump(content, file, sort_keys=False)
        return file.getvalue().encode("utf-8", "surrogatepass")
    data = bytearray(TEXT)
    words = [
        b"2020-13-45",
        b"!!python/object/apply:os.getpid []",
        b"&a [*a]",
        b"{",
        b"\xff",
        b"<<: ",
    ]
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data) - 1))
        data[place : place + draw(st.integers(0, 3))] = draw(
            st.sampled_from(words) | st.binary(max_size=6)
        )
    return bytes(data)


@given(yaml_files())
def test_settings_of_a_training(bounded: Bounded, folder: Path, data: bytes) -> None:
    path = folder / "own.yaml"
    path.write_bytes(data)
    with bounded():
        try:
            assert isinstance(read_config(path), TrainConfig)
        except ValueError as error:
            assert str(path) in str(error) and len(str(error)) < 5000


@given(yaml_files())
@example(b"recipe: '" + b"9" * 6000 + b"'")  # was once told in full
def test_settings_of_a_run_that_goes_on(bounded: Bounded, folder: Path, data: bytes) -> None:
    now = read_config(CONFIGS / "nano_sim.yaml")
    path = folder / "train.yaml"
    path.write_bytes(data)
    with bounded():
        try:
            remember(now, folder)
        except ValueError as error:
            assert str(folder) in str(error) and len(str(error)) < 5000
            assert path.read_bytes() == data
        else:
            assert yaml.safe_load(path.read_text()) == now.model_dump()


@given(
    st.text(max_size=12) | st.sampled_from(["seed=[", "a=*b", "minutes=2020-13-45", "=", "a=\0"])
)
def test_set_options(change: str) -> None:
    try:
        read_config(CONFIGS / "nano_sim.yaml", [change])
    except ValueError as error:
        assert "nano_sim.yaml" in str(error) or "--set" in str(error)


def test_a_bomb_of_aliases(bounded: Bounded, folder: Path) -> None:
    """Nine to the eleventh texts in 700 bytes: never written out, in no error message either."""
    path = folder / "bomb.yaml"
    path.write_text(BOMB)
    with bounded(10.0, 50), pytest.raises(ValueError, match="minutes: Input should be") as caught:
        read_config(path)
    assert len(str(caught.value)) < 5000
