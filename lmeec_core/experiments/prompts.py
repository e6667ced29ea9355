"""How well a single click works with the bundled weights, on simulated takes of held-out shapes.

``python -m lmeec_core.experiments.prompts WORK`` generates takes, clicks each object once in the
ego view (at the point deepest inside its true mask), tracks it there, and looks for it in the exo
views, given the tracked mask and, for comparison, the true mask of every frame. ``--pictures
FOLDER`` also scores clicks and boxes on outlined photographs (outlines.json maps "picture|object"
to polygons). Results are written to WORK/prompts.json. Finished takes are kept; run the same
command again to resume.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from lmeec_core.checkpoint import bundled_weights, load_model
from lmeec_core.correspondence import CorrespondenceLike
from lmeec_core.errors import ExplainedError, InputError
from lmeec_core.evaluation.metrics import iou
from lmeec_core.evaluation.scenes import MIN_AREA
from lmeec_core.evaluation.statistics import estimate, record_of
from lmeec_core.experiments.ablation.units import sought_objects
from lmeec_core.files import write_text
from lmeec_core.methods.lm_eec import LmEec
from lmeec_core.model import LMEEC
from lmeec_core.preprocessing import MAX_SIDE
from lmeec_core.prompts import view_tracker
from lmeec_core.prompts.marking import HEAD, deepest
from lmeec_core.simulation import level
from lmeec_core.simulation.generate import generate_takes
from lmeec_core.simulation.sets import SETS
from lmeec_core.takes import Take
from lmeec_core.takes.json_file import read_json

SIZE, CLICKED = 320, 100
"""Side of the images in pixels, and least visible pixels of an object to be clicked."""
SPANS = ((0, 0), (1, 10), (11, 50), (51, 200))
"""Ranges (first, last) of frames after the click that are scored together."""
GONE, BACK = 3, 5
"""An object has left if it is invisible for GONE frames, and counts as found again if it is found
within BACK frames of its return."""

Row = dict[str, Any]
"""One object on one frame: ``object``, its name; ``since``, frames after the click; ``area``, its
visible pixels; ``seen``, whether it was judged present; ``iou`` in the ego view, if visible; and
``targets``, the IoU in each exo view where it is visible, from the click and from true masks."""


def follow(
    model: LMEEC, take: Take, objects: Sequence[str], most: int, views: int
) -> Iterator[Row]:
    """Click each object once and follow it.

    Args:
        model: a network with weights.
        take: a take with true masks.
        objects: objects to click, each on the first frame where it is clearly visible.
        most: maximum number of frames to use, from the first.
        views: number of exo views to look in.
    """
    targets = take.exos[:views]
    frames = take.common_frames(take.ego, *targets)[:most]
    tracker, clicked = view_tracker(model), dict[str, int]()
    method = LmEec(model)
    ways = [method.tracker(take.ego, targets, len(frames)) for _ in range(2)]
    for number, frame in enumerate(frames):
        images = {camera: take.image(camera, frame) for camera in (take.ego, *targets)}
        found = dict(tracker.step(images[take.ego]))
        truth = {name: _mask(take, name, take.ego, frame) for name in objects}
        for name, mask in truth.items():
            if name not in clicked and mask.sum() >= CLICKED:
                clicked[name] = number
                found[name] = tracker.prompt(name, points=[deepest(mask)])
        shown = {name: one.mask() if one.visible() else None for name, one in found.items()}
        given = {n: m if (m := truth[n]).sum() >= MIN_AREA else None for n in found}
        answers = [way.step(images, masks) for way, masks in zip(ways, (shown, given), strict=True)]
        for name, one in found.items():
            row = _row(name, number - clicked[name], one, truth[name])
            row["targets"] = [
                [iou(answer[target][name].mask(), there) for answer in answers]
                for target in targets
                if given[name] is not None
                and (there := _mask(take, name, target, frame)).sum() >= MIN_AREA
            ]
            yield row


def _mask(take: Take, name: str, camera: str, frame: int) -> NDArray[np.bool_]:
    mask = take.mask(name, camera, frame)
    return np.zeros((1, 1), np.bool_) if mask is None else mask


def _row(name: str, since: int, found: CorrespondenceLike, truth: NDArray[np.bool_]) -> Row:
    area = int(truth.sum())
    return {
        "object": name,
        "since": since,
        "area": area,
        "seen": bool(found.visible()),
        "iou": iou(found.mask(), truth) if area >= MIN_AREA else None,
    }


def excursions(rows: Sequence[Row]) -> Iterator[bool]:
    """For each time an object left the view and came back: whether it was found again.

    Args:
        rows: rows of one object in one take, in order.
    """
    away = 0
    for i, row in enumerate(rows):
        if row["area"] == 0:
            away += 1
            continue
        if away >= GONE and row["area"] >= MIN_AREA:
            yield any((r["iou"] or 0) >= 0.5 for r in rows[i : i + BACK])
        away = 0


def _estimate(values: Iterable[tuple[str, float]]) -> dict[str, float | None] | None:
    """Mean and interval of a measure, from its values with their takes."""
    sums: defaultdict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for take, value in values:
        total, count = sums[take]
        sums[take] = (total + value, count + 1)
    return record_of(estimate(dict(sums)))


def summary(takes: dict[str, list[Row]]) -> dict[str, Any]:
    """Scores over takes, each a mean over frames with its 95 % interval over takes."""
    rows = [(take, row) for take, own in takes.items() for row in own]
    query = {
        f"{low} to {high}": _estimate(
            (take, row["iou"]) for take, row in rows
            if row["iou"] is not None and low <= row["since"] <= high
        ) for low, high in SPANS
    }  # fmt: skip
    pairs = [(take, pair) for take, row in rows for pair in row["targets"]]
    again = [
        (take, float(found))
        for take, own in takes.items()
        for name in dict.fromkeys(row["object"] for row in own)
        for found in excursions([row for row in own if row["object"] == name])
    ]
    return {
        "query view, IoU by frames after the click": query,
        "targets, IoU from one click": _estimate((t, pair[0]) for t, pair in pairs),
        "targets, IoU from true masks": _estimate((t, pair[1]) for t, pair in pairs),
        "targets, IoU lost": _estimate((t, pair[1] - pair[0]) for t, pair in pairs),
        "said absent where it is": _estimate(
            (t, float(not r["seen"])) for t, r in rows if r["area"] == 0
        ),
        "said present where it is": _estimate(
            (t, float(r["seen"])) for t, r in rows if r["area"] >= MIN_AREA
        ),
        "found again": _estimate(again),
    }


def pictures(model: LMEEC, folder: Path) -> dict[str, dict[str, float]]:
    """IoU of the masks from a click and from a box, for each outlined object.

    Raises:
        InputError: the outlines or a picture cannot be read.
    """
    results = {}
    for key, contours in read_json(folder / "outlines.json").items():
        picture = cv2.imread(str(folder / key.split("|")[0]))
        if picture is None or max(picture.shape) > MAX_SIDE:
            raise InputError(f"{folder / key.split('|')[0]}: not readable as a picture")
        outline = np.zeros(picture.shape[:2], np.uint8)
        cv2.fillPoly(outline, [np.array(c, np.int32) for c in contours], 1)
        truth = outline > 0
        tracker = view_tracker(model)
        tracker.step(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8))
        x, y, width, height = cv2.boundingRect(outline)
        results[key] = {
            "click": iou(tracker.prompt("click", points=[deepest(truth)]).mask(), truth),
            "box": iou(tracker.prompt("box", box=[x, y, x + width, y + height]).mask(), truth),
        }
    return results


def _made(root: Path, args: argparse.Namespace, console: Console) -> list[Path]:
    """Paths of the takes; missing ones are generated."""
    wanted = {"test": args.takes}
    with Progress(console=console) as progress:
        bar = progress.add_task("takes made", total=args.takes)
        for result in generate_takes(
            root, level("normal"), wanted, args.frames, SIZE, args.seed, workers=1
        ):
            if result.error is not None:
                raise ExplainedError(f"take of seed {result.job.seed}: {result.error}")
            progress.advance(bar)
        progress.update(bar, completed=args.takes)
    return sorted((root / "test").glob("sim_*"))[: args.takes]


def _digest() -> str:
    """Digest of the weights that are scored."""
    paths = [bundled_weights(name) for name in ("nano", HEAD)]
    return hashlib.sha256(b"".join(p.read_bytes() for p in paths if p)).hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code is 0 when all takes are scored."""
    parser = argparse.ArgumentParser(
        prog="python -m lmeec_core.experiments.prompts", description=__doc__
    )
    parser.add_argument("work", type=Path, help="folder for takes and results")
    parser.add_argument("--takes", type=int, default=6)
    parser.add_argument("--frames", type=int, default=201)
    parser.add_argument("--objects", type=int, default=3)
    parser.add_argument("--targets", type=int, default=2)
    parser.add_argument("--seed", type=int, default=SETS["prompts"].first, help="first take's seed")
    parser.add_argument("--pictures", type=Path, help="folder of outlined photographs")
    args = parser.parse_args(arguments)
    for name in ("takes", "frames", "objects", "targets"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: 1 or more expected")
    console = Console()
    model = load_model("nano", device="cpu")
    results: dict[str, Any] = {"weights": _digest()}
    if args.pictures is not None:
        results["pictures"] = pictures(model, args.pictures)
    paths = _made(args.work / "takes", args, console)
    done: dict[str, list[Row]] = {}
    with Progress(console=console) as progress:
        bar = progress.add_task("frames", total=len(paths) * args.frames)
        for path in paths:
            take = Take.open(path)
            name = f"{take.name}_{args.frames}_{args.objects}_{args.targets}_{_digest()}.json"
            file = args.work / "scores" / name
            if not file.is_file():
                objects, rows, last = sought_objects(take, args.objects), list[Row](), ""
                for row in follow(model, take, objects, args.frames, args.targets):
                    rows.append(row)
                    if last != (last := row["object"]) and row["object"] == rows[0]["object"]:
                        progress.advance(bar)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text(file, json.dumps(rows))
            done[take.name] = json.loads(file.read_text())
            progress.update(bar, completed=len(done) * args.frames)
            results |= {"takes": len(done), **summary(done)}
            write_text(args.work / "prompts.json", json.dumps(results, indent=1))
    console.print_json(data=results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
