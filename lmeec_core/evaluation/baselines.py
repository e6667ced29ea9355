"""Simple ways to find an object of one view in another, so that a network's scores mean something.

Each is a function ``(query_image, query_mask, target_image) -> mask``: images uint8 (H, W, 3) RGB,
masks bool (H, W), the result at the target image's size. None of them learns or remembers.
``python -m lmeec_core.evaluation.baselines SCENES --out FILE`` scores all of them on simulated
scenes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.evaluation.metrics import Mask, contour_accuracy, iou
from lmeec_core.evaluation.scenes import DIRECTIONS, qualifies
from lmeec_core.files import write_text
from lmeec_core.simulation.shards import read_shard

Image = NDArray[np.uint8]
Baseline = Callable[[Image, Mask, Image], Mask]

COLOUR_THRESHOLD = 0.15
"""Share of the greatest probability; best on validation scenes (:func:`choose_threshold`)."""

SCALES = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
LEAST_INLIERS = 5


def _check(query_image: Image, query_mask: Mask, target_image: Image) -> None:
    for name, image in (("query_image", query_image), ("target_image", target_image)):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"{name}: {image.dtype} {image.shape} given, uint8 (H, W, 3) expected")
    if query_mask.dtype != bool or query_mask.shape != query_image.shape[:2]:
        raise ValueError(
            f"query_mask: {query_mask.dtype} {query_mask.shape} given, bool "
            f"{query_image.shape[:2]} expected, the query image's size"
        )
    if not query_mask.any():
        raise ValueError("query_mask: an empty mask was given; nothing to look for")


def same_place(query_image: Image, query_mask: Mask, target_image: Image) -> Mask:
    """The query mask itself, scaled to the target image.

    Raises:
        ValueError: wrong types or shapes, or an empty query mask; so do all the others.
    """
    _check(query_image, query_mask, target_image)
    height, width = target_image.shape[:2]
    return (
        cv2.resize(query_mask.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    )


def _colour_bins(image: Image) -> NDArray[np.int64]:
    """Hue in 24, saturation in 6, value in 4 steps: one number per pixel."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int64)
    hue, saturation, value = hsv[..., 0] * 24 // 180, hsv[..., 1] * 6 // 256, hsv[..., 2] // 64
    return (hue * 6 + saturation) * 4 + value


def colour_probability(
    query_image: Image, query_mask: Mask, target_image: Image
) -> NDArray[np.float32]:
    """Histogram back-projection (Swain and Ballard, IJCV 1991).

    Of every target pixel the share of the query image's pixels of its colour that belong to the
    object, smoothed over 5 x 5 pixels: float32 (H, W), 0 .. 1.
    """
    _check(query_image, query_mask, target_image)
    bins, count = _colour_bins(query_image), 24 * 6 * 4
    everything = np.bincount(bins.ravel(), minlength=count)
    ours = np.bincount(bins[query_mask], minlength=count)
    ratio = (ours / np.maximum(everything, 1)).astype(np.float32)
    return np.asarray(cv2.blur(ratio[_colour_bins(target_image)], (5, 5)), np.float32)


def _best_region(probability: NDArray[np.float32], threshold: float) -> Mask:
    """Of the connected regions at or above the threshold the one with the greatest sum.

    The threshold is a share of the greatest probability, because small objects have low ones.
    """
    above = (probability > 0) & (probability >= threshold * probability.max())
    count, labels = cv2.connectedComponents(above.astype(np.uint8), connectivity=8)
    if count == 1:
        return above
    sums = np.bincount(labels.ravel(), probability.ravel(), count)
    return np.asarray(labels == 1 + int(sums[1:].argmax()))


def colour_histogram(
    query_image: Image,
    query_mask: Mask,
    target_image: Image,
    threshold: float = COLOUR_THRESHOLD,
) -> Mask:
    """The region whose colours are most the object's; empty if no colour of it is in the view."""
    return _best_region(colour_probability(query_image, query_mask, target_image), threshold)


def template(query_image: Image, query_mask: Mask, target_image: Image) -> Mask:
    """The object's cut-out slid over the target image at several scales.

    The place and scale with the smallest mean squared difference of colours (within the mask)
    receive the query mask. Empty only if the cut-out fits nowhere.
    """
    _check(query_image, query_mask, target_image)
    rows, columns = np.flatnonzero(query_mask.any(axis=1)), np.flatnonzero(query_mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    patch, shape = query_image[box], query_mask[box].astype(np.uint8)
    target = target_image.astype(np.float32) / 255
    best, found = np.inf, np.zeros(target_image.shape[:2], bool)
    for scale in SCALES:
        size = tuple(max(3, round(n * scale)) for n in shape.shape[::-1])
        mask = cv2.resize(shape, size, interpolation=cv2.INTER_NEAREST)
        if size[0] > target.shape[1] or size[1] > target.shape[0] or mask.sum() < 9:
            continue
        cut = cv2.resize(patch, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        weight = np.repeat(mask[..., None].astype(np.float32), 3, axis=2)
        error = cv2.matchTemplate(target, cut, cv2.TM_SQDIFF, mask=weight) / mask.sum()
        least, _, (x, y), _ = cv2.minMaxLoc(error)
        if least < best:
            best = least
            found[:] = False
            found[y : y + size[1], x : x + size[0]] = mask > 0
    return found


def sift(query_image: Image, query_mask: Mask, target_image: Image) -> Mask:
    """The query mask moved, turned and scaled as the object's SIFT key points are.

    Key points (Lowe, IJCV 2004) with a ratio test of 0.8, a similarity by RANSAC within 4 pixels.
    Empty with fewer than LEAST_INLIERS inliers, which says that the object is not there.
    """
    _check(query_image, query_mask, target_image)
    height, width = target_image.shape[:2]
    nothing = np.zeros((height, width), bool)
    detector = cv2.SIFT.create(contrastThreshold=0.02)
    grown = cv2.dilate(query_mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    ours, query = detector.detectAndCompute(cv2.cvtColor(query_image, cv2.COLOR_RGB2GRAY), grown)
    theirs, target = detector.detectAndCompute(cv2.cvtColor(target_image, cv2.COLOR_RGB2GRAY), None)
    if query is None or target is None or len(target) < 2:
        return nothing
    pairs = cv2.BFMatcher().knnMatch(query, target, k=2)
    good = [first for first, second in pairs if first.distance < 0.8 * second.distance]
    if len(good) < LEAST_INLIERS:
        return nothing
    start = np.array([ours[m.queryIdx].pt for m in good])
    end = np.array([theirs[m.trainIdx].pt for m in good])
    matrix, inliers = cv2.estimateAffinePartial2D(start, end, ransacReprojThreshold=4.0)
    if matrix is None or int(inliers.sum()) < LEAST_INLIERS:
        return nothing
    moved = cv2.warpAffine(
        query_mask.view(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST
    )
    return np.asarray(moved > 0)


def sift_or_template(query_image: Image, query_mask: Mask, target_image: Image) -> Mask:
    """SIFT where it finds the object, else template matching."""
    found = sift(query_image, query_mask, target_image)
    return found if found.any() else template(query_image, query_mask, target_image)


BASELINES: dict[str, Baseline] = {
    "same place": same_place,
    "colour histogram": colour_histogram,
    "template": template,
    "SIFT": sift,
    "SIFT or template": sift_or_template,
}


# -- scores ------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """One object asked for in one pair of views."""

    scene: str
    direction: int  # 0 ego to exo, 1 exo to ego
    query_image: Image
    query_mask: Mask
    target_image: Image
    truth: Mask  # empty where the object is not in the target view


def pairs_of(path: Path, step: int = 1) -> Iterator[Pair]:
    """All that counts of a scene shard, every ``step``-th frame, both directions.

    An object counts with at least 30 visible pixels in the query view, and in the target view as
    many or none.
    """
    rgb, labels, meta = read_shard(path)
    for frame in range(0, rgb.shape[0], step):
        for exo in range(1, rgb.shape[1]):
            for direction, (query, target) in enumerate(((0, exo), (exo, 0))):
                views = [np.ascontiguousarray(rgb[frame, c]) for c in (query, target)]
                maps = [np.asarray(labels[frame, c]) for c in (query, target)]
                for label in range(1, len(meta["objects"]) + 1):
                    asked, truth = (m == label for m in maps)
                    if qualifies(int(asked.sum()), int(truth.sum())):
                        yield Pair(path.stem, direction, views[0], asked, views[1], truth)


class _Row(NamedTuple):
    scene: str
    direction: int
    present: bool
    iou: float
    contour: float
    claimed: bool


def _interval(rows: list[_Row], draws: int = 1000) -> list[float]:
    """95% interval of the mean IoU, by drawing scenes (not objects) anew."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row.scene, []).append(row.iou)
    sums = np.array([sum(g) for g in groups.values()])
    counts = np.array([len(g) for g in groups.values()])
    index = np.random.default_rng(0).integers(0, len(sums), (draws, len(sums)))
    means = sums[index].sum(axis=1) / counts[index].sum(axis=1)
    return [float(v) for v in np.quantile(means, (0.025, 0.975))]


def summary(rows: list[_Row]) -> dict[str, Any]:
    """Per direction: IoU and contour accuracy of present objects, spread, existence.

    ``iou spread`` is the standard deviation over objects, ``iou 95%`` an interval of the mean over
    scenes; ``existence`` is balanced accuracy, a mask that is not empty says that the object is
    there.
    """
    result: dict[str, Any] = {}
    for number, name in enumerate(DIRECTIONS):
        mine = [r for r in rows if r.direction == number]
        present = [r for r in mine if r.present]
        absent = [r for r in mine if not r.present]
        entry: dict[str, Any] = {"present": len(present), "absent": len(absent)}
        if present:
            entry["iou"] = float(np.mean([r.iou for r in present]))
            entry["iou spread"] = float(np.std([r.iou for r in present]))
            entry["iou 95%"] = _interval(present)
            entry["contour"] = float(np.mean([r.contour for r in present]))
        if present and absent:
            shares = [np.mean([r.claimed == r.present for r in g]) for g in (present, absent)]
            entry["existence"] = float(np.mean(shares))
        result[name] = entry
    return result


def score_baselines(
    shards: Sequence[Path], step: int = 1, baselines: dict[str, Baseline] = BASELINES
) -> dict[str, Any]:
    """Scores of baselines on scene shards; by baseline what :func:`summary` gives."""
    rows: dict[str, list[_Row]] = {name: [] for name in baselines}
    for shard in shards:
        for pair in pairs_of(shard, step):
            present = bool(pair.truth.any())
            for name, baseline in baselines.items():
                found = baseline(pair.query_image, pair.query_mask, pair.target_image)
                score = iou(found, pair.truth) if present else float("nan")
                contour = contour_accuracy(found, pair.truth) if present else float("nan")
                rows[name].append(
                    _Row(pair.scene, pair.direction, present, score, contour, bool(found.any()))
                )
    return {name: summary(mine) for name, mine in rows.items()}


def choose_threshold(shards: Sequence[Path], step: int = 1) -> tuple[float, dict[float, float]]:
    """The colour threshold with the best mean IoU on (validation) scenes, and all that were tried.

    Raises:
        ValueError: no present object in the scenes.
    """
    tried = [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    sums: dict[float, list[float]] = {t: [] for t in tried}
    for shard in shards:
        for pair in pairs_of(shard, step):
            if pair.truth.any():
                likely = colour_probability(pair.query_image, pair.query_mask, pair.target_image)
                for t in tried:
                    sums[t].append(iou(_best_region(likely, t), pair.truth))
    if not sums[tried[0]]:
        raise ValueError(f"no object counts in the {len(shards)} scenes given")
    means = {t: float(np.mean(v)) for t, v in sums.items()}
    return max(means, key=lambda t: means[t]), means


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the baselines on a folder of scene shards, and write JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("scenes", type=Path, help="folder of scene shards (.npy with .json)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--first", type=int, default=24, help="take the first so many scenes")
    parser.add_argument("--step", type=int, default=4, help="every so many frames")
    parser.add_argument(
        "--choose", action="store_true", help="try colour thresholds instead; for validation scenes"
    )
    args = parser.parse_args(arguments)
    shards = sorted(args.scenes.glob("*.npy"))[: args.first]
    if not shards:
        parser.error(f"{args.scenes}: no .npy files here, a folder of scene shards was expected")
    content: dict[str, Any] = {"scenes": [s.stem for s in shards], "every frames": args.step}
    if args.choose:
        content["threshold"], content["iou by threshold"] = choose_threshold(shards, args.step)
    else:
        content |= {"colour threshold": COLOUR_THRESHOLD}
        content["scores"] = score_baselines(shards, args.step)
    text = json.dumps(content, indent=1)
    write_text(args.out, text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
