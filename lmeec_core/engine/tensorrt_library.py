"""NVIDIA's two TensorRT libraries, and their differences.

Full TensorRT (10, 11) times kernels on the GPU that an engine is built for, so it needs that GPU,
and it keeps the timings. TensorRT for RTX builds engines for several kinds of GPU at once and needs
no GPU for that; it compiles kernels when an engine is loaded, keeps them in a runtime cache, and
captures CUDA graphs itself.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lmeec_core.errors import EngineError, InputError
from lmeec_core.files import replacing

logger = logging.getLogger(__name__)

TIMING_CACHE = "timing.cache"
"""File next to the graphs with kernel timings that later builds with full TensorRT reuse."""
_NEEDED = ("Builder", "OnnxParser", "Runtime", "ICudaEngine", "Logger")


class Library:
    """Full TensorRT: an engine is for one kind of GPU, and is built on it.

    Args:
        module: the imported library.

    Attributes:
        name: the library's name and version, as written in records.
        module: the imported library.
        log: receives its messages, which go to Python's log and into errors.
        served: the GPUs that an engine supports if no targets are given.
        captures: whether contexts capture CUDA graphs, which need addresses that never change.
    """

    label = "TensorRT"
    served = "this machine's GPU"
    captures = False

    def __init__(self, module: Any) -> None:
        self.module = module
        self.name = f"{self.label} {module.__version__}"
        self.log = _message_log(module)

    def facts(self, device: torch.device | None) -> dict[str, Any]:
        """What an engine depends on besides its graph and the library.

        Args:
            device: the device that the engine is for; None if there is no GPU.

        Raises:
            EngineError: a GPU is needed, and there is none.
        """
        if device is None or device.type != "cuda":
            raise EngineError(
                f"engine tensorrt: {self.name} builds engines only on the GPU that they are for, "
                "and none is at hand; build there, or install TensorRT for RTX "
                "(`pip install 'lmeec[tensorrt]'`), which needs no GPU to build"
            )
        major, minor = torch.cuda.get_device_capability(device)
        return {
            "device": torch.cuda.get_device_name(device),
            "compute_capability": f"{major}.{minor}",
        }

    def targets(self, given: Sequence[str]) -> list[str]:
        """Check the kinds of GPU that engines should support; empty for the library's default.

        Args:
            given: names such as sm86; empty for the default.

        Raises:
            InputError: the library cannot build for one of these.
        """
        if given:
            raise InputError(
                f"--for: {', '.join(given)} given, but {self.name} builds for this machine only; "
                "leave out --for, or install TensorRT for RTX in its place"
            )
        return []

    def set_targets(self, config: Any, targets: Sequence[str]) -> None:
        """Set the targets in a builder's configuration."""

    def read_timings(self, config: Any, folder: Path) -> None:
        """Let a builder reuse the kernel timings of earlier builds."""
        path = folder / TIMING_CACHE
        cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
        if not config.set_timing_cache(cache, ignore_mismatch=False):
            cache = config.create_timing_cache(b"")  # from another device or version
            config.set_timing_cache(cache, ignore_mismatch=False)

    def keep_timings(self, config: Any, folder: Path) -> None:
        """Save a builder's kernel timings for later builds."""
        try:
            with replacing(folder / TIMING_CACHE) as partial:
                partial.write_bytes(bytes(config.get_timing_cache().serialize()))
        except OSError as error:
            logger.warning("TensorRT's measurements are not kept: %s", error)

    def refusal(self, runtime: Any, path: Path) -> str | None:
        """Why an engine file does not fit this machine, judging by its header; None if it fits, or
        if the library can only tell by loading it."""
        return None

    def context(self, engine: Any, cache: Path) -> tuple[Any, Callable[[], None]]:
        """An execution context, and a function to call after its first run.

        Args:
            engine: the loaded engine.
            cache: file for the kernels that the library compiles when it loads an engine.
        """
        return engine.create_execution_context(), lambda: None


class RtxLibrary(Library):
    """TensorRT for RTX: engines for several kinds of GPU, built on any machine. It has a runtime
    cache, but no timing cache (with one, its builder would need a GPU)."""

    label = "TensorRT for RTX"
    served = "sm80 and later"
    captures = True

    def facts(self, device: torch.device | None) -> dict[str, Any]:
        """See :class:`Library`: none; an engine's header says what it fits (:meth:`refusal`)."""
        return {}

    def targets(self, given: Sequence[str]) -> list[str]:
        """See :class:`Library`."""
        known = [name for name in self.module.ComputeCapability.__members__ if name[:2] == "SM"]
        wrong = [name for name in given if name.upper() not in known]
        if wrong:
            raise InputError(
                f"--for: {', '.join(wrong)} given; {self.name} builds for "
                f"{', '.join(known).lower()}, and without --for one engine for {self.served}"
            )
        return sorted({name.lower() for name in given}, key=lambda name: int(name[2:]))

    def set_targets(self, config: Any, targets: Sequence[str]) -> None:
        """See :class:`Library`."""
        if not targets:
            return
        config.num_compute_capabilities = len(targets)
        for i, name in enumerate(targets):
            capability = self.module.ComputeCapability.__members__[name.upper()]
            if not config.set_compute_capability(capability, i):
                raise EngineError(f"engine tensorrt: {self.name} refuses the target {name}")

    def read_timings(self, config: Any, folder: Path) -> None:
        """See :class:`Library`: there are none."""

    def keep_timings(self, config: Any, folder: Path) -> None:
        """See :class:`Library`: there are none."""

    def refusal(self, runtime: Any, path: Path) -> str | None:
        """See :class:`Library`."""
        with path.open("rb") as file:
            header = file.read(runtime.engine_header_size)
        state, flags = runtime.get_engine_validity(header)
        kinds = self.module.EngineValidity
        if state == kinds.INVALID:
            members = self.module.EngineInvalidityDiagnostics.__members__.items()
            reasons = [name for name, kind in members if int(flags) & kind.value]
            told = ", ".join(reasons).lower().replace("_", " ") or "no usable GPU or driver"
            return f"{self.name} says that it does not fit this machine ({told})"
        if state == kinds.SUBOPTIMAL:
            logger.warning("engine %s is not the best one for this GPU: see --for", path.name)
        return None

    def context(self, engine: Any, cache: Path) -> tuple[Any, Callable[[], None]]:
        """See :class:`Library`: with CUDA graphs, and the kernels that were compiled earlier."""
        settings = engine.create_runtime_config()
        settings.cuda_graph_strategy = self.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        compiled = settings.create_runtime_cache()
        blob = cache.read_bytes() if cache.is_file() else b""
        if blob and not compiled.deserialize(blob):
            logger.info("%s is of another GPU or version and is made again", cache.name)
        settings.set_runtime_cache(compiled)

        def keep() -> None:
            found = bytes(compiled.serialize())
            if found == blob:
                return
            try:
                with replacing(cache) as partial:
                    partial.write_bytes(found)
            except OSError as error:
                logger.warning("kernels are compiled again the next time: %s", error)

        return engine.create_execution_context(settings), keep


_LIBRARIES: tuple[tuple[tuple[str, ...], type[Library]], ...] = (
    (("tensorrt",), Library),
    (("tensorrt_rtx",), RtxLibrary),
    (("tensorrt_rtx_libs", "tensorrt_rtx_bindings"), RtxLibrary),  # loads the libraries first
)
"""Modules to import, the last of each being the interface; the first that works is used."""


def load_tensorrt() -> Library:
    """The installed TensorRT library; full TensorRT if both are installed.

    Raises:
        EngineError: none is installed, or the installation is broken.
    """
    problems = []
    for names, kind in _LIBRARIES:
        try:
            module: Any = [importlib.import_module(name) for name in names][-1]
        except (ImportError, OSError, RuntimeError) as error:
            problems.append(f"{names[-1]}: {error}")
            continue
        lacking = [name for name in _NEEDED if not hasattr(module, name)]
        if not lacking:
            return _library(module, kind)
        problems.append(f"the installed module {names[-1]} lacks {', '.join(lacking)}")
    raise EngineError(
        f"engine tensorrt: TensorRT cannot be imported ({'; '.join(problems)}); install TensorRT "
        "for RTX (`pip install 'lmeec[tensorrt]'`) or NVIDIA's TensorRT 10 or 11 for Python, or "
        "choose another engine"
    )


def _library(module: Any, kind: type[Library]) -> Library:
    if module.__name__ not in _IN_USE:
        _IN_USE[module.__name__] = kind(module)
    return _IN_USE[module.__name__]


_IN_USE: dict[str, Library] = {}
"""The loaded libraries, by the names of their modules."""


def _message_log(module: Any) -> Any:
    """A logger of the library's own type. One per process, as the library keeps the first one."""
    severity = module.Logger.Severity
    lock = threading.Lock()

    class Messages(module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, kind: Any, text: str) -> None:
            if kind in (severity.ERROR, severity.INTERNAL_ERROR):
                with lock:
                    self.errors.append(text.strip())
            elif kind == severity.WARNING:
                logger.warning("TensorRT: %s", text.strip())

        def take(self) -> list[str]:
            """The errors since the last call, without duplicates."""
            with lock:
                found, self.errors = self.errors, []
            return list(dict.fromkeys(found))

    return Messages()
