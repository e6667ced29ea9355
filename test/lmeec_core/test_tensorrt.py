"""TensorRT as far as it can be tested without its library: record, cache and messages.

Not run anywhere yet: building an engine, loading one, and computing with it. The test at the end
does that where TensorRT and a CUDA device are at hand.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.cli.app import app
from lmeec_core.engine import EngineError, make_engine, step_calls
from lmeec_core.engine.tensorrt import (
    engine_path,
    keep_engine,
    load_tensorrt,
    mismatch,
    stored_engine,
    validity,
)

HAS_TENSORRT = importlib.util.find_spec("tensorrt") is not None
FACTS = {"device": "NVIDIA H100", "compute_capability": "9.0"}


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
    assert stored_engine(graph, wanted) == b"an engine"
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
        ("10.9.0", FACTS, "tf32", "precision"),
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


@pytest.mark.skipif(HAS_TENSORRT, reason="TensorRT is installed")
def test_its_absence_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="TensorRT cannot be imported.*pip install tensorrt"):
        make_engine(lm.load_model("mini", seed=0, device="cpu"), "tensorrt")
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    result = runner.invoke(app, ["export", "--tensorrt", "--out", str(tmp_path)])
    assert result.exit_code == 1 and "TensorRT cannot be imported" in result.output
    assert not list(tmp_path.iterdir())


def test_a_package_that_only_has_the_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("__version__ = '0'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EngineError, match="lacks Builder, OnnxParser, Runtime"):
        load_tensorrt()
    monkeypatch.delitem(sys.modules, "tensorrt")


@pytest.mark.skipif(not HAS_TENSORRT, reason="needs TensorRT; not run anywhere yet")
def test_the_library_has_all_that_is_used_not_run_yet() -> None:
    trt = load_tensorrt()
    for name in (
        "Builder.create_network", "Builder.create_builder_config",
        "Builder.build_serialized_network", "OnnxParser.parse_from_file",
        "IBuilderConfig.set_memory_pool_limit", "IBuilderConfig.create_timing_cache",
        "IBuilderConfig.set_timing_cache", "IBuilderConfig.get_timing_cache",
        "IBuilderConfig.clear_flag", "BuilderFlag.TF32", "MemoryPoolType.WORKSPACE",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "Runtime.deserialize_cuda_engine",
        "ICudaEngine.create_execution_context", "ICudaEngine.num_io_tensors",
        "ICudaEngine.get_tensor_name", "ICudaEngine.get_tensor_mode",
        "ICudaEngine.get_tensor_dtype", "ICudaEngine.get_tensor_shape",
        "IExecutionContext.set_input_shape", "IExecutionContext.set_tensor_address",
        "IExecutionContext.execute_async_v3", "TensorIOMode.INPUT", "DataType.FLOAT",
    ):  # fmt: skip
        owner, _, member = name.partition(".")
        assert hasattr(getattr(trt, owner), member), name


@pytest.mark.slow
@pytest.mark.skipif(
    not (HAS_TENSORRT and torch.cuda.is_available()),
    reason="needs TensorRT and a CUDA device; not run anywhere yet",
)
def test_mini_in_tensorrt_is_eager_not_run_yet(
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
    assert list(tmp_path.rglob("*.engine")) and list(tmp_path.rglob("timing.cache"))
