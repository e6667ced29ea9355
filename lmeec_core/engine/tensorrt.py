"""TensorRT: strongly typed engines built from the network's ONNX graphs.

Uses whichever of NVIDIA's two libraries is installed; :mod:`lmeec_core.engine.tensorrt_library`
covers their differences. An engine computes in its graph's types: with bf16 or fp16, products are
in bfloat16 or float16; with fp32, nothing is rounded to TF32. Building, records and messages are
tested with TensorRT for RTX, which needs no GPU for them; loading and running an engine have not
been tested.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmeec_core.config import Precision
from lmeec_core.engine.calls import StageCall
from lmeec_core.engine.graph_engine import GraphEngine, Program
from lmeec_core.engine.records import file_hash, read_record
from lmeec_core.engine.tensorrt_library import Library, load_tensorrt
from lmeec_core.errors import EngineError
from lmeec_core.files import replacing, write_text
from lmeec_core.model import LMEEC

logger = logging.getLogger(__name__)

WORKSPACE_BYTES = 4 << 30
"""Maximum device memory that a single layer may use as workspace."""


def validity(graph: Path, version: str, facts: dict[str, Any], precision: str) -> dict[str, Any]:
    """The record of an engine: everything that must match for the engine to be used again.

    Args:
        graph: the ONNX file; its own record has the shapes.
        version: the library's name and version.
        facts: about the device, see :meth:`Library.facts`; or the requested targets.
        precision: the precision that the engine computes in.
    """
    return {
        "tensorrt": version,
        **facts,
        "onnx_sha256": file_hash(graph),
        "inputs": read_record(graph.with_suffix(".json")).get("inputs"),
        "precision": precision,
    }


def mismatch(record: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """Why an engine with this record cannot be used; None if it can."""
    if not record:
        return "it has no readable record"
    for key, value in wanted.items():
        if record.get(key) != value:
            return f"its {key} is {record.get(key)!r}, {value!r} expected"
    return None


def engine_path(graph: Path) -> Path:
    """Where the engine of a graph is kept; its record is next to it."""
    return graph.with_suffix(".engine")


def stored_engine(
    graph: Path,
    wanted: dict[str, Any],
    refusal: Callable[[Path], str | None] = lambda path: None,
) -> Path | None:
    """The engine file of a graph if its record matches and it is intact, else None (logged).

    Args:
        graph: the ONNX file. wanted: see :func:`validity`.
        refusal: says why this machine cannot use a file, judging by the file's header.
    """
    path = engine_path(graph)
    if not path.is_file():
        return None
    record = read_record(path.with_suffix(".engine.json"))
    reason = mismatch(record, wanted) or refusal(path)
    if reason is None and record.get("engine_sha256") != file_hash(path):
        reason = "the file is not the one of its record"
    if reason is None:
        return path
    logger.warning("engine %s is built again: %s", path.name, reason)
    return None


def keep_engine(graph: Path, plan: bytes, record: dict[str, Any]) -> None:
    """Write an engine and its record."""
    path = engine_path(graph)
    with replacing(path) as partial:
        partial.write_bytes(plan)
    record = record | {"engine_sha256": file_hash(path), "bytes": path.stat().st_size}
    write_text(path.with_suffix(".engine.json"), json.dumps(record, indent=1) + "\n")


def read_graph(library: Library, graph: Path) -> tuple[Any, Any, Any]:
    """TensorRT's builder, strongly typed network and parser for an ONNX file. The network is
    valid only while the other two exist.

    Raises:
        EngineError: TensorRT rejects the graph; includes its own message.
    """
    trt, log = library.module, library.log
    log.take()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        told = [_told(parser.get_error(i)) for i in range(parser.num_errors)] or log.take()
        raise EngineError(
            f"engine tensorrt: {library.name} does not take {graph.name}: {'; '.join(told)}; "
            "choose another engine for this network"
        )
    return builder, network, parser


def build_engine(library: Library, graph: Path, targets: Sequence[str] = ()) -> tuple[bytes, int]:
    """Build a strongly typed engine from an ONNX file: it computes in the graph's own types.

    Args:
        library: the installed library. graph: the ONNX file.
        targets: kinds of GPU, see :meth:`Library.targets`.

    Returns:
        the serialised engine, and the number of layers of its network.

    Raises:
        EngineError: TensorRT rejects the graph or cannot build it; includes its own message.
    """
    trt, log = library.module, library.log
    builder, network, _parser = read_graph(library, graph)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.clear_flag(trt.BuilderFlag.TF32)
    library.set_targets(config, targets)
    library.read_timings(config, graph.parent)
    logger.info("building the TensorRT engine of %s (once; it is kept)", graph.name)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"engine tensorrt: {library.name} cannot build {graph.name}: "
            f"{'; '.join(log.take()) or 'it does not say why'}; choose another engine"
        )
    library.keep_timings(config, graph.parent)
    return bytes(plan), network.num_layers


def _told(error: Any) -> str:
    """A parser's error, with its location in the graph."""
    place = f"node {error.node_name() or error.node()} ({error.node_operator()}): "
    return (place if error.node_operator() else "") + str(error.desc()).strip()


def make_engine_file(
    library: Library, graph: Path, precision: Precision, targets: Sequence[str] = ()
) -> dict[str, Any] | None:
    """Build a graph's engine ahead of time, for machines with these targets, and keep it.

    Args:
        library: the installed library. graph: the ONNX file. precision: that of its products.
        targets: kinds of GPU, see :meth:`Library.targets`.

    Returns:
        the record of the new engine; None if a matching one already existed.

    Raises:
        EngineError: it cannot be built, or a GPU is needed and there is none.
        OSError: it cannot be written.
    """
    here = torch.device("cuda") if torch.cuda.is_available() else None
    facts = library.facts(here) | {"targets": list(targets)}
    wanted = validity(graph, library.name, facts, precision)
    if stored_engine(graph, wanted) is not None:
        return None
    plan, layers = build_engine(library, graph, targets)
    keep_engine(graph, plan, wanted | {"layers": layers})
    return read_record(engine_path(graph).with_suffix(".engine.json"))


class TensorRtEngine(GraphEngine):
    """Runs engines built from the network's graphs; rebuilds those that do not fit the machine."""

    name = "tensorrt"
    device = "cuda"
    suffix = ".engine"
    for_gpus = True
    sizes = (1, 2, 4, 8)

    def __init__(self, model: LMEEC, root: Path | None = None) -> None:
        self._library = load_tensorrt()
        super().__init__(model, root)
        self._runtime = self._library.module.Runtime(self._library.log)

    def _wanted(self, path: Path) -> dict[str, Any]:
        facts = self._library.facts(self.model.device)
        return validity(path, self._library.name, facts, self.model.precision)

    def _stored(self, path: Path) -> Path | None:
        def refusal(file: Path) -> str | None:
            return self._library.refusal(self._runtime, file)

        return stored_engine(path, self._wanted(path), refusal)

    def is_there(self, call: StageCall) -> bool:
        """See :class:`GraphEngine`: whether a graph and a fitting engine of it exist."""
        return super().is_there(call) and self._stored(self.store.path(call)) is not None

    def load(self, call: StageCall, path: Path, make: bool = True) -> Program:
        """See :class:`GraphEngine`; builds the engine if none fits and ``make`` allows it."""
        stored = self._stored(path)
        engine = self._deserialized(stored.read_bytes()) if stored is not None else None
        if engine is None and not make:
            raise EngineError(f"engine tensorrt: none of {path.name} can be loaded")
        if engine is None:  # missing, not fitting, or rejected by TensorRT
            plan, layers = build_engine(self._library, path)
            try:
                keep_engine(path, plan, self._wanted(path) | {"targets": [], "layers": layers})
            except OSError as error:
                logger.warning("a TensorRT engine is built again the next time: %s", error)
            engine = self._deserialized(plan)
        if engine is None:
            raise EngineError(
                f"engine tensorrt: {engine_path(path).name} was built but cannot be loaded "
                f"({'; '.join(self._library.log.take())}); is there enough free device memory?"
            )
        return _Context(self._library, engine, self._runtime_cache(path), self.model.device)

    def _deserialized(self, plan: bytes) -> Any:
        self._library.log.take()
        return self._runtime.deserialize_cuda_engine(plan)

    def _runtime_cache(self, graph: Path) -> Path:
        """The kernels that TensorRT for RTX compiles are specific to one kind of GPU."""
        major, minor = torch.cuda.get_device_capability(self.model.device)
        return graph.with_suffix(f".sm{major}{minor}.runtime_cache")


class _Context(Program):
    def __init__(self, library: Library, engine: Any, cache: Path, device: torch.device) -> None:
        trt, self._log, self._engine = library.module, library.log, engine
        self._context, self._keep = library.context(engine, cache)
        if self._context is None:
            raise EngineError("engine tensorrt: no execution context; is device memory left?")
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        given = trt.TensorIOMode.INPUT
        # Inputs are named input_0, input_1, ... in the order of the call.
        self._inputs = sorted(
            (n for n in names if engine.get_tensor_mode(n) == given),
            key=lambda name: int(name.rpartition("_")[2]),
        )
        self._outputs = [n for n in names if engine.get_tensor_mode(n) != given]
        for name in self._outputs:
            if engine.get_tensor_dtype(name) != trt.DataType.FLOAT:
                raise EngineError(f"engine tensorrt: output {name} is not float32; export again")
        self.shapes = [tuple(engine.get_tensor_shape(name)) for name in self._outputs]
        self._stream = torch.cuda.Stream(device) if library.captures else None
        self._static: tuple[list[Tensor], list[Tensor]] | None = None

    def __call__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """See :class:`Program`; queued on torch's current stream."""
        if self._stream is None:
            self._run(inputs, outputs, torch.cuda.current_stream())
            return
        # A captured CUDA graph needs a stream of its own, and the same addresses each time.
        if self._static is None:
            self._static = [x.clone() for x in inputs], [x.clone() for x in outputs]
        ours, results = self._static
        for static, x in zip(ours, inputs, strict=True):
            static.copy_(x)
        self._stream.wait_stream(torch.cuda.current_stream())
        self._run(ours, results, self._stream)
        torch.cuda.current_stream().wait_stream(self._stream)
        for x, static in zip(outputs, results, strict=True):
            x.copy_(static)

    def _run(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], stream: Any) -> None:
        for name, x in zip(self._inputs, inputs, strict=True):
            self._context.set_input_shape(name, tuple(x.shape))
            self._context.set_tensor_address(name, x.data_ptr())
        for name, x in zip(self._outputs, outputs, strict=True):
            self._context.set_tensor_address(name, x.data_ptr())
        self._log.take()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError(f"TensorRT refused to run a stage: {'; '.join(self._log.take())}")

    def first_run_is_done(self) -> None:
        """See :class:`Program`: keeps what was compiled."""
        self._keep()
