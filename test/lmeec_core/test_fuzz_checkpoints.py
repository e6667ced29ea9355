"""Generated checkpoints: loaded whole, or refused by name, never executed."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

import lmeec_core as lm
from lmeec_core.checkpoint import load_weights, read_state_dict

pytestmark = pytest.mark.fuzz
Bounded = Callable[..., Any]


def saved(content: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


SMALL = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
PT = saved({"model": SMALL, "epoch": 3})
SAFE = save(SMALL, {"preset": "nano"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes that are cut, flipped, overwritten or spliced."""
    changed = bytearray(data)
    for kind in draw(st.lists(st.sampled_from(["flip", "cut", "put", "junk"]), max_size=3)):
        place = draw(st.integers(0, max(0, len(changed) - 1)))
        if kind == "flip" and changed:
            changed[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del changed[place:]
        elif kind == "put":
            changed[place : place + 8] = struct.pack("<q", draw(st.sampled_from([-1, 2**40, 0])))
        elif kind == "junk":
            changed[place:place] = draw(st.binary(max_size=8))
    return bytes(changed)


def read(path: Path, data: bytes, bounded: Bounded) -> dict[str, torch.Tensor] | None:
    """The weights, or None if the file was refused with its name and a reason."""
    path.write_bytes(data)
    with bounded():
        try:
            state = read_state_dict(path)
        except lm.CheckpointError as error:
            assert str(path) in str(error) and len(str(error)) < 2000
            return None
        assert all(isinstance(name, str) for name in state)
        for value in state.values():
            value.float().sum()  # every byte can be read
    return state


@given(damaged(PT))
def test_damaged_pt_files(bounded: Bounded, folder: Path, data: bytes) -> None:
    state = read(folder / "a.pt", data, bounded)
    if state is not None:  # what is accepted has whole tensors: checksums guard them
        assert {n: v.tolist() for n, v in state.items()} == {
            n: v.tolist() for n, v in SMALL.items()
        }


@given(damaged(SAFE))
def test_damaged_safetensors(bounded: Bounded, folder: Path, data: bytes) -> None:
    read(folder / "a.safetensors", data, bounded)


HEADERS = st.recursive(
    st.none() | st.integers(-1, 2**64) | st.sampled_from(["F32", "I64", "F8_E4M3", "X"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]), inner
        )
    ),
    max_leaves=6,
)


@given(HEADERS, st.none() | st.integers(0, 2**63), st.binary(max_size=30))
def test_safetensors_of_any_header(
    bounded: Bounded, folder: Path, header: Any, length: int | None, rest: bytes
) -> None:
    text = json.dumps(header).encode()
    size = len(text) if length is None else length
    read(folder / "b.safetensors", struct.pack("<Q", size) + text + rest, bounded)


CONTENTS = st.recursive(
    st.sampled_from(
        [
            torch.ones(2, 3),
            torch.ones(2, 3).to_sparse(),
            torch.ones(1).expand(10**9),
            torch.empty(3, device="meta"),
            torch.zeros(2, dtype=torch.complex64),
            torch.nn.Parameter(torch.ones(2)),
        ]
    )
    | st.none()
    | st.integers()
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["model", "a", "b.c", 3]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(CONTENTS)
def test_pt_files_of_other_contents(bounded: Bounded, folder: Path, content: Any) -> None:
    path = folder / "c.pt"
    path.write_bytes(saved(content))
    with bounded():
        try:
            state = read_state_dict(path)
        except lm.CheckpointError as error:
            assert str(path) in str(error)
            return
        assert state and all(v.layout is torch.strided and not v.is_meta for v in state.values())


@pytest.fixture(scope="module")
def mini() -> tuple[lm.LMEEC, dict[str, torch.Tensor]]:
    """A network, and a copy of its weights."""
    model = lm.load_model("mini", device="cpu", seed=3)
    return model, {name: value.clone() for name, value in model.state_dict().items()}


@given(
    changes=st.dictionaries(
        st.integers(0, 400),
        st.sampled_from(["remove", "rename", "flatten", "wider", "int", "half", "empty"]),
        max_size=3,
    )
)
def test_weights_that_do_not_fit(
    bounded: Bounded, mini: tuple[lm.LMEEC, dict[str, torch.Tensor]], changes: dict[int, str]
) -> None:
    model, before = mini
    own = model.state_dict()
    state, names = dict(own), list(own)
    misfits = set()
    for number, kind in changes.items():
        name = names[number % len(names)]
        value = state.pop(name, None)
        if value is None:
            continue
        if kind in ("int", "half"):
            state[name] = value.to(torch.int32 if kind == "int" else torch.float16)
        elif kind != "remove":
            others = {
                "rename": value,
                "flatten": value.reshape(1, -1),
                "wider": torch.zeros(*value.shape, 2),
                "empty": torch.zeros(0),
            }
            state[name + "x" * (kind == "rename")] = others[kind]
        if name not in state or state[name].shape != own[name].shape:
            misfits.add(name)
    with bounded():
        try:
            load_weights(model, state, "file.pt")
        except lm.CheckpointError as error:
            assert misfits and "file.pt" in str(error)
            assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
        else:
            assert not misfits
            model.load_state_dict(before)


def repacked(data: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """A .pt whose members went through a function, with sound checksums."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return file.getvalue()


def test_archive_bombs_are_refused_before_memory_is_taken(bounded: Bounded, folder: Path) -> None:
    path = folder / "bomb.pt"
    with (
        zipfile.ZipFile(io.BytesIO(PT)) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            with new.open(name, "w") as member:
                for _ in range(300 if name.endswith("data/0") else 0):
                    member.write(bytes(2**20))
                member.write(old.read(name))
    assert path.stat().st_size < 2**20
    with bounded(5.0, 20), pytest.raises(lm.CheckpointError, match="compressed, which torch.save"):
        read_state_dict(path)


def test_the_old_format_is_refused(bounded: Bounded, folder: Path) -> None:
    """It allocates what it claims: here 40 GB."""
    data = saved({"a": torch.arange(5.0)}, _use_new_zipfile_serialization=False)
    claim = data.replace(b"K\x05", b"\x8a\x05" + (10**10).to_bytes(5, "little"))
    for content in (data, claim):
        (folder / "old.pt").write_bytes(content)
        with bounded(2.0, 20), pytest.raises(lm.CheckpointError, match="not a zip archive"):
            read_state_dict(folder / "old.pt")


@given(st.binary(max_size=60))
def test_pickles_in_an_archive_are_not_executed(
    bounded: Bounded, folder: Path, opcodes: bytes
) -> None:
    marker = folder / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    evil = pickle.dumps(Evil(), protocol=2)
    for pickled in (opcodes + b".", evil[:-1] + opcodes + b"."):
        data = repacked(PT, lambda n, d, p=pickled: p if n.endswith("data.pkl") else d)
        path = folder / "evil.pt"
        path.write_bytes(data)
        with bounded():
            try:
                read_state_dict(path)
            except lm.CheckpointError as error:
                assert str(path) in str(error)
    assert not marker.exists()
