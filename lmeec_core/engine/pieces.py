"""Engines that run graphs of fixed batches: a batch of any size is computed piece by piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmeec_core.engine.base import Call, Engine, EngineError, StageFunction
from lmeec_core.engine.graphs import GraphStore, has_batch, is_usual, with_batch
from lmeec_core.engine.onnx_export import require
from lmeec_core.engine.steady import steady_calls
from lmeec_core.model.stages import STAGES

if TYPE_CHECKING:
    from lmeec_core.model import LMEEC

_KINDS = {"memory_attention": 2, "memory_encoder": 2}
"""Stages that come with inputs of two kinds: view-specific and full memory, given and predicted
masks."""


def cut(batch: int, sizes: Sequence[int]) -> list[int]:
    """Pieces of the given sizes that make up a batch, the largest first.

    Raises:
        ValueError: they cannot (1 is among the sizes where they always can).
    """
    pieces: list[int] = []
    for size in sorted(set(sizes), reverse=True):
        count, batch = divmod(batch, size)
        pieces += [size] * count
    if batch:
        raise ValueError(f"no pieces of {sorted(set(sizes))} make up the batch")
    return pieces


class Program(ABC):
    """A loaded graph.

    Attributes:
        shapes: of its outputs.
    """

    shapes: list[tuple[int, ...]]

    @abstractmethod
    def __call__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Compute; ``outputs`` are contiguous float32 tensors that receive the results."""


class GraphEngine(Engine):
    """An engine that loads the network's ONNX graphs; those that are missing are made.

    Args:
        model: the network.
        root: folder of graphs; None is :func:`lmeec_core.engine.graphs.cache_folder`.
    """

    device = "cpu"
    suffix = ".onnx"
    sizes: tuple[int, ...] = (1,)
    """Batches of the graphs that are made unasked. One CPU gains nothing by larger ones."""

    def __init__(self, model: LMEEC, root: Path | None = None) -> None:
        super().__init__(model)
        if model.device.type != self.device:
            raise EngineError(
                f"engine {self.name}: the network is on {model.device.type}, {self.device} "
                "expected; choose that device or another engine"
            )
        self.store = GraphStore(model, root)
        if not self.is_ready():
            require("onnx", "onnxscript", "onnxruntime")
        self._programs: dict[Call, Program] = {}
        self._offers: dict[Call, bool] = {}

    def offers(self, call: Call) -> bool:
        """All but lengths of a filling memory that nobody has exported a graph for."""
        one = with_batch(call, 1)
        if one not in self._offers:
            self._offers[one] = is_usual(self.model, one) or self.store.path(one).is_file()
        return self._offers[one]

    def is_ready(self) -> bool:
        """Whether every stage has its files of :attr:`suffix`; making them takes minutes."""
        return all(
            len(list(self.store.folder.glob(f"{stage}_b*{self.suffix}"))) >= _KINDS.get(stage, 1)
            for stage in STAGES
        )

    def prepare(self) -> None:
        """Make the graphs of the steady state, if they are not there."""
        if not self.is_ready():
            for call, _ in steady_calls(self.model):
                self.store.get(with_batch(call, 1))

    def build(self, call: Call) -> StageFunction:
        """See :class:`Engine`; loads the graphs of the call's pieces."""
        batch = call.shapes[0][0]
        pieces = cut(batch, [*self.sizes, *self.store.batches(with_batch(call, 1))])
        programs = {size: self._program(with_batch(call, size)) for size in set(pieces)}
        tails = [shape[1:] for shape in programs[pieces[0]].shapes]

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            given = [
                (x.float() if x.is_floating_point() else x).detach().contiguous() for x in inputs
            ]
            device = given[0].device
            outputs = tuple(torch.empty(batch, *tail, device=device) for tail in tails)
            start = 0
            for size in pieces:
                rows = slice(start, start + size)
                programs[size](
                    [x[rows] if has_batch(call, i) else x for i, x in enumerate(given)],
                    [x[rows] for x in outputs],
                )
                start += size
            return outputs

        return run

    def _program(self, call: Call) -> Program:
        if call not in self._programs:
            self._programs[call] = self.load(call, self.store.get(call))
        return self._programs[call]

    @abstractmethod
    def load(self, call: Call, path: Path) -> Program:
        """Load the graph of a call.

        Raises:
            EngineError: it cannot be loaded.
        """
