"""Opens a take for viewing."""

from __future__ import annotations

from pathlib import Path

from lmeec_core.recordings import FindPredictions, Viewed
from lmeec_core.takes import Results, TakeError, is_ego, open_one
from lmeec_core.takes.results import DIRECTIONS
from lmeec_core.viewing.moments import choose_query, take_moments
from lmeec_core.viewing.options import ViewOptions


def open_take_view(
    options: ViewOptions, predictions: FindPredictions, problems: list[str]
) -> Viewed:
    """Open the requested take; see :class:`lmeec_core.recordings.RecordingSource`."""
    take = open_one(options.source, options.split, options.take, options.videos)
    direction = options.direction or _direction_of(options.predictions) or DIRECTIONS[0]
    query, targets = choose_query(take, direction, options.query)
    direction = DIRECTIONS[0] if is_ego(query) else DIRECTIONS[1]
    for name in options.objects:
        take.mask_cameras(name)  # says that there is no such object
    objects = [name for name in take.objects if not options.objects or name in options.objects]
    found = predictions(direction, take.name, take.objects)
    moments = take_moments(take, query, targets, objects, found, problems.append)
    # A name of a relations file may be anything.
    name = take.name.replace("/", "_").replace("\0", "_")
    file = take.calibration_path if take.calibration_path.is_file() else None
    return Viewed(moments, len(take.frames(query)), name, True, file)


def _direction_of(path: Path | None) -> str | None:
    """The direction of a result file with only one."""
    if path is None or not path.is_file():
        return None
    try:
        return Results.read(path).direction
    except TakeError:  # both, or nothing that can be read, which is said later
        return None
