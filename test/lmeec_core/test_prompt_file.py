"""prompts.json: what is written is read again, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmeec_core.errors import InputError
from lmeec_core.prompts import PlacedPrompt, Prompt, Prompts, read_prompts, write_prompts
from lmeec_core.takes import TakeError, encode_mask

NUMBERS = st.floats(0, 4000, allow_nan=False, width=32)
POINTS = st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(0, 1)), min_size=1, max_size=4)
BOXES = st.tuples(NUMBERS, NUMBERS, st.floats(1, 9), st.floats(1, 9)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
MASKS = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1)).map(
    lambda m: np.random.default_rng(m[2]).random(m[:2]) < 0.5
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@st.composite
def placed(draw: st.DrawFn) -> PlacedPrompt:
    kind = draw(st.sampled_from(["points", "box", "both", "mask"]))
    points = draw(POINTS) if kind in ("points", "both") else []
    prompt = Prompt(
        draw(NAMES),
        tuple((x, y) for x, y, _ in points),
        tuple(label for _, _, label in points),
        draw(BOXES) if kind in ("box", "both") else None,
        draw(MASKS) if kind == "mask" else None,
    )
    number = draw(st.integers(0, 2**63 - 1))
    place = {draw(st.sampled_from(["frame", "stamp"])): number}
    return PlacedPrompt(draw(NAMES), prompt, **place)


def plain(prompts: Prompts) -> list[Any]:
    return [
        (p.camera, p.frame, p.stamp, p.prompt.object_id, p.prompt.points, p.prompt.labels,
         p.prompt.box, None if p.prompt.mask is None else p.prompt.mask.tolist())
        for p in prompts.prompts
    ]  # fmt: skip


@given(st.lists(placed(), max_size=4), st.none() | NAMES)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, prompts: list, name: str | None
) -> None:
    path = tmp_path_factory.mktemp("file") / "prompts.json"
    given = Prompts(name, tuple(prompts))
    write_prompts(path, given)
    found = read_prompts(path)
    assert plain(found) == plain(given)
    assert found.recording == name and found.digest == given.digest
    assert found.objects == tuple(dict.fromkeys(p.prompt.object_id for p in prompts))


ENTRY: dict[str, Any] = {"frame": "000030", "camera": "ego", "object": "cup"}


def write(path: Path, *entries: dict, **more: Any) -> Path:
    path.write_text(json.dumps({"version": 1, "prompts": entries, **more}))
    return path


def test_forms_of_other_programs(tmp_path: Path) -> None:
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=0, append=0)), prepend=0)
    counts = [int(n) for n in runs] + [int(24 - runs.sum())]
    path = write(
        tmp_path / "p.json",
        ENTRY | {"mask": {"size": [4, 6], "counts": counts}},
        ENTRY | {"frame": 30, "mask": encode_mask(mask)},
        ENTRY | {"points": [[1, 2], [3.5, 4]]},
    )
    found = read_prompts(path)
    assert all((one.prompt.mask == mask).all() for one in found.prompts[:2])
    assert [one.frame for one in found.prompts] == [30, 30, 30]
    assert found.prompts[2].prompt.labels == (1, 1) and found.recording is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bbox": [1, 2, 3, 4]}, r"unknown key 'bbox', box_xyxy \(x0, y0, x1, y1; COCO's bbox has"),
        ({"colour": 1}, "unknown key 'colour', one of camera, object, frame"),
        ({}, "points, box_xyxy or mask expected"),
        ({"points": [[1, 2]], "stamp": 3}, "either frame or"),
        ({"points": [[1, 2]], "frame": None}, "either frame or"),
        ({"points": [[1, 2]], "frame": "3.5"}, "'3.5' is not a frame number"),
        ({"points": [[1, 2]], "frame": -1}, "-1 is not a frame number"),
        ({"points": [[1, 2, 3]]}, r"points.0: .*at most 2"),
        ({"points": []}, r"points: .*at least 1"),
        ({"points": [[1, "2"]]}, r"points.0.1: .*'2' given"),
        ({"points": [[1, float("inf")]]}, "points.0.1: .*finite"),
        ({"points": [[1, 2]], "labels": [2]}, "labels.0: .*2 given"),
        ({"points": [[1, 2]], "labels": [True]}, "labels.0: .*True given"),
        ({"points": [[1, 2]], "labels": [1, 0]}, "2 labels given, one for each of 1 points"),
        ({"labels": [1], "box_xyxy": [1, 2, 3, 4]}, "1 labels given, one for each of 0 points"),
        ({"box_xyxy": [5, 2, 3, 4]}, "x0 < x1 and y0 < y1"),
        ({"box_xyxy": [1, 2, 3]}, r"box_xyxy: .*at least 4"),
        ({"mask": {"size": [2, 2]}}, "counts of a mask are None"),
        ({"mask": {"size": [2, 2], "counts": [3]}}, "fill 3 pixels, not 2x2"),
        (
            {"mask": {"size": [2, 2], "counts": [4]}, "points": [[1, 2]]},
            "a mask must be given alone",
        ),
        ({"points": [[1, 2]], "object": ""}, "object: .*at least 1"),
        ({"points": [[1, 2]], "camera": None}, "camera: .*None given"),
        ({"points": [[1, 2]], "object": "\ud800"}, "object: .*unicode"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, change: dict, text: str) -> None:
    path = write(tmp_path / "p.json", ENTRY | {"points": [[1, 2]]}, ENTRY | change)
    with pytest.raises(TakeError, match=rf"p\.json: prompts\[1\].*{text}"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{"version": 2, "prompts": []}', "version 2 given, 1 expected"),
        ('{"version": 1}', "prompts: Field required"),
        ('{"version": 1, "prompts": {}}', "prompts: .*list"),
        ('{"version": 1, "prompts": [3]}', "prompts.0: .*dictionary"),
        ('{"version": 1, "prompts": [], "take": "x"}', "unknown key 'take', one of version, rec"),
        ("[]", "a JSON object was expected"),
        ('{"version": 1,', "is not valid JSON"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(TakeError, match=rf"p\.json: .*{text}"):
        read_prompts(tmp_path / "p.json")
    with pytest.raises(TakeError, match=r"none\.json: cannot be read"):
        read_prompts(tmp_path / "none.json")


def test_what_cannot_be_read_again_is_not_written(tmp_path: Path) -> None:
    path, good = tmp_path / "p.json", PlacedPrompt("ego", Prompt("cup", ((1, 2),)), frame=3)
    write_prompts(path, Prompts("take", (good,)))
    before = path.read_bytes()
    for bad in (
        PlacedPrompt("ego", Prompt("cup"), frame=3),
        PlacedPrompt("ego", Prompt("cup", ((1, 2),))),
        PlacedPrompt("ego", Prompt("cup", ((float("nan"), 2),)), frame=3),
        PlacedPrompt("ego", Prompt("cup", labels=(1,), box=(1, 2, 3, 4)), frame=3),
    ):
        with pytest.raises(InputError, match=r"prompts\[1\]"):
            write_prompts(path, Prompts("take", (good, bad)))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
