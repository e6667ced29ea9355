"""Exported graphs, and the engines that run them: onnxruntime and openvino."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.bench.filled import filled_tracker
from lmeec_core.cli.app import app
from lmeec_core.engine import (
    EngineError,
    Runner,
    make_engine,
    step_calls,
    use_engine,
)
from lmeec_core.engine import onnx_export as exporter
from lmeec_core.engine.calls import StageCall
from lmeec_core.engine.compare import difference
from lmeec_core.engine.graph_engine import split_batch
from lmeec_core.engine.graphs import GraphStore
from lmeec_core.engine.onnx_export import SMALL, TOLERANCE
from lmeec_core.engine.records import graph_name
from lmeec_core.engine.tensorrt import make_engine_file, rounding
from lmeec_core.engine.tensorrt_library import load_tensorrt
from lmeec_core.model.stages import STAGES
from lmeec_core.takes import Take

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

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


def check_graph(graph: object) -> None:
    """What the graphs promise to every back end, read off the node list."""
    nodes = graph.graph.node
    assert len(nodes) > 5
    assert next(o.version for o in graph.opset_import if not o.domain) >= 18
    assert not {n.op_type for n in nodes} & {"If", "Loop", "Scan"}
    assert {n.domain for n in nodes} == {""}
    for node in nodes:
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Resize":
            assert values["mode"] != b"cubic" and not values.get("antialias")
    kinds = {t.data_type for t in graph.graph.initializer} | {
        v.type.tensor_type.elem_type for v in graph.graph.value_info
    }
    assert not kinds & {onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}
    for value in (*graph.graph.input, *graph.graph.output):
        assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim)


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


def build_engines(model: lm.LMEEC, calls: list[StageCall]) -> dict[str, int]:
    """TensorRT layers of each graph: an engine of it is built for real, without a GPU.

    A graph that TensorRT does not take fails with TensorRT's own message.
    """
    pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'lmeec[tensorrt]'")
    library, layers = load_tensorrt(), {}
    store = GraphStore(model, few_operations=True)
    for call in dict.fromkeys(call.for_graph(1) for call in calls):
        graph = store.get(call)
        record = make_engine_file(library, graph, rounding(model))
        assert record is not None and record["bytes"] > 100_000
        layers[graph_name(call)] = record["layers"]
    return layers


@pytest.mark.timeout(900)
def test_tensorrt_takes_every_graph_of_mini(network: lm.LMEEC, cache: Path) -> None:
    layers = build_engines(network, step_calls(network))
    assert len(layers) == 7 and {name.split("_b1")[0] for name in layers} == set(STAGES)
    # All windows of a block at once; one by one they are 1,130.
    assert layers["image_encoder_b1"] < 700
    few, many = (GraphStore(network, few_operations=few) for few in (True, False))
    call = step_calls(network)[0].for_graph(1)
    assert few.path(call) != many.path(call) and few.batches(call) == [1]


@pytest.mark.timeout(900)
def test_tensorrt_takes_every_stage_of_nano(nano: lm.LMEEC, cache: Path) -> None:
    """One graph of each; those of other shapes are among the slow tests."""
    layers = build_engines(nano, list({call.stage: call for call in step_calls(nano)}.values()))
    assert {name.split("_b1")[0] for name in layers} == set(STAGES)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("preset", ["nano", "base_plus"])
def test_tensorrt_takes_every_graph_of(preset: str, tmp_path: Path) -> None:
    seed = None if preset == "nano" else 0
    model = lm.load_model(preset, seed=seed, device="cpu")
    library, store = load_tensorrt(), GraphStore(model, tmp_path, few_operations=True)
    calls = list(dict.fromkeys(call.for_graph(1) for call in step_calls(model)))
    records = [make_engine_file(library, store.get(call), "fp32") for call in calls]
    assert len(records) == 7 and all(record is not None for record in records)


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
    """IoU of all masks of the sample take together, each camera an object's target once."""
    take = Take.open(DATA / "sample_take")
    frames = take.common_frames(*take.cameras)[:24]
    masks = []
    for name, precision in (("eager", "fp32"), (engine, "bf16")):
        model = lm.load_model("nano", device="cpu", precision=precision)
        use_engine(model, name)
        tracker = lm.CorrespondenceTracker(model, take.ego, take.exos)
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
    assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() >= 0.99


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


def test_command_explains_itself(tmp_path: Path) -> None:
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    shown = runner.invoke(app, ["export", "--help"])
    assert shown.exit_code == 0 and "--frames-of-memory" in shown.output
    wrong = runner.invoke(app, ["export", "--preset", "mini", "--out", str(tmp_path)])
    assert wrong.exit_code == 1 and "seed" in wrong.output
    assert not list(tmp_path.iterdir())


def test_other_weights_have_other_graphs(tmp_path: Path) -> None:
    a, b, again = (lm.load_model("mini", seed=seed, device="cpu") for seed in (0, 1, 0))
    stores = [GraphStore(model, tmp_path) for model in (a, b, again)]
    assert stores[0].folder == stores[2].folder != stores[1].folder
    assert stores[0].folder.name.startswith("mini-")


def test_the_parts_of_a_batch() -> None:
    assert split_batch(13, [1, 4, 8, 4]) == [8, 4, 1]
    assert split_batch(3, [1]) == [1, 1, 1]
    assert split_batch(3, [2]) == split_batch(3, []) == []


def test_unwanted_operators_are_found() -> None:
    from lmeec_core.engine.onnx_export import unwanted

    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    sizes = helper.make_tensor("sizes", onnx.TensorProto.INT64, [4], [1, 1, 4, 4])
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="cubic")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", 1, 2, 2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.COMPLEX64, [1, 1, 4, 4])],
        [sizes],
    )
    assert unwanted(helper.make_model(graph)) == [
        "a cubic or antialiased Resize",
        "complex numbers",
        "inputs or outputs without fixed shapes",
    ]


def test_a_missing_runtime_is_named(monkeypatch: pytest.MonkeyPatch, network: lm.LMEEC) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in RUNTIMES:
        with pytest.raises(EngineError, match=f"engine {name}: not installed; `pip install"):
            make_engine(network, name)
