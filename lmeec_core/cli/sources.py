"""Which kind of recording a path holds, and the source that reads it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from lmeec_core.bags import layout
from lmeec_core.cli.plugins import provider
from lmeec_core.errors import InputError
from lmeec_core.recordings import FindPredictions, RecordingSource, Viewed

if TYPE_CHECKING:
    from lmeec_core.offline.records import FrameRecord
    from lmeec_core.offline.units import Settings, TrackOptions, Unit, Work
    from lmeec_core.takes import Results
    from lmeec_core.viewing.moments import Predictions
    from lmeec_core.viewing.options import ViewOptions


@dataclass(frozen=True)
class TakeSource:
    """Takes: a :class:`~lmeec_core.recordings.RecordingSource`."""

    def plan(self, options: TrackOptions) -> Work:
        """See :class:`~lmeec_core.recordings.RecordingSource`."""
        from lmeec_core.offline.take_plan import plan_takes

        _check_no_bag(options)
        return plan_takes(self, options)

    def track(
        self, unit: Unit, settings: Settings, problems: list[str], notices: list[str]
    ) -> Iterator[FrameRecord]:
        """See :class:`~lmeec_core.recordings.RecordingSource`."""
        from lmeec_core.offline.compute import track_take

        return track_take(unit, settings, problems)

    def open(
        self,
        options: ViewOptions,
        predictions: FindPredictions,
        problems: list[str],
        notes: list[str],
    ) -> Viewed:
        """See :class:`~lmeec_core.recordings.RecordingSource`."""
        from lmeec_core.viewing.take_view import open_take_view

        _check_no_bag(options)
        return open_take_view(options, predictions, problems)


def source_of(path: Path) -> RecordingSource:
    """The source that reads the recording.

    Raises:
        InputError: the path is a bag, and the package that reads bags is not installed.
    """
    return provider("bag_source").bag_source() if is_bag(path) else TakeSource()


def find_predictions(
    path: Path | None,
    direction: str,
    take: str,
    objects: Collection[str] | None,
    problems: list[str],
) -> Predictions:
    """The predictions for a recording; predictions for unknown objects are reported as problems.

    Args:
        path: a result file of any method, or a bag of masks; None for no predictions.
        direction, take: the part of a result file to read.
        objects: names of the take's objects; None if unknown.
        problems: receives a text for everything that is left out.

    Raises:
        InputError: the file or bag cannot be read, or has no predictions for the take.
    """
    from lmeec_core.takes.keys import look_alike
    from lmeec_core.viewing.moments import NoPredictions, ResultPredictions

    if path is None:
        return NoPredictions()
    if path.is_dir() or is_bag(path):
        return provider("bag_predictions").bag_predictions(path, problems)
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    results = _results(path, direction, (state.st_mtime_ns, state.st_size))
    found = ResultPredictions(results, take, path, problems.append)
    for name in found.objects:
        if objects is not None and name not in objects and not found.tracked:
            alike = look_alike(name, objects)
            problems.append(f"{path}: object {name!r}, which the take does not have{alike}")
    return found


@lru_cache(maxsize=1)
def _results(path: Path, direction: str, state: tuple[int, int]) -> Results:
    """One direction of a result file; cached, because each recording of a dataset reads it."""
    from lmeec_core.takes import Results

    return Results.read(path, direction)


def is_bag(path: Path) -> bool:
    """Whether a path is a bag, complete or not; takes do not need the extra [bags]."""
    if any((path / name).is_file() for name in ("annotation.json", "split.json")):
        return False
    return layout.is_bag(path)


def _check_no_bag(options: TrackOptions | ViewOptions) -> None:
    if options.params is not None or options.node is not None:
        raise InputError(
            f"{options.source}: is not a bag (a .mcap or .db3 file, or a folder with such files or "
            "metadata.yaml); --params and --node apply only to bags"
        )
