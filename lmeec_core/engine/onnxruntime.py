"""ONNX Runtime on the CPU, in float32 (it has no bfloat16 products there)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lmeec_core.engine.calls import StageCall
from lmeec_core.engine.graph_engine import GraphEngine, Program, unloadable
from lmeec_core.errors import EngineError
from lmeec_core.model import LMEEC


class OnnxRuntimeEngine(GraphEngine):
    """Runs the network's graphs with ONNX Runtime, with as many threads as torch uses."""

    name = "onnxruntime"

    def __init__(self, model: LMEEC, root: Path | None = None) -> None:
        if importlib.util.find_spec("onnxruntime") is None:
            raise EngineError(
                "engine onnxruntime: not installed; `pip install 'lmeec[onnx]'`, or choose another "
                "engine"
            )
        super().__init__(model, root)

    def load(self, call: StageCall, path: Path, make: bool = True) -> Program:
        """See :class:`GraphEngine`."""
        try:
            return _Session(path)
        except Exception as error:  # the library's errors have no other common base
            raise unloadable(self.name, path, error) from error


class _Session(Program):
    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # Spinning threads would slow down the stages that torch computes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]
        self.shapes = [tuple(value.shape) for value in self._session.get_outputs()]

    def __call__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """See :class:`Program`; nothing is copied."""
        binding = self._session.io_binding()
        for name, x in zip(self._inputs, inputs, strict=True):
            kind = np.bool_ if x.dtype is torch.bool else np.float32
            binding.bind_input(name, "cpu", 0, kind, list(x.shape), x.data_ptr())
        for name, x in zip(self._outputs, outputs, strict=True):
            binding.bind_output(name, "cpu", 0, np.float32, list(x.shape), x.data_ptr())
        self._session.run_with_iobinding(binding)
