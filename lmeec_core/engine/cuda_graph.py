"""CUDA graphs: one launch per stage in place of hundreds."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from lmeec_core.engine.base import Engine, EngineError, StageFunction
from lmeec_core.engine.calls import StageCall
from lmeec_core.model import LMEEC
from lmeec_core.model.stages import Outputs

BUCKETS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
"""Batches that graphs are captured for; a batch between them is filled up to the next one."""
CAPTURE_AFTER = 3
"""Calls of one kind before a graph is captured: the lengths of a filling memory pass once."""
GRAPHS_KEPT = 24
"""Graphs kept, the least recently used one goes: objects come and go between few buckets."""


def bucket(batch: int) -> int:
    """The batch that a graph for ``batch`` correspondences has; above the largest, itself."""
    return next((size for size in BUCKETS if size >= batch), batch)


def filled(call: StageCall) -> StageCall:
    """The call with its batch filled up to the bucket."""
    return call.with_batch(bucket(call.batch))


class CapturePolicy:
    """Decides which calls deserve a graph: those that come again."""

    def __init__(self) -> None:
        self._seen: OrderedDict[StageCall, int] = OrderedDict()

    def wanted(self, call: StageCall) -> bool:
        """Count a call; whether it has now come often enough."""
        count = self._seen.pop(call, 0) + 1
        self._seen[call] = count
        if len(self._seen) > 16 * GRAPHS_KEPT:
            self._seen.popitem(last=False)
        return count >= CAPTURE_AFTER


class CudaGraphEngine(Engine):
    """Captures stages as CUDA graphs with static inputs, one per kind of call and bucket."""

    name = "cuda_graph"

    def __init__(self, model: LMEEC) -> None:
        if model.device.type != "cuda":
            raise EngineError(
                f"engine cuda_graph: the model is on {model.device.type}, a CUDA device expected; "
                "choose eager or auto"
            )
        super().__init__(model)
        self._policy = CapturePolicy()
        self.graphs: OrderedDict[StageCall, _Graph] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()

    def build(self, call: StageCall) -> StageFunction:
        """A function that computes eagerly at first and replays a graph once it is worth it."""
        full = filled(call)

        def run(*inputs: Tensor) -> Outputs:
            graph = self.graphs.pop(full, None)
            if graph is None:
                if not self._policy.wanted(full):
                    return self.model.compute(call.stage, call.options, inputs)
                with torch.cuda.device(self.model.device):
                    graph = _Graph(self.model, full, self._pool)
            self.graphs[full] = graph
            if len(self.graphs) > GRAPHS_KEPT:
                self.graphs.popitem(last=False)
            return graph.replay(inputs)

        return run


class _Graph:
    """A stage captured with static inputs and outputs."""

    def __init__(self, model: LMEEC, call: StageCall, pool: Any) -> None:
        self.inputs = call.example(model.device)
        stream = torch.cuda.Stream(model.device)
        stream.wait_stream(torch.cuda.current_stream(model.device))
        with _without_cache(model), torch.cuda.stream(stream):
            for _ in range(2):  # libraries choose their kernels now
                model.compute(call.stage, call.options, self.inputs)
        torch.cuda.current_stream(model.device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with _without_cache(model), torch.cuda.graph(self.graph, pool=pool):
            self.outputs = model.compute(call.stage, call.options, self.inputs)

    def replay(self, inputs: Outputs) -> Outputs:
        """Outputs are copies: graphs share their memory, and the next one may write over it."""
        for static, given in zip(self.inputs, inputs, strict=True):
            if static.shape == given.shape:
                static.copy_(given)
            else:
                static[: given.shape[0]].copy_(given)
        self.graph.replay()
        batch = inputs[0].shape[0]
        return tuple(output[:batch].clone() for output in self.outputs)


def _without_cache(model: LMEEC) -> torch.autocast:
    """Autocast that casts weights anew: a cast remembered from a capture would dangle."""
    return torch.autocast(
        "cuda", torch.bfloat16, enabled=model.precision == "bf16", cache_enabled=False
    )
