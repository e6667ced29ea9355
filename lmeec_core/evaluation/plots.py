"""Small plots as SVG text, for embedding in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

from lmeec_core.evaluation.scores import Scores

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 42
INK, GRID, FILL, LINE = "#5b6470", "#e4e7eb", "#3b6fb6", "#c8553d"
PARTS = 10
COLOURS = (
    "#c8553d", "#3b6fb6", "#2e8b57", "#b8860b", "#7b4fa3", "#5b6470", "#d16ba5", "#17a2b8",
)  # fmt: skip
"""Colours of the lines of several result files, in their order; reused from the ninth on."""


def histogram(scores: Scores) -> Markup:
    """Histogram of IoU in ten bins, as shares of the frames with a true mask."""
    counts, _ = np.histogram(scores.ious, bins=np.linspace(0, 1, PARTS + 1))
    shares = 100 * counts / max(1, counts.sum())
    top = _ceiling(float(shares.max(initial=0)))
    names = [f"{n / 5:.1f}" for n in range(6)]
    body = _axes(top, "% of frames", names, "IoU")
    step = (WIDTH - LEFT - RIGHT) / PARTS
    for n, share in enumerate(shares):
        tip = f"IoU {n / PARTS:.1f} to {(n + 1) / PARTS:.1f}: {counts[n]} frames, {share:.1f} %"
        body += _bar(LEFT + n * step + 2, step - 4, float(share) / top, tip)
    return _svg(body, "Histogram of IoU")


def over_time(scores: Scores) -> Markup:
    """Mean IoU over tenths of the takes; shows whether a method loses objects over time."""
    last: dict[str, int] = {}
    for record in scores.records:
        last[record.take] = max(last.get(record.take, 0), record.frame)
    tenths: list[list[float]] = [[] for _ in range(PARTS)]
    for record in scores.records:
        if record.iou is not None:
            place = PARTS * record.frame / max(1, last[record.take])
            tenths[min(PARTS - 1, int(place))].append(record.iou)
    names = [f"{20 * n}" for n in range(6)]
    body = _axes(100, "mean IoU, %", names, "% of the take")
    step = (WIDTH - LEFT - RIGHT) / PARTS
    points = []
    for n, values in enumerate(tenths):
        if values:
            mean = float(np.mean(values))
            x, y = LEFT + (n + 0.5) * step, _y(mean)
            points.append(f"{x:.1f},{y:.1f}")
            tip = escape(
                f"{10 * n} to {10 * n + 10} %: IoU {100 * mean:.1f} ({len(values)} frames)"
            )
            body += Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="{}"><title>{}</title>'
                           "</circle>").format(x, y, LINE, tip)  # fmt: skip
    line = Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="2"/>')
    return _svg(body + line.format(" ".join(points), LINE), "Mean IoU over the course of the takes")


def by_frame(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Markup:
    """IoU of every frame, with a line for each result file; see :data:`COLOURS`.

    Args:
        curves: (frame, IoU) by the file's path.
    """
    frames = [frame for curve in curves.values() for frame, _ in curve]
    first, last = min(frames, default=0), max(frames, default=0)
    names = [f"{first + (last - first) * n / 4:.0f}" for n in range(5)]
    body = _axes(100, "IoU, %", names, "frame")
    step = (WIDTH - LEFT - RIGHT) / max(1, last - first)
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(LEFT + (frame - first) * step, _y(iou)) for frame, iou in curve]
        line = Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="2"/>')
        body += line.format(" ".join(f"{x:.1f},{y:.1f}" for x, y in points), colour)
        for (x, y), (frame, iou) in zip(points, curve, strict=True):
            tip = f"{name}, frame {frame}: IoU {100 * iou:.1f}"
            body += Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.5" fill="{}"><title>{}</title>'
                           "</circle>").format(x, y, colour, tip)  # fmt: skip
    return _svg(body, "IoU by frame")


def by_name(groups: dict[str, Scores], what: str) -> Markup:
    """Mean IoU of groups (takes, objects), the worst first."""
    means = sorted((s.iou, name) for name, s in groups.items() if s.ious)
    below = f"{len(means)} {what}, the worst first; names: hover over a bar"
    body = _axes(100, "mean IoU, %", [], below)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(means))
    width = min(step * 0.8, 40)
    for n, (mean, name) in enumerate(means):
        body += _bar(LEFT + (n + 0.5) * step - width / 2, width, mean, f"{name}: {100 * mean:.1f}")
    return _svg(body, f"Mean IoU of {what}")


def _svg(body: Markup, title: str) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" font-size="12">')
    return head.format(WIDTH, HEIGHT, title) + body + Markup("</svg>")


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)


def _bar(x: float, width: float, share: float, tip: str) -> Markup:
    text = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="1" fill="{}">'
                  "<title>{}</title></rect>")  # fmt: skip
    return text.format(x, _y(share), width, _y(0) - _y(share), FILL, tip)


def _axes(top: float, label: str, names: Sequence[str], below: str) -> Markup:
    """Grid, numbers on the left up to ``top``, names at even distances from end to end."""
    text = Markup("")
    for n in range(5):
        y = _y(n / 4)
        text += Markup('<path d="M{} {:.1f}H{}" stroke="{}"/>').format(LEFT, y, WIDTH - RIGHT, GRID)
        text += _label(LEFT - 6, y + 4, f"{top * n / 4:g}", "end")
    step = (WIDTH - LEFT - RIGHT) / max(1, len(names) - 1)
    for n, name in enumerate(names):
        text += _label(LEFT + n * step, HEIGHT - BOTTOM + 16, name, "middle")
    text += _label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, below, "middle")
    turned = Markup('<g transform="rotate(-90 11 {:.1f})">{}</g>')
    return text + turned.format(_y(0.5), _label(11, _y(0.5), label, "middle"))


def _label(x: float, y: float, text: str, anchor: str) -> Markup:
    form = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" fill="{}">{}</text>')
    return form.format(x, y, anchor, INK, text)


def _ceiling(value: float) -> float:
    """A round number not below ``value`` that divides well by four."""
    return next((float(n) for n in (8, 20, 40, 60, 80) if value <= n), 100.0)
