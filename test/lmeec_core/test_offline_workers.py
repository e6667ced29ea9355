"""Takes tracked by worker processes and on a Ray cluster, also when workers or all are killed."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from lmeec_core.cli.sources import TakeSource
from lmeec_core.offline import pool
from lmeec_core.offline.take_plan import plan_take
from lmeec_core.offline.units import Job, Unit
from lmeec_core.takes import Take
from tracked_takes import MINI, SETTINGS, command, track, write_take


@pytest.fixture
def take(tmp_path: Path) -> Take:
    return write_take(tmp_path / "take_7")


def jobs_of(take: Take, folder: Path | None = None) -> list[Job]:
    units = plan_take(take, ["ego-exo"], (), 32).units
    return [Job(TakeSource(), u, SETTINGS, str(folder / u.key) if folder else None) for u in units]


@contextmanager
def killing(which: Callable[[psutil.Process], bool]) -> Iterator[list[int]]:
    """Kill the first of this process's descendants that is one to kill; gives its id."""
    killed: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not killed and not over.wait(0.005):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if not killed and which(child):
                        os.kill(child.pid, signal.SIGKILL)
                        killed.append(child.pid)

    killer = threading.Thread(target=look)
    killer.start()
    try:
        yield killed
    finally:
        over.set()
        killer.join()


def test_worker_processes_give_the_same_bytes_and_a_killed_one_is_replaced(
    take: Take, tmp_path: Path
) -> None:
    expected = {o.unit.key: o.data for o in pool.here(jobs_of(take), lambda *_: None)}
    assert all(expected.values())
    mine = {child.pid for child in psutil.Process().children()}

    def at_work(child: psutil.Process) -> bool:
        spawned = child.pid not in mine and "spawn_main" in " ".join(child.cmdline())
        return spawned and child.cpu_times().user > 0.5  # or loading

    retried: list[tuple[Unit, str]] = []
    with killing(at_work):
        outcomes = list(
            pool.on_processes(jobs_of(take, tmp_path), 2, lambda *what: retried.append(what))
        )
    assert [reason for _, reason in retried] == ["worker died, exit code -9"]
    assert {o.unit.key: o.data for o in outcomes} == expected
    assert (tmp_path / outcomes[0].unit.key).read_text() == "3"  # frames done


def test_a_worker_that_always_dies_is_reported_and_nothing_is_written(
    take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text("import os\n\ndef work(job):\n    os._exit(7)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pool, "work", importlib.import_module("deadly").work)
    out = tmp_path / "x.json"
    result = track(take.path, out, *MINI, "--workers", "2", "--direction", "ego-exo")
    assert result.exit_code == 1 and not out.exists()
    assert result.output.count("retrying") == 4
    assert "2 units: worker died, exit code 7 (3 attempts)" in result.output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_moments_with_worker_processes(take: Take, tmp_path: Path) -> None:
    def to_folder(name: str) -> list[str]:
        folder = tmp_path / name
        bag = str(folder / "masks")
        return command(take, folder / "x.json", "--bag", bag, "--workers", "2")

    def files(name: str) -> tuple[bytes, bytes]:
        folder = tmp_path / name
        return (folder / "x.json").read_bytes(), (folder / "masks" / "masks.mcap").read_bytes()

    begin = time.monotonic()
    subprocess.run(to_folder("whole"), check=True, stdout=subprocess.DEVNULL)
    duration = time.monotonic() - begin
    rng, killed = np.random.default_rng(time.time_ns()), 0
    for attempt in range(4):
        patience = float(rng.uniform(0.3, 1.2)) * duration if attempt < 3 else None
        process = subprocess.Popen(to_folder("killed"), stdout=subprocess.DEVNULL)
        try:
            process.wait(patience)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    assert process.returncode == 0
    assert files("killed") == files("whole"), f"after {killed} kills"


@pytest.mark.slow
def test_scaling_compares_the_bytes(take: Take, tmp_path: Path) -> None:
    result = track(take.path, tmp_path / "x.json", *MINI, "--scaling", "1,2")
    assert result.exit_code == 0, result.output
    assert "speed-up" in result.output and result.output.count("the same") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["take_7"]


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_file_also_when_a_worker_is_killed(
    take: Take, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    assert track(take.path, here, *MINI).exit_code == 0
    with killing(lambda child: " ".join(child.cmdline()).startswith("ray::work")) as killed:
        result = track(take.path, there, *MINI, "--cluster", "local")
    assert result.exit_code == 0, result.output
    assert killed and there.read_bytes() == here.read_bytes()
