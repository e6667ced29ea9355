"""Profiles of the generated tests, and the guard that every generated input runs under."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from hypothesis import HealthCheck, settings

# Examples of each fuzz test (marked `fuzz`). `make test` runs quick, `make test-slow` thorough.
COMMON = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("quick", COMMON, max_examples=25)
settings.register_profile("thorough", COMMON, max_examples=800)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def bounded() -> Callable[..., AbstractContextManager[None]]:
    """Guard of one input: no hang, and no memory taken beyond a limit.

    `with bounded(seconds, megabytes):` fails if the block takes more processor time, or lets the
    process grow further beyond the largest size it ever had. What is allocated but never touched
    does not count.
    """

    @contextmanager
    def guard(seconds: float = 5.0, megabytes: int = 200) -> Iterator[None]:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.thread_time()
        yield
        spent = time.thread_time() - started
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - largest) // 1024
        assert spent < seconds, f"took {spent:.1f} s of processor time, at most {seconds} allowed"
        assert grown < megabytes, f"took {grown} MB of memory, at most {megabytes} allowed"

    return guard
