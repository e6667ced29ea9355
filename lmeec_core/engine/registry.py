"""The engines by name."""

from __future__ import annotations

import importlib
from pathlib import Path

from lmeec_core.engine.base import ENGINES, Engine, EngineError, EngineName
from lmeec_core.model import LMEEC

_CLASSES: dict[EngineName, tuple[str, str]] = {
    "eager": ("eager", "EagerEngine"),
    "cuda_graph": ("cuda_graph", "CudaGraphEngine"),
    "onnxruntime": ("onnxruntime", "OnnxRuntimeEngine"),
    "openvino": ("openvino", "OpenVinoEngine"),
    "tensorrt": ("tensorrt", "TensorRtEngine"),
}
"""Module in this package and class of each engine; imported when it is needed."""


def make_engine(model: LMEEC, name: EngineName, root: Path | None = None) -> Engine:
    """Create an engine for a model; for ``root`` see :class:`Engine`.

    Raises:
        EngineError: the name is unknown, or the engine cannot be used here.
    """
    if name not in _CLASSES:
        raise EngineError(f"engine: {name!r} given, one of {', '.join(ENGINES)} expected")
    module, class_name = _CLASSES[name]
    cls: type[Engine] = getattr(importlib.import_module(f"{__package__}.{module}"), class_name)
    return cls(model, root)
