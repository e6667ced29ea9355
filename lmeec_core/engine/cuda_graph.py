"""CUDA graphs: one launch per stage instead of hundreds."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from lmeec_core.engine.base import Engine, EngineError, StageFunction
from lmeec_core.engine.calls import StageCall
from lmeec_core.model import LMEEC
from lmeec_core.model.stages import Outputs

logger = logging.getLogger(__name__)

BUCKETS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
"""Batch sizes for which graphs are captured; a size in between uses the next larger graph."""


def bucket(batch: int) -> int:
    """Batch size of the graph for ``batch`` correspondences; ``batch`` itself above the largest."""
    return next((size for size in BUCKETS if size >= batch), batch)


def filled(call: StageCall, size: int | None = None) -> StageCall:
    """The call with another batch size, by default that of its bucket."""
    return call.with_batch(size or bucket(call.batch))


class CudaGraphEngine(Engine):
    """Captures stages as CUDA graphs with static inputs, one per kind of call and bucket."""

    name = "cuda_graph"

    def __init__(self, model: LMEEC, root: Path | None = None) -> None:
        if model.device.type != "cuda":
            raise EngineError(
                f"engine cuda_graph: the model is on {model.device.type}, a CUDA device expected; "
                "choose eager or auto"
            )
        super().__init__(model, root)
        self.graphs: dict[StageCall, _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def prepare(self, calls: Iterable[StageCall], make: bool = True) -> None:
        """Capture the calls for every bucket, so that no step has to capture anything.

        If device memory runs out, the larger buckets are left to eager torch.
        """
        calls = list(calls)
        with torch.inference_mode(), torch.cuda.device(self.model.device):
            for size in BUCKETS:  # small ones first: they are the most common
                for call in (filled(one, size) for one in calls):
                    if call in self.graphs:
                        continue
                    try:
                        self.graphs[call] = _Graph(self.model, call, self._pool)
                    except torch.OutOfMemoryError:
                        logger.warning(
                            "engine cuda_graph: no memory for %s in batches of %d and more: eager "
                            "torch computes these", call.stage, size,
                        )  # fmt: skip
                        return

    def offers(self, call: StageCall) -> bool:
        """Whether its bucket was captured; steps with a filling memory are left to eager torch."""
        return filled(call) in self.graphs

    def build(self, call: StageCall) -> StageFunction:
        """A function that replays the graph of the call's bucket."""
        graph = self.graphs[filled(call)]
        return lambda *inputs: graph.replay(inputs)


class _Graph:
    """A stage captured with static inputs and outputs."""

    def __init__(self, model: LMEEC, call: StageCall, pool: Any) -> None:
        self.inputs = call.example(model.device)
        stream = torch.cuda.Stream(model.device)
        stream.wait_stream(torch.cuda.current_stream(model.device))
        with _without_cache(model), torch.cuda.stream(stream):
            for _ in range(2):  # lets libraries choose their kernels
                model.compute(call.stage, call.options, self.inputs)
        torch.cuda.current_stream(model.device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with _without_cache(model), torch.cuda.graph(self.graph, pool=pool):
            self.outputs = model.compute(call.stage, call.options, self.inputs)

    def replay(self, inputs: Outputs) -> Outputs:
        """Outputs are copies: graphs share their memory, and the next one may overwrite it."""
        for static, given in zip(self.inputs, inputs, strict=True):
            if static.shape == given.shape:
                static.copy_(given)
            else:
                static[: given.shape[0]].copy_(given)
        self.graph.replay()
        batch = inputs[0].shape[0]
        return tuple(output[:batch].clone() for output in self.outputs)


def _without_cache(model: LMEEC) -> torch.autocast:
    """Autocast without its cache of cast weights: one made during a capture would dangle."""
    half = model.precision != "fp32"
    return torch.autocast(
        "cuda", model.computed if half else None, enabled=half, cache_enabled=False
    )
