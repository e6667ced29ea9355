"""`lmeec dataset`: make a dataset from recordings."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lmeec_core.datasets.episode import FindMasks, Format, Job, Part, facts_of, identity, make, work
from lmeec_core.datasets.plan import DatasetOptions, Work, make_plan
from lmeec_core.datasets.provenance import SIDE, side_files
from lmeec_core.errors import ExplainedError, InputError
from lmeec_core.files import NewFolder
from lmeec_core.jobs import run_jobs, run_on_ray
from lmeec_core.offline.monitor import TrackMonitor
from lmeec_core.recordings import RecordingSource

if TYPE_CHECKING:
    from rich.console import Console

WORK = ".work"
"""Suffix of the work folder, after the dataset's name."""
SHOWN = 5
"""Maximum number of problems and of notes that are printed."""


class Unit(NamedTuple):
    """An episode on the progress bar."""

    key: str
    name: str
    frames: int

    def __str__(self) -> str:
        return self.name


def run(
    options: DatasetOptions,
    sources: Sequence[RecordingSource],
    find: FindMasks,
    kind: Format,
    out: Path,
    workers: int,
    overwrite: bool,
    console: Console,
    cluster: str | None = None,
) -> int:
    """Make a dataset and return the exit code: 0 if nothing had to be left out.

    Finished episodes are kept in a folder next to the dataset until it is complete.

    Args:
        options: the recordings, and what to export.
        sources: reads each of the recordings.
        find: opens predictions.
        kind: the format.
        out: the dataset's folder.
        workers: number of processes.
        overwrite: replace an existing dataset.
        console: where to print.
        cluster: address of a Ray cluster to run on, instead of local processes.

    Raises:
        InputError, OSError: an error that the user can fix; finished episodes are kept.
    """
    kind.check()
    _check_out(out, overwrite)
    with console.status("reading the recordings"):
        planned = make_plan(options, sources, find)
    plan = planned.plan
    _check_once(planned)
    by_view = dict(zip(options.views, sources, strict=True))
    _introduce(planned, console)
    folder = out.with_name(out.name + WORK)
    with _locked(folder):
        jobs = [
            Job(by_view[one.options], find, kind, plan, one, folder / one.key,
                folder / f"{one.key}.progress")
            for one in planned.episodes
        ]  # fmt: skip
        failed = _make_all(jobs, workers, console, cluster)
        parts = [part for part in map(_part, jobs) if part is not None]
        problems = [*planned.problems, *failed]
        notes = list(planned.notes)
        for part in parts:
            problems += part.facts["problems"]
            notes += part.facts["notes"]
        if not parts:
            raise InputError(f"no episode could be made: {problems[0]}")
        _finish(kind, out, planned, parts, list(dict.fromkeys(problems)))
        shutil.rmtree(folder, ignore_errors=True)
    ticks = sum(part.facts["length"] for part in parts)
    console.print(f"{out}: {len(parts)} episodes, {ticks} ticks", highlight=False, markup=False)
    for what, texts in (("note", notes), ("left out", problems)):
        _say(console, what, list(dict.fromkeys(texts)))
    return 1 if problems else 0


def _introduce(planned: Work, console: Console) -> None:
    plan = planned.plan
    console.print(
        f"{len(planned.episodes)} episodes at {plan.fps} Hz; cameras {', '.join(plan.cameras)}; "
        f"{len(plan.slots)} object slots",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _check_once(planned: Work) -> None:
    keys: set[str] = set()
    for one in planned.episodes:
        if one.key in keys:
            raise InputError(f"{one.options.source}: given twice; give each recording once")
        keys.add(one.key)


def _finish(
    kind: Format, out: Path, planned: Work, parts: Sequence[Part], problems: list[str]
) -> None:
    new = NewFolder(out)
    try:
        new.content.mkdir()
        sides = side_files(kind.name, planned.plan, parts, problems)
        kind.finish(new.content, planned.plan, list(parts), sides)
        new.publish()
    finally:
        new.discard()


def _make_all(
    jobs: Sequence[Job], workers: int, console: Console, cluster: str | None
) -> list[str]:
    """Make the episodes that are not finished yet; returns a text for each that failed."""
    missing = []
    for job in jobs:
        before = facts_of(job.folder)
        if before is None or before.get("identity") != _as_json(identity(job)):
            if before is not None:
                text = f"{job.episode.name}: made again: its recording or the options have changed"
                console.print(text, style="yellow", markup=False, soft_wrap=True)
            missing.append(job)
    if len(missing) < len(jobs):
        console.print(f"{len(jobs) - len(missing)} of {len(jobs)} episodes were already finished")
    failed: list[str] = []
    if not missing:
        return failed
    units = [Unit(job.episode.key, job.episode.name, job.episode.frames) for job in missing]
    places = {unit.key: job.progress for unit, job in zip(units, missing, strict=True)}

    def progress_file(unit: Unit) -> Path:
        place = places[unit.key]
        assert place is not None
        return place

    with TrackMonitor(console, progress_file, units, "episodes") as monitor:
        at = {job.episode.key: unit for job, unit in zip(missing, units, strict=True)}
        for job, error in _outcomes(
            missing, workers, cluster, lambda job, n: monitor.at(at[job.episode.key], n)
        ):
            if error is None and _part(job) is None:
                error = (
                    f"was made, but not in {job.folder.parent.resolve()} on this machine: a folder "
                    "that all machines of the cluster see at the same path expected"
                )
            if error is not None:
                failed.append(f"{job.episode.name}: left out: {error}")
            monitor.done(at[job.episode.key])
    return failed


def _outcomes(
    jobs: Sequence[Job], workers: int, cluster: str | None, progress: Callable[[Job, int], None]
) -> Iterator[tuple[Job, str | None]]:
    """Each job and why it failed, in order of completion."""
    workers = min(workers, len(jobs))
    if cluster is not None:
        by_key = {job.episode.key: job for job in jobs}
        results = run_on_ray(work, [_anywhere(job) for job in jobs], cluster)
        results = (replace(one, job=by_key[one.job.episode.key]) for one in results)
    elif workers > 1:
        results = run_jobs(work, jobs, workers, timeout=float("inf"))
    else:
        for job in jobs:
            try:
                make(job, lambda done, job=job: progress(job, done))  # type: ignore[misc]
            except InputError as error:
                yield job, str(error)
            else:
                yield job, None
        return
    for result in results:
        if result.error is not None:
            raise ExplainedError(f"{result.job.episode.name}: {result.error}; the finished "
                                 "episodes are kept: run the same command again")  # fmt: skip
        yield result.job, result.value


def _anywhere(job: Job) -> Job:
    """A job with absolute paths, because cluster nodes have another working directory."""
    paths = ("source", "predictions", "videos", "params")
    given = {name: getattr(job.episode.options, name) for name in paths}
    options = replace(
        job.episode.options, **{name: path and path.resolve() for name, path in given.items()}
    )
    return job._replace(
        episode=replace(job.episode, options=options), folder=job.folder.resolve(),
        progress=job.progress and job.progress.resolve(),
    )  # fmt: skip


def _part(job: Job) -> Part | None:
    facts = facts_of(job.folder)
    if facts is None or facts.get("identity") != _as_json(identity(job)):
        return None
    return Part(job.episode, job.folder, facts)


def _as_json(content: Any) -> Any:
    import json

    return json.loads(json.dumps(content))


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    ours = any((out / place).is_file() for place in SIDE)
    if out.is_dir() and not any(out.iterdir()):
        return
    if not (ours and overwrite):
        hint = (
            "--overwrite replaces it"
            if ours
            else "it was not made by lmeec dataset; choose another folder"
        )
        raise InputError(f"{out}: already exists; {hint}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of the work folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{folder}: in use by another process; wait for it, or choose another --out"
            ) from error
        for left in folder.glob(".*.partial"):
            shutil.rmtree(left, ignore_errors=True)  # from a process that was killed
        yield


def _say(console: Console, what: str, texts: Sequence[str]) -> None:
    for text in texts[:SHOWN]:
        console.print(f"{what}: {text}", style="yellow", markup=False, soft_wrap=True)
    if len(texts) > SHOWN:
        console.print(f"{what}: and {len(texts) - SHOWN} more, in the dataset's provenance.json",
                      style="yellow", soft_wrap=True)  # fmt: skip
