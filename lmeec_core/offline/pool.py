"""Runs units in this process, worker processes, or a Ray cluster, with the same results."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from lmeec_core.errors import InputError
from lmeec_core.jobs import run_jobs
from lmeec_core.offline.compute import compute, error_text, work
from lmeec_core.offline.units import Job, Unit

ATTEMPTS = 3
"""Number of attempts for a unit whose worker dies."""
DIED = "worker died"
RAY_HINT = "--cluster needs Ray: pip install 'lmeec[ray]'"


class Outcome(NamedTuple):
    """The outcome of a unit: the bytes of its file, or the error as text."""

    unit: Unit
    data: bytes | None
    error: str | None = None


def here(jobs: Sequence[Job], progress: Callable[[Unit, int], None]) -> Iterator[Outcome]:
    """One unit after the other in this process.

    Args:
        jobs: the units.
        progress: called with the unit under way and its frames done.
    """
    for job in jobs:
        try:
            data = compute(job, partial(progress, job.unit))
        except Exception as error:  # as from a worker process: the other units go on
            yield Outcome(job.unit, None, error_text(error))
            continue
        yield Outcome(job.unit, data)


def on_processes(
    jobs: Sequence[Job], workers: int, retried: Callable[[Unit, str], None]
) -> Iterator[Outcome]:
    """Units over worker processes of this machine, in order of completion.

    Args:
        jobs: the units.
        workers: number of processes.
        retried: called when a unit is tried again, with the reason.
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
    """Units over a Ray cluster, in order of completion; every node must see the recordings.

    Args:
        jobs: the units, all of the same settings.
        address: of a cluster, as ray.init takes it; "auto": the one that RAY_ADDRESS or this
            machine has; "local": start a temporary one here.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    ray = _import_ray()
    settings = jobs[0].settings
    _check_address(address)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            **({"include_dashboard": False} if address == "local" else {}),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"--cluster {address}: no Ray cluster there: {error}") from error
    try:
        remote = ray.remote(
            num_cpus=settings.threads,
            num_gpus=1 if settings.device.startswith("cuda") else 0,
            max_retries=ATTEMPTS - 1,
        )(work)
        pending = {remote.remote(job): job for job in jobs}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(done[0])
            try:
                yield Outcome(job.unit, ray.get(done[0]))
            except ray.exceptions.RayTaskError as error:
                yield Outcome(job.unit, None, error_text(error.cause))
            except ray.exceptions.RayError as error:
                first = str(error).strip().splitlines()[0]
                yield Outcome(job.unit, None, f"{DIED}: {first} ({ATTEMPTS} attempts)")
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Whether a server listens at host:port; Ray itself would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise InputError(f"--cluster {address}: no Ray cluster there: {error}") from error


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A GPU is used where one is requested; without this Ray warns about units that request none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(f"{RAY_HINT} ({error})") from error
    return ray
