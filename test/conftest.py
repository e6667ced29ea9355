"""Profiles of the generated tests, and the guards that all tests and generated inputs run under."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Examples of each fuzz test (marked `fuzz`). `make test` runs quick, `make test-slow` thorough.
COMMON = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("quick", COMMON, max_examples=25)
settings.register_profile("thorough", COMMON, max_examples=800)
settings.load_profile("quick")

REPOSITORY = Path(__file__).resolve().parents[1]
HELPERS = (path.stem for path in (REPOSITORY / "test" / "helpers").glob("*.py"))
pytest.register_assert_rewrite(*HELPERS)  # so that a failed assertion in one shows its values

LONGEST = (
    "graph_engines", "node_process", "parity", "standard_outputs", "soak", "installation",
    "killed_processes", "lifecycle_cycles", "overload", "weights_download", "failures", "bundled",
    "mark_page", "node_cameras", "status", "improvement", "demo", "play_node", "play_record",
    "node_start", "teardown", "train_command", "track_bag_prompts", "prepared_engines",
    "offline_workers", "offline", "partial_bags",
)  # fmt: skip
"""Files that take longest, the first one most. They run first, so that all workers end together."""


def pytest_configure() -> None:
    """A DDS domain of each worker's own, the package's Fast DDS profile, one thread of torch each.

    Before any test module is imported: torch and DDS read the environment only once. Ctrl-C is
    heard: a shell starts what it puts into the background with SIGINT ignored, and processes
    inherit that, so those of the tests would never see the signal that is sent to them.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    given = int(os.environ.get("ROS_DOMAIN_ID", os.getpid()))
    # 24 domains each, the first twelve for this; beyond 101 their ports are not free on Linux.
    os.environ["ROS_DOMAIN_ID"] = str(1 + 24 * (worker % 4) + given % 12)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        os.environ.setdefault(name, str(REPOSITORY / "config" / "fastdds.xml"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("LMEEC_MAKE_ENGINES", "0")  # tests of just that switch it on


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first; the others stay in their order."""
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture
def own_domain(request: pytest.FixtureRequest) -> str:
    """A DDS domain for a test alone, where nothing left over from another one is heard."""
    first = (int(os.environ["ROS_DOMAIN_ID"]) - 1) // 24 * 24 + 13
    return str(first + sum(map(ord, request.node.name)) % 12)


@pytest.fixture(scope="session", autouse=True)
def no_fork() -> Iterator[None]:
    """Processes are spawned, never forked.

    A fork has one thread but the locks and pools of all that there were (OpenMP, OpenVINO, Rerun,
    DDS), and can hang in any of them.
    """

    def refuse() -> int:
        raise AssertionError('os.fork(): take the multiprocessing context "spawn"')

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        yield


def largest_size() -> int:
    """The most memory that this process has had resident since the last reset, kB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@pytest.fixture(scope="session")
def bounded() -> Callable[..., AbstractContextManager[None]]:
    """Guard of one input: no hang, and no memory taken beyond a limit.

    `with bounded(seconds, megabytes):` fails if the block takes more processor time, or lets the
    process grow by more at any moment. What is allocated but never touched does not count.
    """

    @contextmanager
    def guard(seconds: float = 5.0, megabytes: int = 200) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # the largest size is now the present one
        before = largest_size()
        started = time.thread_time()
        yield
        spent = time.thread_time() - started
        grown = (largest_size() - before) // 1024
        assert spent < seconds, f"took {spent:.1f} s of processor time, at most {seconds} allowed"
        assert grown < megabytes, f"took {grown} MB of memory, at most {megabytes} allowed"

    return guard
