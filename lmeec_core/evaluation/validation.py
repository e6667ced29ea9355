"""Whether a result file is complete, as the benchmark demands before it scores anything.

The same takes; in each take the same number of objects; for each object and pair of cameras a mask
and a confidence for every frame of the query view's masks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lmeec_core.evaluation.truth import pairs_of
from lmeec_core.takes import Results, Take


class Problem(NamedTuple):
    """Something the benchmark would refuse.

    Attributes:
        kind: "take missing", "take unknown", "object missing", "object unknown", "pair missing",
            "frames missing", "prediction broken".
        take: the take.
        what: which object, cameras and frames, in words.
        predictions: number of predictions that are missing or broken because of it.
    """

    kind: str
    take: str
    what: str
    predictions: int = 0

    def __str__(self) -> str:
        """One line."""
        return f"{self.kind}: take {self.take}" + (f", {self.what}" if self.what else "")


def validate_take(results: Results, take: Take) -> list[Problem]:
    """What is missing from a take's predictions, [] if nothing is.

    Args:
        results: the predictions; their direction says which view is the query.
        take: the truth.
    """
    pairs = pairs_of(take, results.direction)
    wanted = {pair: take.mask_frames(pair.object_name, pair.query) for pair in pairs}
    if take.name not in results.takes:
        count = sum(map(len, wanted.values()))
        return [Problem("take missing", take.name, f"{len(take.objects)} objects", count)]
    problems = []
    listed = set(results.objects(take.name))
    for name in take.objects:
        if name not in listed:
            count = sum(len(frames) for pair, frames in wanted.items() if pair.object_name == name)
            problems.append(Problem("object missing", take.name, f"object {name!r}", count))
    for name in sorted(listed - set(take.objects)):
        problems.append(Problem("object unknown", take.name, f"object {name!r}"))
    for pair, frames in wanted.items():
        where = f"object {pair.object_name!r}, {pair.key}"
        if pair.object_name not in listed:
            continue
        if pair.key not in results.pairs(take.name, pair.object_name):
            problems.append(Problem("pair missing", take.name, where, len(frames)))
            continue
        there = set(results.pair_frames(take.name, pair.object_name, pair.key))
        absent = [frame for frame in frames if frame not in there]
        if absent:
            some = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
            what = f"{where}, {len(absent)} of {len(frames)} frames ({some})"
            problems.append(Problem("frames missing", take.name, what, len(absent)))
    return problems


def unknown_takes(results: Results, names: Iterable[str]) -> list[Problem]:
    """Takes that the predictions have and the truth does not."""
    known = set(names)
    return [Problem("take unknown", take, "") for take in results.takes if take not in known]
