"""The predictions of several methods for one recording, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from lmeec_core.errors import InputError
from lmeec_core.viewing.moments import Moment, View


def labels(paths: Sequence[Path]) -> list[str]:
    """A short, unique name for each file: the shortest ends of the paths that are different."""
    parts = [path.with_suffix("").parts for path in paths]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(own[-count:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]  # the paths differ only in their suffixes


def side_by_side(
    sources: Mapping[str, Iterable[Moment]], report: Callable[[str], None]
) -> Iterator[Moment]:
    """One recording's moments, with a view of each target camera for each method.

    Args:
        sources: the recording's moments with the predictions of each method, by method.
        report: called once with a text if the methods used different query masks; those of the
            first method are shown.

    Raises:
        InputError: the methods have different frames, for example if one was given masks and
            another prompts.
    """
    methods, reported = list(sources), False
    for moments in zip_longest(*sources.values()):
        first = moments[0]
        for name, one in zip(methods[1:], moments[1:], strict=True):
            if one is None or first is None or one.frame != first.frame:
                had, has = (f"frame {m.frame}" if m else "no more frames" for m in (first, one))
                raise InputError(
                    f"{name}: {has} where {methods[0]} has {had}: their query masks come from "
                    "different sources, so different frames were paired; view them one by one"
                )
        targets = [
            replace(one.targets[i], image=view.image, method=name)
            for i, view in enumerate(first.targets)
            for name, one in zip(methods, moments, strict=True)
        ]
        other = next(
            (n for n, m in zip(methods, moments, strict=True) if not _same(m.query, first.query)),
            None,
        )
        if other is not None and not reported:
            reported = True
            report(
                f"{other}: its query masks differ from those of {methods[0]} (frame "
                f"{first.frame}), which are shown"
            )
        yield replace(first, targets=targets)


def _same(one: View, other: View) -> bool:
    """Whether two views of one camera have the same masks."""
    if one.masks.keys() != other.masks.keys():
        return False
    pairs = ((one.masks[name], other.masks[name]) for name in one.masks)
    return all(
        a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in pairs
    )
