"""Scores of a whole result file, with the groups that a report shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lmeec_core.evaluation.protocol import score
from lmeec_core.evaluation.scores import Scores
from lmeec_core.evaluation.truth import ResultsTruth, ResultsTruths, Truth, pairs_of
from lmeec_core.evaluation.validation import Problem, unknown_takes, validate_take
from lmeec_core.takes import Results, TakeError, Takes

SIZES: tuple[tuple[str, float], ...] = (
    ("under 0.1 %", 0.001),
    ("0.1 to 0.5 %", 0.005),
    ("0.5 to 2 %", 0.02),
    ("2 % and more", float("inf")),
)
"""Groups by area of the true mask as a share of the image; each reaches up to its number.

The paper's Figure 5 groups by the same share but does not say where it cuts.
"""

LENGTHS: tuple[str, ...] = ("under 200 frames", "200 to 600 frames", "over 600 frames")
"""Groups by a take's number of frames, one per second in EgoExo4D, as in the paper's Table 7."""


class TakeInfo(NamedTuple):
    """What the groups need to know of a take."""

    scenario: str
    length: int


@dataclass
class Evaluation:
    """Scores of one direction of a result file.

    Attributes:
        direction: "ego-exo" or "exo-ego".
        scores: all scored frames; carries the protocol's name.
        takes: the takes that were scored.
        problems: what the benchmark would refuse in the result file.
        skipped: takes of the truth that could not be read.
        unlisted: takes whose truth does not list the frames that were annotated; all frames with
            images were scored, where the benchmark would leave some out.
    """

    direction: str
    scores: Scores
    takes: dict[str, TakeInfo] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    skipped: list[TakeError] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Predictions that are missing or broken, also in frames that are not scored."""
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

    A take whose truth is broken is skipped and reported as a whole. Protocol `lm_eec` goes by the
    predictions, so takes and frames without predictions are not scored.

    Args:
        results: the predictions.
        takes: the truth.
        protocol: "official" or "lm_eec".
        progress: called with a take's name and the share of all takes that is done.
    """
    done = Evaluation(results.direction, Scores(protocol))
    for index, name in enumerate(takes.names):
        if protocol == "lm_eec" and name not in results.takes:
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
    done.skipped = list(takes.broken)
    return done


def _score_take(
    results: Results,
    truth: Truth,
    done: Evaluation,
    index: int,
    count: int,
    progress: Callable[[str, float], None] | None,
) -> Scores:
    """Scores of one take; what is to be said of it goes into ``done`` once it is through."""
    part, problems = Scores(done.scores.protocol), []
    pairs = pairs_of(truth, results.direction)
    listed = True
    if part.protocol == "official" and not isinstance(truth, ResultsTruth):
        problems += validate_take(results, truth)
        listed = all(truth.annotated_frames(p.object_name, p.target) is not None for p in pairs)
    broken: list[str] = []
    for number, pair in enumerate(pairs):
        part.add(score(results, truth, pair, part.protocol, broken.append))
        if progress is not None:
            progress(truth.name, (index + (number + 1) / len(pairs)) / count)
    problems += [Problem("prediction broken", truth.name, text, 1) for text in broken]
    done.problems += problems
    done.unlisted += [] if listed else [truth.name]
    done.takes[truth.name] = TakeInfo(truth.scenario or "not given", truth.length)
    return part
