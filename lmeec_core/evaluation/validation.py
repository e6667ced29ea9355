"""Finds problems of a result file: missing, unreadable or unknown predictions.

Before scoring, the benchmark requires: the same takes; in each take the same number of objects; for
each object and pair of cameras a mask and a confidence for every frame with a query mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from lmeec_core.errors import InputError
from lmeec_core.evaluation.truth import ResultsTruth, ResultsTruths, Truth, named, pairs_of
from lmeec_core.takes import Results, Take, TakeError, Takes, is_ego
from lmeec_core.takes.keys import look_alike
from lmeec_core.takes.results import Prediction

MISSING = ("take missing", "object missing", "pair missing", "frames missing")
"""Kinds of problems that only mean missing predictions."""


Place = tuple[str, str, str, int]
"""Take, object, pair of cameras, frame."""


class Problem(NamedTuple):
    """Something the benchmark would reject, or that makes a score doubtful.

    Attributes:
        kind: of :data:`MISSING`, or "take unknown", "object unknown", "prediction broken",
            "confidence out of range", "truth left out".
        take: the take.
        what: a text that names the object, cameras and frames.
        predictions: number of predictions that are therefore missing or broken.
    """

    kind: str
    take: str
    what: str
    predictions: int = 0

    def __str__(self) -> str:
        """One line."""
        return f"{self.kind}: take {self.take}" + (f", {self.what}" if self.what else "")


def broken_prediction(take: str, text: str) -> Problem:
    """The problem of a prediction that cannot be read; ``text`` begins as :func:`named` does."""
    return Problem("prediction broken", take, text.removeprefix(f"take {take}, "), 1)


class Forms(NamedTuple):
    """The predictions of a result file after a check of their format; see :func:`look_through`.

    Attributes:
        readable: predictions that can be read.
        unreadable: for each prediction that cannot be read, the take and a text.
        outside: predictions whose confidence is not a probability.
    """

    readable: list[Prediction]
    unreadable: list[tuple[str, str]]
    outside: list[Prediction]

    @property
    def total(self) -> int:
        """Number of predictions."""
        return len(self.readable) + len(self.unreadable)


def look_through(results: Results, take: str | None = None) -> Forms:
    """Check the format of all predictions, or of those of one take, without decoding masks."""
    readable, unreadable = [], []
    for place in results.places(take):
        try:
            readable.append(results.at(*place))
        except InputError as error:
            unreadable.append((place[0], f"{named(*place)}: {error}"))
    outside = [one for one in readable if not -1e-3 <= one.confidence <= 1.001]
    return Forms(readable, unreadable, outside)


def validate_take(results: Results, take: Take) -> list[Problem]:
    """The problems of a take's predictions, [] if there are none.

    Args:
        results: the predictions; their direction determines the query view.
        take: the truth.
    """
    pairs = pairs_of(take, results.direction)
    wanted = {pair: take.mask_frames(pair.object_name, pair.query) for pair in pairs}
    if take.name not in results.takes:
        count = sum(map(len, wanted.values()))
        what = f"{len(take.objects)} objects{look_alike(take.name, results.takes)}"
        return [Problem("take missing", take.name, what, count)]
    problems = []
    listed = dict.fromkeys(results.objects(take.name))
    for name in take.objects:
        if name not in listed:
            count = sum(len(frames) for pair, frames in wanted.items() if pair.object_name == name)
            what = f"object {name!r}{look_alike(name, listed)}"
            problems.append(Problem("object missing", take.name, what, count))
    for name in sorted(listed.keys() - set(take.objects)):
        problems.append(Problem("object unknown", take.name, f"object {name!r}"))
    for pair, frames in wanted.items():
        where = f"object {pair.object_name!r}, {pair.key}"
        if pair.object_name not in listed:
            continue
        there = results.pairs(take.name, pair.object_name)
        if pair.key not in there:
            what = f"{where}{look_alike(pair.key, there)}"
            problems.append(Problem("pair missing", take.name, what, len(frames)))
            continue
        known = set(results.pair_frames(take.name, pair.object_name, pair.key))
        absent = [frame for frame in frames if frame not in known]
        if absent:
            what = f"{where}, {len(absent)} of {len(frames)} frames ({_some(absent)})"
            problems.append(Problem("frames missing", take.name, what, len(absent)))
    return problems


def unknown_takes(results: Results, names: Iterable[str]) -> list[Problem]:
    """Takes in the predictions that are not in the truth."""
    known = dict.fromkeys(names)
    return [
        Problem("take unknown", take, look_alike(take, known).removeprefix("; "))
        for take in results.takes
        if take not in known
    ]


def not_scored(results: Results, truth: Truth, protocol: str) -> list[str]:
    """Texts about parts of a take's predictions or truth that a protocol ignores."""
    pairs = {(p.object_name, p.key): p for p in pairs_of(truth, results.direction)}
    beside: list[Place] = []  # of other cameras, objects or frames
    absent = 0
    for key, pair in pairs.items():
        found = set(results.pair_frames(truth.name, *key))
        expected = _expected(truth, pair.object_name, pair.query, pair.key)
        absent += len(expected - found)
        if protocol == "official":
            beside += [(truth.name, *key, frame) for frame in sorted(found - expected)]
    beside += [place for place in results.places(truth.name) if place[1:3] not in pairs]
    texts = []
    if isinstance(truth, ResultsTruth):
        bare = {key for name in truth.objects for key in truth.pairs(name) if not is_ego(key)}
        texts += [
            f"take {truth.name}: {key!r} names no ego camera ('aria')" for key in sorted(bare)
        ]
    if beside:
        texts.append(
            f"{len(beside)} predictions are of cameras, objects or frames that the truth does not "
            f"ask for, and are not scored, as {named(*beside[0])}"
        )
    if absent and protocol == "lm_eec":
        texts.append(
            f"take {truth.name}: {absent} predictions are missing, which protocol lm_eec does not "
            "count"
        )
    return texts


def _expected(truth: Truth, object_name: str, query: str, pair: str) -> set[int]:
    if isinstance(truth, ResultsTruth):
        return set(truth.frames(object_name, pair))
    return set(truth.mask_frames(object_name, query))


def nothing_shared(results: Results, takes: Takes | ResultsTruths) -> str:
    """Why no prediction was scored: the first level on which the file and the truth differ."""
    theirs: list[Place] = []
    for name in takes.names:
        if name in results.takes:
            with suppress(TakeError):  # already reported
                theirs += _asked(takes.open(name), results.direction)
    ours = list(results.places())
    if not ours:
        return "it holds no predictions"
    if not set(takes.names) & set(results.takes):
        return _other("takes", results.takes, takes.names)
    for level, what in enumerate(("objects", "pairs of cameras", "frames"), start=2):
        if not {place[:level] for place in ours} & {place[:level] for place in theirs}:
            names = ([str(place[level - 1]) for place in places] for places in (ours, theirs))
            return _other(what, *names)
    return "none of its frames is one that is scored (annotated in the target view)"


def _asked(truth: Truth, direction: str) -> list[Place]:
    return [
        (truth.name, pair.object_name, pair.key, frame)
        for pair in pairs_of(truth, direction)
        for frame in sorted(_expected(truth, pair.object_name, pair.query, pair.key))
    ]


def _other(what: str, ours: Iterable[str], theirs: Iterable[str]) -> str:
    lists = [list(dict.fromkeys(names)) for names in (ours, theirs)]
    alike = next(filter(None, (look_alike(name, lists[1]) for name in lists[0])), "")
    it, truth = (
        (", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")) or "none"
        for names in lists
    )
    return f"none of its {what} is in the truth: it has {it}, the truth has {truth}{alike}"


def _some(frames: list[int]) -> str:
    return ", ".join(map(str, frames[:5])) + (", ..." if len(frames) > 5 else "")
