"""Runs the tracker over simulated scenes, divided among processes."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lmeec_core.config import MemoryConfig, ModelConfig, Precision
from lmeec_core.errors import ExplainedError
from lmeec_core.evaluation.scenes import qualifies
from lmeec_core.jobs import run_jobs
from lmeec_core.methods.lm_eec import LmEec
from lmeec_core.networks import LMEEC, build_model
from lmeec_core.tracker import Correspondence
from lmeec_core.training.store import Scene, SceneStore, areas


class Job(NamedTuple):
    """A scene to process, possibly in another process."""

    number: int
    path: Path
    frames: int
    memory: MemoryConfig | None
    weights: Path
    device: str
    config: ModelConfig


Report = Callable[[int, int], None]
"""Called with the number of scenes done and the total."""
T = TypeVar("T")


def each_scene(
    work: Callable[[LMEEC, Job], T],
    model: LMEEC,
    store: SceneStore,
    scenes: int,
    memory: MemoryConfig | None = None,
    frames: int | None = None,
    precision: Precision = "fp32",
    report: Report = lambda done, total: None,
) -> list[T]:
    """Results of ``work`` on the first scenes, in order.

    Each core works on separate scenes, sharing the GPU if the network is on one. ``work`` must be
    picklable, that is, a function at module level.

    Args:
        work: called with the network and a scene's job.
        model, store: the network and the scenes.
        scenes: how many to use, from the first.
        memory: settings of the trackers' memory.
        frames: how many frames of each scene to use, from the first; None: all.
        precision: of the networks in other processes; with one core, ``model`` is used as it is.
        report: called with the number of scenes done and the total.

    Raises:
        ExplainedError: a process failed; says why.
    """
    model.eval()
    count = min(scenes, store.count)
    cores = min(os.cpu_count() or 1, count)
    made: dict[int, T] = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        if cores > 1:
            torch.save(model.state_dict(), weights)
        jobs = [
            Job(i, path, min(frames or store.frames, store.frames), memory, weights,
                str(model.device), model.config)
            for i, path in enumerate(store.paths[:count])
        ]  # fmt: skip
        if cores > 1:
            apart = functools.partial(_apart, work, precision)
            for result in run_jobs(apart, jobs, cores, timeout=3600.0):
                if result.error is not None:
                    raise ExplainedError(f"scene {result.job.number}: {result.error}")
                made[result.job.number] = result.value
                report(len(made), count)
        else:
            for job in jobs:
                made[job.number] = work(model, job)
                report(len(made), count)
    return [made[number] for number in sorted(made)]


def _apart(work: Callable[[LMEEC, Job], T], precision: Precision, job: Job) -> T:
    torch.set_num_threads(1)
    return work(_loaded(job.weights, job.device, job.config, precision), job)


@functools.cache
def _loaded(weights: Path, device: str, config: ModelConfig, precision: Precision) -> LMEEC:
    model = build_model(config)
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    model.compute_in(precision)
    return model.requires_grad_(False).to(device)


class Answer(NamedTuple):
    """The tracker's answer for one object in one target view on one frame."""

    query: int
    target: int
    query_area: float  # pixels
    target_area: float
    truth: NDArray[np.bool_]
    found: Correspondence

    @property
    def counts(self) -> bool:
        """Whether the answer is scored, see :func:`qualifies`."""
        return qualifies(self.query_area, self.target_area)


def track_scene(model: LMEEC, job: Job) -> Iterator[list[Answer]]:
    """Track all objects of a scene in both directions.

    Yields the answers of each step, ordered by object and then target.
    """
    scene = Scene(job.path)
    cameras = scene.packed.shape[1]
    exos = list(range(1, cameras))
    for query, targets in [(0, exos), *((exo, [0]) for exo in exos)]:
        names = [str(t) for t in targets]
        tracker = LmEec(model, job.memory).tracker(str(query), names, job.frames)
        for frame in range(job.frames):
            used = (query, *targets)
            labels = {camera: scene.labels(frame, camera) for camera in used}
            area = {camera: areas(labels[camera]) for camera in used}
            given = {str(n): labels[query] == n for n in np.flatnonzero(area[query])}
            images = {str(camera): scene.image(frame, camera) for camera in used}
            found = tracker.step(images, given)
            yield [
                Answer(
                    query,
                    target,
                    float(area[query][int(name)]),
                    float(area[target][int(name)]),
                    labels[target] == int(name),
                    found[str(target)][name],
                )
                for name in given
                for target in targets
            ]
