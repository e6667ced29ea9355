"""OpenVINO on the CPU, in float32, or in bfloat16 where the processor supports it."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmeec_core.engine.calls import StageCall
from lmeec_core.engine.graph_engine import GraphEngine, Program, unloadable
from lmeec_core.errors import EngineError
from lmeec_core.model import LMEEC

_LOADING = threading.Lock()


@cache
def _the_core() -> Any:
    """The process's only core, which is never released.

    OpenVINO's CPU plugin gives the thread that loads it a new stack for signal handlers, and
    unmaps that stack when the plugin is unloaded, in whatever thread and order that happens. A
    thread whose signal stack is gone crashes at its next signal: SIGINT, or SIGCHLD when a process
    ends. So the plugin is loaded once, in a thread that exits right away, and stays loaded.
    """
    import openvino

    def load() -> Any:
        core = openvino.Core()
        core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
        return core

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(load).result()


class OpenVinoEngine(GraphEngine):
    """Runs the network's graphs with OpenVINO, with as many threads as torch uses."""

    name = "openvino"

    def __init__(self, model: LMEEC, root: Path | None = None) -> None:
        if importlib.util.find_spec("openvino") is None:
            raise EngineError(
                "engine openvino: not installed; `pip install 'lmeec[openvino]'`, or choose "
                "another engine"
            )
        super().__init__(model, root)
        try:
            import openvino  # noqa: F401
        except Exception as error:  # for instance, its telemetry needs a home folder
            raise EngineError(
                f"engine openvino: OpenVINO cannot be imported ({error}); it needs a home folder "
                "(HOME) and its libraries; mend that, or choose another engine"
            ) from error

        with _LOADING:
            self._core = _the_core()
        can = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self._low = "bf16" if model.precision == "bf16" and "BF16" in can else "f32"

    def load(self, call: StageCall, path: Path, make: bool = True) -> Program:
        """See :class:`GraphEngine`."""
        settings = {
            "INFERENCE_PRECISION_HINT": self._low if call.spec.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
        }
        try:
            return _Compiled(self._core.compile_model(str(path), "CPU", settings))
        except RuntimeError as error:
            raise unloadable(self.name, path, error) from error


class _Compiled(Program):
    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self.shapes = [tuple(port.shape) for port in compiled.outputs]

    def __call__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """See :class:`Program`; nothing is copied."""
        from openvino import Tensor as Shared

        for i, x in enumerate(inputs):
            self._request.set_input_tensor(i, Shared(x.numpy(), shared_memory=True))
        for i, x in enumerate(outputs):
            self._request.set_output_tensor(i, Shared(x.numpy(), shared_memory=True))
        self._request.infer()
