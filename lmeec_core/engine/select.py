"""Choosing an engine by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lmeec_core.engine.base import ENGINES, Engine, EngineError, EngineName
from lmeec_core.engine.runner import Runner
from lmeec_core.model.stages import STAGES

if TYPE_CHECKING:
    from lmeec_core.model import LMEEC

_CLASSES: dict[EngineName, tuple[str, str]] = {
    "eager": ("eager", "EagerEngine"),
    "cuda_graph": ("cuda_graph", "CudaGraphEngine"),
    "onnxruntime": ("onnxruntime", "OnnxRuntimeEngine"),
    "openvino": ("openvino", "OpenVinoEngine"),
    "tensorrt": ("tensorrt", "TensorRtEngine"),
}
"""Module in this package and class of each engine; imported when it is asked for."""


def make_engine(model: LMEEC, name: EngineName) -> Engine:
    """An engine for a model.

    Raises:
        EngineError: unknown, or it cannot be used here.
    """
    if name not in _CLASSES:
        raise EngineError(f"engine: {name!r} given, one of {', '.join(ENGINES)} expected")
    module, class_name = _CLASSES[name]
    cls: type[Engine] = getattr(importlib.import_module(f"{__package__}.{module}"), class_name)
    return cls(model)


def use_engine(model: LMEEC, name: EngineName = "auto") -> None:
    """Let a model compute its stages with an engine from now on.

    Args:
        model: with its final weights, device and precision; in evaluation mode.
        name: see :data:`lmeec_core.engine.ENGINES`.

    Raises:
        EngineError: unknown, or it cannot be used here.
    """
    if name == "eager":
        model.runner = None
        return
    engine = make_engine(model, name)
    model.runner = Runner(model, {stage: engine for stage in STAGES})
