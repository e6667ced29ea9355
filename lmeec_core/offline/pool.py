"""Runs units in this process, worker processes, or a Ray cluster, with the same results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from lmeec_core.jobs import ATTEMPTS, DIED, error_text, run_jobs, run_on_ray
from lmeec_core.offline.compute import compute, work
from lmeec_core.offline.units import Job, Unit


class Outcome(NamedTuple):
    """The outcome of a unit: the bytes of its file, or the error as text."""

    unit: Unit
    data: bytes | None
    error: str | None = None


def here(jobs: Sequence[Job], progress: Callable[[Unit, int], None]) -> Iterator[Outcome]:
    """One unit after the other in this process.

    Args:
        jobs: the units.
        progress: called with the current unit and its number of frames done.
    """
    for job in jobs:
        try:
            data = compute(job, partial(progress, job.unit))
        except Exception as error:  # as with worker processes, the other units continue
            yield Outcome(job.unit, None, error_text(error))
            continue
        yield Outcome(job.unit, data)


def on_processes(
    jobs: Sequence[Job], workers: int, retried: Callable[[Unit, str], None]
) -> Iterator[Outcome]:
    """Run the units in worker processes on this machine; yields in order of completion.

    Args:
        jobs: the units.
        workers: number of processes.
        retried: called with a unit that is being retried, and the reason.
    """
    waiting = list(jobs)
    for attempt in range(1, ATTEMPTS + 1):
        again = []
        for result in run_jobs(work, waiting, min(workers, len(waiting)), timeout=float("inf")):
            died = (result.error or "").startswith(DIED)
            if died and attempt < ATTEMPTS:
                retried(result.job.unit, f"{result.error}")
                again.append(result.job)
                continue
            tried = f" ({ATTEMPTS} attempts)" if died else ""
            yield Outcome(result.job.unit, result.value, result.error and result.error + tried)
        waiting = again
        if not waiting:
            return


def on_ray(jobs: Sequence[Job], address: str) -> Iterator[Outcome]:
    """Run the units on a Ray cluster; yields in order of completion.

    Args:
        jobs: the units, all with the same settings. Every machine must see the recordings.
        address: see :func:`~lmeec_core.jobs.run_on_ray`.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    settings = jobs[0].settings
    gpus = 1 if settings.device.startswith("cuda") else 0
    for result in run_on_ray(work, jobs, address, settings.threads, gpus):
        yield Outcome(result.job.unit, result.value, result.error)
