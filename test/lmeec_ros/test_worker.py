"""The mailbox and the worker thread."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from lmeec_ros.inference.worker import Worker


class Gate:
    """A step that waits until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.seen: list[Any] = []
        self.threads: set[str] = set()
        self.errors: list[Exception] = []

    def __call__(self, item: Any, arrived: float) -> None:
        self.entered.release()
        assert self.go.acquire(timeout=30)
        self.seen.append(item)
        self.threads.add(threading.current_thread().name)
        if item == "bad":
            raise RuntimeError("bad item")


@pytest.fixture
def gate() -> Gate:
    return Gate()


def started(gate: Gate, depth: int) -> Worker[Any]:
    worker: Worker[Any] = Worker(gate, gate.errors.append, depth)
    worker.start()
    return worker


def total(worker: Worker[Any]) -> int:
    s = worker.stats()
    return s.processed + s.failed + s.dropped + s.discarded + s.waiting


def test_the_oldest_is_dropped_and_counted(gate: Gate) -> None:
    worker = started(gate, 2)
    worker.put(0)
    assert gate.entered.acquire(timeout=30)  # 0 is being processed, the mailbox is empty
    assert [worker.put(i) for i in range(1, 6)] == [True, True, False, False, False]
    assert worker.stats().dropped == 3
    for _ in range(3):
        gate.go.release()
    assert worker.wait_idle(30)
    assert gate.seen == [0, 4, 5]
    assert gate.threads == {"inference"}
    assert total(worker) == worker.stats().received == 6
    assert worker.stop(30)


def test_an_exception_does_not_end_the_worker(gate: Gate) -> None:
    worker = started(gate, 5)
    for item in ("good", "bad", "fine"):
        worker.put(item)
        gate.go.release()
    assert worker.wait_idle(30)
    assert gate.seen == ["good", "bad", "fine"]
    assert [str(e) for e in gate.errors] == ["bad item"]
    assert (worker.stats().processed, worker.stats().failed) == (2, 1)
    assert worker.stop(30)


def test_a_call_runs_before_newer_items(gate: Gate) -> None:
    worker = started(gate, 3)
    worker.put("old")
    assert gate.entered.acquire(timeout=30)
    worker.put("stale")
    worker.call(lambda: gate.seen.append("reset"))
    worker.put("new")
    gate.go.release(2)
    assert worker.wait_idle(30)
    assert gate.seen == ["old", "reset", "new"]
    assert worker.stats().discarded == 1
    assert worker.stop(30)


def test_stop_does_not_wait_for_ever(gate: Gate) -> None:
    worker = started(gate, 1)
    worker.put("long")
    assert gate.entered.acquire(timeout=30)
    assert not worker.stop(0.05)
    gate.go.release()
    assert worker.stop(30)
    assert worker.put("too late")
    assert worker.stats().discarded == 1
    assert gate.seen == ["long"]


def test_depth_is_checked(gate: Gate) -> None:
    with pytest.raises(ValueError, match="depth 0 given"):
        Worker(gate, gate.errors.append, 0)


def test_a_call_is_answered_whatever_becomes_of_it(gate: Gate) -> None:
    worker = started(gate, 3)

    def fail() -> None:
        raise KeyError("no such object")

    assert worker.call(lambda: 7).result(30) == 7
    with pytest.raises(KeyError, match="no such object"):
        worker.call(fail).result(30)
    assert gate.errors == [], "of interest to the caller alone"
    worker.put("long")
    assert gate.entered.acquire(timeout=30)
    withdrawn, waiting = worker.call(lambda: gate.seen.append("withdrawn")), worker.call(fail)
    assert withdrawn.cancel()
    assert not worker.stop(0.01)
    assert waiting.cancelled() and worker.call(fail).cancelled(), "at once, not after the step"
    gate.go.release()
    assert worker.stop(30)
    assert gate.seen == ["long"]


def test_what_a_step_raises_that_outlasts_the_worker_is_of_no_interest(gate: Gate) -> None:
    worker = started(gate, 3)
    worker.put("bad")
    assert gate.entered.acquire(timeout=30)
    assert not worker.stop(0.01)
    gate.go.release()
    assert worker.stop(30)
    assert gate.seen == ["bad"] and gate.errors == []


HELPERS = """
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import threading, time, torch
from lmeec_ros.inference.worker import in_a_thread

def threads():
    return len(list(Path("/proc/self/task").iterdir()))

def compute():
    return torch.rand(512, 512).exp().sum().item() > 0

def settled(wanted):
    for _ in range(500):
        if threads() == wanted:
            break
        time.sleep(0.01)
    return threads()

in_a_thread(compute, "first")  # what lasts as long as the process
time.sleep(0.2)
before = threads()
assert all(in_a_thread(compute, f"number {n}") for n in range(4))
print(settled(before) - before)
together = threading.Barrier(4)
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda _: together.wait() >= 0 and compute(), range(4)))
    print(threads() - before)
"""


def test_helpers_of_openmp_end_with_the_thread_that_they_help() -> None:
    """Threads that live on keep theirs: a node that loads in them grows."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", HELPERS],
        env={**os.environ, "OMP_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    fresh, living = map(int, done.stdout.split())
    assert fresh == 0
    assert living > 4, "what this guards against: helpers beside the four threads"
