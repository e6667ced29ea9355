"""Runs jobs on worker processes or a Ray cluster; one that fails does not stop the others."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from lmeec_core.errors import InputError

START_SECONDS = 180.0
"""Seconds allowed for a worker process to start, on top of a job's time."""


ATTEMPTS = 3
"""Number of attempts for a job whose worker dies, if it is retried."""
DIED = "worker died"
RAY_HINT = "--cluster needs Ray: pip install 'lmeec[ray]'"


@dataclass(frozen=True)
class JobResult:
    """The outcome of a job: its value, or the error as text."""

    job: Any
    value: Any = None
    error: str | None = None


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
    """A worker's loop: jobs in, results out, until None comes."""
    import cv2

    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        _serve_jobs(function, pipe)


def _serve_jobs(function: Callable[[Any], Any], pipe: Connection) -> None:
    while (message := pipe.recv()) is not None:
        pipe.send(None)  # the job begins: imports are done, its time runs from here
        try:
            pipe.send((function(message[0]), None))
        except Exception as error:  # reported to the parent; the worker continues
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error} ({place.name}, line {place.lineno})"
            pipe.send((None, text))


class _Worker:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")  # OpenGL contexts do not survive a fork
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.job: Any = None
        self.since = 0.0

    def give(self, job: Any) -> None:
        self.job, self.since = job, time.monotonic() + START_SECONDS
        with contextlib.suppress(OSError):  # a worker that just died is noticed by its exit code
            self.pipe.send((job,))

    def stop(self, kill: bool = False) -> None:
        with contextlib.suppress(OSError):  # it may be gone already
            if kill:
                self.process.kill()
            else:
                self.pipe.send(None)
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
        self.pipe.close()


def run_jobs(
    function: Callable[[Any], Any], jobs: Iterable[Any], workers: int, timeout: float = 300.0
) -> Iterator[JobResult]:
    """Run `function(job)` for every job on worker processes; results come in order of completion.

    A job that raises, kills its process, or takes longer than `timeout` seconds yields a
    JobResult with an error; its worker is replaced, and the other jobs continue. `function` must be
    importable. Raises InputError for fewer than one worker.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}, expected 1 or more")
    waiting = iter(jobs)
    pool: list[_Worker] = []
    try:
        for job in waiting:
            pool.append(_Worker(function))
            pool[-1].give(job)
            if len(pool) == workers:
                break
        while pool:
            wait([w.pipe for w in pool], timeout=1.0)
            for worker in list(pool):
                result = _collect(worker, timeout)
                if result is None:
                    continue
                dead = not worker.process.is_alive() or (
                    result.error is not None and result.error.startswith("timeout")
                )
                pool.remove(worker)
                # Start the next job before yielding the result: the consumer may be slow.
                following = next(waiting, None)
                if dead or following is None:
                    worker.stop(kill=dead)
                if following is not None:
                    worker = _Worker(function) if dead else worker
                    worker.give(following)
                    pool.append(worker)
                yield result
    finally:
        for worker in pool:
            worker.stop(kill=True)


def _collect(worker: _Worker, timeout: float) -> JobResult | None:
    """The worker's result, an error if it died or ran out of time, None while it works."""
    try:
        while worker.pipe.poll():
            message = worker.pipe.recv()
            if message is not None:
                return JobResult(worker.job, *message)
            worker.since = time.monotonic()
    except (EOFError, OSError):
        worker.process.join(5)
        return JobResult(worker.job, error=f"{DIED}, exit code {worker.process.exitcode}")
    if not worker.process.is_alive():
        return JobResult(worker.job, error=f"{DIED}, exit code {worker.process.exitcode}")
    if time.monotonic() - worker.since > timeout:
        return JobResult(worker.job, error=f"timeout: longer than {timeout:g} s")
    return None


def run_on_ray(
    function: Callable[[Any], Any], jobs: Sequence[Any], address: str, cpus: int = 1, gpus: int = 0
) -> Iterator[JobResult]:
    """Run `function(job)` for every job on a Ray cluster; results come in order of completion.

    A job whose worker dies is retried.

    Args:
        function: must be importable on all machines of the cluster.
        jobs: all files that they read and write must have the same paths on all machines.
        address: the cluster's address for ray.init; "auto": the cluster of RAY_ADDRESS or of this
            machine; "local": start a temporary one here.
        cpus, gpus: resources per job.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    ray = _import_ray()
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
        given = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": ATTEMPTS - 1}
        remote = ray.remote(**given)(function)
        pending = {remote.remote(job): job for job in jobs}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(done[0])
            try:
                yield JobResult(job, ray.get(done[0]))
            except ray.exceptions.RayTaskError as error:
                yield JobResult(job, error=error_text(error.cause))
            except ray.exceptions.RayError as error:
                first = str(error).strip().splitlines()[0]
                yield JobResult(job, error=f"{DIED}: {first} ({ATTEMPTS} attempts)")
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Check that a server listens at host:port; Ray itself would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise InputError(f"--cluster {address}: no Ray cluster there: {error}") from error


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without this, Ray warns about jobs that request no GPU.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(f"{RAY_HINT} ({error})") from error
    return ray


def error_text(error: BaseException) -> str:
    """An error as one line; unexpected errors with their place in the code."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ValueError | OSError):
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text} ({os.path.basename(place.filename)}, line {place.lineno})"
