"""Output of the benchmark: tables, a plot, a JSON file."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lmeec_core import __version__
from lmeec_core.files import replacing, write_text

Result = dict[str, Any]


def show(results: list[Result], console: Console) -> None:
    """Print a table of the cases and one of their stages."""
    table = Table(title="One step, milliseconds: median (95th percentile)")
    table.add_column("case (N x K)")
    for name in ("step", "reference", "ratio", "GFLOP", "of floor", "MB"):
        table.add_column(name, justify="right")
    for r in results:
        reference, memory = r.get("reference"), _peak(r)
        if "growth_mb" in r["memory"]:
            memory += f" {r['memory']['growth_mb']:+.1f}"
        table.add_row(
            _case(r),
            _times(r["step_ms"]),
            f"{_times(reference['step_ms'])}" if reference else "-",
            f"{r['ratio']:.2f}" if reference else "-",
            f"{r['gflop']:.1f}",
            f"{r['floor_share']:.0%}",
            memory,
        )
    console.print(table)
    stages = Table(title="Stages in a step, milliseconds: median")
    stages.add_column("stage")
    for r in results:
        stages.add_column(_case(r), justify="right")
    for name in dict.fromkeys(name for r in results for name in r["stage_ms"]):
        cells = (r["stage_ms"].get(name) for r in results)
        stages.add_row(name, *(f"{cell['median']:.1f}" if cell else "-" for cell in cells))
    console.print(stages)


def show_methods(results: list[Result], console: Console) -> None:
    """Print a table of the cases of :mod:`lmeec_core.bench.methods`, with the parts of a step."""
    parts = list(dict.fromkeys(name for r in results for name in r.get("part_ms", ())))
    table = Table(title="One step, milliseconds: median (95th percentile)")
    table.add_column("method (N x K)")
    for name in ("step", *parts, "candidates an image"):
        table.add_column(name, justify="right")
    for r in results:
        own = r.get("part_ms", {})
        name = f"{r['method']} {r.get('preset', '')}".rstrip()
        table.add_row(
            f"{name} {r['objects']}x{r['targets']}",
            _times(r["step_ms"]),
            *(_times(own[name]) if name in own else "-" for name in parts),
            f"{r['candidates']:g}" if "candidates" in r else "-",
        )
    console.print(table)


def _peak(r: Result) -> str:
    peak = r["memory"].get("peak_mb")
    return "-" if peak is None else f"{peak:.0f}"


def _case(r: Result) -> str:
    return f"{r['preset']} {r['engine']} {r['precision']} {r['objects']}x{r['targets']}"


def show_checks(checks: list[Result], console: Console) -> None:
    """Print the required values and whether they were reached."""
    table = Table(title="Required values")
    for name in ("", "measured", "required", "goal", ""):
        table.add_column(name)
    for check in checks:
        word = {True: "[green]reached", False: "[red]missed", None: "not run"}[check["passed"]]
        value = "-" if check["value"] is None else f"{check['value']:.3g} {check['unit']}"
        sign = {"<=": "<= ", ">=": ">= "}[check["sense"]]
        table.add_row(
            check["name"], value, f"{sign}{check['least']:g}", f"{sign}{check['goal']:g}", word
        )
    console.print(table)


def _times(times: dict[str, float]) -> str:
    return f"{times['median']:.1f} ({times['p95']:.1f})"


def write(
    path: Path,
    results: list[Result],
    checks: list[Result],
    node: Result | None,
    trials: list[Result] | None = None,
) -> None:
    """Write the JSON file: the machine, ``results``, ``checks``, the overhead of the ROS edge, and
    the outcomes of :mod:`lmeec_core.bench.gpu`."""
    cuda = torch.cuda.is_available()
    machine = {
        "host": platform.node(),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "torch": torch.__version__,
        "lmeec": __version__,
    }
    content: Result = {"machine": machine, "results": results, "checks": checks}
    if node is not None:
        content["node"] = node
    if trials is not None:
        content["trials"] = trials
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1) + "\n")


def plot(path: Path, results: list[Result]) -> None:
    """Plot step times against N x K, with a line for each network, engine and precision."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lines: dict[str, list[tuple[int, float]]] = {}
    for r in results:
        pairs, name = r["objects"] * r["targets"], f"{r['preset']} {r['engine']} {r['precision']}"
        lines.setdefault(name, []).append((pairs, r["step_ms"]["median"]))
        if "reference" in r:
            key = f"{r['preset']} reference {r['reference']['precision']}"
            lines.setdefault(key, []).append((pairs, r["reference"]["step_ms"]["median"]))
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name, points in lines.items():
        axes.plot(*zip(*sorted(set(points)), strict=True), marker="o", label=name)
    axes.set(xlabel="objects x target views", ylabel="step (ms)", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120, format=path.suffix[1:] or "png")
    pyplot.close(figure)
