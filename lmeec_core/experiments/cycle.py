"""Measures the benefit of the cycle check: presence with and without it, on simulated scenes.

``python -m lmeec_core.experiments.cycle SCENES --out FILE`` tracks every object in scenes rendered
by ``python -m lmeec_core.simulation.shards``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.correspondence import Method
from lmeec_core.evaluation import iou
from lmeec_core.evaluation.scenes import DIRECTIONS, MIN_AREA, qualifies
from lmeec_core.files import write_text
from lmeec_core.methods.cycle import CycleChecked
from lmeec_core.simulation.shards import read_shard

DRAWS = 300
NETWORK = ("lm-eec", "lmeec")
"""Names of the method that uses a network."""
LARGE = 0.5
"""Share of the image above which the mask of an absent object counts as a large mask."""


@dataclass(frozen=True)
class Answer:
    """One object in one target view on one frame.

    Attributes:
        scene: name of the scene.
        direction: one of :data:`lmeec_core.evaluation.scenes.DIRECTIONS`.
        there: whether the object is in the target view.
        presence, checked: presence probability, without and with the check.
        visible, kept: whether it is judged present, without and with the check.
        score: the method's own estimate of the mask's IoU.
        overlap: overlap found by the cycle check; None if nothing was checked.
        iou, iou_kept: IoU without and with the check; None if the object is absent.
        large: whether the mask covers at least :data:`LARGE` of the image.
    """

    scene: str
    direction: str
    there: bool
    presence: float
    checked: float
    visible: bool
    kept: bool
    score: float
    overlap: float | None
    iou: float | None
    iou_kept: float | None
    large: bool


@dataclass
class Seconds:
    """Time spent on steps, without and with the check."""

    plain: float = 0.0
    checked: float = 0.0
    steps: int = 0


def answers_of(
    path: Path, plain: Method, checked: CycleChecked, step: int, seconds: Seconds
) -> Iterator[Answer]:
    """Track all objects of a scene in both directions, with and without the check."""
    rgb, labels, meta = read_shard(path)
    names = list(meta["objects"])
    cameras = [str(n) for n in range(rgb.shape[1])]
    for query in cameras:
        targets = cameras[1:] if query == "0" else cameras[:1]
        trackers = [m.tracker(query, targets) for m in (plain, checked)]
        for frame in range(0, rgb.shape[0], step):
            images = {c: np.ascontiguousarray(rgb[frame, int(c)]) for c in (query, *targets)}
            true = {
                camera: {n: labels[frame, int(camera)] == i for i, n in enumerate(names, start=1)}
                for camera in images
            }
            masks = {n: m for n, m in true[query].items() if m.sum() >= MIN_AREA}
            if not masks:
                continue
            moments, found = [time.perf_counter()], []
            for tracker in trackers:
                found.append(tracker.step(images, masks))
                moments.append(time.perf_counter())
            seconds.plain += moments[1] - moments[0]
            seconds.checked += moments[2] - moments[1]
            seconds.steps += 1
            for target in targets:
                for name, asked in masks.items():
                    truth: NDArray[np.bool_] = true[target][name]
                    if qualifies(int(asked.sum()), int(truth.sum())):
                        both = [one[target][name] for one in found]
                        yield _answer(path.stem, DIRECTIONS[query != "0"], truth, *both)


def _answer(scene: str, direction: str, truth: NDArray[np.bool_], one: Any, checked: Any) -> Answer:
    there, mask = bool(truth.any()), one.mask()
    return Answer(
        scene,
        direction,
        there,
        one.presence,
        checked.presence,
        one.visible(),
        checked.visible(),
        one.score,
        checked.overlap,
        iou(mask, truth) if there else None,
        iou(checked.mask(), truth) if there else None,
        bool(mask.mean() >= LARGE),
    )


Numbers = NDArray[np.float64]


def balanced_accuracy(there: Numbers, judged: Numbers, weights: Numbers) -> float:
    """Mean of the shares of present and of absent objects that are classified correctly."""
    from sklearn.metrics import balanced_accuracy_score

    return float(balanced_accuracy_score(there, judged, sample_weight=weights))


def auroc(there: Numbers, value: Numbers, weights: Numbers) -> float:
    """Probability that a present object has a higher value than an absent one."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(there, value, sample_weight=weights))


def mean_iou(there: Numbers, value: Numbers, weights: Numbers) -> float:
    """Mean IoU over present objects."""
    return float(np.average(value, weights=weights * there))


Look = Callable[[Answer], float]
MEASURES: dict[str, tuple[Callable[[Numbers, Numbers, Numbers], float], Look, Look]] = {
    "balanced accuracy": (balanced_accuracy, lambda a: a.visible, lambda a: a.kept),
    "AUROC of presence": (auroc, lambda a: a.presence, lambda a: a.checked),
    "AUROC of the score": (auroc, lambda a: a.score, lambda a: a.overlap or 0.0),
    "IoU": (mean_iou, lambda a: a.iou or 0.0, lambda a: a.iou_kept or 0.0),
}
"""Each measure with the value it uses without and with the check."""


def summary(answers: Sequence[Answer], draws: int = DRAWS) -> dict[str, Any]:
    """Each measure without and with the check, and the 95 % interval of the difference over scenes
    (bootstrap, fixed seed)."""
    names, scene = np.unique([a.scene for a in answers], return_inverse=True)
    there = np.array([a.there for a in answers], np.float64)
    absent = [a for a in answers if not a.there]
    result: dict[str, Any] = {
        "scenes": len(names),
        "present": len(answers) - len(absent),
        "absent": len(absent),
        "large masks of absent objects": {
            "without": sum(a.large and a.visible for a in absent),
            "with": sum(a.large and a.kept for a in absent),
        },
    }
    if not absent or len(absent) == len(answers):
        return result  # the measures need both
    picked = np.random.default_rng(0).integers(0, len(names), (draws, len(names)))
    weights = [np.bincount(one, minlength=len(names))[scene].astype(np.float64) for one in picked]
    weights = [w for w in weights if 0 < np.dot(w, there) < w.sum()]
    for name, (measure, *looks) in MEASURES.items():
        without, with_ = (np.array([look(a) for a in answers], np.float64) for look in looks)
        apart = [measure(there, with_, w) - measure(there, without, w) for w in weights]
        low, high = np.quantile(apart, (0.025, 0.975))
        equal = np.ones_like(there)
        result[name] = {
            "without": measure(there, without, equal),
            "with": measure(there, with_, equal),
            "difference 95%": [float(low), float(high)],
        }
    return result


def compare(
    shards: Sequence[Path],
    method: Method,
    checked: CycleChecked,
    step: int = 1,
    draws: int = DRAWS,
) -> tuple[Mapping[str, Any], list[Answer]]:
    """Scores of a method with and without the check, overall and by direction; and all answers."""
    seconds = Seconds()
    answers = [a for shard in shards for a in answers_of(shard, method, checked, step, seconds)]
    result: dict[str, Any] = {
        "seconds a step": {
            "without": seconds.plain / max(seconds.steps, 1),
            "with": seconds.checked / max(seconds.steps, 1),
            "steps": seconds.steps,
        },
        "both": summary(answers, draws),
    }
    for direction in DIRECTIONS:
        result[direction] = summary([a for a in answers if a.direction == direction], draws)
    return result, answers


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare a method with and without the cycle check on a folder of scene shards."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("scenes", type=Path, help="folder of scene shards (.npy with .json)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--method", default="lm-eec", help="name of the method")
    parser.add_argument("--preset", default="nano", help="the network of lm-eec")
    parser.add_argument("--first", type=int, default=16, help="how many scenes to use")
    parser.add_argument("--step", type=int, default=1, help="use every n-th frame")
    parser.add_argument("--draws", type=int, default=DRAWS, help="bootstrap samples")
    parser.add_argument("--answers", action="store_true", help="also write every answer")
    args = parser.parse_args(arguments)
    shards = sorted(args.scenes.glob("*.npy"))[: args.first]
    if not shards:
        parser.error(f"{args.scenes}: no .npy files here, a folder of scene shards was expected")
    from lmeec_core.methods import lm_eec, load_method

    method: Method
    if args.method in NETWORK:
        method = lm_eec.load(args.preset)
        checked = CycleChecked(method, method.encode)
    else:
        method = load_method(args.method)
        checked = CycleChecked(method)
    result, answers = compare(shards, method, checked, args.step, args.draws)
    content = {"method": args.method, "scenes": [s.stem for s in shards], "scores": result}
    if args.answers:
        content["answers"] = [asdict(a) for a in answers]
    write_text(args.out, json.dumps(content, indent=1))
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
