"""The report of a soak run: JSON, tables and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lmeec_core.files import replacing, write_text
from lmeec_ros.tools.soak.judge import (
    Check,
    Event,
    Record,
    Sample,
)

REPORT, PLOT = "report.json", "soak.png"


def write(out: Path, record: Record, verdict: Sequence[Check], settings: Mapping[str, Any]) -> None:
    """Write report.json and soak.png.

    Args:
        out: folder.
        record, verdict: measurements and checks of the run.
        settings: options of the run.
    """
    content = {
        "passed": all(check.passed for check in verdict),
        "settings": dict(settings),
        "checks": [asdict(check) for check in verdict],
        "faults": summary(record.events),
        "warm_up_s": record.warm,
        "discrepancies": record.discrepancies,
        "events": [asdict(event) for event in record.events],
        "samples": [asdict(one) for one in record.samples],
    }
    write_text(out / REPORT, json.dumps(content, indent=1) + "\n")
    plot(out / PLOT, record)


def summary(events: Sequence[Event]) -> dict[str, dict[str, Any]]:
    """Return for each fault its count, recoveries, slowest recovery (s), and raised counters."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        one = found.setdefault(
            event.fault, {"count": 0, "recovered": 0, "slowest_s": 0.0, "effect": {}}
        )
        one["count"] += 1
        if event.recovered is not None and not event.error:
            one["recovered"] += 1
            one["slowest_s"] = max(one["slowest_s"], event.recovered)
        for key, count in event.effect.items():
            one["effect"][key] = one["effect"].get(key, 0) + count
    return dict(sorted(found.items()))


def show(record: Record, verdict: Sequence[Check], console: Console) -> None:
    """Print the tables."""
    table = Table("fault", "times", "recovered", "slowest", "drops and failures", box=None)
    for name, one in summary(record.events).items():
        effect = ", ".join(
            f"{key.split()[-1].removeprefix('dropped_').removeprefix('sets_')} {count}"
            for key, count in one["effect"].items()
            if "dropped" in key or "failed" in key
        )
        table.add_row(
            name, str(one["count"]), str(one["recovered"]), f"{one['slowest_s']:.1f} s", effect
        )
    console.print(table)
    table = Table("check", "", "figures", box=None)
    for check in verdict:
        mark = "[green]passed[/]" if check.passed else "[bold red]FAILED[/]"
        table.add_row(check.name, mark, escape(check.text))
    console.print(table)


def plot(path: Path, record: Record) -> None:
    """Plot memory, threads and rate over time, with a line at each fault, to a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    memory, threads, rate = figure.subplots(3, 1, sharex=True)
    minutes = [one.seconds / 60 for one in record.samples]
    memory.plot(minutes, [one.resident for one in record.samples], linewidth=1)
    memory.plot(minutes, [one.shared for one in record.samples], linewidth=1, linestyle=":")
    memory.set_ylabel("resident memory, MB\n(dotted: shared)")
    threads.plot(minutes, [one.threads for one in record.samples], linewidth=1)
    threads.set_ylabel("threads")
    rate.plot(minutes, _rates(record.samples), linewidth=1)
    rate.set_ylabel("mask messages per s")
    rate.set_xlabel("minutes")
    judged = record.after_warm_up()
    for axes in (memory, threads, rate):
        axes.grid(alpha=0.3)
        if judged:
            axes.axvspan(0, judged[0].seconds / 60, color="0.9", zorder=0)  # warm-up
        for event in record.events:
            bad = event.recovered is None or bool(event.error)
            axes.axvline(event.begin / 60, color="red" if bad else "0.6", linewidth=0.5, zorder=1)
    memory.set_title("soak run; grey lines: faults, red ones: not recovered; shaded: warm-up")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=100)


def _rates(samples: Sequence[Sample], window: int = 10) -> list[float]:
    """Mask messages per second, over the last `window` samples."""
    rates = []
    for index, now in enumerate(samples):
        before = samples[max(0, index - window)]
        seconds = now.seconds - before.seconds
        rates.append((now.frames - before.frames) / seconds if seconds else 0.0)
    return rates
