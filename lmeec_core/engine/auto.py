"""Engine ``auto``: the fastest engine for each stage, measured once per machine and cached."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from lmeec_core.cache import VARIABLE, cache_folder
from lmeec_core.config import MemoryConfig
from lmeec_core.engine.base import Engine, EngineError, EngineName, StageFunction
from lmeec_core.engine.calls import StageCall, step_calls
from lmeec_core.engine.registry import make_engine
from lmeec_core.files import write_text
from lmeec_core.model import LMEEC
from lmeec_core.model.stages import STAGES, Stage

logger = logging.getLogger(__name__)

_WARM_UP, _REPEATS = 3, 5
"""Rounds of warm-up, and rounds that are timed."""
_MARGIN = 0.95
"""An engine must take less than this share of eager's time to be worth the cost of switching."""

ENGINES_OF: dict[str, tuple[EngineName, ...]] = {
    "cpu": ("onnxruntime", "openvino"),
    "cuda": ("cuda_graph", "tensorrt"),
}
"""The engines to try on each type of device, besides eager."""

Times = dict[str, dict[str, float]]
"""By stage and engine: milliseconds for the stage's calls in one step."""

_measured: dict[str, Times] = {}
"""Measurements made by this process, by the name of their cache file."""


def choose(
    model: LMEEC,
    memory: MemoryConfig | None = None,
    engines: dict[EngineName, Engine] | None = None,
) -> dict[Stage, Engine]:
    """Choose the fastest engine for each stage of this model on this machine, and prepare it.

    Times are measured with one object, one target and a full memory, or read from the cache. If
    only eager can run the model, nothing is measured. Nothing is exported.

    Args:
        model: the network.
        memory: the trackers' memory settings; None for the defaults.
        engines: the engines to choose from; None for :func:`candidates`.

    Returns:
        the prepared engine of each stage.
    """
    engines = candidates(model) if engines is None else engines
    chosen: dict[Stage, Engine] = dict.fromkeys(STAGES, engines["eager"])
    if len(engines) > 1:
        calls = step_calls(model, memory=memory)
        times = remembered(model, memory, engines)
        if times is None:
            for engine in engines.values():
                engine.prepare(calls, make=False)
            times = measure(model, engines, calls)
            _remember(_name(model, memory, engines), times)
        chosen |= {stage: engines[fastest(times.get(stage, {}))] for stage in STAGES}
        _prepare(chosen, engines["eager"], calls)
    logger.info(
        "engine auto: %s",
        ", ".join(f"{stage} {engine.name}" for stage, engine in chosen.items()),
    )
    return chosen


def _prepare(chosen: dict[Stage, Engine], eager: Engine, calls: list[StageCall]) -> None:
    """Prepare the chosen engines; a stage that its engine cannot run after all goes to eager."""
    for stage, engine in chosen.items():
        mine = [call for call in calls if call.stage == stage]
        engine.prepare(mine, make=False)
        if not all(engine.offers(call) for call in mine):
            logger.warning("engine auto: %s without %s: graphs are missing", stage, engine.name)
            chosen[stage] = eager


def fastest(times: dict[str, float]) -> EngineName:
    """The engine with the shortest time; eager unless another one is clearly faster."""
    best = min(times, key=times.__getitem__, default="eager")
    clear = best != "eager" and times[best] < _MARGIN * times.get("eager", float("inf"))
    return best if clear else "eager"  # type: ignore[return-value]


def candidates(model: LMEEC) -> dict[EngineName, Engine]:
    """The engines that can be used right now on the model's device; always includes eager."""
    return {name: engine for name, engine in possible(model).items() if engine.is_ready()}


def possible(model: LMEEC, root: Path | None = None) -> dict[EngineName, Engine]:
    """The engines for the model's device whose libraries are installed; some may lack files.

    Args:
        model: the network.
        root: see :class:`Engine`.
    """
    engines: dict[EngineName, Engine] = {"eager": make_engine(model, "eager")}
    for name in ENGINES_OF["cuda" if model.device.type == "cuda" else "cpu"]:
        try:
            engines[name] = make_engine(model, name, root)
        except (EngineError, ImportError) as error:
            logger.info("engine auto: without %s: %s", name, error)
    return engines


def remembered(
    model: LMEEC, memory: MemoryConfig | None, engines: dict[EngineName, Engine]
) -> Times | None:
    """The earlier measurement with the same engines and files; None if there is none."""
    name = _name(model, memory, engines)
    times = _read(name)
    return _measured.get(name) if times is None else times


def _name(model: LMEEC, memory: MemoryConfig | None, engines: dict[EngineName, Engine]) -> str:
    files = {file for engine in engines.values() for file in engine.files()}
    return cache_name(model, sorted(engines), memory, sorted(files))


def step_seconds(model: LMEEC, memory: MemoryConfig | None) -> float:
    """Seconds that a step with one object and one target takes in eager torch."""
    with torch.inference_mode(), model.autocast():
        for _ in range(2):  # the first one is slower
            start = time.perf_counter()
            for call in step_calls(model, memory=memory):
                model.compute(call.stage, call.options, call.example(model.device))
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
    return time.perf_counter() - start


def measure(model: LMEEC, engines: dict[EngineName, Engine], calls: list[StageCall]) -> Times:
    """Time each stage's calls in a step with every engine that offers all of them."""
    times: Times = {}
    with torch.inference_mode(), model.autocast():
        for stage in STAGES:
            mine = [call for call in calls if call.stage == stage]
            offered = [e for e in engines.values() if all(e.offers(call) for call in mine)]
            if len(offered) < 2:
                continue
            times[stage] = dict.fromkeys((engine.name for engine in offered), 0.0)
            for call in mine:
                inputs = call.example(model.device)
                for name, ms in _compare(model, offered, call, inputs).items():
                    times[stage][name] += ms
    return times


def _compare(
    model: LMEEC, engines: list[Engine], call: StageCall, inputs: tuple[Tensor, ...]
) -> dict[EngineName, float]:
    """Shortest time in milliseconds of a call with each engine. The engines take turns, and the
    minimum counts, because other load on the machine only ever adds time."""
    functions: dict[EngineName, StageFunction] = {e.name: e.build(call) for e in engines}
    taken = {engine.name: float("inf") for engine in engines}
    for turn in range(_WARM_UP + _REPEATS):
        for name, function in functions.items():
            start = time.perf_counter()
            function(*inputs)
            if model.device.type == "cuda":
                torch.cuda.synchronize(model.device)
            if turn >= _WARM_UP:
                taken[name] = min(taken[name], (time.perf_counter() - start) * 1e3)
    return taken


def cache_name(
    model: LMEEC,
    engines: list[EngineName],
    memory: MemoryConfig | None = None,
    files: Sequence[str] = (),
) -> str:
    """Name of the cache file of a measurement. It depends on machine, library versions, network,
    memory settings, engines, and the engines' files (more may be exported later)."""
    cuda = model.device.type == "cuda"
    key = {
        "machine": torch.cuda.get_device_name(model.device) if cuda else _processor(),
        "torch": torch.__version__,
        "libraries": {name: _versions(_LIBRARIES[name]) for name in engines if name in _LIBRARIES},
        "threads": torch.get_num_threads(),
        "config": model.config.model_dump(mode="json"),
        "memory": (memory or MemoryConfig()).model_dump(mode="json"),
        "precision": model.precision,
        "engines": engines,
        "files": list(files),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return f"engines_{digest}.json"


_LIBRARIES: dict[EngineName, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu13-bindings"),
}
"""The Python distributions that may provide an engine's library."""


def _versions(distributions: tuple[str, ...]) -> list[str]:
    found = []
    for name in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    return f"{platform.node()} {model or platform.processor()}"


def _read(name: str) -> Times | None:
    """A cached measurement; None if there is none or it cannot be read."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        times = json.loads((folder / name).read_text(encoding="utf-8"))
        return {
            str(stage): {str(engine): float(ms) for engine, ms in entry.items()}
            for stage, entry in times.items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def _remember(name: str, times: Times) -> None:
    """Cache a measurement; if it cannot be written, only this process keeps it."""
    _measured[name] = times
    folder = cache_folder()
    try:
        if folder is None:
            raise OSError(f"there is no home folder; {VARIABLE} names one for it")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, json.dumps(times, indent=1))
    except OSError as error:
        logger.warning("engine auto: what was measured is not kept for the next start: %s", error)
