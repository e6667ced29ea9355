"""Exported graphs, and the engines that run them: onnxruntime and openvino."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lmeec_core as lm
from graph_checks import check_graph, check_halves
from lmeec_core.bench import graph_sizes
from lmeec_core.bench.filled import filled_tracker
from lmeec_core.config import Precision
from lmeec_core.engine import (
    EngineError,
    Runner,
    make_engine,
    step_calls,
    use_engine,
)
from lmeec_core.engine import onnx_export as exporter
from lmeec_core.engine.calls import StageCall
from lmeec_core.engine.compare import difference, mean_difference
from lmeec_core.engine.graph_engine import Program
from lmeec_core.engine.graphs import GraphStore
from lmeec_core.engine.onnx_export import HALF_TOLERANCES, SMALL, TOLERANCE
from lmeec_core.engine.onnxruntime import OnnxRuntimeEngine
from lmeec_core.engine.records import graph_name
from lmeec_core.engine.tensorrt import make_engine_file
from lmeec_core.engine.tensorrt_library import load_tensorrt
from lmeec_core.model.stages import STAGES
from lmeec_core.takes import Take

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
half_graph = pytest.importorskip("lmeec_core.engine.half_graph")

DATA = Path(__file__).parents[1] / "data"
RUNTIMES = ["onnxruntime", "openvino"]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all graphs that these tests make: each is made once."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def cache(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The engines look for their graphs in :func:`graphs`."""
    monkeypatch.setenv("LMEEC_CACHE", str(graphs))
    return graphs


@pytest.fixture(scope="module")
def network(golden_model: Callable[..., lm.LMEEC]) -> lm.LMEEC:
    return golden_model("mini", 1.5)


@pytest.fixture(scope="module")
def nano() -> lm.LMEEC:
    return lm.load_model("nano", device="cpu")


def parity(model: lm.LMEEC, stages: set[str], objects: int, targets: int) -> None:
    """Stages of a step in the steady state, in both runtimes, against eager torch."""
    engines = [make_engine(model, name) for name in RUNTIMES]
    compared = set()
    calls = [c for c in step_calls(model, objects, targets) if c.stage in stages]
    for engine in engines:
        engine.prepare(calls)
    with torch.inference_mode():
        for call in calls:
            inputs = call.example(model.device)
            wanted = model.compute(call.stage, call.options, inputs)
            for engine in engines:
                assert engine.offers(call)
                results = engine.build(call)(*inputs)
                for ours, reference in zip(results, wanted, strict=True):
                    value = difference(ours, reference, SMALL)
                    assert value < TOLERANCE, (engine.name, graph_name(call), value)
            compared.add(call.stage)
            graph = onnx.load(str(engines[0].store.path(call.for_graph(1))))
            check_graph(graph)
    assert compared == stages


def test_mini_in_both_runtimes_is_eager(network: lm.LMEEC, cache: Path) -> None:
    """Every stage, two objects in two targets: a batch of four in parts of one."""
    parity(network, set(STAGES), 2, 2)


def test_nano_decoder_in_both_runtimes_is_eager(nano: lm.LMEEC, cache: Path) -> None:
    """With the prompts of matching; the other stages of nano are among the slow tests."""
    parity(nano, {"decoder"}, 1, 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nano_in_both_runtimes_is_eager(nano: lm.LMEEC, cache: Path) -> None:
    parity(nano, set(STAGES), 2, 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_base_plus_in_both_runtimes_is_eager(cache: Path) -> None:
    parity(lm.load_model("base_plus", seed=0, device="cpu"), set(STAGES), 1, 1)


def build_engines(model: lm.LMEEC, calls: list[StageCall], again: bool = False) -> dict[str, int]:
    """TensorRT layers of each graph: an engine of it is built for real, without a GPU.

    A graph that TensorRT does not take fails with TensorRT's own message.
    """
    pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'lmeec[tensorrt]'")
    library, layers = load_tensorrt(), {}
    store = GraphStore(model, for_gpus=True)
    for engine in store.files("*.engine") if again else []:
        engine.unlink()
    for call in dict.fromkeys(call.for_graph(1) for call in calls):
        graph = store.get(call)
        record = make_engine_file(library, graph, model.precision)
        assert record is not None and record["bytes"] > 100_000
        layers[graph_name(call)] = record["layers"]
    return layers


@pytest.mark.timeout(900)
def test_tensorrt_takes_every_graph_of_mini(network: lm.LMEEC, cache: Path) -> None:
    layers = build_engines(network, step_calls(network))
    assert len(layers) == 7 and {name.split("_b1")[0] for name in layers} == set(STAGES)
    # All windows of a block at once; one by one they are 1,130.
    assert layers["image_encoder_b1"] < 700
    few, many = (GraphStore(network, for_gpus=gpu) for gpu in (True, False))
    call = step_calls(network)[0].for_graph(1)
    assert few.path(call) != many.path(call) and few.batches(call) == [1]
    found = graph_sizes.sizes(network, cache, load_tensorrt())
    assert {name: after.layers for name, (_, after) in found.items()} == layers
    before, after = found.pop("image_encoder_b1")
    assert before.layers > 1.5 * after.layers and before.reshapes > after.reshapes > 0
    assert all(one == other for one, other in found.values())


@pytest.mark.timeout(900)
def test_tensorrt_takes_every_stage_of_nano(nano: lm.LMEEC, cache: Path) -> None:
    """One graph of each; those of other shapes are among the slow tests."""
    layers = build_engines(nano, list({call.stage: call for call in step_calls(nano)}.values()))
    assert {name.split("_b1")[0] for name in layers} == set(STAGES)


def in_precision(model: lm.LMEEC, precision: Precision) -> lm.LMEEC:
    """The same weights, for graphs whose products are in another type."""
    other = copy.copy(model)
    other.precision = precision
    return other


@pytest.mark.timeout(900)
def test_tensorrt_takes_every_graph_of_nano_in_bf16(nano: lm.LMEEC, cache: Path) -> None:
    """Graphs are checked when they are made; their records tell how far they are from float32."""
    half = in_precision(nano, "bf16")
    assert len(build_engines(half, step_calls(half))) == 7
    check_halves(half, step_calls(half))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("preset", ["nano", "base_plus"])
def test_tensorrt_takes_every_graph_of(preset: str, precision: Precision, cache: Path) -> None:
    seed = None if preset == "nano" else 0
    model = in_precision(lm.load_model(preset, seed=seed, device="cpu"), precision)
    assert len(build_engines(model, step_calls(model), again=True)) == 7
    if precision != "fp32":
        check_halves(model, step_calls(model))


class Emulated(OnnxRuntimeEngine):
    """Runs the graphs that TensorRT takes, with their rounding emulated in float32."""

    for_gpus = True

    def load(self, call: StageCall, path: Path, make: bool = True) -> Program:
        own = path.with_suffix(".emulated.onnx")
        onnx.save(half_graph.emulated(onnx.load(str(path))), str(own))
        return super().load(call, own, make)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_graphs_of_nano_find_the_masks_of_float32(
    nano: lm.LMEEC, precision: Precision, cache: Path
) -> None:
    """IoU of all masks of the sample take together, each camera an object's target once."""
    assert iou_with_fp32(runner_of_half_graphs(nano, precision)) >= 0.99


@pytest.mark.slow
def test_half_graphs_compute_steps(network: lm.LMEEC, cache: Path) -> None:
    """The steps of a full memory; the same graphs in float32 are exactly eager torch's."""
    results = []
    for precision in ("fp32", "bf16"):
        runner = runner_of_half_graphs(network, precision)
        state = filled_tracker(network, 2, 1, runner=runner)
        results.append(state.tracker.step(state.images, state.masks)["target_0"])
        assert set(runner.used.values()) == {"onnxruntime"}
    eager = filled_tracker(network, 2, 1)
    for name, wanted in eager.tracker.step(eager.images, eager.masks)["target_0"].items():
        exact, half = (mean_difference(r[name].logits, wanted.logits) for r in results)
        assert exact < TOLERANCE < half < 0.05


def runner_of_half_graphs(model: lm.LMEEC, precision: Precision) -> Runner:
    engine = Emulated(in_precision(model, precision))
    engine.prepare(step_calls(model))
    return Runner(model, dict.fromkeys(STAGES, engine))


@pytest.mark.parametrize("engine", RUNTIMES)
def test_golden_take(engine: str, golden_model: Callable[..., lm.LMEEC], cache: Path) -> None:
    """The released implementation's outputs; the filling memory is left to eager torch."""
    with np.load(DATA / "golden" / "mini_present.npz") as file:
        golden = dict(file)
    model = golden_model("mini", 1.5)
    use_engine(model, engine)
    frames = len(golden["ego"])
    tracker = lm.CorrespondenceTracker(model, "ego", ["exo"], num_frames=frames)
    found = [
        tracker.step(
            {"ego": golden["ego"][t], "exo": golden["exo"][t]}, {"cup": golden["mask"][t]}
        )["exo"]["cup"]
        for t in range(frames)
    ]
    assert difference([c.logits.numpy() for c in found], golden["low_res"], SMALL) < TOLERANCE
    assert difference([c.pointer.numpy() for c in found], golden["ptr"], SMALL) < TOLERANCE
    assert difference([[c.presence_logit] for c in found], golden["score"], SMALL) < TOLERANCE
    assert isinstance(model.runner, Runner)
    assert {c.stage for c in model.runner._functions} == set(STAGES)  # no stage was all eager


@pytest.mark.parametrize("engine", RUNTIMES)
def test_steps_with_a_full_memory(
    engine: str, golden_model: Callable[..., lm.LMEEC], cache: Path
) -> None:
    """Three steps in a row from the same memory as eager torch."""
    results = []
    for name in ("eager", engine):
        model = golden_model("mini", 1.5)
        use_engine(model, name)
        state = filled_tracker(model, 2, 1)
        results.append([state.tracker.step(state.images, state.masks) for _ in range(3)])
    for eager, ours in zip(*results, strict=True):
        for name, wanted in eager["target_0"].items():
            assert difference(ours["target_0"][name].logits, wanted.logits, SMALL) < TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("engine", RUNTIMES)
def test_nano_with_bf16_finds_the_masks_of_fp32(engine: str, cache: Path) -> None:
    model = lm.load_model("nano", device="cpu", precision="bf16")
    use_engine(model, engine)
    assert iou_with_fp32(model.runner) >= 0.99


def iou_with_fp32(runner: Runner | None) -> float:
    """IoU of all masks of the sample take together, each camera an object's target once."""
    take = Take.open(DATA / "sample_take")
    frames = take.common_frames(*take.cameras)[:24]
    masks = []
    for other in (None, runner):
        model = lm.load_model("nano", device="cpu") if other is None else other.model
        tracker = lm.CorrespondenceTracker(model, take.ego, take.exos, runner=other)
        objects = [o for o in take.objects if take.ego in take.mask_cameras(o)][:3]
        found = []
        for frame in frames:
            step = tracker.step(
                {camera: take.image(camera, frame) for camera in take.cameras},
                {o: take.mask(o, take.ego, frame) for o in objects},
            )
            found += [c.mask() for view in step.values() for c in view.values()]
        masks.append(np.stack(found))
    assert masks[0].sum() > 10_000
    return (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()


def test_graphs_are_written_once_and_mended(network: lm.LMEEC, cache: Path) -> None:
    store = GraphStore(network)
    calls = step_calls(network, 2, 1)
    call = next(c for c in calls if c.stage == "target_tokens").for_graph(1)
    path = store.get(call)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["preset"] == "mini" and record["network"] == store.network
    assert record["inputs"] == [
        {"name": "input_0", "tensor": "top", "shape": [1, 256, 8, 8], "dtype": "float32"}
    ]
    assert record["outputs"] == [{"name": "tokens", "shape": [1, 64, 256], "dtype": "float32"}]
    assert record["difference"] < 1e-5 and record["bytes"] == path.stat().st_size
    before = path.stat().st_mtime_ns
    assert store.get(call).stat().st_mtime_ns == before  # it is taken as it is
    path.write_bytes(path.read_bytes()[:-100])
    assert not store.is_valid(call)
    assert store.get(call).stat().st_mtime_ns != before and store.is_valid(call)
    assert not list(store.folder.glob(".*"))
    assert store.batches(call) == [1]


def test_the_exporter_refuses_a_graph_whose_output_is_no_number(
    network: lm.LMEEC, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the last of four, which `max` passes over. The graph is the one that is there."""
    import onnxruntime

    run: Callable = onnxruntime.InferenceSession.run

    def broken(self: object, *args: object) -> list[np.ndarray]:
        results = run(self, *args)
        results[-1].flat[0] = np.nan
        return results

    call = next(c for c in step_calls(network) if c.stage == "decoder").for_graph(1)
    made = SimpleNamespace(save=partial(shutil.copy, GraphStore(network).get(call)))
    monkeypatch.setattr(exporter, "_trace", lambda *_: made)
    exporter.export_graph(network, call, tmp_path / "decoder.onnx")
    (tmp_path / "decoder.onnx").unlink()
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", broken)
    with pytest.raises(EngineError, match="differs from eager torch by inf"):
        exporter.export_graph(network, call, tmp_path / "decoder.onnx")
    assert not list(tmp_path.iterdir())


def test_a_half_type_that_is_too_coarse_is_refused(
    network: lm.LMEEC, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HALF_TOLERANCES, "fp16", 1e-6)
    store = GraphStore(in_precision(network, "fp16"), for_gpus=True)
    call = next(c for c in step_calls(network) if c.stage == "target_tokens").for_graph(1)
    with pytest.raises(EngineError, match="fp16_target_tokens_b1.onnx: differs from float32 by"):
        store.get(call)
    assert not store.path(call).exists()
