"""Opens a take for viewing."""

from __future__ import annotations

from pathlib import Path

from lmeec_core.recordings import FindPredictions, Viewed
from lmeec_core.takes import Results, Take, TakeError, is_ego, open_one
from lmeec_core.takes.keys import look_alike
from lmeec_core.takes.results import DIRECTIONS
from lmeec_core.viewing.moments import take_moments
from lmeec_core.viewing.options import ViewOptions


def open_take_view(
    options: ViewOptions, predictions: FindPredictions, problems: list[str]
) -> Viewed:
    """Open the requested take; see :class:`lmeec_core.recordings.RecordingSource`."""
    take = open_one(options.source, options.split, options.take, options.videos)
    direction = options.direction or _direction_of(options.predictions) or DIRECTIONS[0]
    query, targets = choose_query(take, direction, options.query)
    direction = DIRECTIONS[0] if is_ego(query) else DIRECTIONS[1]
    found = predictions(direction, take.name, take.objects)
    # Marked objects need no annotation.
    names = list(dict.fromkeys((*take.objects, *(found.objects if found.tracked else ()))))
    for name in options.objects:
        if name not in names:
            take.mask_cameras(name)  # raises: there is no such object
    objects = [name for name in names if not options.objects or name in options.objects]
    moments = take_moments(take, query, targets, objects, found, problems.append)
    # In a relations file, a take's name can be any text.
    name = take.name.replace("/", "_").replace("\0", "_")
    file = take.calibration_path if take.calibration_path.is_file() else None
    return Viewed(moments, len(take.frames(query)), name, True, file)


def choose_query(take: Take, direction: str, query: str | None) -> tuple[str, list[str]]:
    """Query camera and target cameras of a take.

    Raises:
        TakeError: the take has no such camera.
    """
    if query is not None and query not in take.cameras:
        raise TakeError(
            take.path,
            f"no camera {query!r}; the take has {list(take.cameras)}"
            f"{look_alike(query, take.cameras)}",
        )
    if query is not None:
        direction = DIRECTIONS[0] if is_ego(query) else DIRECTIONS[1]
    pairs = [pair for pair in take.pairs(direction) if query in (None, pair.query)]
    return pairs[0].query, [pair.target for pair in pairs if pair.query == pairs[0].query]


def _direction_of(path: Path | None) -> str | None:
    """The direction of a result file that has only one; else None."""
    if path is None or not path.is_file():
        return None
    try:
        return Results.read(path).direction
    except TakeError:  # it has both, or cannot be read, which is reported later
        return None
