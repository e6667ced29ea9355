"""`lmeec track --scaling`: the same units with different numbers of processes, compared."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmeec_core.errors import InputError
from lmeec_core.offline.monitor import cores
from lmeec_core.offline.outputs import write_predictions
from lmeec_core.offline.run import (
    WORK,
    compute_all,
    settled,
)
from lmeec_core.offline.store import UnitStore
from lmeec_core.offline.units import TrackOptions, Work
from lmeec_core.recordings import RecordingSource

if TYPE_CHECKING:
    from rich.console import Console


def run(
    source: RecordingSource, options: TrackOptions, counts: Sequence[int], console: Console
) -> int:
    """Track once with each number of workers and print a table.

    Args:
        source: the kind of recording.
        options: as for tracking; ``workers`` and ``bag`` are not used, and nothing is written to
            ``out``.
        counts: numbers of workers, each at least 1.

    Returns:
        0 if all result files were identical, byte by byte; else 1.

    Raises:
        InputError: no valid number of workers, or a unit failed.
    """
    from rich.table import Table

    if not counts or min(counts) < 1:
        raise InputError("--scaling: numbers of workers expected, for example 1,2,4")
    folder = options.out.with_name(options.out.name + WORK)
    work = settled(source.plan(options), folder, options, console)
    frames = sum(unit.frames for unit in work.units)
    table = Table("workers", "seconds", "frames/s", "speed-up", "bytes")
    table.title = f"{len(work.units)} units, {frames} frames, {cores()} cores"
    first: tuple[float, str] | None = None
    same = True
    for count in counts:
        seconds, digest = _once(work, dataclasses.replace(options, workers=count), console)
        first = first or (seconds, digest)
        same = same and digest == first[1]
        table.add_row(
            str(count), f"{seconds:.1f}", f"{frames / seconds:.2f}", f"{first[0] / seconds:.2f}",
            "the same" if digest == first[1] else "[red]different[/]",
        )  # fmt: skip
    console.print(table)
    console.print("The times include starting the processes and loading the weights.")
    return 0 if same else 1


def _once(work: Work, options: TrackOptions, console: Console) -> tuple[float, str]:
    """The time in seconds, and the digest of the result file."""
    with tempfile.TemporaryDirectory(prefix="lmeec_scaling_") as folder:
        out = Path(folder) / "predictions.json"
        with UnitStore(Path(folder) / "work", work.settings) as store:
            begin = time.monotonic()
            failed = compute_all(work, store, options, console)
            seconds = time.monotonic() - begin
            if failed:
                raise InputError(f"with {options.workers} workers: {next(iter(failed))}")
            write_predictions(out, work.recordings, work.units, store)
        return seconds, hashlib.sha256(out.read_bytes()).hexdigest()
