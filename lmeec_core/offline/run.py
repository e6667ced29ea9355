"""`lmeec track`: track a take, a dataset or a bag, and write the benchmark's result file."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmeec_core.errors import InputError
from lmeec_core.methods import has_setting
from lmeec_core.offline.monitor import TrackMonitor, cores
from lmeec_core.offline.notices import collected
from lmeec_core.offline.outputs import write_predictions
from lmeec_core.offline.records import frame_count
from lmeec_core.offline.store import UnitStore, engines_before
from lmeec_core.offline.units import Job, Settings, TrackOptions, Unit, Work
from lmeec_core.recordings import RecordingSource

if TYPE_CHECKING:
    from rich.console import Console

WORK = ".work"
"""Suffix of the work folder, after the result file's name."""
SHOWN = 5
"""Maximum number of problems, notes and errors that are printed."""


def run(source: RecordingSource, options: TrackOptions, console: Console) -> int:
    """Track, write the results, and return the exit code: 0 if nothing had to be left out.

    Raises:
        InputError, OSError: an error that the user can fix; finished units are kept.
    """
    folder = options.out.with_name(options.out.name + WORK)
    _check_outputs(options, folder)
    with console.status(f"reading {_escape(str(options.source))}"), collected() as seen:
        work = source.plan(options)
    _introduce(work, options, console)
    work = settled(work, folder, options, console)
    with UnitStore(folder, work.settings) as store:
        failed = compute_all(work, store, options, console)
        if failed:
            _say(console, [f"{n} units: {text}" for text, n in failed.most_common()], "failed")
            console.print(
                f"{sum(failed.values())} units failed and nothing was written; finished units are "
                f"kept in {folder}: run the same command again to compute the others",
                highlight=False,
            )
            return 1
        left_out, notes = write_predictions(options.out, work.recordings, work.units, store)
        notes = list(dict.fromkeys([*seen, *notes]))
        problems = list(dict.fromkeys(work.problems + left_out))
        console.print(f"{options.out}: predictions of {len(work.recordings)} recordings")
        if options.bag is not None:
            _write_bags(work, store, options, console)
    console.print(
        f"{folder}: finished units, reused for other outputs of the same settings; can be deleted",
        highlight=False,
    )
    _say(console, notes, "note")
    _say(console, problems, "left out")
    return 1 if problems else 0


def settled(work: Work, folder: Path, options: TrackOptions, console: Console) -> Work:
    """Add the engines that ``auto`` chooses, once for all processes and later runs.

    If the run is long, missing engine files are built first.

    Args:
        work: units and settings.
        folder: the work folder; the choice of an earlier run in it is kept.
        options: the number of processes.
        console: shows which file is being built.
    """
    from lmeec_core.offline import compute

    before = engines_before(folder, work.settings)
    workers = worker_count(options.workers, len(work.units), work.settings)
    steps = sum(unit.frames for unit in work.units) // workers
    with console.status("preparing the network") as status:

        def show(doing: str) -> None:
            status.update(f"engine auto, for this and later runs: {_escape(doing)}")

        settings = compute.with_engines(work.settings, before, steps, show)
    several = workers > 1
    if several or options.cluster is not None:
        compute.forget_method()  # each worker process loads its own
    return dataclasses.replace(work, settings=settings)


def compute_all(
    work: Work, store: UnitStore, options: TrackOptions, console: Console
) -> Counter[str]:
    """Compute the units that are not finished yet; returns how often each error occurred."""
    units = work.units
    missing = [unit for unit in units if not store.has(unit)]
    for reason, count in store.changed.items():
        console.print(
            f"[yellow]{count} stored units are not reused:[/] {_escape(reason)}", soft_wrap=True
        )
    if len(missing) < len(units):
        console.print(f"{len(units) - len(missing)} of {len(units)} units were already finished")
    failed: Counter[str] = Counter()
    if not missing:
        return failed
    begin, frames = time.monotonic(), 0
    with TrackMonitor(console, store.progress_file, missing) as monitor:
        for outcome in outcomes(missing, work, store, options, monitor):
            if outcome.data is not None:
                store.put(outcome.unit, outcome.data)
                frames += frame_count(outcome.data)
            else:
                text = outcome.error or "no result"
                failed[text] += 1
                if text.startswith("CheckpointError"):
                    raise InputError(text.partition(": ")[2])  # the same for every unit
            monitor.done(outcome.unit)
    seconds = time.monotonic() - begin
    console.print(
        f"{len(missing) - sum(failed.values())} units, {frames} frames in {seconds:.1f} s "
        f"({frames / seconds:.1f} frames/s)",
        highlight=False,
    )
    return failed


def outcomes(
    units: Sequence[Unit],
    work: Work,
    store: UnitStore,
    options: TrackOptions,
    monitor: TrackMonitor[Unit],
) -> Iterator[Any]:
    """The outcomes of the units, on the requested number of processes."""
    from lmeec_core.offline import pool

    workers = worker_count(options.workers, len(units), work.settings)
    if options.cluster is None and workers == 1:
        jobs = [Job(work.source, unit, work.settings) for unit in units]
        return pool.here(jobs, monitor.at)
    files = (str(store.progress_file(unit).resolve()) for unit in units)
    jobs = [
        Job(work.source, unit, work.settings, file) for unit, file in zip(units, files, strict=True)
    ]
    if options.cluster is not None:
        return pool.on_ray(jobs, options.cluster)
    return pool.on_processes(jobs, workers, monitor.retried)


def worker_count(wanted: int, units: int, settings: Settings) -> int:
    """Number of processes; for 0, the cores divided by the threads of a unit, or 1 for a GPU."""
    if not wanted:
        on_cpu = settings.device == "cpu"
        wanted = max(1, cores() // settings.threads) if on_cpu else 1
    return max(1, min(wanted, units))


def _check_outputs(options: TrackOptions, folder: Path) -> None:
    """Refuse to replace any file that this command did not make."""
    out = options.out
    if out.is_dir():
        raise InputError(f"{out}: is a folder; a file for the predictions is expected")
    if out.exists() and not folder.exists() and not options.overwrite:
        raise InputError(
            f"{out}: exists, but not from a run that can be resumed (no {folder}); replace it with "
            "--overwrite, or choose another file with --out"
        )
    if options.bag is not None and options.bag.exists() and not options.overwrite:
        from lmeec_core.offline.mask_bags import is_mask_bag

        bags = list(options.bag.iterdir()) if options.bag.is_dir() else []
        if not (is_mask_bag(options.bag) or (bags and all(map(is_mask_bag, bags)))):
            raise InputError(
                f"{options.bag}: exists, and was not made by this command; if it is a bag, "
                "--overwrite replaces it"
            )


def _introduce(work: Work, options: TrackOptions, console: Console) -> None:
    settings, units = work.settings, work.units
    network = f"preset {settings.preset}, {settings.device}, {settings.precision}"
    if not has_setting(settings.method, "preset"):
        network = ""
    how = ", ".join(filter(None, [f"method {settings.method}", network]))
    console.print(
        f"{_escape(str(options.source))}: recordings: {len(work.recordings)}, units of work: "
        f"{len(units)}; {how}",
        highlight=False,
        soft_wrap=True,
    )
    if settings.weights.startswith("seed:"):
        console.print("[bold yellow]The weights are random (--seed): the masks mean nothing.[/]")
    _say(console, [*work.notes, *(text for plan in work.plans for text in plan.notes)], "note")
    _say(console, work.problems, "cannot be read")
    if not units:
        reason = "" if work.problems else " (no object has query masks)"
        raise InputError(f"{options.source}: nothing to track{reason}")


def _write_bags(work: Work, store: UnitStore, options: TrackOptions, console: Console) -> None:
    """Write one bag or, for several recordings, a folder of bags."""
    from lmeec_core.offline.mask_bags import write_mask_bag

    assert options.bag is not None
    for plan in work.plans:
        if plan.recording is None or not plan.units:
            continue
        name = plan.recording.name
        if name in ("", ".", "..") or "/" in name or "\0" in name:  # possible in a relations file
            raise InputError(
                f"{options.source}: take {name!r} cannot be the name of a bag's folder"
            )
        path = options.bag if len(work.recordings) == 1 else options.bag / name
        path.parent.mkdir(parents=True, exist_ok=True)
        count = write_mask_bag(path, plan.units, store, overwrite=True)
        console.print(f"{path}: {count} messages")


def _say(console: Console, texts: Sequence[str], what: str) -> None:
    for text in texts[:SHOWN]:
        console.print(f"[yellow]{what}:[/] {_escape(text)}", soft_wrap=True, highlight=False)
    if len(texts) > SHOWN:
        console.print(f"[yellow]... and {len(texts) - SHOWN} more {what}[/]")


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
