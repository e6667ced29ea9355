"""TensorRT: strongly typed engines built from the network's ONNX graphs.

Written to the interface that TensorRT 10 and 11 have in common; the library was not at hand, so
this module has never run on a GPU. The graphs are in float32; with precision bf16 products round
to TF32. What needs no library is tested: the record, the cache and the
messages.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lmeec_core.engine.calls import StageCall
from lmeec_core.engine.graph_engine import GraphEngine, Program
from lmeec_core.engine.records import file_hash, read_record
from lmeec_core.errors import EngineError
from lmeec_core.files import replacing, write_text
from lmeec_core.model import LMEEC

logger = logging.getLogger(__name__)

WORKSPACE_BYTES = 4 << 30
"""Most device memory that a layer may take for itself while TensorRT chooses."""
TIMING_CACHE = "timing.cache"
"""File, beside the graphs, of the measurements that later builds reuse."""


def load_tensorrt() -> Any:
    """The module `tensorrt`.

    Raises:
        EngineError: it is not installed, or broken.
    """
    try:
        import tensorrt as module

        missing = [
            name for name in ("Builder", "OnnxParser", "Runtime") if not hasattr(module, name)
        ]
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(
            f"engine tensorrt: TensorRT cannot be imported ({error}); install NVIDIA's TensorRT "
            "10 or 11 for Python (`pip install tensorrt`, with access to NVIDIA's index), or "
            "choose another engine"
        ) from error
    if missing:
        raise EngineError(
            f"engine tensorrt: the installed module tensorrt lacks {', '.join(missing)}; NVIDIA's "
            "TensorRT 10 or 11 expected"
        )
    return module


def device_facts(device: torch.device) -> dict[str, str]:
    """What of a CUDA device an engine depends on."""
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "device": torch.cuda.get_device_name(device),
        "compute_capability": f"{major}.{minor}",
    }


def validity(graph: Path, version: str, facts: dict[str, str], precision: str) -> dict[str, Any]:
    """The record of an engine: all that must be the same for it to be used again.

    Args:
        graph: the ONNX file; its own record gives the shapes.
        version: TensorRT's version.
        facts: of the device, see :func:`device_facts`.
        precision: in which the engine computes.
    """
    return {
        "tensorrt": version,
        **facts,
        "onnx_sha256": file_hash(graph),
        "inputs": read_record(graph.with_suffix(".json")).get("inputs"),
        "precision": precision,
    }


def mismatch(record: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """Why an engine with this record cannot be used, in words; None if it can."""
    if not record:
        return "it has no readable record"
    for key, value in wanted.items():
        if record.get(key) != value:
            return f"its {key} is {record.get(key)!r}, {value!r} expected"
    return None


def engine_path(graph: Path) -> Path:
    """Where the engine of a graph is kept; its record lies beside it."""
    return graph.with_suffix(".engine")


def stored_engine(graph: Path, wanted: dict[str, Any]) -> bytes | None:
    """The engine of a graph if its record fits and the file is whole, else None (logged)."""
    path = engine_path(graph)
    if not path.is_file():
        return None
    record = read_record(path.with_suffix(".engine.json"))
    reason = mismatch(record, wanted)
    if reason is None and record.get("engine_sha256") != file_hash(path):
        reason = "the file is not the one of its record"
    if reason is None:
        return path.read_bytes()
    logger.warning("engine %s is built again: %s", path.name, reason)
    return None


def keep_engine(graph: Path, plan: bytes, wanted: dict[str, Any]) -> None:
    """Write an engine and its record."""
    path = engine_path(graph)
    with replacing(path) as partial:
        partial.write_bytes(plan)
    record = wanted | {"engine_sha256": file_hash(path)}
    write_text(path.with_suffix(".engine.json"), json.dumps(record, indent=1) + "\n")


def build_engine(trt: Any, log: Any, graph: Path, precision: Literal["fp32", "tf32"]) -> bytes:
    """Build a strongly typed engine from an ONNX file: it computes in the graph's own types.

    Args:
        trt: the module. log: its logger. graph: the ONNX file.
        precision: tf32 lets products of float32 round to TF32, TensorRT's own default.

    Raises:
        EngineError: TensorRT does not take the graph, or fails to build it.
    """
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f"engine tensorrt: {graph.name} is not taken: {errors}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    timing = graph.with_name(TIMING_CACHE)
    cache = config.create_timing_cache(timing.read_bytes() if timing.is_file() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")  # of another device or version
        config.set_timing_cache(cache, ignore_mismatch=False)
    logger.info("building the TensorRT engine of %s (minutes, once; it is kept)", graph.name)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"engine tensorrt: building {graph.name} failed; the reason is in TensorRT's own "
            "messages above. Choose another engine for now"
        )
    try:
        with replacing(timing) as partial:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        logger.warning("TensorRT's measurements are not kept: %s", error)
    return bytes(plan)


class TensorRtEngine(GraphEngine):
    """Runs engines built from the network's graphs; what does not fit the machine is rebuilt."""

    name = "tensorrt"
    device = "cuda"
    suffix = ".engine"
    sizes = (1, 2, 4, 8)

    def __init__(self, model: LMEEC, root: Path | None = None) -> None:
        self._trt = load_tensorrt()
        super().__init__(model, root)
        self._log = self._trt.Logger(self._trt.Logger.WARNING)
        self._runtime = self._trt.Runtime(self._log)
        self._precision: Literal["fp32", "tf32"] = "fp32" if model.precision == "fp32" else "tf32"

    def _wanted(self, path: Path) -> dict[str, Any]:
        facts = device_facts(self.model.device)
        return validity(path, str(self._trt.__version__), facts, self._precision)

    def is_there(self, call: StageCall) -> bool:
        """See :class:`GraphEngine`: a graph, and an engine of it that fits this machine."""
        if not super().is_there(call):
            return False
        path = self.store.path(call)
        return stored_engine(path, self._wanted(path)) is not None

    def load(self, call: StageCall, path: Path, make: bool = True) -> Program:
        """See :class:`GraphEngine`; builds the engine where none fits and ``make`` allows it."""
        wanted = self._wanted(path)
        plan = stored_engine(path, wanted)
        engine = self._runtime.deserialize_cuda_engine(plan) if plan is not None else None
        if engine is None and not make:
            raise EngineError(f"engine tensorrt: none of {path.name} can be loaded")
        if engine is None:  # none is kept, it does not fit, or TensorRT refuses it
            plan = build_engine(self._trt, self._log, path, self._precision)
            try:
                keep_engine(path, plan, wanted)
            except OSError as error:
                logger.warning("a TensorRT engine is built again the next time: %s", error)
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(
                f"engine tensorrt: {engine_path(path).name} was built but cannot be loaded; is "
                "there enough free device memory?"
            )
        return _Context(self._trt, engine)


class _Context(Program):
    def __init__(self, trt: Any, engine: Any) -> None:
        self._engine = engine
        self._context = engine.create_execution_context()
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

    def __call__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """See :class:`Program`; queued on torch's current stream."""
        for name, x in zip(self._inputs, inputs, strict=True):
            self._context.set_input_shape(name, tuple(x.shape))
            self._context.set_tensor_address(name, x.data_ptr())
        for name, x in zip(self._outputs, outputs, strict=True):
            self._context.set_tensor_address(name, x.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("TensorRT refused to run a stage; its own messages say why")
