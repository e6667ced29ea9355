"""A tracker's memory as a file: an exact continuation, and files that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import lmeec_core as lm
from lmeec_core.config import Precision

CAMERAS = ("ego", "exo_left", "exo_right")
TARGETS = CAMERAS[1:]
OBJECTS = ("cup", "a/b")


def tracker(model: lm.LMEEC, **memory: object) -> lm.CorrespondenceTracker:
    return lm.CorrespondenceTracker(model, "ego", TARGETS, lm.MemoryConfig(**memory))  # type: ignore[arg-type]


def fill(one: lm.CorrespondenceTracker, scene: Callable) -> lm.CorrespondenceTracker:
    """Some frames, one object later than the other."""
    for step in range(5):
        one.step(*scene(step, CAMERAS, OBJECTS[: 1 + (step > 2)]))
    return one


@pytest.fixture(scope="module")
def written(small: lm.LMEEC, scene: Callable, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a filled tracker's memory."""
    path = tmp_path_factory.mktemp("memory") / "memory.safetensors"
    lm.save_memory(fill(tracker(small, capacity=3), scene), path, {"labels": {"cup": 3}})
    return path.read_bytes()


@pytest.fixture
def filled(
    small: lm.LMEEC, written: bytes, tmp_path: Path
) -> tuple[lm.CorrespondenceTracker, Path]:
    """A tracker with that memory, and its file."""
    path = tmp_path / "memory.safetensors"
    path.write_bytes(written)
    one = tracker(small, capacity=3)
    lm.load_memory(one, path)
    return one, path


def test_a_restarted_tracker_goes_on_exactly(
    small: lm.LMEEC, scene: Callable, tmp_path: Path
) -> None:
    one, path = fill(tracker(small, capacity=3), scene), tmp_path / "memory.safetensors"
    lm.save_memory(one, path, {"labels": {"cup": 3}})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    other = tracker(small, capacity=3)
    other.step(*scene(9, CAMERAS, ("something else",)))
    assert lm.load_memory(other, path) == {"labels": {"cup": 3}}
    assert other.objects == one.objects == OBJECTS
    for step in range(5, 9):
        images, masks = scene(step, CAMERAS, OBJECTS)
        a, b = one.step(images, masks), other.step(images, masks)
        for target in TARGETS:
            for name in OBJECTS:
                torch.testing.assert_close(
                    a[target][name].logits, b[target][name].logits, rtol=0, atol=1e-5
                )
                assert a[target][name].presence_logit == pytest.approx(
                    b[target][name].presence_logit, abs=1e-5
                )


def test_an_empty_memory_can_be_kept(small: lm.LMEEC, tmp_path: Path) -> None:
    lm.save_memory(tracker(small), tmp_path / "empty")
    other = tracker(small)
    lm.load_memory(other, tmp_path / "empty")
    assert other.objects == ()


def test_files_of_something_else_are_refused(
    filled: tuple, small: lm.LMEEC, golden_model: Callable, tmp_path: Path
) -> None:
    one, path = filled
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    (tmp_path / "text").write_text("no memory")
    (tmp_path / "short").write_bytes(path.read_bytes()[:-100])
    before = one.memory_state()
    wrong = {
        "absent": "no such file",
        "weights.safetensors": "not a memory file",
        "text": "unreadable or corrupt",
        "short": "unreadable or corrupt",
    }
    for name, text in wrong.items():
        with pytest.raises(lm.MemoryFileError, match=f"{name}: .*{text}"):
            lm.load_memory(one, tmp_path / name)
    other_weights = golden_model(small.config, 0.0, "other")
    cases = [
        (tracker(other_weights, capacity=3), "a different network or different weights"),
        (tracker(small, capacity=4), "different memory settings"),
        (lm.CorrespondenceTracker(small, "ego", ["exo"]), "different target cameras"),
        (lm.CorrespondenceTracker(small, "exo_left", ["ego"]), "a different query camera"),
    ]
    for other, text in cases:
        with pytest.raises(lm.MemoryFileError, match=text):
            lm.load_memory(other, path)
    memory = lm.MemoryConfig(capacity=3)
    one_object = lm.CorrespondenceTracker(small, "ego", TARGETS, memory, max_objects=1)
    with pytest.raises(lm.MemoryFileError, match="2 objects, at most 1 expected"):
        lm.load_memory(one_object, path)
    after = one.memory_state()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[o][k], before[o][k]) for o in after for k in after[o])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"0.frames": torch.zeros(2, 3, 4)}, r"\(2, 3, 4\) given, \(1 to 3, "),
        ({"7.frames": torch.zeros(1)}, "not a part of a memory"),
        ({"query.pointers": torch.zeros(1)}, "not a part of a memory"),
        ({"query.scores": torch.zeros(1)}, "without as many query"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(
    filled: tuple, change: dict[str, torch.Tensor], text: str
) -> None:
    one, _ = filled
    state = one.memory_state()
    state["cup"] = state["cup"] | change
    with pytest.raises(ValueError, match=text):
        one.restore(state)
    assert one.objects == OBJECTS and one.memory_bytes > 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (lambda x: x.int(), "int32 given"),
        (lambda x: x.to(torch.complex64), "complex64 given"),
        (lambda x: x.to_sparse(), "sparse_coo"),
        (lambda x: x.to("meta"), "meta tensor given"),
        (lambda x: x.numpy(), "ndarray given"),
        (lambda x: torch.tensor(1.0), "single number"),
        (lambda x: x.index_fill(0, torch.tensor(0), float("nan")), "not finite"),
        (lambda x: x.index_fill(0, torch.tensor(0), float("inf")), "not finite"),
    ],
)
@pytest.mark.parametrize("part", ["query.frames", "1.scores", "0.pointers"])
def test_a_state_of_no_numbers_is_refused(
    filled: tuple, part: str, value: Callable, text: str
) -> None:
    one, _ = filled
    before, state = one.memory_state(), one.memory_state()
    last = OBJECTS[-1]  # what comes before it has been taken in already
    state[last][part] = value(state[last][part])
    with pytest.raises(lm.InputError, match=f"object '{last}': {part}: .*{text}"):
        one.restore(state)
    after = one.memory_state()
    assert all(torch.equal(after[o][k], before[o][k]) for o in before for k in before[o])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_state_in_another_precision_is_converted(
    filled: tuple, scene: Callable, dtype: torch.dtype
) -> None:
    one, _ = filled
    one.restore({o: {k: v.to(dtype) for k, v in p.items()} for o, p in one.memory_state().items()})
    state = one.memory_state()
    assert {v.dtype for parts in state.values() for v in parts.values()} == {torch.float32}
    one.step(*scene(6, CAMERAS, OBJECTS))


@pytest.mark.parametrize(("first", "second"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_a_memory_goes_on_in_the_other_precision(
    first: Precision, second: Precision, scene: Callable, tmp_path: Path
) -> None:
    models = {p: lm.load_model("mini", seed=0, device="cpu", precision=p) for p in (first, second)}
    one, other = tracker(models[first], capacity=3), tracker(models[second], capacity=3)
    for step in range(3):
        one.step(*scene(step, CAMERAS, OBJECTS))
    lm.save_memory(one, tmp_path / "memory")
    lm.load_memory(other, tmp_path / "memory")
    a, b = (t.step(*scene(3, CAMERAS, OBJECTS))["exo_left"]["cup"] for t in (one, other))
    scale = a.logits.abs().max()
    assert 0 < (a.logits - b.logits).abs().max() < 0.1 * scale or a.presence_logit < 0
    kinds = {v.dtype for parts in other.memory_state().values() for v in parts.values()}
    assert (torch.bfloat16 in kinds) == (second == "bf16")


@pytest.mark.parametrize(
    "change", [{"objects": ["cup", "cup"]}, {"objects": [1, 2]}, {"objects": [""]}, {"extra": None}]
)
def test_facts_that_make_no_sense_are_refused(filled: tuple, change: dict, tmp_path: Path) -> None:
    one, path = filled
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["lmeec_memory"]) | change
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "changed", {"lmeec_memory": json.dumps(facts)})
    with pytest.raises(lm.MemoryFileError, match="changed: corrupt"):
        lm.load_memory(one, tmp_path / "changed")
