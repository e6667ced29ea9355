"""Scores of the simple methods on simulated scenes, as a baseline for a network's scores.

``python -m lmeec_core.experiments.baselines SCENES --out FILE`` scores all of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmeec_core.errors import InputError
from lmeec_core.evaluation import FrameScore, Scores, contour_accuracy, iou
from lmeec_core.evaluation.metrics import Mask
from lmeec_core.evaluation.scenes import DIRECTIONS, qualifies
from lmeec_core.evaluation.statistics import interval
from lmeec_core.files import write_text
from lmeec_core.methods.pairs import (
    COLOUR_THRESHOLD,
    SIMPLE_METHODS,
    FindMask,
    Image,
    best_region,
    colour_probability,
)
from lmeec_core.simulation.shards import read_shard

EGO = "0"


class Pair(NamedTuple):
    """One object to find in one pair of views."""

    scene: str
    frame: int
    object_name: str
    query: str
    """Number of the camera, as text; 0 is the ego camera."""
    target: str
    query_image: Image
    query_mask: Mask
    target_image: Image
    truth: Mask
    """Empty if the object is not in the target view."""


def pairs_of(path: Path, step: int = 1) -> Iterator[Pair]:
    """All scored pairs (:func:`qualifies`) in every ``step``-th frame of a scene shard, in both
    directions."""
    rgb, labels, meta = read_shard(path)
    for frame in range(0, rgb.shape[0], step):
        for exo in range(1, rgb.shape[1]):
            for query, target in ((0, exo), (exo, 0)):
                images = [np.ascontiguousarray(rgb[frame, c]) for c in (query, target)]
                maps = [np.asarray(labels[frame, c]) for c in (query, target)]
                for label, name in enumerate(meta["objects"], start=1):
                    asked, truth = (m == label for m in maps)
                    if qualifies(int(asked.sum()), int(truth.sum())):
                        yield Pair(
                            path.stem, frame, name, str(query), str(target), images[0], asked,
                            images[1], truth,
                        )  # fmt: skip


def summary(scores: Scores) -> dict[str, Any]:
    """Per direction: IoU and contour accuracy of present objects, spread, existence.

    ``iou spread`` is the standard deviation over objects, ``iou 95%`` a confidence interval of the
    mean over scenes. ``existence`` is balanced accuracy; a non-empty mask means that the object is
    present.
    """
    result: dict[str, Any] = {}
    parts = scores.by(lambda record: DIRECTIONS[record.query != EGO])
    for name in DIRECTIONS:
        mine = parts.get(name, Scores())
        absent = mine.frames - len(mine.ious)
        entry: dict[str, Any] = {"present": len(mine.ious), "absent": absent}
        if mine.ious:
            scenes = [s.ious for s in mine.by(lambda r: r.take if r.exists else None).values()]
            entry["iou"] = mine.iou
            entry["iou spread"] = float(np.std(mine.ious))
            entry["iou 95%"] = list(
                interval([sum(s) for s in scenes], [len(s) for s in scenes], draws=1000)
            )
            entry["contour"] = mine.contour_accuracy
            if absent:
                entry["existence"] = mine.existence_balanced_accuracy
        result[name] = entry
    return result


def score_baselines(
    shards: Sequence[Path], step: int = 1, methods: Mapping[str, FindMask] = SIMPLE_METHODS
) -> dict[str, Any]:
    """Scores on scene shards: the :func:`summary` of each method."""
    scores = {name: Scores("simulated scenes") for name in methods}
    for shard in shards:
        for pair in pairs_of(shard, step):
            present = bool(pair.truth.any())
            for name, find in methods.items():
                found = find(pair.query_image, pair.query_mask, pair.target_image)
                scores[name].records.append(
                    FrameScore(
                        pair.scene, pair.object_name, pair.query, pair.target, pair.frame, present,
                        bool(found.any()), iou(found, pair.truth) if present else None,
                        contour_accuracy(found, pair.truth) if present else None,
                    )
                )  # fmt: skip
    return {name: summary(mine) for name, mine in scores.items()}


def choose_threshold(shards: Sequence[Path], step: int = 1) -> tuple[float, dict[float, float]]:
    """The colour threshold with the best mean IoU on (validation) scenes, and the IoU of all tried.

    Raises:
        InputError: the scenes contain no present object.
    """
    tried = [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    sums: dict[float, list[float]] = {t: [] for t in tried}
    for shard in shards:
        for pair in pairs_of(shard, step):
            if pair.truth.any():
                likely = colour_probability(pair.query_image, pair.query_mask, pair.target_image)
                for t in tried:
                    sums[t].append(iou(best_region(likely, t), pair.truth))
    if not sums[tried[0]]:
        raise InputError(f"no object counts in the {len(shards)} scenes given")
    means = {t: float(np.mean(v)) for t, v in sums.items()}
    return max(means, key=lambda t: means[t]), means


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the baselines on a folder of scene shards, and write JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("scenes", type=Path, help="folder of scene shards (.npy with .json)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--first", type=int, default=24, help="how many scenes to use")
    parser.add_argument("--step", type=int, default=4, help="use every n-th frame")
    parser.add_argument(
        "--choose", action="store_true", help="compare colour thresholds (on validation scenes)"
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
