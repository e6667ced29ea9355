"""Graphs with products in bfloat16 or float16, for engines that compute in a graph's own types.

Linear layers, convolutions and the two products of an attention are in the half type, as in eager
torch with precision bf16. Everything else stays in float32: norms, softmax, residual sums, mask
logits, presence, comparisons of embeddings, inputs and outputs.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lmeec_core.config import Precision

OPSET = 22
"""The first opset whose convolutions take bfloat16."""

_TYPES: dict[Precision, int] = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}
_PRODUCTS = {"MatMul", "Gemm", "Conv"}  # TensorRT has no ConvTranspose in bfloat16
_CARRIERS = {
    "Concat", "Expand", "Flatten", "Gather", "GatherND", "Identity", "MaxPool", "Relu", "Reshape",
    "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Operators that only move or select numbers: rounding before or after them is the same."""
_AROUND_SOFTMAX = {"Add", "Div", "Mul", "Reshape", "Transpose"}


def with_half_products(
    graph: onnx.ModelProto, precision: Precision, exact: Iterable[str] = ()
) -> onnx.ModelProto:
    """A float32 graph with its products in a half type.

    Args:
        graph: in float32, with fixed shapes; unchanged.
        precision: bf16 or fp16.
        exact: products stay in float32 in modules whose names contain one of these.
    """
    result = copy.deepcopy(graph)
    for opset in result.opset_import:
        # Between opsets 18 and 22 the operators here only gained types.
        opset.version = max(opset.version, OPSET) if not opset.domain else opset.version
    _Rounded(result.graph, precision, tuple(exact)).rewrite()
    return result


def emulated(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A graph of :func:`with_half_products` in float32, rounding each half number to its type.

    ONNX Runtime has no bfloat16 products on CPUs. Products are summed in float32, as on GPUs.
    """
    result = copy.deepcopy(graph)
    halves = set(_TYPES.values())
    constants = {t.name: t.data_type for t in result.graph.initializer if t.data_type in halves}
    for tensor in result.graph.initializer:
        if tensor.data_type in halves:
            tensor.CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(tensor).astype(np.float32), tensor.name
                )
            )
    nodes: list[NodeProto] = []
    types: dict[str, int] = constants  # of half tensors
    for node in result.graph.node:
        to = _target(node)
        kind = to if to in halves else next((types[n] for n in node.input if n in types), None)
        if kind is None or (node.op_type == "Cast" and to not in halves):
            if kind is not None:  # from half to float32
                node = helper.make_node("Identity", node.input, node.output, name=node.name)
            nodes.append(node)
            continue
        types.update(dict.fromkeys(node.output, kind))
        if node.op_type != "Cast" and node.op_type not in _PRODUCTS:
            nodes.append(node)
            continue
        own = copy.deepcopy(node)
        name = node.output[0]
        if node.op_type == "Cast":
            nodes.append(helper.make_node("Cast", node.input, [f"{name}_half"], to=kind))
        else:
            own.output[0] = f"{name}_sum"
            nodes += [own, helper.make_node("Cast", [f"{name}_sum"], [f"{name}_half"], to=kind)]
        nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    _replace(result.graph, nodes)
    return result


def _target(node: NodeProto) -> int | None:
    """The type that a Cast converts to; None for other operators."""
    return next((a.i for a in node.attribute if a.name == "to"), None)


def _replace(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # their types have changed


def _keep_outputs(graph: onnx.GraphProto) -> None:
    """Insert a node after each product that is an output, so that all outputs are float32."""
    outputs, nodes = {value.name for value in graph.output}, []
    for node in graph.node:
        nodes.append(node)
        name = node.output[0]
        if node.op_type in _PRODUCTS and name in outputs:
            for other in graph.node:
                for names in (other.input, other.output):
                    for i, own in enumerate(names):
                        if own == name:
                            names[i] = f"{name}_product"
            nodes.append(helper.make_node("Identity", [f"{name}_product"], [name], name=name))
    nodes = [copy.deepcopy(node) for node in nodes]
    _replace(graph, nodes)


class _Rounded:
    """Rewrites one graph."""

    def __init__(
        self, graph: onnx.GraphProto, precision: Precision, exact: tuple[str, ...]
    ) -> None:
        self._graph, self._exact = graph, exact
        _keep_outputs(graph)
        self._type, self._name = _TYPES[precision], precision
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._uses: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._uses[name].append(node)
        self._nodes: list[NodeProto] = []
        self._cast: dict[tuple[str, bool], str] = {}

    def rewrite(self) -> None:
        """Insert casts between half and float32 nodes, at most one for each tensor."""
        rounded = self._rounded_nodes()
        half = {n for node in self._graph.node if node.output[0] in rounded for n in node.output}
        for node in list(self._graph.node):
            own = copy.deepcopy(node)
            wanted = node.output[0] in rounded
            for i in self._numbers(node) if wanted else range(len(node.input)):
                name = node.input[i]
                if name and (name in half) != wanted:
                    own.input[i] = self._as(name, wanted)
            self._nodes.append(own)
        _replace(self._graph, self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _rounded_nodes(self) -> set[str]:
        """The nodes that compute in the half type, by their first output: products, and nodes that
        only carry numbers to such nodes."""
        outputs = {value.name for value in self._graph.output}
        rounded: set[str] = set()
        takes: dict[str, set[str]] = defaultdict(set)  # by tensor: rounded nodes that use it
        for node in reversed(self._graph.node):
            chosen = node.op_type in _PRODUCTS and self._may_round(node)
            if node.op_type in _CARRIERS:
                chosen = all(
                    name not in outputs
                    and self._uses[name]
                    and all(use.output[0] in takes[name] for use in self._uses[name])
                    for name in node.output
                )
            if chosen:
                rounded.add(node.output[0])
                for i in self._numbers(node):
                    takes[node.input[i]].add(node.output[0])
        return rounded

    @staticmethod
    def _numbers(node: NodeProto) -> range:
        """Which inputs hold numbers to compute with; the others hold indices and shapes."""
        several = node.op_type in _PRODUCTS or node.op_type == "Concat"
        return range(len(node.input) if several else 1)

    def _may_round(self, node: NodeProto) -> bool:
        """Whether a product belongs to a linear layer or an attention and need not be exact."""
        told = [p.value for p in node.metadata_props if p.key.endswith("name_scopes")]
        if any(part in text for text in (*told, *node.input) for part in self._exact):
            return False
        weights = any(name in self._constants for name in node.input[1:2])
        return weights or self._at_softmax(node)

    def _at_softmax(self, node: NodeProto) -> bool:
        """Whether a Softmax follows or precedes a product, apart from scaling and reshaping."""
        behind, before = [node], [self._makers.get(name) for name in node.input[:1]]
        while behind:
            for use in self._uses[behind.pop().output[0]]:
                if use.op_type == "Softmax":
                    return True
                if use.op_type in _AROUND_SOFTMAX:
                    behind.append(use)
        maker = before[0]
        while maker is not None and maker.op_type in {"Reshape", "Transpose"}:
            maker = self._makers.get(maker.input[0])
        return maker is not None and maker.op_type == "Softmax"

    def _as(self, name: str, half: bool) -> str:
        """Name of a tensor cast to the other type."""
        key = (name, half)
        if key in self._cast:
            return self._cast[key]
        own = f"{name}_{self._name if half else 'float'}"
        self._cast[key] = own
        constant = self._constants.get(name)
        if constant is not None:
            values = numpy_helper.to_array(constant)
            kind: Any = helper.tensor_dtype_to_np_dtype(self._type)
            self._graph.initializer.append(numpy_helper.from_array(values.astype(kind), own))
        else:
            to = self._type if half else TensorProto.FLOAT
            self._nodes.append(helper.make_node("Cast", [name], [own], name=f"cast_{own}", to=to))
        return own
