"""Tables and plots of an ablation, with the paper's numbers beside ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmeec_core.evaluation.evaluate import LENGTHS, length_group
from lmeec_core.evaluation.published import TABLE_7
from lmeec_core.evaluation.statistics import Estimate, record_of
from lmeec_core.experiments.ablation.statistics import difference, estimate, seed_spread
from lmeec_core.experiments.ablation.variants import LINES, METRICS, PAPER_TABLE, Line, Table
from lmeec_core.files import replacing, write_text
from lmeec_core.takes import is_ego

Units = list[dict[str, Any]]
BLUE, GREY, RED = "#4c78a8", "#bab0ac", "#e45756"
TITLES: dict[Table, str] = {
    "fusion": "Fusion of memory and view",
    "stores": "Memory banks",
    "size": "Frames in each bank",
    "compression": "Compression",
    "length": "Length of the take: association accuracy",
}
BASE: dict[Table, str] = {
    "fusion": "mv_moe", "stores": "reference", "size": "reference", "compression": "reference",
    "length": "reference",
}  # fmt: skip
"""The variant that the others in the table are compared with."""


def of(units: Units, variant: str) -> Units:
    """The units of one variant."""
    return [unit for unit in units if unit["variant"] == variant]


def _cell(found: Estimate | None, digits: int = 3) -> str:
    if found is None:
        return "none"
    if found.takes < 2:
        return f"{found.mean:.{digits}f}"
    return f"{found.mean:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def _signed(found: Estimate | None) -> str:
    if found is None:
        return ""
    if found.takes < 2:
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _paper(line: Line) -> str:
    shown = [f"{line.paper[m]:.4f}" for m in ("iou", "location", "contour") if m in line.paper]
    return " / ".join(shown)


def line_results(table: Table, units: Units, line: Line) -> dict[str, Any]:
    """All numbers in one line of a table, for JSON."""
    mine, base = of(units, line.variant.name), of(units, BASE[table])
    numbers: dict[str, Any] = {}
    for metric in METRICS:
        found = estimate(mine, metric)
        numbers[metric] = record_of(found)
    apart = difference(mine, base, "iou") if line.variant.name != BASE[table] else None
    numbers["iou difference"] = record_of(apart)
    for name, ego in (("ego to exo", True), ("exo to ego", False)):
        found = estimate([u for u in mine if is_ego(u["query"]) == ego], "iou")
        numbers[f"iou, {name}"] = record_of(found)
    spread = seed_spread(mine, "iou")
    numbers["iou by training seed"] = spread and {"low": spread[0], "high": spread[1]}
    return {"setting": line.label, "paper": line.paper, "ours": numbers}


def _table(table: Table, units: Units) -> list[str]:
    head = ["setting", "IoU", "IoU, difference", "location error", "contour accuracy"]
    if table == "fusion":
        head.append("IoU by training seed")
    rows = [[*head, "paper: IoU / location / contour"]]
    for line in LINES[table]:
        mine, base = of(units, line.variant.name), of(units, BASE[table])
        apart = None if line.variant.name == BASE[table] else difference(mine, base, "iou")
        row = [line.label, _cell(estimate(mine, "iou")), _signed(apart),
               _cell(estimate(mine, "location"), 4), _cell(estimate(mine, "contour"))]  # fmt: skip
        if table == "fusion":
            spread = seed_spread(mine, "iou")
            row.append(f"{spread[0]:.3f} to {spread[1]:.3f}" if spread else "one seed")
        rows.append([*row, _paper(line)])
    return _markdown(rows)


def by_length(units: Units) -> dict[str, dict[str, Estimate | None]]:
    """Association accuracy of each line of the length table, by length of the take."""
    return {
        line.label: {
            name: estimate(
                [u for u in of(units, line.variant.name) if length_group(u["frames"]) == name],
                "association",
            )
            for name in LENGTHS
        }
        for line in LINES["length"]
    }


def _length_table(units: Units) -> list[str]:
    rows = [["setting", *LENGTHS]]
    for label, found in by_length(units).items():
        rows.append([label, *(_cell(found[name]) for name in LENGTHS)])
    for label, numbers in TABLE_7.items():
        rows.append([f"paper: {label}", *(f"{n:.4f}" for n in numbers)])
    return _markdown(rows)


def _markdown(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def markdown(results: dict[Table, Units], facts: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# Ablations of the small network",
        "",
        "Simulated takes with shapes and textures that training never saw, both directions; the "
        "paper's numbers are of the full network on EgoExo4D, so compare differences, not values. "
        "In brackets: 95 % interval over takes (bootstrap). Differences are paired by take.",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
    ]
    for table, units in results.items():
        takes = {u["take"] for u in units}
        lines += ["", f"## {TITLES[table]} (paper: Table {PAPER_TABLE[table]})", ""]
        lines += _length_table(units) if table == "length" else _table(table, units)
        if len(takes) < 5:
            lines += ["", f"{len(takes)} takes only: the intervals are rough."]
    return "\n".join(lines) + "\n"


def _error(found: Estimate) -> list[list[float]] | None:
    """The interval as Matplotlib's error bar; None for a single take."""
    if found.takes < 2:
        return None
    return [[max(0.0, found.mean - found.low)], [max(0.0, found.high - found.mean)]]


def _bars(axes: Any, table: Table, units: Units) -> None:
    """Draw our results as bars with intervals, the paper's as diamonds."""
    lines = LINES[table]
    for i, line in enumerate(lines):
        found = estimate(of(units, line.variant.name), "iou")
        if found is not None:
            error = _error(found)
            axes.barh(i, found.mean, 0.6, color=BLUE, xerr=error, ecolor="#333333", label="ours")
        if "iou" in line.paper:
            axes.plot(line.paper["iou"], i, "D", color=RED, clip_on=False, label="paper")
    axes.set_yticks(range(len(lines)), [line.label for line in lines])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("IoU")


def _length_bars(axes: Any, units: Units) -> None:
    for i, (label, found) in enumerate(by_length(units).items()):
        for j, name in enumerate(LENGTHS):
            one = found[name]
            if one is not None:
                place = j + 0.36 * (i - 0.5)
                axes.bar(place, one.mean, 0.34, color=(GREY, BLUE)[i % 2], yerr=_error(one),
                         ecolor="#333333", label=label)  # fmt: skip
    for marker, (label, numbers) in zip("sD", TABLE_7.items(), strict=True):
        axes.plot(range(3), numbers, marker, color=RED, label=f"paper: {label}")
    axes.set_xticks(range(3), LENGTHS)
    axes.set_ylabel("association accuracy")
    axes.set_ylim(0, 1)


def plot(results: dict[Table, Units], path: Path) -> None:
    """One panel per table, as a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    heights = [1.0 + (2.0 if t == "length" else 0.4 * len(LINES[t])) for t in results]
    figure, panels = plt.subplots(
        len(results), 1, figsize=(10, sum(heights)), squeeze=False, layout="constrained",
        height_ratios=heights,
    )  # fmt: skip
    for axes, (table, units) in zip(panels[:, 0], results.items(), strict=True):
        if table == "length":
            _length_bars(axes, units)
        else:
            _bars(axes, table, units)
        axes.set_title(f"{TITLES[table]} (paper: Table {PAPER_TABLE[table]})", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))  # one entry per label
        axes.legend(shown.values(), shown.keys(), loc="upper left", bbox_to_anchor=(1.01, 1),
                    frameon=False, fontsize=8)  # fmt: skip
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
    plt.close(figure)


def write(results: dict[Table, Units], facts: dict[str, Any], folder: Path) -> list[Path]:
    """Write ablation.json, ablation.md and ablation.png; returns their paths."""
    content = {
        "facts": facts,
        "tables": {
            table: [line_results(table, units, line) for line in LINES[table]]
            for table, units in results.items()
        },
    }
    if "length" in results:
        content["association accuracy by length"] = {
            label: {name: record_of(one) for name, one in found.items()}
            for label, found in by_length(results["length"]).items()
        }
    texts = {"ablation.json": json.dumps(content, indent=1),
             "ablation.md": markdown(results, facts)}  # fmt: skip
    for name, text in texts.items():
        write_text(folder / name, text)
    plot(results, folder / "ablation.png")
    return [folder / name for name in (*texts, "ablation.png")]
