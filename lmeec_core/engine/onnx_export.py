"""Exports a stage of the network as an ONNX graph and checks it against eager torch.

Shapes are static, the rotary encoding is real-valued, and there is no control flow, so that ONNX
Runtime, OpenVINO and TensorRT all accept the graphs.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lmeec_core.config import Precision
from lmeec_core.engine.calls import StageCall
from lmeec_core.engine.compare import difference, largest, mean_difference
from lmeec_core.engine.records import describe_inputs, file_hash
from lmeec_core.engine.used_part import used_part
from lmeec_core.errors import EngineError
from lmeec_core.files import replacing
from lmeec_core.model import LMEEC
from lmeec_core.model.stages import Outputs, StageModule
from lmeec_core.networks import seeded_model

if TYPE_CHECKING:
    import onnx

OPSET = 18
TOLERANCE = 1e-3
"""Largest allowed difference between a graph in ONNX Runtime and eager torch, relative to the
largest value of an output, or to :data:`SMALL` if that is larger."""
SMALL = 1e-2
"""Smallest divisor of differences: a predicted IoU, for instance, may be nearly 0."""
HALF_TOLERANCES: dict[Precision, float] = {"bf16": 0.03, "fp16": 0.01}
"""Largest allowed difference between a graph with products in a half type, its rounding emulated
in float32, and eager torch in float32: root mean square, relative to that of an output."""
_SMALL_SUM = 1.0
"""Smallest divisor of differences of a predicted IoU or presence logit in a half type."""
_SEEDS = 16
"""Number of examples to try for a stage that says whether objects are present."""
_SURE = 0.05
"""Examples should have presence logits this far from 0, so that rounding cannot flip the sign."""
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}


def export_graph(
    model: LMEEC, call: StageCall, path: Path, few_operations: bool = False
) -> dict[str, Any]:
    """Write the graph of a call, in float32, and check it.

    Args:
        model: the network.
        call: a call with float32 inputs (:meth:`StageCall.for_graph`).
        path: the ONNX file; it only appears once all checks have passed.
        few_operations: export the form for GPUs, see :meth:`Trunk.exportable`.

    Returns:
        the contents of the file's record.

    Raises:
        EngineError: a library is missing, or the graph fails a check.
        OSError: it cannot be written.
    """
    require("onnx", "onnxscript", "onnxruntime")
    import onnx

    with _in_float32():
        plain = _plain(model)
        examples = _examples(plain, call)
        program = _trace(plain, call, examples[0][0], few_operations)
        with replacing(path) as partial:
            program.save(str(partial))
            proto = onnx.load(str(partial))
            onnx.checker.check_model(proto, full_check=True)
            problems = unwanted(proto)
            if problems:
                raise EngineError(f"graph {path.name}: {'; '.join(problems)}")
            apart = _apart(partial, examples, difference)
            if not apart <= TOLERANCE:
                raise EngineError(
                    f"graph {path.name}: differs from eager torch by {apart:.1e}, at most "
                    f"{TOLERANCE} expected; please report it with the versions of torch "
                    f"({torch.__version__}) and onnx ({onnx.__version__})"
                )
    return _record(call, examples[0][1], path) | {"opset": OPSET, "difference": apart}


def export_half(
    model: LMEEC, call: StageCall, exact: Path, path: Path, precision: Precision
) -> dict[str, Any]:
    """Write the graph of a call with its products in a half type, and check it.

    Args:
        model, call, path: see :func:`export_graph`.
        exact: the same graph in float32.
        precision: the half type.

    Returns:
        see :func:`export_graph`; ``difference`` compares root mean squares.

    Raises:
        EngineError: rounding to this type changes the results too much.
        OSError: it cannot be written.
    """
    import onnx

    from lmeec_core.engine import half_graph

    proto = half_graph.with_half_products(onnx.load(str(exact)), precision, model.exact_modules)
    onnx.checker.check_model(proto, full_check=True)
    with _in_float32():
        examples = _examples(_plain(model), call)
    emulated = half_graph.emulated(proto).SerializeToString()
    apart, bound = _apart(emulated, examples, _rounding), HALF_TOLERANCES[precision]
    if not apart <= bound:
        raise EngineError(
            f"graph {path.name}: differs from float32 by {apart:.1e} (root mean squares), at most "
            f"{bound} expected: {precision} is too coarse for these weights; choose another "
            "precision"
        )
    with replacing(path) as partial:
        onnx.save(proto, str(partial))
    opset = half_graph.OPSET
    return _record(call, examples[0][1], path) | {
        "opset": opset, "difference": apart, "precision": precision
    }  # fmt: skip


@contextmanager
def _in_float32() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield


def _record(call: StageCall, outputs: Outputs, path: Path) -> dict[str, Any]:
    import onnx

    return {
        "stage": call.stage,
        "options": dict(vars(call.options)),
        "inputs": describe_inputs(call),
        "outputs": [
            {"name": spec.name, "shape": list(value.shape), "dtype": "float32"}
            for spec, value in zip(call.spec.outputs, outputs, strict=True)
        ],
        "sha256": file_hash(path),
        "bytes": path.stat().st_size,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
    }


def _plain(model: LMEEC) -> LMEEC:
    """The network on the CPU, with float32 weights."""
    if model.device.type == "cpu" and model.precision != "bf16":
        return model
    plain = seeded_model(model.config, 0)
    plain.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    return plain.requires_grad_(False)


def require(*modules: str) -> None:
    """Check that the libraries needed for an export are installed.

    Raises:
        EngineError: some are missing; names them and says how to install them.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineError(
            f"export: {' and '.join(missing)} not installed; `pip install 'lmeec[onnx]'`, or "
            f"`pip install {' '.join(missing)}`"
        )


def _trace(model: LMEEC, call: StageCall, inputs: tuple[Tensor, ...], few_operations: bool) -> Any:
    module = StageModule(model, call.stage, call.options).eval()
    trunk, side = model.image_encoder.trunk, model.config.mask_size
    with trunk.exportable(side, few_operations), _quiet():
        traced = torch.export.export(used_part(module, inputs), inputs, strict=False)
        return torch.onnx.export(
            traced,
            dynamo=True,
            opset_version=OPSET,
            input_names=[f"input_{i}" for i in range(len(inputs))],
            output_names=[spec.name for spec in call.spec.outputs],
            verbose=False,
        )


_TALKERS = (
    "onnxscript",
    "onnx_ir",
    "torch.__trace",
    "torch.onnx._internal.exporter._registration",
)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about nodes, torchvision and deprecations."""
    loggers = [logging.getLogger(name) for name in _TALKERS]
    levels = [talker.level for talker in loggers]
    for talker in loggers:
        talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for talker, level in zip(loggers, levels, strict=True):
            talker.setLevel(level)


def unwanted(proto: onnx.ModelProto) -> list[str]:
    """The parts of a graph that some backend cannot compute, or not as torch does."""
    import onnx

    problems = set()
    graph = proto.graph
    for node in graph.node:
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.domain:
            problems.add(f"operator {node.op_type} of the domain {node.domain}")
        if node.op_type in _CONTROL_FLOW:
            problems.add(f"control flow ({node.op_type})")
        if node.op_type == "Resize" and (
            settings.get("mode") == b"cubic" or settings.get("antialias")
        ):
            problems.add("a cubic or antialiased Resize")
    complex_types = (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
    values = [*graph.input, *graph.output, *graph.value_info]
    if any(v.type.tensor_type.elem_type in complex_types for v in values) or any(
        tensor.data_type in complex_types for tensor in graph.initializer
    ):
        problems.add("complex numbers")
    if any(
        not dim.HasField("dim_value")
        for value in (*graph.input, *graph.output)
        for dim in value.type.tensor_type.shape.dim
    ):
        problems.add("inputs or outputs without fixed shapes")
    return sorted(problems)


def _examples(model: LMEEC, call: StageCall) -> list[tuple[Outputs, Outputs]]:
    """Inputs with eager torch's outputs for them. The decoder's masks and pointers are constants
    where objects are absent, so it gets one example with absent and one with present objects, if
    both are found."""
    module = StageModule(model, call.stage, call.options)
    presence = [i for i, spec in enumerate(call.spec.outputs) if spec.name == "presence_logit"]
    found: dict[bool, tuple[Outputs, Outputs]] = {}
    sure: dict[bool, float] = {}
    for seed in range(_SEEDS if presence else 1):
        inputs = call.example(torch.device("cpu"), seed)
        outputs = module(*inputs)
        present = any(bool((outputs[i] > 0).all()) for i in presence)
        distance = min((float(outputs[i].abs().min()) for i in presence), default=0.0)
        if distance >= sure.get(present, 0.0):
            found[present], sure[present] = (inputs, outputs), distance
        if len(found) == 2 and min(sure.values()) > _SURE:
            break
    return list(found.values())


def _rounding(ours: Any, reference: Any, small: float) -> float:
    """Compares root mean squares. A single number may be a small sum of large ones, and rounding
    is relative to those, so it gets a larger divisor."""
    single = reference.size == len(reference)
    return mean_difference(ours, reference, _SMALL_SUM if single else small)


def _apart(
    graph: Path | bytes,
    examples: list[tuple[Outputs, Outputs]],
    measure: Callable[[Any, Any, float], float],
) -> float:
    """How far a graph's outputs in ONNX Runtime are from the expected ones: the worst counts."""
    import onnxruntime

    content = graph if isinstance(graph, bytes) else str(graph)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return largest(
        measure(result, wanted.numpy(), SMALL)
        for inputs, expected in examples
        for result, wanted in zip(
            session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)}),
            expected,
            strict=True,
        )
    )
