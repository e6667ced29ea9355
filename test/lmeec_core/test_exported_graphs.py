"""Exported graphs: their names, what they may hold, and what half types make of them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.bench.graph_sizes import Size, table
from lmeec_core.cli.app import app
from lmeec_core.config import Precision
from lmeec_core.engine import EngineError, make_engine
from lmeec_core.engine.graph_engine import split_batch
from lmeec_core.engine.graphs import GraphStore

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
half_graph = pytest.importorskip("lmeec_core.engine.half_graph")

RNG = np.random.default_rng(0)
WEIGHTS = {"key": RNG.normal(size=(8, 8)), "exact.weight": RNG.normal(size=(8, 3))}


def test_command_explains_itself(tmp_path: Path) -> None:
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    shown = runner.invoke(app, ["export", "--help"])
    assert shown.exit_code == 0 and "--frames-of-memory" in shown.output
    wrong = runner.invoke(app, ["export", "--preset", "mini", "--out", str(tmp_path)])
    assert wrong.exit_code == 1 and "seed" in wrong.output
    assert not list(tmp_path.iterdir())


def test_a_missing_runtime_is_named(monkeypatch: pytest.MonkeyPatch, mini: lm.LMEEC) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(EngineError, match=f"engine {name}: not installed; `pip install"):
            make_engine(mini, name)


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


def small_graph() -> onnx.ModelProto:
    """An attention of a single head without scale, and a linear map that is to stay exact."""
    node, kind = onnx.helper.make_node, onnx.TensorProto.FLOAT
    value = onnx.helper.make_tensor_value_info
    nodes = [
        node("MatMul", ["x", "key"], ["keys"]),
        node("Transpose", ["keys"], ["turned"], perm=[1, 0]),
        node("MatMul", ["x", "turned"], ["scores"]),
        node("Softmax", ["scores"], ["shares"]),
        node("MatMul", ["shares", "x"], ["mixed"]),
        node("MatMul", ["mixed", "exact.weight"], ["told"]),
        node("MatMul", ["mixed", "x_turned"], ["logits"]),
        node("Transpose", ["x"], ["x_turned"], perm=[1, 0]),
    ]
    nodes.insert(6, nodes.pop())
    outputs = [value("mixed", kind, [5, 8]), value("told", kind, [5, 3])]
    outputs.append(value("logits", kind, [5, 5]))
    constants = [
        onnx.numpy_helper.from_array(x.astype(np.float32), name) for name, x in WEIGHTS.items()
    ]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", kind, [5, 8])], outputs, constants)
    opset = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)


@pytest.mark.parametrize(("precision", "kind"), [("bf16", "BFLOAT16"), ("fp16", "FLOAT16")])
def test_only_products_are_in_a_half_type(precision: Precision, kind: str) -> None:
    before = small_graph()
    given = before.SerializeToString()
    half = half_graph.with_half_products(before, precision, ["exact"])
    assert before.SerializeToString() == given
    onnx.checker.check_model(half, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    name_of = onnx.TensorProto.DataType.Name
    types = {v.name: name_of(v.type.tensor_type.elem_type) for v in values}
    assert {"keys": kind, "turned": kind, "scores": kind}.items() <= types.items()
    assert {types[name] for name in ("x", "shares", "mixed", "told", "logits")} == {"FLOAT"}
    constants = {
        t.name: onnx.TensorProto.DataType.Name(t.data_type) for t in half.graph.initializer
    }
    assert constants == {f"key_{precision}": kind, "exact.weight": "FLOAT"}
    casts = [node.input[0] for node in half.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts)), "a tensor is cast once"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_the_emulation_rounds_as_the_half_type_does(
    precision: Precision, dtype: torch.dtype
) -> None:
    def rounded(x: torch.Tensor) -> torch.Tensor:
        return x.to(dtype).float()

    half = half_graph.with_half_products(small_graph(), precision, ["exact"])
    emulated = half_graph.emulated(half)
    assert not [t for t in emulated.graph.initializer if t.data_type != onnx.TensorProto.FLOAT]
    session = onnxruntime.InferenceSession(emulated.SerializeToString())
    x = torch.from_numpy(RNG.normal(size=(5, 8)).astype(np.float32))
    found = session.run(None, {"x": x.numpy()})
    key, exact = (torch.from_numpy(w.astype(np.float32)) for w in WEIGHTS.values())
    keys = rounded(rounded(x) @ rounded(key))
    shares = rounded(rounded(x) @ keys.T).softmax(-1)
    mixed = rounded(rounded(shares) @ rounded(x))
    for ours, wanted in zip(found, (mixed, mixed @ exact, mixed @ x.T), strict=True):
        assert np.allclose(ours, wanted.numpy(), rtol=1e-2 if precision == "bf16" else 2e-3)
    assert np.abs(found[0] - mixed.numpy()).max() <= 2 ** (-8 if precision == "bf16" else -11) * 4
    plain = onnxruntime.InferenceSession(small_graph().SerializeToString())
    assert np.abs(found[0] - plain.run(None, {"x": x.numpy()})[0]).max() > 1e-5


def test_what_float16_cannot_hold_is_infinite() -> None:
    """As on a GPU: such a graph is refused when it is checked."""
    emulated = half_graph.emulated(half_graph.with_half_products(small_graph(), "fp16"))
    session = onnxruntime.InferenceSession(emulated.SerializeToString())
    large = np.full((5, 8), 1e5, np.float32)
    assert not np.isfinite(session.run(None, {"x": large})[0]).all()


def test_fp16_is_for_gpus(mini: lm.LMEEC, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="precision: fp16 given with device cpu"):
        lm.load_model("mini", seed=0, device="cpu", precision="fp16")
    model = copy.copy(mini)
    model.compute_in("fp16")
    assert model.computed is torch.float16
    gpu, cpu = (GraphStore(model, tmp_path, for_gpus=gpu) for gpu in (True, False))
    call = lm.engine.step_calls(model)[0].for_graph(1)
    assert gpu.path(call).name == "fp16_few_image_encoder_b1.onnx"
    assert cpu.path(call).name == "image_encoder_b1.onnx" and gpu.folder == cpu.folder


def test_the_table_of_sizes_shows_what_has_changed() -> None:
    same, few = Size(10, 2, 30), Size(1500, 90, 1200)
    shown = table({"decoder_b1": (same, same), "image_encoder_b1": (Size(2337, 2, 9769), few)})
    assert shown.splitlines()[2:] == [
        "| decoder_b1 | 10 | 2 | 30 |",
        "| image_encoder_b1 | 2,337 -> 1,500 | 2 -> 90 | 9,769 -> 1,200 |",
    ]
