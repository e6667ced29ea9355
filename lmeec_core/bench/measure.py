"""Measures one case: times of steps and stages, operations, memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import benchmark
from torch.utils.flop_counter import FlopCounterMode

from lmeec_core.bench.filled import FilledTracker, filled_tracker
from lmeec_core.bench.memory import peak_of, used
from lmeec_core.bench.reference import ReferenceStep
from lmeec_core.checkpoint import load_model
from lmeec_core.config import EngineName, Precision
from lmeec_core.engine import chosen_engines
from lmeec_core.model.precision import TYPES
from lmeec_core.model.stages import Outputs, Stage, StageOptions, StageRunner

if TYPE_CHECKING:
    from lmeec_core.model import LMEEC

SEED = 0
WARM_UP = {"cpu": 1, "cuda": 6}
"""Number of warm-up steps before measuring."""
STAGE_STEPS = 5
"""Maximum number of extra steps in which stages are timed; timing them slows a GPU down."""


@dataclass(frozen=True)
class Case:
    """What to measure.

    Attributes:
        preset, device, engine, precision: those of the network, see
            :func:`lmeec_core.load_model`; weights are random if none are bundled.
        objects, targets: N and K.
        steps: number of measured steps.
        reference_steps: number of reference steps between them; 0 for none.
        reference_precision: precision of the reference.
        frames: number of steps over which memory growth is measured; 0 for none.
    """

    preset: str
    device: str
    engine: EngineName
    precision: Precision
    objects: int
    targets: int
    steps: int = 10
    reference_steps: int = 0
    reference_precision: Precision = "fp32"
    frames: int = 0


def spread(times: list[float]) -> dict[str, float]:
    """Median and 95th percentile of times in milliseconds."""
    return {
        "median": round(float(np.median(times)), 3),
        "p95": round(float(np.percentile(times, 95)), 3),
    }


def measure(case: Case) -> dict[str, Any]:
    """Measure a case; returns its entry for the JSON file.

    Peak memory is measured during the warm-up, while the process holds only this case's network.
    Reference steps are interleaved with the measured steps, so that other load on the machine
    affects both equally.
    """
    plain_of.cache_clear()
    model = model_of(case.preset, case.device, case.precision, case.engine)
    state = filled_tracker(model, case.objects, case.targets)
    peak = peak_of(model.device, lambda: _warm_up(model, state))
    reference = None
    if case.reference_steps:
        plain = plain_of(case.preset, case.device, case.reference_precision)
        reference = ReferenceStep(plain, case.objects, case.targets)
    own, other = _interleave(case, model, lambda: _step(state), reference)
    result: dict[str, Any] = {
        "preset": case.preset,
        "device": device_name(model.device),
        "engine": case.engine,
        "engines": chosen_engines(model),
        "precision": case.precision,
        "objects": case.objects,
        "targets": case.targets,
        "step_ms": spread(own),
        "stage_ms": {
            name: spread(times)
            for name, times in stage_times(case, model, min(case.steps, STAGE_STEPS)).items()
        },
        "threads": torch.get_num_threads(),
    }
    if other:
        result["reference"] = {"precision": case.reference_precision, "step_ms": spread(other)}
        result["ratio"] = round(float(np.median(other) / np.median(own)), 3)
    work = _work(case, model)
    floor = work / peak_gflops(model.device, case.precision) * 1e3
    result["gflop"] = round(work, 2)
    result["floor_ms"] = round(floor, 3)
    result["floor_share"] = round(floor / result["step_ms"]["median"], 3)
    result["memory"] = {} if peak is None else {"peak_mb": round(peak, 1)}
    if case.frames:
        result["memory"] |= growth(model, state, case.frames)
    return result


@lru_cache(maxsize=1)
def model_of(preset: str, device: str, precision: Precision, engine: EngineName) -> LMEEC:
    """The network, with bundled or random weights; the last one is cached."""
    return load_model(preset, device=device, precision=precision, seed=SEED, engine=engine)


@lru_cache(maxsize=1)
def plain_of(preset: str, device: str, precision: Precision) -> LMEEC:
    """The network for the reference; the last one is cached."""
    return load_model(preset, device=device, precision=precision, seed=SEED)


def _warm_up(model: LMEEC, state: FilledTracker) -> None:
    for _ in range(WARM_UP[model.device.type]):
        _step(state)


def device_name(device: torch.device) -> str:
    """The type of device; for a GPU also its name."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"


def _step(state: FilledTracker) -> None:
    state.tracker.step(state.images, state.masks)


def timed(model: LMEEC, work: Callable[[], object]) -> float:
    """Milliseconds that ``work`` takes, including its work on a GPU."""
    return _seconds(model.device, work) * 1e3


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    clock = benchmark.timer if device.type == "cuda" else time.perf_counter  # waits for the GPU
    start = clock()
    work()
    return clock() - start


def _interleave(
    case: Case, model: LMEEC, step: Callable[[], None], reference: ReferenceStep | None
) -> tuple[list[float], list[float]]:
    """Times of the steps, and of the reference steps between them, in milliseconds."""
    if reference is not None and model.device.type == "cuda":
        reference()
    own: list[float] = []
    other: list[float] = []
    for i in range(case.steps):
        own.append(timed(model, step))
        due = (i + 1) * case.reference_steps // case.steps
        while reference is not None and len(other) < due:
            other.append(timed(model, reference))
    return own, other


def stage_times(case: Case, model: LMEEC, steps: int) -> dict[str, list[float]]:
    """Milliseconds of each stage in further steps. Memory attention is listed separately for the
    two memories, the memory encoder for query and target; ``rest`` is time outside the stages."""
    times: dict[str, list[float]] = {}
    compute: StageRunner = model.runner or model.compute
    within = 0.0

    def run(stage: Stage, options: StageOptions, inputs: Outputs) -> Outputs:
        nonlocal within
        outputs: Outputs = ()

        def work() -> None:
            nonlocal outputs
            outputs = compute(stage, options, inputs)

        taken = timed(model, work)
        use = model.stages[stage].use(options, inputs)
        times.setdefault(f"{stage} {use}".rstrip(), []).append(taken)
        within += taken
        return outputs

    state = filled_tracker(model, case.objects, case.targets, runner=run)
    for _ in range(steps):
        within = 0.0
        whole = timed(model, lambda: _step(state))
        times.setdefault("rest", []).append(whole - within)
    return times


def _work(case: Case, model: LMEEC) -> float:
    """GFLOP that eager torch needs for a step of this case, a multiply-add counting as 2."""
    state = filled_tracker(model, case.objects, case.targets, runner=model.compute)
    counter = FlopCounterMode(display=False)
    # The counter does not know the CPU's fused attention.
    with counter, sdpa_kernel(SDPBackend.MATH):
        _step(state)
    return counter.get_total_flops() / 1e9


@lru_cache(maxsize=4)
def peak_gflops(device: torch.device, precision: Precision) -> float:
    """GFLOP/s of a product of large square matrices; the floor is computed from it."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=TYPES[precision])
    best = min(_seconds(device, lambda: a @ a) for _ in range(8))
    return 2 * side**3 / best / 1e9


def growth(model: LMEEC, state: FilledTracker, frames: int) -> dict[str, float]:
    """Memory after a tenth of ``frames`` steps, and its growth over the rest, in megabytes."""
    before, first = 0.0, max(1, frames // 10)
    for frame in range(frames):
        _step(state)
        if frame + 1 == first:
            before = used(model.device)
    return {
        "frames": frames,
        "start_mb": round(before, 2),
        "growth_mb": round(used(model.device) - before, 2),
    }
