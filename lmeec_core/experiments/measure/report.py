"""Mean scores with their confidence intervals, the effect of a switch, and of other weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lmeec_core.evaluation import FrameScore, Scores
from lmeec_core.evaluation.statistics import (
    Counts,
    Sums,
    balanced_difference,
    balanced_estimate,
    difference,
    estimate,
    record_of,
)

Key = Callable[[FrameScore], str]
"""Maps a record to its group in the report: the direction, or the object."""


def _sums(scores: Scores) -> Sums:
    takes = scores.by(lambda record: record.take if record.iou is not None else None)
    return {str(name): (sum(own.ious), len(own.ious)) for name, own in takes.items()}


def _counts(scores: Scores) -> Counts:
    result = {}
    for name, own in scores.by(lambda record: record.take).items():
        pairs = list(zip(own.existing, own.predicted, strict=True))
        result[str(name)] = (
            pairs.count((True, True)), sum(own.existing),
            pairs.count((False, False)), len(pairs) - sum(own.existing),
        )  # fmt: skip
    return result


def auroc(scores: Scores) -> float | None:
    """Probability that a present object has a higher presence than an absent one; None if either
    does not occur."""
    from sklearn.metrics import roc_auc_score

    told = [(r.exists, r.presence) for r in scores.records if r.presence is not None]
    if len({there for there, _ in told}) < 2:
        return None
    return float(roc_auc_score(*zip(*told, strict=True)))


def summary(scores: Scores) -> dict[str, Any]:
    """IoU of present objects (of the shown mask) and balanced accuracy of existence, each with its
    95 % interval over takes or pictures; and the AUROC of presence."""
    existing = scores.existing
    return {
        "iou": record_of(estimate(_sums(scores))),
        "existence": record_of(balanced_estimate(_counts(scores))),
        "presence AUROC": auroc(scores),
        "present": sum(existing),
        "absent": len(existing) - sum(existing),
    }


def by_group(scores: Scores, key: Key) -> dict[str, Any]:
    """The :func:`summary` of all records, and of each group."""
    groups = {str(name): summary(own) for name, own in scores.by(key).items()}
    return {"all": summary(scores)} | dict(sorted(groups.items()))


def change(scores: Scores, reference: Scores) -> dict[str, Any]:
    """The effect of a switch on IoU and on the share of right presence verdicts, paired by take."""

    def right(own: Scores) -> Sums:
        takes = own.by(lambda record: record.take)
        return {
            str(name): (
                float(sum(r.exists == r.predicted for r in found.records)), found.frames
            ) for name, found in takes.items()
        }  # fmt: skip

    return {
        "iou": record_of(difference(_sums(scores), _sums(reference))),
        "right on presence": record_of(difference(right(scores), right(reference))),
    }


def gain(scores: Scores, reference: Scores, key: Key) -> dict[str, Any]:
    """How much better the scores are than those of other weights, over all and by group.

    Differences of IoU and of the balanced accuracy of existence, paired by take (or picture), with
    95 % intervals.
    """
    mine, theirs = scores.by(key), reference.by(key)
    pairs = {"all": (scores, reference)} | {
        str(name): (own, theirs[name]) for name, own in mine.items() if name in theirs
    }
    return {
        name: {
            "iou": record_of(difference(_sums(own), _sums(other))),
            "existence": record_of(balanced_difference(_counts(own), _counts(other))),
        }
        for name, (own, other) in pairs.items()
    }
