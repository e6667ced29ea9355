"""TensorRT: building, records, messages; with TensorRT for RTX, which needs no GPU for these.

Engines of every graph are built in test_graph_engines.py, where the graphs are made. Loading and
running an engine needs a GPU: the test at the end, which has not run anywhere yet.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from onnx import helper
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.cli.app import app
from lmeec_core.engine import EngineError, make_engine, step_calls
from lmeec_core.engine.tensorrt import (
    build_engine,
    engine_path,
    keep_engine,
    make_engine_file,
    mismatch,
    stored_engine,
    validity,
)
from lmeec_core.engine.tensorrt_library import Library, RtxLibrary, load_tensorrt
from lmeec_core.errors import InputError

FACTS = {"device": "NVIDIA H100", "compute_capability": "9.0"}
RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture(scope="module")
def rtx() -> RtxLibrary:
    pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'lmeec[tensorrt]'")
    library = load_tensorrt()
    if not isinstance(library, RtxLibrary):
        pytest.skip("full TensorRT is installed, which builds on a GPU only")
    return library


def write_graph(path: Path, *operators: str) -> Path:
    """An ONNX file: (1, 4) through some operators; no operator is a copy."""
    names = ["input_0", *(f"x{i}" for i in range(len(operators) - 1)), "output"]
    nodes = [
        helper.make_node(kind, [names[i]], [names[i + 1]], name=f"node_{kind}")
        for i, kind in enumerate(operators)
    ]
    ends = [helper.make_tensor_value_info(n, 1, [1, 4]) for n in ("input_0", "output")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "decoder_b1_mv_moe.onnx"
    path.write_bytes(b"a graph")
    path.with_suffix(".json").write_text(json.dumps({"inputs": [{"shape": [1, 900, 256]}]}))
    return path


def test_an_engine_is_kept_with_its_record(graph: Path) -> None:
    wanted = validity(graph, "10.9.0", FACTS, "fp32")
    assert stored_engine(graph, wanted) is None
    keep_engine(graph, b"an engine", wanted)
    path = stored_engine(graph, wanted)
    assert path == engine_path(graph) and path.read_bytes() == b"an engine"
    record = json.loads(engine_path(graph).with_suffix(".engine.json").read_text())
    assert {"tensorrt", "device", "compute_capability", "onnx_sha256", "inputs", "precision"} < set(
        record
    )
    assert not list(graph.parent.glob(".*"))


@pytest.mark.parametrize(
    ("version", "facts", "precision", "word"),
    [
        ("11.0.0", FACTS, "fp32", "tensorrt"),
        ("10.9.0", FACTS | {"compute_capability": "8.9"}, "fp32", "compute_capability"),
        ("10.9.0", FACTS | {"device": "NVIDIA L4"}, "fp32", "device"),
        ("10.9.0", FACTS, "bf16", "precision"),
    ],
)
def test_an_engine_of_elsewhere_is_not_used(
    graph: Path,
    caplog: pytest.LogCaptureFixture,
    version: str,
    facts: dict[str, str],
    precision: str,
    word: str,
) -> None:
    """It is built again, and the log says why."""
    keep_engine(graph, b"an engine", validity(graph, "10.9.0", FACTS, "fp32"))
    with caplog.at_level(logging.WARNING):
        assert stored_engine(graph, validity(graph, version, facts, precision)) is None
    assert "built again" in caplog.text and f"its {word} is" in caplog.text


def test_an_engine_of_another_graph_or_a_damaged_one_is_not_used(graph: Path) -> None:
    wanted = validity(graph, "10.9.0", FACTS, "fp32")
    keep_engine(graph, b"an engine", wanted)
    engine_path(graph).write_bytes(b"an eng")
    assert stored_engine(graph, wanted) is None
    keep_engine(graph, b"an engine", wanted)
    graph.write_bytes(b"another graph")
    changed = validity(graph, "10.9.0", FACTS, "fp32")
    assert stored_engine(graph, changed) is None
    reason = mismatch(wanted, changed)
    assert reason is not None and reason.startswith("its onnx_sha256")
    engine_path(graph).with_suffix(".engine.json").write_text("{")
    assert stored_engine(graph, wanted) is None


def test_an_engine_that_this_machine_refuses_is_not_read(
    graph: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The library is asked about the file's beginning, and its reason is in the log."""
    wanted = validity(graph, "10.9.0", FACTS, "fp32")
    keep_engine(graph, b"an engine", wanted)
    asked = []

    def refusal(path: Path) -> str:
        asked.append(path)
        return "unsupported cc"

    assert stored_engine(graph, wanted, refusal) is None and asked == [engine_path(graph)]
    assert "built again: unsupported cc" in caplog.text


def test_engines_are_built_ahead_of_time_and_once(rtx: RtxLibrary, tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "small_b1.onnx", "Relu", "Exp")
    record = make_engine_file(rtx, graph, "fp32", ["sm86", "sm120"])
    assert record is not None and record["layers"] == 2 and record["targets"] == ["sm86", "sm120"]
    assert record["tensorrt"] == rtx.name and rtx.name.startswith("TensorRT for RTX 1.")
    assert record["bytes"] == engine_path(graph).stat().st_size > 0
    assert make_engine_file(rtx, graph, "fp32", ["sm86", "sm120"]) is None
    assert make_engine_file(rtx, graph, "fp32", ["sm86"]) is not None  # for others
    assert make_engine_file(rtx, graph, "bf16", ["sm86"]) is not None
    write_graph(graph, "Relu", "Abs")
    assert make_engine_file(rtx, graph, "bf16", ["sm86"]) is not None  # of another graph
    # A machine that loads it takes it whatever its targets are: its header tells whether it fits.
    assert stored_engine(graph, validity(graph, rtx.name, rtx.facts(None), "bf16")) is not None
    assert not list(tmp_path.glob("timing.cache"))


def test_the_targets_reach_tensorrt(rtx: RtxLibrary, tmp_path: Path) -> None:
    """Other targets, another header; the same ones, the same."""
    graph = write_graph(tmp_path / "small_b1.onnx", "Softmax")
    ampere, both = ["sm86"], ["sm86", "sm120"]
    first, again, other = (
        build_engine(rtx, graph, kinds)[0][:64] for kinds in (ampere, ampere, both)
    )
    assert first == again != other


def test_a_graph_that_tensorrt_does_not_take_fails_in_its_words(
    rtx: RtxLibrary, tmp_path: Path
) -> None:
    graph = write_graph(tmp_path / "odd_b1.onnx", "Relu", "Frobnicate")
    with pytest.raises(EngineError) as caught:
        make_engine_file(rtx, graph, "fp32")
    told = str(caught.value)
    assert rtx.name in told and "odd_b1.onnx" in told and "node_Frobnicate" in told
    assert "plugin" in told.lower() or "unsupported" in told.lower()  # TensorRT's own message
    assert not engine_path(graph).exists()
    graph.write_bytes(b"no graph at all")
    with pytest.raises(EngineError, match="does not take odd_b1.onnx: .*[a-z]"):
        make_engine_file(rtx, graph, "fp32")


def test_the_header_of_an_engine_is_judged_before_the_rest(rtx: RtxLibrary, tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(b"no engine" * 100)
    runtime = rtx.module.Runtime(rtx.log)
    reason = rtx.refusal(runtime, path)
    assert reason is not None and "malformed engine" in reason


@pytest.mark.parametrize("given", [["sm90"], ["sm86", "ampere"], ["SMALL"]])
def test_unknown_targets_are_named(rtx: RtxLibrary, given: list[str]) -> None:
    with pytest.raises(InputError, match=f"--for: {given[-1]} given.*sm75, .*sm120"):
        rtx.targets(given)
    assert rtx.targets(["SM120", "sm86", "sm86"]) == ["sm86", "sm120"]


def test_the_command_judges_targets_before_any_work(rtx: RtxLibrary, tmp_path: Path) -> None:
    for options, word in (
        (["--tensorrt", "--for", "sm1"], "sm1 given"),
        (["--for", "sm86"], "without --tensorrt"),
    ):
        result = RUNNER.invoke(app, ["export", *options, "--out", str(tmp_path)])
        assert result.exit_code == 1 and word in result.output
    assert not list(tmp_path.iterdir())


def test_full_tensorrt_builds_for_the_gpu_at_hand(rtx: RtxLibrary) -> None:
    """Without one, and with targets, it says so."""
    module = SimpleNamespace(
        __version__="10.9", Logger=rtx.module.Logger, ILogger=rtx.module.ILogger
    )
    library = Library(module)
    assert library.name == "TensorRT 10.9" and library.targets([]) == []
    with pytest.raises(InputError, match="--for: sm86 given, but TensorRT 10.9 builds for this"):
        library.targets(["sm86"])
    with pytest.raises(EngineError, match="only on the GPU that they are for.*TensorRT for RTX"):
        library.facts(None)


def test_its_absence_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_libs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineError, match=r"TensorRT cannot be imported.*lmeec\[tensorrt\]"):
        make_engine(lm.load_model("mini", seed=0, device="cpu"), "tensorrt")
    result = RUNNER.invoke(app, ["export", "--tensorrt", "--out", str(tmp_path)])
    assert result.exit_code == 1 and "TensorRT cannot be imported" in result.output
    assert not list(tmp_path.iterdir())


def test_a_package_that_only_has_the_name_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("__version__ = '0'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    for name in ("tensorrt_rtx", "tensorrt_rtx_libs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineError, match="lacks Builder, OnnxParser, Runtime"):
        load_tensorrt()
    monkeypatch.delitem(sys.modules, "tensorrt")


def test_the_library_has_all_that_is_used(rtx: RtxLibrary) -> None:
    """Also what is only called where a GPU is."""
    for name in (
        "Runtime.deserialize_cuda_engine", "Runtime.engine_header_size",
        "ICudaEngine.create_execution_context", "ICudaEngine.create_runtime_config",
        "IRuntimeConfig.create_runtime_cache", "IRuntimeConfig.set_runtime_cache",
        "IRuntimeConfig.cuda_graph_strategy", "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
        "IRuntimeCache.serialize", "IRuntimeCache.deserialize", "EngineValidity.SUBOPTIMAL",
        "ICudaEngine.num_io_tensors", "ICudaEngine.get_tensor_name",
        "ICudaEngine.get_tensor_mode", "ICudaEngine.get_tensor_dtype",
        "ICudaEngine.get_tensor_shape", "IExecutionContext.set_input_shape",
        "IExecutionContext.set_tensor_address", "IExecutionContext.execute_async_v3",
        "TensorIOMode.INPUT", "DataType.FLOAT",
    ):  # fmt: skip
        owner, _, member = name.partition(".")
        assert hasattr(getattr(rtx.module, owner), member), name


@pytest.mark.slow
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device; not run anywhere yet"
)
def test_mini_in_tensorrt_is_eager_not_run_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMEEC_CACHE", str(tmp_path))
    model = lm.load_model("mini", seed=0, device="cuda")
    engine = make_engine(model, "tensorrt")
    calls = step_calls(model)
    engine.prepare(calls)
    with torch.inference_mode(), model.autocast():
        for call in calls:
            inputs = call.example(model.device)
            wanted = model.compute(call.stage, call.options, inputs)
            for ours, reference in zip(engine.build(call)(*inputs), wanted, strict=True):
                assert (ours - reference).abs().max() < 1e-3 * reference.abs().max()
    assert list(tmp_path.rglob("*.engine"))
    kept = "*.runtime_cache" if isinstance(load_tensorrt(), RtxLibrary) else "timing.cache"
    assert list(tmp_path.rglob(kept))
