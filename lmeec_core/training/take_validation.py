"""Scores takes with the tracker, in both directions, and draws what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lmeec_core.evaluation import (
    Scores,
    benchmark_size,
    score_pair,
    scored_frames,
)
from lmeec_core.methods.lm_eec import LmEec
from lmeec_core.model import LMEEC
from lmeec_core.overlay import contact_sheet, draw_masks, fit, side_by_side
from lmeec_core.takes import DIRECTIONS, Results, Take, resize_mask
from lmeec_core.tracker import Found

if TYPE_CHECKING:
    from rich.table import Table

TILE = 240
"""Height of the views in a picture, in pixels."""

MEASURES = {
    "frames": "frames",
    "IoU": "iou",
    "location error": "location_error",
    "contour accuracy": "contour_accuracy",
    "existence (balanced)": "existence_balanced_accuracy",
}
"""Reported measures: heading in the table to name."""


@dataclass
class Validation:
    """Validation results of a number of takes.

    Attributes:
        scores: by direction, "ego-exo" and "exo-ego".
        tiles: RGB uint8 (TILE, W, 3), query and target views with masks; true masks are outlined.
        errors: takes, or parts of takes, that could not be scored, one line each.
    """

    scores: dict[str, Scores] = field(default_factory=lambda: {d: Scores() for d in DIRECTIONS})
    tiles: list[NDArray[np.uint8]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, other: Validation) -> None:
        """Add the results of other takes."""
        for direction, scores in self.scores.items():
            scores.add(other.scores[direction])
        self.tiles += other.tiles
        self.errors += other.errors

    def numbers(self) -> dict[str, float]:
        """The measures of each direction by name, except those without any scored frame.

        Protocol ``official`` (:mod:`lmeec_core.evaluation.protocol`).
        """
        found = {}
        for direction, scores in self.scores.items():
            summary = scores.summary()
            for name in MEASURES.values():
                value = summary[name]
                if isinstance(value, int | float):
                    found[f"{direction} {name}"] = float(value)
        return found

    def sheet(self) -> NDArray[np.uint8] | None:
        """The tiles as one picture, RGB uint8 (H, W, 3); None without tiles."""
        return contact_sheet(self.tiles[:8], 2) if self.tiles else None


def validate(model: LMEEC, takes: Sequence[Path]) -> Validation:
    """Run the tracker over whole takes and score it; broken takes are reported and skipped."""
    model.eval()
    whole = Validation()
    for path in takes:
        one = Validation()
        try:
            take = Take.open(path)
            for direction in DIRECTIONS:
                targets: dict[str, list[str]] = {}
                for query, target in take.pairs(direction):
                    targets.setdefault(query, []).append(target)
                for query, sought in targets.items():
                    _direction(model, take, direction, query, sought, one)
            one.errors += take.left_out
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            one = Validation(errors=[f"{path}: {error}"])
        whole.add(one)
    return whole


def _direction(
    model: LMEEC, take: Take, direction: str, query: str, targets: Sequence[str], into: Validation
) -> None:
    """For one query camera, track and score all objects annotated in any target."""
    objects = {
        name: [t for t in targets if take.mask_frames(name, t)]
        for name in take.objects
        if take.mask_frames(name, query)
    }
    used = tuple(t for t in targets if any(t in there for there in objects.values()))
    frames = set(take.common_frames(query, *used))
    wanted = {
        frame
        for name, there in objects.items()
        for target in there
        for frame in scored_frames(take, name, query, target)
    }
    frames_in_order = sorted(wanted & frames)
    if not used or not frames_in_order:
        return
    count = len(take.objects)
    tracker = LmEec(model).tracker(query, used, len(frames_in_order), max(1, count))
    results = Results(direction)
    for frame in frames_in_order:
        images = {camera: take.image(camera, frame) for camera in (query, *used)}
        masks = {name: take.mask(name, query, frame) for name, there in objects.items() if there}
        found = tracker.step(images, masks)
        for target in used:
            truths = {}
            for name, one in found[target].items():
                if one.skipped or target not in objects[name]:
                    continue
                size = benchmark_size(*one.size)
                mask = resize_mask(one.mask(), size)
                results.add(take.name, name, query, target, frame, mask, one.presence)
                truths[name] = take.mask(name, target, frame)
            if frame == frames_in_order[len(frames_in_order) // 2] and truths:
                into.tiles.append(_tile(images, masks, query, target, found, truths))
    for name, there in objects.items():
        for target in there:
            into.scores[direction].add(score_pair(results, take, name, query, target))


def _tile(
    images: dict[str, NDArray[np.uint8]],
    masks: dict[str, NDArray[np.bool_] | None],
    query: str,
    target: str,
    found: Found,
    truths: dict[str, NDArray[np.bool_] | None],
) -> NDArray[np.uint8]:
    asked = {name: masks[name] for name in truths}
    shown = {name: found[target][name].mask() for name in truths}
    views = [
        draw_masks(images[query], asked),
        draw_masks(images[target], shown, truth=truths),
    ]
    return side_by_side(
        [fit(v, TILE, max(1, round(v.shape[1] * TILE / v.shape[0]))) for v in views], TILE
    )


def scores_table(numbers: dict[str, float], title: str) -> Table:
    """A table of the benchmark's measures by direction.

    Args:
        numbers: from :meth:`Validation.numbers`.
        title: title of the table.
    """
    from rich.table import Table

    table = Table(title=title, caption="Protocol official; no numbers of another compare.")
    table.add_column("query to target")
    for heading in MEASURES:
        table.add_column(heading, justify="right")
    for direction in DIRECTIONS:
        row = [numbers.get(f"{direction} {name}") for name in MEASURES.values()]
        texts = ["" if value is None else f"{value:.3f}" for value in row[1:]]
        table.add_row(direction.replace("-", " to "), f"{row[0] or 0:.0f}", *texts)
    return table
