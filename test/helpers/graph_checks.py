"""What exported graphs promise to every back end, read off their nodes."""

from __future__ import annotations

import pytest

import lmeec_core as lm
from lmeec_core.engine.calls import StageCall
from lmeec_core.engine.graphs import GraphStore
from lmeec_core.engine.onnx_export import HALF_TOLERANCES
from lmeec_core.engine.records import read_record

onnx = pytest.importorskip("onnx")


def check_graph(graph: object) -> None:
    """No control flow, no operators of others, no cubic resizing, no complex numbers."""
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


def check_halves(model: lm.LMEEC, calls: list[StageCall]) -> None:
    """Graphs with products in a half type, and all else in float32."""
    store, bound = GraphStore(model, for_gpus=True), HALF_TOLERANCES[model.precision]
    for call in dict.fromkeys(call.for_graph(1) for call in calls):
        path = store.path(call)
        record = read_record(path.with_suffix(".json"))
        assert path.name.startswith(f"{model.precision}_") and 0 < record["difference"] <= bound
        graph = onnx.shape_inference.infer_shapes(onnx.load(str(path)), strict_mode=True).graph
        halves = half_tensors(graph)
        rounded, exact = [], []
        for node in graph.node:
            used = {*node.input, *node.output} & halves
            if node.op_type in {"MatMul", "Gemm", "Conv"}:
                (rounded if used else exact).append(node)
            elif node.op_type not in {*CARRIERS, "Cast"}:
                assert not used, (path.name, node.op_type, node.name)
        assert len(rounded) > len(exact)
        assert not halves & {value.name for value in (*graph.input, *graph.output)}
        scopes = [p.value for n in rounded for p in n.metadata_props if "scope" in p.key]
        assert scopes and not [s for s in scopes if any(m in s for m in model.exact_modules)]
        if call.stage == "decoder":
            assert any("pred_obj_score_head" in str(n.metadata_props) for n in exact)


CARRIERS = {
    "Concat", "Expand", "Flatten", "Gather", "GatherND", "Identity", "MaxPool", "Relu", "Reshape",
    "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Operators that do not compute: what they give is as exact as what they are given."""


def half_tensors(graph: object) -> set[str]:
    """Names of the tensors in a half type."""
    kinds = (onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16)
    values = (*graph.input, *graph.output, *graph.value_info)
    return {v.name for v in values if v.type.tensor_type.elem_type in kinds} | {
        t.name for t in graph.initializer if t.data_type in kinds
    }
