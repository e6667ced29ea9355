"""Writes the result file from finished units."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lmeec_core.offline.store import UnitStore
from lmeec_core.offline.units import Recording, Unit
from lmeec_core.takes import Results, write_results
from lmeec_core.takes.results import DIRECTIONS


def write_predictions(
    path: str | os.PathLike[str],
    recordings: Sequence[Recording],
    units: Iterable[Unit],
    store: UnitStore,
) -> tuple[list[str], list[str]]:
    """Write the benchmark's result file; the same units give the same bytes.

    Args:
        path: the file; replaced atomically.
        recordings: all recordings, in order.
        units: all units, in order.
        store: holds the finished units.

    Returns:
        Texts about what was left out, and about what was unusual; each text once.

    Raises:
        InputError: a unit is missing or cannot be read; names its file.
    """
    wanted = {name for recording in recordings for name in recording.frames}
    results = {name: Results(name) for name in DIRECTIONS if name in wanted}
    for recording in recordings:
        for direction in recording.frames:
            for name in recording.objects:
                results[direction].add_object(recording.name, name)
    problems: dict[str, None] = {}
    notices: dict[str, None] = {}
    seen: dict[tuple[str, str], set[int]] = {}
    for unit in units:
        data = store.load(unit)
        seen.setdefault((unit.take, unit.direction), set()).update(f.frame for f in data.frames)
        problems.update(dict.fromkeys(data.problems))
        notices.update(dict.fromkeys(data.notices))
        for frame in data.frames:
            for entry in frame.objects:
                if entry.asked:
                    results[unit.direction].add(
                        unit.take, entry.object_id, unit.query, unit.target, frame.frame,
                        entry.small, entry.presence,
                    )  # fmt: skip
            for query in frame.tracked:
                results[unit.direction].add_query(
                    unit.take, query.object_id, unit.query, frame.frame, query.small, query.presence
                )
    for recording in recordings:
        for direction, frames in recording.frames.items():
            if not frames:
                frames = sorted(seen.get((recording.name, direction), ()))
            results[direction].set_frames(recording.name, frames)
    write_results(Path(path), *results.values())
    return list(problems), list(notices)
