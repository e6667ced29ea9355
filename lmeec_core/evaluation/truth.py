"""The truth to compare predictions with: takes, or a truth file in the result file's format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.takes import (
    DIRECTIONS,
    Results,
    Take,
    TakeError,
    Takes,
    decode_mask,
    is_ego,
    open_takes,
)
from lmeec_core.takes.collection import unknown_take
from lmeec_core.takes.json_scan import top_level
from lmeec_core.takes.rle import Rle, Size


class Pair(NamedTuple):
    """An object, its query camera and its target camera.

    Attributes:
        object_name: the object.
        query, target: the cameras.
        key: the pair's name in a result file, "<query>_<target>".
    """

    object_name: str
    query: str
    target: str
    key: str


class ResultsTruth:
    """Truth of one take in the result file's format, as used by the LM-EEC release.

    "<query>_<target>" cannot be reliably split into camera names, so the pair's name is used as the
    target camera, and the query camera is "".

    Attributes:
        path: the file.
        name: the take's name.
        has_images, scenario, length: as in :class:`Take`.
    """

    has_images = False
    scenario: str | None = None

    def __init__(self, path: Path, name: str, results: Results) -> None:
        self.path, self.name = path, name
        self._results = results
        self.length = len(results.frames(name))

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the objects."""
        return self._results.objects(self.name)

    def pairs(self, object_name: str) -> tuple[str, ...]:
        """Names of the pairs with truth."""
        return self._results.pairs(self.name, object_name)

    def annotated(self, object_name: str, pair: str, frame: int) -> bool:
        """Whether there is an entry, even an empty mask."""
        return frame in self._results.pair_frames(self.name, object_name, pair)

    def frames(self, object_name: str, pair: str) -> tuple[int, ...]:
        """Frames with an entry, increasing."""
        return self._results.pair_frames(self.name, object_name, pair)

    def rle(self, object_name: str, pair: str, frame: int) -> Rle | None:
        """The run lengths of a true mask, or None."""
        return self._results.rle(self.name, object_name, pair, frame)

    def mask(
        self, object_name: str, pair: str, frame: int, size: Size | None = None
    ) -> NDArray[np.bool_] | None:
        """A true mask, or None.

        Raises:
            TakeError: if it is broken.
        """
        try:
            rle = self.rle(object_name, pair, frame)
            return None if rle is None else decode_mask(rle, size)
        except InputError as error:
            where = named(self.name, object_name, pair, frame)
            raise TakeError(self.path, f"{where}: {error}") from error


Truth = Take | ResultsTruth


class ResultsTruths:
    """Takes of a truth file in the result format, with the interface of :class:`Takes`.

    Args:
        path: the file.
        direction: the direction to read.

    Raises:
        TakeError: the file is broken, or lacks the direction.
    """

    kind = "results"

    def __init__(self, path: str | os.PathLike[str], direction: str) -> None:
        self.path = Path(path)
        self._results = Results.read(path, direction)
        self.names = self._results.takes
        self.broken: list[TakeError] = []

    def __len__(self) -> int:
        """Number of takes."""
        return len(self.names)

    def __iter__(self) -> Iterator[ResultsTruth]:
        for name in self.names:
            yield ResultsTruth(self.path, name, self._results)

    def open(self, name: str) -> ResultsTruth:
        """The truth of one take.

        Raises:
            TakeError: the file has no such take.
        """
        if name not in self.names:
            raise unknown_take(self.path, name, self.names)
        return ResultsTruth(self.path, name, self._results)

    def report(self, error: TakeError) -> None:
        """Count a broken take."""
        self.broken.append(error)


def open_truth(
    path: str | os.PathLike[str],
    direction: str,
    *,
    split: str | None = None,
    videos: str | os.PathLike[str] | None = None,
    on_error: Callable[[TakeError], None] | None = None,
) -> Takes | ResultsTruths:
    """Open a truth of any kind: what :func:`lmeec_core.takes.open_takes` opens, or a result file.

    Raises:
        TakeError: the path is none of these.
    """
    file = Path(path)
    if file.is_file() and top_level(file, ("annotations", *DIRECTIONS)) in DIRECTIONS:
        return ResultsTruths(file, direction)
    return open_takes(file, split, videos=videos, on_error=on_error)


def named(take: str, object_name: str, pair: str, frame: int) -> str:
    """A text that identifies a prediction."""
    return f"take {take}, object {object_name!r}, {pair}, frame {frame}"


def pairs_of(truth: Truth, direction: str) -> list[Pair]:
    """All pairs of cameras that the file lists for each object, in the file's order of objects.

    Args:
        truth: a take.
        direction: "ego-exo" or "exo-ego".
    """
    pairs: list[Pair] = []
    for name in truth.objects:
        if isinstance(truth, ResultsTruth):
            keys = filter(is_ego, truth.pairs(name))  # as the release does
            pairs += [Pair(name, "", key, key) for key in keys]
            continue
        for query, target in truth.pairs(direction, name):
            pairs.append(Pair(name, query, target, f"{query}_{target}"))
    return pairs
