"""Nothing is made, built or loaded inside a step: engines do it before, or leave it to eager."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lmeec_core as lm
from lmeec_core.engine import (
    EngineError,
    Runner,
    StageCall,
    auto,
    chosen_engines,
    engines_in_use,
    step_calls,
    use_engine,
)
from lmeec_core.engine.eager import EagerEngine
from lmeec_core.engine.graph_engine import GraphEngine, Program
from lmeec_core.engine.graphs import GraphStore
from lmeec_core.engine.records import describe_inputs, file_hash
from lmeec_core.model.stages import STAGES

OBJECTS = ("cup", "knife")
TARGETS = ("left", "right")


class Computed(Program):
    """What a graph computes, by eager torch."""

    def __init__(self, model: lm.LMEEC, call: StageCall) -> None:
        self.model, self.call, self.runs = model, call, 0
        with torch.inference_mode():
            outputs = model.compute(call.stage, call.options, call.example(model.device))
        self.shapes = [tuple(x.shape) for x in outputs]

    def __call__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self.runs += 1
        assert [tuple(x.shape) for x in inputs] == list(self.call.shapes)
        with torch.inference_mode():
            results = self.model.compute(self.call.stage, self.call.options, tuple(inputs))
            for output, result in zip(outputs, results, strict=True):
                output.copy_(result)


class Graphs(GraphEngine):
    """A graph engine without a library."""

    name = "onnxruntime"
    made: list[str] = []  # noqa: RUF012

    def load(self, call: StageCall, path: Path, make: bool = True) -> Program:
        Graphs.made.append(f"load {call.stage} {call.shapes[0][0]}")
        if path.read_bytes() != b"a graph":
            raise EngineError(f"{path} cannot be loaded")
        return Computed(self.model, call)


def export(model: lm.LMEEC, call: StageCall, path: Path, few: bool) -> dict:
    Graphs.made.append(f"export {call.stage} {call.shapes[0][0]}")
    path.write_bytes(b"a graph")
    return {"inputs": describe_inputs(call), "sha256": file_hash(path)}


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine onnxruntime is :class:`Graphs`; its folder is empty."""
    Graphs.made.clear()
    monkeypatch.setattr(auto, "_measured", {})
    monkeypatch.setenv("LMEEC_CACHE", str(tmp_path))
    monkeypatch.setattr("lmeec_core.engine.onnx_export.export_graph", export)
    made = {"eager": EagerEngine, "onnxruntime": Graphs}
    monkeypatch.setattr(
        "lmeec_core.engine.select.make_engine", lambda model, name: made[name](model)
    )
    monkeypatch.setattr(
        auto,
        "candidates",
        lambda model: {"eager": EagerEngine(model), "onnxruntime": Graphs(model)},
    )


@pytest.fixture
def model(small: lm.LMEEC) -> Iterator[lm.LMEEC]:
    yield small
    use_engine(small, "eager")


def run(model: lm.LMEEC, memory: lm.MemoryConfig, scene, steps: int = 17) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """Logits of a tracker whose objects come one after another, with gaps."""
    tracker = lm.CorrespondenceTracker(model, "ego", TARGETS, memory)
    logits = []
    for step in range(steps):
        images, masks = scene(step, ("ego", *TARGETS), OBJECTS[: 1 + step // 2])
        if step in (4, 5):
            images["left"] = None
        found = tracker.step(images, masks)
        logits += [c.logits for entries in found.values() for c in entries.values()]
    return logits


@pytest.mark.parametrize(
    "memory",
    [
        lm.MemoryConfig(),
        lm.MemoryConfig(fusion="add"),
        lm.MemoryConfig(capacity=3, fusion="none"),
        lm.MemoryConfig(query_bank=False, target_bank=False),
    ],
)
def test_no_step_makes_or_loads_anything(model: lm.LMEEC, memory: lm.MemoryConfig, scene) -> None:  # type: ignore[no-untyped-def]
    """From the first frame until the memory is full, for any number of objects and targets."""
    expected = run(model, memory, scene)
    use_engine(model, "onnxruntime", memory)
    assert sum(entry.startswith("export") for entry in Graphs.made) >= len(STAGES)
    Graphs.made.clear()
    found = run(model, memory, scene)
    assert Graphs.made == []
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
    runner = model.runner
    assert isinstance(runner, Runner)
    used = {call.stage for call in runner._functions}
    assert used == set(STAGES), "the engine computes the full memory, and all the rest"


def test_what_an_engine_is_not_prepared_for_is_eager_and_said_once(
    model: lm.LMEEC,
    scene,  # type: ignore[no-untyped-def]
    caplog: pytest.LogCaptureFixture,
) -> None:
    use_engine(model, "onnxruntime")  # for the default memory
    Graphs.made.clear()
    found = run(model, lm.MemoryConfig(fusion="add", capacity=2), scene, 4)
    assert Graphs.made == [] and found
    said = [r.message for r in caplog.records if "not prepared" in r.message]
    assert len(said) == 1 and "onnxruntime is not prepared for decoder (fusion=add)" in said[0]


def test_auto_takes_of_a_partial_export_what_is_there(
    model: lm.LMEEC,
    scene,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is made for `auto`, neither at the start nor later; a damaged graph is left out."""
    small = lm.MemoryConfig(capacity=4)
    store = GraphStore(model)
    for call in step_calls(model, memory=small):
        if call.stage != "image_encoder":
            path = store.get(call.for_graph(1))
            if call.stage == "target_tokens":
                path.write_bytes(b"damaged")
    Graphs.made.clear()
    quick = {"eager": 2.0, "onnxruntime": 1.0}
    monkeypatch.setattr(auto, "_compare", lambda *_: quick)
    use_engine(model, "auto")
    run(model, lm.MemoryConfig(), scene)
    assert isinstance(model.runner, Runner)
    # The memory attention of the default capacity is not among the graphs.
    assert set(model.runner.engines) == {"decoder", "memory_encoder"}
    assert not [entry for entry in Graphs.made if entry.startswith("export")]
    # The next start finds the measurement, and a graph damaged since.
    monkeypatch.setattr(auto, "measure", lambda *_: pytest.fail("it was measured already"))
    last = step_calls(model)[-1].for_graph(1)
    store.path(last).write_bytes(b"damaged")
    use_engine(model, "auto")
    assert isinstance(model.runner, Runner) and set(model.runner.engines) == {"decoder"}


def test_auto_measures_anew_what_was_exported_since(
    model: lm.LMEEC, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"eager": 2.0, "onnxruntime": 1.0}
    monkeypatch.setattr(auto, "_compare", lambda *_: quick)
    store, chosen = GraphStore(model), []
    for stages in ({"decoder"}, {"decoder", "target_tokens"}):
        for call in step_calls(model):
            if call.stage in stages:
                store.get(call.for_graph(1))
        use_engine(model, "auto")
        assert isinstance(model.runner, Runner)
        chosen.append(set(model.runner.engines))
    assert chosen == [{"decoder"}, {"decoder", "target_tokens"}]


def test_a_graph_that_cannot_be_loaded_stops_an_engine_that_was_asked_for(
    model: lm.LMEEC, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Graphs, "load", lambda *_: (_ for _ in ()).throw(EngineError("refused")))
    with pytest.raises(EngineError, match="refused"):
        use_engine(model, "onnxruntime")
    assert model.runner is None


def test_larger_batches_that_were_exported_are_used(model: lm.LMEEC) -> None:
    """As `lmeec export --objects 3 --targets 2` writes them."""
    engine = Graphs(model)
    calls = step_calls(model, 3, 2)
    decoder = next(call for call in calls if call.stage == "decoder")
    engine.store.get(decoder.for_graph(6))
    assert engine.is_ready() and not engine.offers(decoder)
    engine.prepare(calls, make=False)
    assert engine.offers(decoder)  # six at once
    assert not engine.offers(decoder.for_graph(5)) and not engine.offers(calls[0])
    engine.prepare(calls)
    assert all(engine.offers(call) for call in calls) and engine.offers(decoder.for_graph(7))
    programs = engine._programs[decoder.for_graph(1)]
    before = {size: program.runs for size, program in programs.items()}  # type: ignore[attr-defined]
    eight = decoder.for_graph(8)
    with torch.inference_mode():
        results = engine.build(eight)(*eight.example(model.device))
        wanted = model.compute("decoder", eight.options, eight.example(model.device))
    after = {size: program.runs for size, program in programs.items()}  # type: ignore[attr-defined]
    assert {size: after[size] - before[size] for size in programs} == {1: 2, 6: 1}
    for ours, expected in zip(results, wanted, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_choice_made_elsewhere_is_taken_stage_by_stage(model: lm.LMEEC) -> None:
    """Only what it needs is loaded, and the engines in use are told."""
    chosen = dict.fromkeys(STAGES, "eager") | {"decoder": "onnxruntime"}
    use_engine(model, chosen)  # type: ignore[arg-type]
    assert chosen_engines(model) == chosen
    assert Graphs.made == ["export decoder 1", "load decoder 1"]
    assert "onnxruntime: decoder" in engines_in_use(model)
    use_engine(model, "eager")
    assert engines_in_use(model) == "eager" and model.runner is None
