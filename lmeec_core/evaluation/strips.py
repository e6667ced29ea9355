"""Pictures of chosen takes: the query above, truth and the prediction of each file below."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.evaluation.evaluate import Evaluation
from lmeec_core.evaluation.scores import FrameScore, Scores
from lmeec_core.evaluation.truth import ResultsTruth, ResultsTruths, Truth
from lmeec_core.overlay import draw_masks
from lmeec_core.takes import Results, TakeError, Takes, decode_mask, encode_jpeg, resize_mask

TILES = 5
TILE = (360, 480)  # height, width; shown at half of it
QUERY, TRUTH, PREDICTION = (255, 190, 30), (0, 200, 255), (240, 80, 40)
GROUND = 56
OUTLINE = 3
LEAST_WINDOW = 0.3  # share of the image that is shown at least
MARGIN = 1.5

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Window = tuple[float, float, float, float]


class Scored(NamedTuple):
    """A result file in one direction: its predictions, the truth's takes and the scores."""

    results: Results
    takes: Takes | ResultsTruths
    evaluation: Evaluation


class Target(NamedTuple):
    """One file's part of a tile: a picture as a data URL, and its IoU; None: not scored."""

    picture: str
    iou: float | None


class Tile(NamedTuple):
    """One frame: the query image as a data URL, and the targets by the files' paths."""

    frame: int
    query: str | None
    targets: dict[str, Target]


class Strip(NamedTuple):
    """One object of a take in a pair of cameras.

    Attributes:
        take, object_name, query, target: the object and the cameras shown.
        take_iou, iou: mean IoU of the take, and of this object in this pair of cameras.
        tiles: some frames.
        error: why there are no pictures, if so.
        curves: IoU of every scored frame with a true mask, by the file's path.
    """

    take: str
    object_name: str
    query: str
    target: str
    take_iou: float
    iou: float
    tiles: tuple[Tile, ...]
    error: str | None = None
    curves: Mapping[str, list[tuple[int, float]]] = MappingProxyType({})

    def mean(self, path: str) -> float | None:
        """Mean IoU of one file for the object and cameras shown."""
        ious = [iou for _, iou in self.curves.get(path, [])]
        return sum(ious) / len(ious) if ious else None


def worst_takes(evaluation: Evaluation, count: int) -> list[tuple[Scores, Scores]]:
    """Scores of the takes with the lowest mean IoU, each with the scores of its worst object."""
    takes = [s for s in evaluation.groups()["take"].values() if s.ious]
    chosen = []
    for take in sorted(takes, key=lambda s: s.iou)[:count]:
        pairs = take.by(lambda r: (r.object_name, r.query, r.target)).values()
        chosen.append((take, min((p for p in pairs if p.ious), key=lambda s: s.iou)))
    return chosen


def differing_takes(evaluations: Sequence[Evaluation], count: int) -> list[tuple[Scores, Scores]]:
    """The takes in which several files differ most in mean IoU: the first file's scores, each with
    those of the object and pair of cameras with the largest difference between two files."""
    first, means = evaluations[0].scores, []
    for evaluation in evaluations:
        pairs = evaluation.scores.by(lambda r: r[:4])
        means.append({place: scores.iou for place, scores in pairs.items() if scores.ious})
    own = first.by(lambda r: r[:4])
    apart = {
        place: max(found) - min(found)
        for place in means[0] if (found := [m[place] for m in means if place in m])
    }  # fmt: skip
    takes = first.by(lambda r: r.take)
    chosen: dict[str, tuple[Scores, Scores]] = {}
    for place in sorted(apart, key=lambda place: -apart[place]):
        take = own[place].records[0].take
        chosen.setdefault(take, (takes[take], own[place]))
    return list(chosen.values())[:count]


def draw_strip(scored: Mapping[str, Scored], truth: Truth, take: Scores, pair: Scores) -> Strip:
    """Draw a choice of :func:`worst_takes` or :func:`differing_takes`, with every file's masks.

    If an image cannot be read, the strip has the error instead of pictures.

    Args:
        scored: the files by path, in order.
        truth: the take.
        take, pair: the first file's scores for the take, and for the object in a pair of cameras.
    """
    records = [r for r in pair.records if r.iou is not None]
    places = np.linspace(0, len(records) - 1, min(TILES, len(records))).round().astype(int)
    picked = [records[i] for i in places]
    first = picked[0]
    curves = {path: _curve(one.evaluation.scores, first) for path, one in scored.items()}
    strip = Strip(
        first.take, first.object_name, first.query, first.target, take.iou, pair.iou, (),
        curves=curves,
    )  # fmt: skip
    results = {path: one.results for path, one in scored.items()}
    try:
        return strip._replace(tiles=tuple(_tiles(results, curves, truth, picked)))
    except TakeError as error:
        return strip._replace(error=str(error))


def _curve(scores: Scores, place: FrameScore) -> list[tuple[int, float]]:
    return sorted(
        (r.frame, r.iou) for r in scores.records if r.iou is not None and r[:4] == place[:4]
    )


def _tiles(
    results: Mapping[str, Results], curves: Mapping[str, list[tuple[int, float]]], truth: Truth,
    records: Sequence[FrameScore],
) -> list[Tile]:  # fmt: skip
    found = {path: [_predicted(own, record) for record in records] for path, own in results.items()}
    ious = {path: dict(curve) for path, curve in curves.items()}
    true = [truth.mask(r.object_name, r.target, r.frame) for r in records]
    asked = [_asked(next(iter(results.values())), truth, record) for record in records]
    windows = _windows(list(zip(*found.values(), true, strict=True)))
    query_windows = _windows([(mask,) for mask in asked])
    tiles = []
    for n, record in enumerate(records):
        image = _image(truth, record.target, record.frame, true[n])
        targets = {}
        for path, masks in found.items():
            picture = _draw(image, windows[n], [(masks[n], PREDICTION, 0.5), (true[n], TRUTH, 0.0)])
            targets[path] = Target(picture, ious[path].get(record.frame))
        above, query = None, asked[n]
        if query is not None:
            image = _image(truth, record.query, record.frame, query)
            above = _draw(image, query_windows[n], [(query, QUERY, 0.4)])
        tiles.append(Tile(record.frame, above, targets))
    return tiles


def _asked(results: Results, truth: Truth, record: FrameScore) -> Mask | None:
    """The query mask: the one tracked from prompts, or the true one."""
    if isinstance(truth, ResultsTruth):
        return None  # has none
    place = (record.object_name, record.query, record.frame)
    if not results.tracked(record.take):
        return truth.mask(*place)
    try:
        rle = results.query_rle(record.take, *place)
        return None if rle is None else decode_mask(rle)
    except InputError:
        return None  # broken; the report names it


def _predicted(results: Results, record: FrameScore) -> Mask | None:
    key = f"{record.query}_{record.target}" if record.query else record.target
    try:
        rle = results.rle(record.take, record.object_name, key, record.frame)
        return None if rle is None else decode_mask(rle)
    except InputError:
        return None  # broken; the report names it


def _image(truth: Truth, camera: str, frame: int, mask: Mask | None) -> Image:
    """The image, or a plain background of the mask's shape if the takes have no images."""
    if truth.has_images and not isinstance(truth, ResultsTruth):
        return truth.image(camera, frame)
    height, width = TILE if mask is None else mask.shape
    return np.full((height, width, 3), GROUND, np.uint8)


def _windows(frames: Sequence[Sequence[Mask | None]]) -> list[Window]:
    """A window of each image around its masks, (top, left, height, width) as shares of the image.

    All windows have the same size, so that objects can be compared along a strip.
    """
    boxes = [[_span(masks, axis) for axis in (0, 1)] for masks in frames]  # rows, columns
    extents = [MARGIN * (b - a) for spans in boxes for a, b in spans]
    side = min(1.0, max(LEAST_WINDOW, *extents))
    windows = []
    for spans in boxes:
        top, left = (min(max(0.0, (a + b - side) / 2), 1 - side) for a, b in spans)
        windows.append((top, left, side, side))
    return windows


def _span(masks: Sequence[Mask | None], axis: int) -> tuple[float, float]:
    """The extent of the masks along an axis, in [0, 1]; the middle if there are no masks."""
    least, most = 1.0, 0.0
    for mask in masks:
        if mask is not None and mask.any():
            there = np.flatnonzero(mask.any(axis=1 - axis))
            least = min(least, float(there[0] / mask.shape[axis]))
            most = max(most, float((there[-1] + 1) / mask.shape[axis]))
    return (least, most) if most > 0 else (0.5, 0.5)


def _draw(image: Image, window: Window, masks: Sequence[tuple[Mask | None, Any, float]]) -> str:
    """Crop the window, fit it into a tile and draw the masks; returns a JPEG as a data URL."""
    height, width = _fitted(image.shape[0], image.shape[1])
    tile = np.asarray(
        cv2.resize(_cut(image, window), (width, height), interpolation=cv2.INTER_AREA), np.uint8
    )
    for mask, colour, alpha in masks:
        if mask is not None:
            small = resize_mask(_cut(mask, window), (height, width))
            tile = draw_masks(
                tile, {"": small}, colours={"": colour}, alpha=alpha, thickness=OUTLINE
            )
    data = base64.b64encode(encode_jpeg(tile, 75)).decode("ascii")
    return f"data:image/jpeg;base64,{data}"


def _fitted(height: int, width: int) -> tuple[int, int]:
    factor = min(TILE[0] / height, TILE[1] / width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _cut(array: NDArray[Any], window: Window) -> NDArray[Any]:
    height, width = array.shape[:2]
    top, left = round(window[0] * height), round(window[1] * width)
    bottom = max(top + 1, round((window[0] + window[2]) * height))
    return np.ascontiguousarray(
        array[top:bottom, left : max(left + 1, round((window[1] + window[3]) * width))]
    )
