"""`lmeec bench --all --cuda`: measures what only a GPU can show, in a few minutes of GPU time.

The most important trials come first: whether results are correct, then times, then memory over
thousands of frames. Each trial has its own process and time limit, and its result is written before
the next one starts. Without a GPU, the same code runs on the CPU as far as possible, and engines
that need a GPU are reported as not run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from lmeec_core.bench.filled import filled_tracker
from lmeec_core.bench.isolated import isolated
from lmeec_core.bench.measure import SEED, Case, measure
from lmeec_core.bench.suite import SIZE_1, SIZE_10
from lmeec_core.checkpoint import load_model
from lmeec_core.config import EngineName, Precision
from lmeec_core.engine import EngineError, engines_in_use, use_engine
from lmeec_core.engine.compare import difference, largest

Result = dict[str, Any]
Outcome = Literal["passed", "failed", "not run"]

BOUNDS: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.01, "fp16": 0.01}
"""Largest allowed difference from float32 in eager torch on the CPU, relative to the largest value:
of every output with fp32, of their median with the half types."""
FRAMES = {"cuda": 5000, "cpu": 10}
"""Number of steps over which memory must not grow."""
_STEPS = 3
_PRESENCE_BIAS = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
_PRESENT = 10.0
"""Added to the presence logit, so that objects are present."""
_LEAST = 5.0
"""A trial is only started if at least this many seconds are left."""


@dataclass(frozen=True)
class Trial:
    """One check or measurement.

    Attributes:
        name: its name in the report.
        work: a module-level function that returns the result.
        arguments: the arguments of ``work``.
        seconds: its time limit; less if less of the total time is left.
    """

    name: str
    work: Callable[..., Result]
    arguments: tuple[Any, ...]
    seconds: float


def plan(
    device: str, preset: str, steps: int, small: tuple[str, ...] = ("mini", "nano")
) -> list[Trial]:
    """The trials, most important first.

    Args:
        device: cuda or cpu. preset: the network to time. steps: steps to measure in each case.
        small: the presets whose results are checked.
    """
    graph: EngineName = "cuda_graph"
    common: tuple[Precision, ...] = ("fp32", "bf16")
    checked: list[tuple[str, EngineName, Precision]] = [
        *((p, "eager", kind) for p in small for kind in common),
        *((p, graph, kind) for p in small for kind in common),
        *((p, "tensorrt", kind) for p in small[:1] for kind in BOUNDS),
    ]
    trials = [
        Trial(f"right: {p} {engine} {kind}", compare_with_cpu, (p, device, engine, kind), 120)
        for p, engine, kind in checked
    ]
    lasting: EngineName = graph if device == "cuda" else "eager"
    timed: list[tuple[EngineName, tuple[int, int], int]] = [
        ("eager", SIZE_1, 0), (graph, SIZE_1, 0), (graph, SIZE_10, 0), ("eager", SIZE_10, 0),
        (lasting, SIZE_1, FRAMES[device]), ("auto", SIZE_1, 0), ("tensorrt", SIZE_1, 0),
    ]  # fmt: skip
    for engine, size, frames in timed:
        reference = steps // 2 if not frames else 0
        case = Case(preset, device, engine, "bf16", *size, steps, reference, "bf16", frames)
        name = f"{'memory' if frames else 'time'}: {preset} {engine} N={size[0]} K={size[1]}"
        trials.append(Trial(name, measure_case, (case,), 180))
    return trials


def compare_with_cpu(preset: str, device: str, engine: EngineName, precision: Precision) -> Result:
    """Compare steps with a full memory with those of eager torch in float32 on the CPU.

    Compares mask logits, pointers and presence, each relative to its largest value; the largest
    difference counts. All objects are present, because absent ones have constant masks and
    pointers, whatever computes them.
    """
    used, found = _outputs(preset, device, engine, precision)
    _, wanted = _outputs(preset, "cpu", "eager", "fp32")
    apart = {name: _apart(found[name], wanted[name], precision) for name in wanted}
    value = largest(apart.values())
    return {"value": value, "apart": apart, "bound": BOUNDS[precision], "engines": used}


def _apart(found: np.ndarray, wanted: np.ndarray, precision: Precision) -> float:
    """Relative difference; infinity if all expected numbers are equal, as that proves nothing."""
    if found.shape != wanted.shape or np.ptp(wanted) == 0:
        return math.inf
    if precision == "fp32":
        return difference(found, wanted)
    return float(np.median(np.abs(found - wanted)) / np.abs(wanted).max())


def _outputs(
    preset: str, device: str, engine: EngineName, precision: Precision
) -> tuple[str, dict[str, np.ndarray]]:
    """The engines in use, and mask logits, pointers and presence logits of a few steps."""
    model = load_model(preset, device=device, precision=precision, seed=SEED, engine="eager")
    with torch.no_grad():  # before an engine copies the weights
        model.get_parameter(_PRESENCE_BIAS).add_(_PRESENT)
    use_engine(model, engine)
    state = filled_tracker(model, 2, 1)
    kept: dict[str, list[np.ndarray]] = {"logits": [], "pointer": [], "presence": []}
    for _ in range(_STEPS):
        step = state.tracker.step(state.images, state.masks)
        for c in (c for view in step.values() for c in view.values()):
            kept["logits"].append(c.logits.float().cpu().numpy().copy())
            kept["pointer"].append(c.pointer.float().cpu().numpy().copy())
            kept["presence"].append(np.asarray(float(c.presence_logit)))
    return engines_in_use(model), {name: np.stack(values) for name, values in kept.items()}


def measure_case(case: Case) -> Result:
    """See :func:`lmeec_core.bench.measure.measure`."""
    return {"result": measure(case)}


def run(trials: list[Trial], seconds: float, tell: Callable[[Result], None]) -> list[Result]:
    """Run trials one after the other.

    Args:
        trials: the trials, most important first.
        seconds: time for all of them; trials for which none is left are reported as not run.
        tell: called with each outcome as soon as it is known.

    Returns:
        the outcomes: ``name``, ``outcome`` (passed, failed or not run), ``seconds``, ``why`` if it
        did not pass, and what the trial returned.
    """
    end, outcomes = time.monotonic() + seconds, []
    for trial in trials:
        started = time.monotonic()
        outcome: Result = {"name": trial.name} | _try(trial, end - started)
        outcome["seconds"] = round(time.monotonic() - started, 1)
        outcomes.append(outcome)
        tell(outcome)
    return outcomes


def _try(trial: Trial, left: float) -> Result:
    if left < _LEAST:
        return {"outcome": "not run", "why": "no time was left"}
    try:
        found = isolated(_work, trial, torch.get_num_threads(), seconds=min(trial.seconds, left))
    except TimeoutError as error:
        if left < trial.seconds:  # not the trial's own limit
            return {"outcome": "not run", "why": f"{error}: no time was left"}
        return {"outcome": "failed", "why": str(error)}
    except RuntimeError as error:
        return {"outcome": "failed", "why": str(error)}
    if "why" in found:
        return found
    # NaN fails as well.
    wrong = "value" in found and not found["value"] <= found["bound"]
    growth = found.get("result", {}).get("memory", {}).get("growth_mb", 0)
    if wrong:
        why = f"{found['value']:.1e} apart, at most {found['bound']:.0e} expected"
        return found | {"outcome": "failed", "why": why}
    if growth > 0 and found["result"]["device"].startswith("cuda"):
        return found | {"outcome": "failed", "why": f"memory grew by {growth} MB, 0 expected"}
    return found | {"outcome": "passed"}


def _work(trial: Trial, threads: int) -> Result:
    torch.set_num_threads(threads)
    try:
        return trial.work(*trial.arguments)
    except EngineError as error:  # this machine lacks what the engine needs
        return {"outcome": "not run", "why": str(error)}
