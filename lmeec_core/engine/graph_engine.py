"""Engines that run graphs with fixed batch sizes: other batches are computed in parts."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lmeec_core.engine.base import Engine, EngineError, StageFunction
from lmeec_core.engine.calls import StageCall
from lmeec_core.engine.graphs import GraphStore
from lmeec_core.model import LMEEC

logger = logging.getLogger(__name__)


def split_batch(batch: int, sizes: Iterable[int]) -> list[int]:
    """Split a batch into parts of the given sizes, largest first; empty if there is a remainder
    (never if 1 is among the sizes)."""
    parts: list[int] = []
    for size in sorted(set(sizes), reverse=True):
        count, batch = divmod(batch, size)
        parts += [size] * count
    return [] if batch else parts


class Program(ABC):
    """A loaded graph.

    Attributes:
        shapes: the shapes of its outputs.
    """

    shapes: list[tuple[int, ...]]

    @abstractmethod
    def __call__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Compute, and write the results to ``outputs``, which are contiguous float32 tensors."""

    def first_run_is_done(self) -> None:  # noqa: B027, most libraries have nothing to keep
        """Called once, after the first run, so that a library can keep what it compiled."""


def unloadable(engine: str, path: Path, error: Exception) -> EngineError:
    """The error for a graph that a library refuses to load."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return EngineError(
        f"engine {engine}: {path} cannot be loaded ({reason}); delete it and it is made again, or "
        "choose another engine"
    )


class GraphEngine(Engine):
    """An engine that loads the network's ONNX graphs in :meth:`prepare`.

    Args:
        model, root: see :class:`Engine`.
    """

    device = "cpu"
    suffix = ".onnx"
    for_gpus = False
    """Whether it uses the graphs for GPUs, see :class:`GraphStore`."""
    sizes: tuple[int, ...] = (1,)
    """Batch sizes of the graphs made by default. Larger ones gain nothing on a CPU."""

    def __init__(self, model: LMEEC, root: Path | None = None) -> None:
        super().__init__(model, root)
        if model.device.type != self.device:
            raise EngineError(
                f"engine {self.name}: the network is on {model.device.type}, {self.device} "
                "expected; choose that device or another engine"
            )
        self.store = GraphStore(model, root, self.for_gpus)
        self._programs: dict[StageCall, dict[int, Program]] = {}  # by the call with batch size 1

    def is_ready(self) -> bool:
        """Whether there are any files; :meth:`prepare` checks whether they are the right ones."""
        return bool(self.files())

    def files(self) -> list[str]:
        """See :class:`Engine`: those that end in :attr:`suffix`."""
        return [path.name for path in self.store.files(f"*{self.suffix}")]

    def is_there(self, call: StageCall) -> bool:
        """Whether a call's graph can be loaded without making anything."""
        return self.store.is_valid(call)

    def is_complete(self, calls: Iterable[StageCall]) -> bool:
        """See :class:`Engine`."""
        ones = dict.fromkeys(call.for_graph(1) for call in calls)
        return all(self.is_there(one.for_graph(size)) for one in ones for size in self.sizes)

    def prepare(self, calls: Iterable[StageCall], make: bool = True) -> None:
        """See :class:`Engine`: load the graphs for :attr:`sizes`, and any others that exist."""
        for one in dict.fromkeys(call.for_graph(1) for call in calls):
            programs = self._programs.setdefault(one, {})
            for size in sorted({*self.sizes, *self.store.batches(one)} - programs.keys()):
                wanted = make and size in self.sizes
                call = one.for_graph(size)
                if not (wanted or self.is_there(call)):
                    continue
                try:
                    programs[size] = self._load(call, wanted)
                except EngineError as error:
                    if wanted:
                        raise
                    logger.warning("%s; left to eager torch", error)

    def _load(self, call: StageCall, make: bool) -> Program:
        program = self.load(call, self.store.get(call), make)
        outputs = [torch.empty(shape, device=self.model.device) for shape in program.shapes]
        program(call.example(self.model.device), outputs)  # the first run is slower
        program.first_run_is_done()
        return program

    def offers(self, call: StageCall) -> bool:
        """Whether the call's batch can be split into those of the loaded graphs."""
        return bool(split_batch(call.batch, self._programs.get(call.for_graph(1), ())))

    def build(self, call: StageCall) -> StageFunction:
        """See :class:`Engine`."""
        batch, programs = call.batch, self._programs[call.for_graph(1)]
        parts = split_batch(batch, programs)
        tails = [shape[1:] for shape in programs[parts[0]].shapes]

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            given = [
                (x.float() if x.is_floating_point() else x).detach().contiguous() for x in inputs
            ]
            device = given[0].device
            outputs = tuple(torch.empty(batch, *tail, device=device) for tail in tails)
            start = 0
            for size in parts:
                rows = slice(start, start + size)
                programs[size](
                    [x[rows] if call.has_batch(i) else x for i, x in enumerate(given)],
                    [x[rows] for x in outputs],
                )
                start += size
            return outputs

        return run

    @abstractmethod
    def load(self, call: StageCall, path: Path, make: bool = True) -> Program:
        """Load the graph of a call; ``make`` allows work that takes minutes.

        Raises:
            EngineError: it cannot be loaded.
        """
