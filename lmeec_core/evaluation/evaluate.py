"""Scores a whole result file, with the groups of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lmeec_core.errors import InputError
from lmeec_core.evaluation.metrics import iou
from lmeec_core.evaluation.protocol import benchmark_size, score
from lmeec_core.evaluation.scores import Scores
from lmeec_core.evaluation.statistics import estimate
from lmeec_core.evaluation.truth import Pair, ResultsTruth, ResultsTruths, Truth, named, pairs_of
from lmeec_core.evaluation.validation import (
    Problem,
    broken_prediction,
    look_through,
    not_scored,
    nothing_shared,
    unknown_takes,
    validate_take,
)
from lmeec_core.takes import Prediction, Results, Take, TakeError, Takes, decode_mask

SIZES: tuple[tuple[str, float], ...] = (
    ("under 0.1 %", 0.001),
    ("0.1 to 0.5 %", 0.005),
    ("0.5 to 2 %", 0.02),
    ("2 % and more", float("inf")),
)
"""Groups by area of the true mask as a share of the image, with their upper limits.

The paper's Figure 5 groups by the same share but does not give its limits.
"""

LENGTHS: tuple[str, ...] = ("under 200 frames", "200 to 600 frames", "over 600 frames")
"""Groups by a take's number of frames, one per second in EgoExo4D, as in the paper's Table 7."""


class TakeInfo(NamedTuple):
    """Properties of a take by which scores are grouped."""

    scenario: str
    length: int


@dataclass
class Evaluation:
    """Scores of one direction of a result file.

    Attributes:
        direction: "ego-exo" or "exo-ego".
        scores: all scored frames; also names the protocol.
        takes: the takes that were scored.
        problems: what the benchmark would reject in the result file.
        notes: texts about parts of the predictions or the truth that the protocol ignores.
        broken: scored predictions that cannot be read; they count as missing.
        void: why there is no score and the numbers are meaningless; None if there is one.
        skipped: takes of the truth that could not be read.
        unlisted: takes whose truth does not list the annotated frames; all frames with images were
            scored, although the benchmark would leave some out.
        tracked: takes whose query masks were tracked from prompts; by take, the IoU of each of
            these masks with the true mask, if there is one.
    """

    direction: str
    scores: Scores
    takes: dict[str, TakeInfo] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    broken: int = 0
    void: str | None = None
    skipped: list[TakeError] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    tracked: dict[str, list[float]] = field(default_factory=dict)

    @property
    def query_ious(self) -> list[float]:
        """IoU of all tracked query masks with the true masks."""
        return [one for ious in self.tracked.values() for one in ious]

    def tracked_text(self) -> str | None:
        """The report's remark about query masks tracked from prompts; None if there are none."""
        if not self.tracked:
            return None
        text = (
            f"The query masks of {len(self.tracked)} of {len(self.takes)} takes were tracked from "
            "prompts, not given."
        )
        if not (ious := self.query_ious):
            return f"{text} The truth has none of them."
        mean = 100 * sum(ious) / len(ious)
        return f"{text} Their own IoU with the true ones is {mean:.2f} % ({len(ious)} masks)."

    @property
    def iou_interval(self) -> tuple[float, float] | None:
        """95 % interval of the IoU over takes (bootstrap, fixed seed); None with fewer than two."""
        groups = self.scores.by(lambda r: None if r.iou is None else r.take)
        found = estimate({str(t): (sum(one.ious), len(one.ious)) for t, one in groups.items()})
        return None if found is None or found.takes < 2 else (found.low, found.high)

    @property
    def missing(self) -> int:
        """Number of missing or broken predictions, including frames that are not scored."""
        return sum(problem.predictions for problem in self.problems)

    def groups(self) -> dict[str, dict[str, Scores]]:
        """Scores by "object size", "scenario", "take length", "take" and "object"."""
        by: dict[str, Callable[[Any], Any]] = {
            "object size": lambda r: None if r.size is None else size_group(r.size),
            "scenario": lambda r: self.takes[r.take].scenario,
            "take length": lambda r: length_group(self.takes[r.take].length),
            "take": lambda r: r.take,
            "object": lambda r: r.object_name,
        }
        order = {"object size": [name for name, _ in SIZES], "take length": list(LENGTHS)}
        groups: dict[str, dict[str, Scores]] = {}
        for kind, key in by.items():
            found = self.scores.by(key)
            names = order.get(kind) or sorted(map(str, found))
            groups[kind] = {name: found[name] for name in names if name in found}
        return groups


def size_group(share: float) -> str:
    """Group of an object whose true mask covers this share of the image."""
    return next(name for name, limit in SIZES if share < limit)


def length_group(frames: int) -> str:
    """Group of a take with so many frames."""
    return LENGTHS[0 if frames < 200 else 1 if frames <= 600 else 2]


def evaluate(
    results: Results,
    takes: Takes | ResultsTruths,
    protocol: str = "official",
    progress: Callable[[str, float], None] | None = None,
) -> Evaluation:
    """Score predictions of one direction on all takes of a truth.

    A take whose truth is broken is skipped completely and reported. Protocol `lm_eec` starts from
    the predictions, so takes and frames without predictions are not scored. If most predictions
    cannot be read, or none matches the truth, there is no score (``void``).

    Args:
        results: the predictions.
        takes: the truth.
        protocol: "official" or "lm_eec".
        progress: called with a take's name and the share of all takes that is done.
    """
    done = Evaluation(results.direction, Scores(protocol))
    forms = look_through(results)
    if 2 * len(forms.unreadable) > forms.total:
        done.problems = [broken_prediction(*one) for one in forms.unreadable]
        done.void = _unreadable(len(forms.unreadable), forms.total, forms.unreadable[0][1])
        return done
    if forms.outside and protocol == "official":
        done.problems.append(_outside(forms.outside))
    unread = 0
    for index, name in enumerate(takes.names):
        if protocol == "lm_eec" and name not in results.takes:
            unread += 1
            continue
        try:
            part = _score_take(results, takes.open(name), done, index, len(takes), progress)
        except TakeError as error:
            takes.report(error)
        else:
            done.scores.add(part)
        if progress is not None:
            progress(name, (index + 1) / len(takes))
    done.problems += unknown_takes(results, takes.names)
    if unread:
        done.notes.append(
            f"{unread} of {len(takes)} takes have no predictions, which protocol lm_eec does not "
            "count"
        )
    done.skipped = list(takes.broken)
    done.void = _why_void(results, takes, done)
    return done


def _why_void(results: Results, takes: Takes | ResultsTruths, done: Evaluation) -> str | None:
    """Why the scores are meaningless; None if they are not."""
    found = done.scores.frames - done.scores.missing + done.broken
    if 2 * done.broken > found:
        first = next(p for p in done.problems if p.kind == "prediction broken")
        return _unreadable(done.broken, found, f"take {first.take}, {first.what}")
    if takes.broken and not done.takes:
        return f"none of the {len(takes)} takes of the truth could be scored; the first: " + str(
            takes.broken[0]
        )
    return None if found else nothing_shared(results, takes)


def _unreadable(broken: int, count: int, first: str) -> str:
    return f"{broken} of {count} predictions cannot be read; the first: {first}"


def _outside(found: list[Prediction]) -> Problem:
    first = found[0]
    where = named(first.take, first.object_name, first.pair, first.frame)
    return Problem(
        "confidence out of range",
        first.take,
        f"{len(found)} confidences are no probabilities from 0 to 1, as {first.confidence:g} "
        f"({where}); the benchmark asks whether they are above 0.5",
    )


def _score_take(
    results: Results,
    truth: Truth,
    done: Evaluation,
    index: int,
    count: int,
    progress: Callable[[str, float], None] | None,
) -> Scores:
    """Scores of one take; once it is scored, its problems and notes are added to ``done``."""
    part, problems = Scores(done.scores.protocol), []
    pairs = pairs_of(truth, results.direction)
    listed = True
    if part.protocol == "official" and not isinstance(truth, ResultsTruth):
        problems += validate_take(results, truth)
        problems += [Problem("truth left out", truth.name, text) for text in _bare(truth, pairs)]
        listed = all(truth.annotated_frames(p.object_name, p.target) is not None for p in pairs)
    broken: list[str] = []
    for number, pair in enumerate(pairs):
        part.add(score(results, truth, pair, part.protocol, broken.append))
        if progress is not None:
            progress(truth.name, (index + (number + 1) / len(pairs)) / count)
    done.broken += len(broken)
    broken += [text for _, text in look_through(results, truth.name).unreadable]
    problems += [broken_prediction(truth.name, text) for text in dict.fromkeys(broken)]
    tracked = _query_ious(results, truth, problems) if results.tracked(truth.name) else None
    if not isinstance(truth, ResultsTruth):  # broken true masks are known now
        problems += [Problem("truth left out", truth.name, text) for text in truth.left_out]
    done.problems += problems
    done.notes += not_scored(results, truth, part.protocol)
    if not pairs:
        done.notes.append(f"take {truth.name}: no object is listed in an ego and in an exo camera")
    done.unlisted += [] if listed else [truth.name]
    if tracked is not None:
        done.tracked[truth.name] = tracked
    done.takes[truth.name] = TakeInfo(truth.scenario or "not given", truth.length)
    return part


def _query_ious(results: Results, truth: Truth, problems: list[Problem]) -> list[float]:
    """IoU of the tracked query masks with the true ones."""
    ious = []
    for name, camera, frame in results.query_places(truth.name):
        if isinstance(truth, ResultsTruth) or name not in truth.objects:
            continue  # the former has no query masks
        true = truth.mask(name, camera, frame, benchmark_size)
        if true is None:
            continue
        try:
            rle = results.query_rle(truth.name, name, camera, frame)
            found = None if rle is None else decode_mask(rle, true.shape[:2])
        except InputError as error:
            what = f"object {name!r}, query mask in {camera}, frame {frame}: {error}"
            problems.append(Problem("prediction broken", truth.name, what))
        else:
            ious.append(0.0 if found is None else iou(found, true))
    return ious


def _bare(take: Take, pairs: Sequence[Pair]) -> list[str]:
    """Texts about cameras of a take in which nothing is scored."""
    unlisted = {p.target for p in pairs if take.annotated_frames(p.object_name, p.target) is None}
    return [
        f"camera {camera!r} has no images and no list of annotated frames: nothing in it is scored"
        for camera in sorted(unlisted)
        if not take.frames(camera)
    ]
