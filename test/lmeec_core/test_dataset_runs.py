"""Runs of `lmeec dataset`: stopped and continued, on several processes, on a cluster."""

from __future__ import annotations

import contextlib
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataset_takes import contents, export, make_results, make_take, runner
from lmeec_core.cli.app import app
from lmeec_core.datasets import episode as episodes
from lmeec_core.datasets import run as dataset_run
from lmeec_core.jobs import JobResult


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_take(tmp_path_factory.mktemp("takes") / "take_7")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("results") / "found.json", "take_7", "take_8")


def test_a_killed_run_goes_on_where_it_was(
    take: Path, found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_take(tmp_path / "take_8")
    command = (take, other, found, "--task", "tidy up")
    made: list[str] = []
    make = episodes._write

    def stop(job: episodes.Job, ticks: Iterator[Any], folder: Path) -> dict[str, Any]:
        if job.episode.name == "take_8" and len(made) < 2:
            for _ in range(3):
                next(ticks)
            raise KeyboardInterrupt
        made.append(job.episode.name)
        return make(job, ticks, folder)

    monkeypatch.setattr(episodes, "_write", stop)
    result = runner.invoke(app, ["dataset", *map(str, command), "--out", str(tmp_path / "a")])
    assert result.exit_code != 0 and not (tmp_path / "a").exists() and made == ["take_7"]
    monkeypatch.setattr(episodes, "_write", make)
    said = export(*command, "--out", tmp_path / "a")
    assert "1 of 2 episodes were already finished" in said
    assert not (tmp_path / "a.work").exists()
    export(*command, "--out", tmp_path / "b", "--workers", 2)
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert a == b and len(a) == 7 + 2 + 6
    assert "already exists" in export(*command, "--out", tmp_path / "a", code=1)
    export(take, found, "--out", tmp_path / "a", "--overwrite")
    assert len(contents(tmp_path / "a")) == 7 + 1 + 3


def test_a_cluster_gets_jobs_that_work_in_any_folder(
    take: Path, found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its nodes are played by this process, in another folder, with jobs that were serialised."""
    asked: list[str] = []
    other = tmp_path / "other"
    other.mkdir()

    def nodes(work: Any, jobs: Any, address: str) -> Iterator[JobResult]:
        asked.append(address)
        for job in jobs:
            there = pickle.loads(pickle.dumps(job))
            with contextlib.chdir(other):
                value = pickle.loads(pickle.dumps(work))(there)
            yield JobResult(there, value)

    monkeypatch.setattr(dataset_run, "run_on_ray", nodes)
    shutil.copytree(take, tmp_path / "take_7")
    shutil.copy(found, tmp_path / "found.json")
    export(take, found, "--out", tmp_path / "here")
    with contextlib.chdir(tmp_path):
        export("take_7", "found.json", "--out", "there", "--cluster", "auto")
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    del here["meta/provenance.json"], there["meta/provenance.json"]  # has the paths given
    assert here == there and asked == ["auto"] and not list(other.iterdir())


def test_what_a_cluster_fails_at_is_named(
    take: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_take(tmp_path / "take_8")

    def nodes(work: Any, jobs: Any, address: str) -> Iterator[JobResult]:
        for job in jobs:
            broken = job.episode.name == "take_8"
            yield JobResult(job, "frame 30 is broken" if broken else work(job))

    monkeypatch.setattr(dataset_run, "run_on_ray", nodes)
    said = export(take, other, "--out", tmp_path / "set", "--cluster", "auto", code=1)
    assert "take_8: left out: frame 30 is broken" in said and "1 episodes" in said

    def elsewhere(work: Any, jobs: Any, address: str) -> Iterator[JobResult]:
        yield from (JobResult(job) for job in jobs)  # made, on a disk of its own

    monkeypatch.setattr(dataset_run, "run_on_ray", elsewhere)
    said = export(take, "--out", tmp_path / "x", "--cluster", "auto", code=1)
    assert f"take_7: left out: was made, but not in {tmp_path / 'x.work'}" in said

    def died(work: Any, jobs: Any, address: str) -> Iterator[JobResult]:
        yield JobResult(jobs[0], error="worker died")

    monkeypatch.setattr(dataset_run, "run_on_ray", died)
    said = export(take, "--out", tmp_path / "y", "--cluster", "auto", code=1)
    assert "take_7: worker died; the finished episodes are kept" in said


@pytest.mark.slow
def test_a_ray_cluster_makes_the_same_dataset(take: Path, found: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    command = (take, make_take(tmp_path / "take_8"), found)
    export(*command, "--out", tmp_path / "a")
    export(*command, "--out", tmp_path / "b", "--cluster", "local")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
