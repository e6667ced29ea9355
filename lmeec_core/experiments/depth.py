"""Accuracy of positions from depth and from triangulation, on simulated takes with true masks.

``python -m lmeec_core.experiments.depth TAKES`` reads takes made by ``lmeec simulate --depth``. For
every object seen by two or more cameras, it compares the true centre of its axis-aligned box with

- triangulation: the triangulated centroids of the masks, as in the node without depth,
- depth, one camera: the box of each single camera's cloud,
- depth, all cameras: the box of all clouds together, unless the cameras disagree.

Depth is either exact or noisy. The noise is that of a structured-light camera: along the axis
1.2 + 1.9 (z - 0.4)^2 mm at z metres, and laterally 0.8 pixels, which smears the edges (both:
Nguyen, Izadi and Lovell, "Modeling Kinect Sensor Noise", 3DIMPVT 2012); 5 % of the pixels have no
value.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmeec_core.calibration import read_calibration
from lmeec_core.depth.cloud import Cloud, DepthView, object_cloud
from lmeec_core.depth.fusion import MAX_DISAGREEMENT, fuse
from lmeec_core.depth.images import Depth, read_depth
from lmeec_core.errors import InputError
from lmeec_core.evaluation.scenes import MIN_AREA
from lmeec_core.files import write_text
from lmeec_core.geometry import GeometryError, Triangulation, View, centroid, triangulate
from lmeec_core.simulation.truth import TRUTH
from lmeec_core.takes import Take, open_takes

TRIANGULATED, ONE, ALL = "triangulation", "depth, one camera", "depth, all cameras"
METHODS = (TRIANGULATED, ONE, ALL)
MAX_ERROR, MIN_ANGLE = 10.0, 3.0
"""The node's defaults, in pixels and degrees."""
MISSING = 0.05
DRAWS = 2000
Mask = NDArray[np.bool_]


@dataclass
class Tally:
    """The measurements in one take.

    Attributes:
        errors: by method, distances from the true centre, metres.
        sizes: errors of the three sides of the boxes from all cameras, metres.
        tried: by method, the number of attempts.
        refused: by method and reason, the number of objects that were not placed.
        mixed: attempts with another object's mask in one camera: their number, and how many were
            noticed.
    """

    errors: dict[str, list[float]] = field(default_factory=lambda: {m: [] for m in METHODS})
    sizes: list[float] = field(default_factory=list)
    tried: dict[str, int] = field(default_factory=lambda: dict.fromkeys(METHODS, 0))
    refused: dict[str, int] = field(default_factory=dict)
    mixed: list[int] = field(default_factory=lambda: [0, 0])

    def refuse(self, method: str, reason: str) -> None:
        """Count an object that a method refused to place."""
        key = f"{method}: {reason}"
        self.refused[key] = self.refused.get(key, 0) + 1


class Moment(NamedTuple):
    """A frame: each camera's depth, lens and pose, and each object's masks by camera."""

    views: Mapping[str, DepthView]
    masks: Mapping[str, Mapping[str, Mask]]
    boxes: Mapping[str, NDArray[np.float64]]


def noisy(depth: Depth, rng: np.random.Generator) -> Depth:
    """Exact depth as a structured-light camera would measure it; see the module."""
    height, width = depth.shape
    rows, columns = np.mgrid[:height, :width]
    across = rng.normal(0, 0.8, (2, height, width))
    rows = np.clip(np.rint(rows + across[0]), 0, height - 1).astype(int)
    columns = np.clip(np.rint(columns + across[1]), 0, width - 1).astype(int)
    found = depth[rows, columns].astype(np.float64)
    found += (0.0012 + 0.0019 * (found - 0.4) ** 2) * rng.standard_normal(found.shape)
    found[rng.random(found.shape) < MISSING] = np.nan
    return found.astype(np.float32)


def moments(take: Take, rng: np.random.Generator | None, every: int) -> Iterator[Moment]:
    """Every `every`-th frame of a take; if `rng` is given, depth is noisy.

    Raises:
        InputError: the take was not made by `lmeec simulate --depth`.
    """
    truth = take.annotation.get(TRUTH)
    if not isinstance(truth, dict) or not take.calibration_path.is_file():
        raise InputError(
            f"{take.path}: no true places or no calibration in it; a take made by `lmeec simulate "
            "--depth` expected"
        )
    calibration = read_calibration(take.calibration_path)
    for frame in take.common_frames()[::every]:
        views = {}
        for camera in take.cameras:
            placed, depth = (
                calibration.at(camera, frame),
                read_depth(take.depth_path(camera, frame)),
            )
            if placed is not None:
                views[camera] = DepthView(depth if rng is None else noisy(depth, rng), *placed)
        masks: dict[str, dict[str, Mask]] = {}
        boxes = {}
        for name in take.objects:
            box = truth["boxes"][name].get(str(frame))
            seen = {camera: take.mask(name, camera, frame) for camera in views}
            kept = {c: m for c, m in seen.items() if m is not None and m.sum() >= MIN_AREA}
            if box is not None and len(kept) >= 2:
                masks[name], boxes[name] = kept, np.array(box)
        yield Moment(views, masks, boxes)


def measure(moment: Moment, tally: Tally) -> None:
    """Place every object in a frame with every method."""
    names = list(moment.masks)
    for number, name in enumerate(names):
        masks, (low, high) = moment.masks[name], moment.boxes[name]
        middle = (low + high) / 2
        point = _triangulated(moment, masks, tally)
        if point is not None:
            tally.errors[TRIANGULATED].append(float(np.linalg.norm(point.point - middle)))
        clouds = _clouds(moment, masks, tally)
        for cloud in clouds.values():
            tally.errors[ONE].append(float(np.linalg.norm(cloud.centre - middle)))
        tally.tried[ALL] += 1
        if not clouds:
            tally.refuse(ALL, "no_depth")
            continue
        found = fuse(clouds, point)
        try:
            found.check(MAX_DISAGREEMENT)
        except GeometryError as error:
            tally.refuse(ALL, error.kind)
        else:
            tally.errors[ALL].append(float(np.linalg.norm(found.cloud.centre - middle)))
            tally.sizes += np.abs(found.cloud.extent - (high - low)).tolist()
        other = names[(number + 1) % len(names)]
        _mixed(moment, clouds, other, tally)


def _triangulated(moment: Moment, masks: Mapping[str, Mask], tally: Tally) -> Triangulation | None:
    tally.tried[TRIANGULATED] += 1
    sights = [View(moment.views[c].lens, moment.views[c].pose, np.array(centroid(m)))
              for c, m in masks.items()]  # fmt: skip
    try:
        return triangulate(sights, MAX_ERROR, MIN_ANGLE)
    except GeometryError as error:
        tally.refuse(TRIANGULATED, error.kind)
        return None


def _clouds(moment: Moment, masks: Mapping[str, Mask], tally: Tally) -> dict[str, Cloud]:
    clouds = {}
    for camera, mask in masks.items():
        tally.tried[ONE] += 1
        try:
            clouds[camera] = object_cloud(mask, moment.views[camera])
        except GeometryError as error:
            tally.refuse(ONE, error.kind)
    return clouds


def _mixed(moment: Moment, clouds: dict[str, Cloud], other: str, tally: Tally) -> None:
    """Replace the first camera's cloud with another object's, and count whether this is noticed."""
    if len(clouds) < 2:
        return
    camera = next(iter(clouds))
    wrong = moment.masks[other].get(camera)
    try:
        if wrong is None:
            return
        mixed = {**clouds, camera: object_cloud(wrong, moment.views[camera])}
    except GeometryError:
        return
    tally.mixed[0] += 1
    tally.mixed[1] += fuse(mixed).disagreement > MAX_DISAGREEMENT


def summary(tallies: Sequence[Tally]) -> dict[str, Any]:
    """Median and 90 % quantile in mm with 95 % intervals over takes, and refusals by reason."""
    result: dict[str, Any] = {}
    for method in METHODS:
        groups = [np.array(tally.errors[method]) * 1000 for tally in tallies]
        result[method] = {
            "placed": sum(map(len, groups)), "of": sum(t.tried[method] for t in tallies),
            **quantiles(groups),
        }  # fmt: skip
    result["side of the box, all cameras"] = quantiles([np.array(t.sizes) * 1000 for t in tallies])
    reasons = sorted({key for tally in tallies for key in tally.refused})
    result["refused"] = {key: sum(t.refused.get(key, 0) for t in tallies) for key in reasons}
    asked, noticed = (sum(t.mixed[i] for t in tallies) for i in (0, 1))
    result["mask of another object in one camera"] = {"asked": asked, "noticed": noticed}
    return result


def quantiles(groups: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    """Median and 90 % quantile of all values, each with its 95 % interval from resampling groups
    (bootstrap, fixed seed); empty without values."""
    filled = [one for one in groups if len(one)]
    if not filled:
        return {}
    values = np.concatenate(filled)
    drawn = []
    for chosen in np.random.default_rng(0).integers(0, len(filled), (DRAWS, len(filled))):
        drawn.append(np.percentile(np.concatenate([filled[i] for i in chosen]), (50, 90)))
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    found = np.percentile(values, (50, 90))
    return {
        name: {"mm": round(float(found[i]), 1),
               "95%": [round(float(low[i]), 1), round(float(high[i]), 1)]}
        for i, name in enumerate(("median", "90 %"))
    }  # fmt: skip


def run(takes: Sequence[Take], seed: int, every: int = 1) -> dict[str, Any]:
    """Measure takes with exact and with noisy depth.

    Args:
        takes: made by `lmeec simulate --depth`.
        seed: for the noise.
        every: use every n-th frame.

    Raises:
        InputError: a take was not made that way.
    """
    result: dict[str, Any] = {"simulated": True, "takes": [take.name for take in takes]}
    for name, with_noise in (("exact", False), ("noisy", True)):
        tallies = []
        for number, take in enumerate(takes):
            rng = np.random.default_rng([seed, number]) if with_noise else None
            tally = Tally()
            for moment in moments(take, rng, every):
                measure(moment, tally)
            tallies.append(tally)
        result[name] = summary(tallies)
    return result


def table(result: Mapping[str, Any]) -> str:
    """The results as a Markdown table."""
    lines = ["| depth | method | placed | median, mm | 90 %, mm |", "|---|---|---|---|---|"]
    for name in ("exact", "noisy"):
        for method in METHODS:
            one = result[name][method]
            if "median" in one:
                cells = [f"{one[q]['mm']} ({one[q]['95%'][0]} to {one[q]['95%'][1]})"
                         for q in ("median", "90 %")]  # fmt: skip
                lines.append(f"| {name} | {method} | {one['placed']} of {one['of']} | "
                             f"{cells[0]} | {cells[1]} |")  # fmt: skip
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the accuracy of 3D positions on takes made by `lmeec simulate --depth`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("takes", type=Path, help="a take, or a folder of takes")
    parser.add_argument("--split", default=None, help="use only this split")
    parser.add_argument("--every", type=int, default=1, help="use every n-th frame")
    parser.add_argument("--seed", type=int, default=0, help="random seed for the noise")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args(arguments)
    if args.every < 1:
        parser.error(f"--every {args.every} given, 1 or more expected")
    try:
        result = run(list(open_takes(args.takes, args.split)), args.seed, args.every)
    except InputError as error:
        parser.error(str(error))
    if args.out is not None:
        write_text(args.out, json.dumps(result, indent=1))
    print(table(result))
    for name in ("exact", "noisy"):
        rest = {key: value for key, value in result[name].items() if key not in METHODS}
        print(f"{name}: {json.dumps(rest)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
