"""`lmeec bench --all`: everything that a machine can measure, with the required values."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from lmeec_core.bench.measure import Case
from lmeec_core.config import EngineName

Result = dict[str, Any]
SIZE_1, SIZE_8, SIZE_10 = (1, 1), (8, 2), (10, 1)


class Wanted(NamedTuple):
    """A row of the table: what is measured, the required value and the goal."""

    name: str
    sense: Literal["<=", ">="]
    least: float
    goal: float
    unit: str


CPU_ONE = Wanted("CPU, base_plus, N=1 K=1: against the reference in fp32", ">=", 1.8, 2.5, "x")
CPU_MANY = Wanted("CPU, base_plus, N=8 K=2: against the reference in fp32", ">=", 5, 8, "x")
CUDA_ONE = Wanted("CUDA, base_plus, N=1 K=1: against the reference in bf16", ">=", 4, 8, "x")
CUDA_MANY = Wanted("CUDA, base_plus, N=10 K=1: time over that of N=1", "<=", 3, 2, "x")
CUDA_FLOOR = Wanted("CUDA, base_plus, N=1 K=1: share of the floor", ">=", 0.2, 0.45, "")
CUDA_MEMORY = Wanted("CUDA, base_plus: memory added over 5,000 frames", "<=", 0, 0, "MB")
ROS_EDGE = Wanted("ROS edge, 480p pair at 30 Hz, 95th percentile", "<=", 10, 4, "ms")
AUTO = Wanted("auto: time over that of the best single engine", "<=", 1.1, 1.0, "x")


def cases(device: str, engines: list[EngineName], preset: str, steps: int) -> list[Case]:
    """The cases for a device; ``engines`` are those available here."""
    if device == "cuda":
        return [
            Case(
                preset, device, engine, "bf16", *size, steps, steps // 2, "bf16",
                5000 if engine == "auto" and size == SIZE_1 else 0,
            )
            for engine in engines
            for size in (SIZE_1, SIZE_10)
        ]  # fmt: skip
    # The reference takes minutes for 16 pairs; two of its steps are enough for a ratio.
    return [
        Case(preset, device, engine, "bf16", *size, count, 2 if size == SIZE_8 else count // 2)
        for engine in engines
        for size, count in ((SIZE_1, steps), (SIZE_8, 3))
    ]


def checks(results: list[Result], node: Result | None) -> list[Result]:
    """Each row with its measured value, or None if it was not measured."""
    values: dict[Wanted, float | None] = {
        CPU_ONE: _best(results, "cpu", SIZE_1, "ratio"),
        CPU_MANY: _best(results, "cpu", SIZE_8, "ratio"),
        CUDA_ONE: _best(results, "cuda", SIZE_1, "ratio"),
        CUDA_MANY: _quotient(
            _fastest(results, "cuda", SIZE_10), _fastest(results, "cuda", SIZE_1)
        ),
        CUDA_FLOOR: _best(results, "cuda", SIZE_1, "floor_share"),
        CUDA_MEMORY: next(
            (r["memory"]["growth_mb"] for r in _of(results, "cuda", SIZE_1)
             if "growth_mb" in r["memory"]), None,
        ),
        AUTO: _auto(results),
        ROS_EDGE: None if node is None else node["edge_ms"]["p95"],
    }  # fmt: skip
    return [
        {**wanted._asdict(), "value": v, "passed": _passed(wanted, v)}
        for wanted, v in values.items()
    ]


def _passed(wanted: Wanted, value: float | None) -> bool | None:
    if value is None:
        return None
    return value <= wanted.least if wanted.sense == "<=" else value >= wanted.least


def _of(results: list[Result], device: str, size: tuple[int, int]) -> list[Result]:
    return [
        r for r in results
        if r["device"].startswith(device) and (r["objects"], r["targets"]) == size
        and r["preset"] == "base_plus"
    ]  # fmt: skip


def _best(results: list[Result], device: str, size: tuple[int, int], name: str) -> float | None:
    return max((r[name] for r in _of(results, device, size) if name in r), default=None)


def _fastest(results: list[Result], device: str, size: tuple[int, int]) -> float | None:
    return min((r["step_ms"]["median"] for r in _of(results, device, size)), default=None)


def _quotient(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else round(a / b, 3)


def _auto(results: list[Result]) -> float | None:
    """The worst ratio of auto's time to the best single engine's, over all cases."""
    groups: dict[tuple[Any, ...], dict[str, float]] = {}
    for r in results:
        key = (r["preset"], r["device"], r["precision"], r["objects"], r["targets"])
        groups.setdefault(key, {})[r["engine"]] = r["step_ms"]["median"]
    return max(
        (
            round(times["auto"] / min(t for name, t in times.items() if name != "auto"), 3)
            for times in groups.values()
            if "auto" in times and len(times) > 1
        ),
        default=None,
    )
