"""Names in JSON files, with whatever escapes they are written: kept as they are, or refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmeec_core.takes import (
    RelationsFile,
    Results,
    TakeError,
    encode_mask,
    open_takes,
)

EGO, EXO = "aria01", "cam01"
NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(
    ["küche", "a/b", "\\", '"', "{", "台所", "cup ", " cup", "cafe\u0301", "caf\xe9", "𝄞", "\x7f"]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4, unique=True), st.booleans(), st.booleans())
def test_names_survive_whatever_escapes_a_file_has(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], escaped: bool, slashes: bool
) -> None:
    path = tmp_path_factory.mktemp("names") / "truth.json"
    rle = encode_mask(np.ones((2, 2), bool))
    masks = {name: {EGO: {"0": rle}, EXO: {"0": rle}} for name in names}
    content = {
        "info": {"x": "take", "y": ["}"]},
        "annotations": {n: {"masks": masks} for n in names},
    }
    text = json.dumps(content, ensure_ascii=escaped)
    path.write_text(text.replace("/", "\\/") if slashes else text, encoding="utf-8")
    takes = open_takes(path)
    assert takes.names == tuple(names) and [take.objects for take in takes] == [takes.names] * len(
        names
    )
    results = Results("ego-exo")
    for name in names:
        for one in names:
            results.add(name, one, EGO, EXO, 0, rle, 1.0)
    results.write(path)
    read = Results.read(path)
    assert read.takes == takes.names and read.objects(names[0]) == takes.names


ANYTHING = st.recursive(
    st.none() | st.integers(-9, 9) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(NAMES, ANYTHING, max_size=2),
    st.dictionaries(NAMES, st.none() | NAMES | st.dictionaries(NAMES, ANYTHING), min_size=1),
    st.sampled_from([None, 1]),
)
def test_takes_are_found_where_a_json_reader_finds_them(
    tmp_path_factory: pytest.TempPathFactory,
    beside: dict[str, Any],
    takes: dict[str, Any],
    indent: int | None,
) -> None:
    path = tmp_path_factory.mktemp("found") / "truth.json"
    sound = {n: v | {"masks": {}} for n, v in takes.items() if isinstance(v, dict)}
    content = {**beside, "annotations": takes | sound, "z": {"y": {"x": []}}}
    path.write_text(json.dumps(content, indent=indent))
    found = RelationsFile(path)
    assert found.names == tuple(takes) and found.broken is None
    for name in takes:
        if name in sound:
            assert found.open(name).annotation == sound[name]
        else:
            with pytest.raises(TakeError, match="expected"):
                found.open(name)


def test_names_that_a_file_cannot_hold_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    for text in (
        r'{"annotations": {"\ud800": {"masks": {}}}}',
        r'{"annotations": {"a": {"masks": {"\ud800": {}}}}}',
    ):
        path.write_text(text)
        with pytest.raises(TakeError, match=r"truth\.json.*'.ud800' is not Unicode text"):
            open_takes(path).open("a")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '{"annotations": {"a": {"masks": {}}, "b": {"masks": {}}, "\\u0061": {}}}',
            "'a' occurs twice",
        ),
        ('{"annotations": {"a": {"masks": {"c": {"x": {}, "x": {}}}}}}', "'x' occurs twice"),
        ('{"annotations": {"a": {"masks": {}, "take_name": 3}}}', "'take_name' is 3"),
        ('{"annotations": {"a": {"object_masks": {"c": [1]}}}}', "object 'c'"),
        ('{"annotations": ["a", {"masks": {"c": {}}}]}', "expected"),
    ],
)
def test_names_that_occur_twice_and_other_shapes(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(TakeError, match=rf"truth\.json.*{told}"):
        open_takes(path).open("a")


def test_values_are_no_names(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    path.write_text('{"annotations": {"a": "x", "b": "x", "c": [{"d": 1}], "e": {"masks": {}}}}')
    takes = open_takes(path)
    assert takes.names == ("a", "b", "c", "e") and [take.name for take in takes] == ["e"]
    assert len(takes.broken) == 3


def test_packed_files_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    path.write_bytes(gzip.compress(b'{"ego-exo": {"results": {}}}'))
    for reading in (Results.read, open_takes):
        with pytest.raises(TakeError, match=r"masks\.json.*gunzip"):
            reading(path)
