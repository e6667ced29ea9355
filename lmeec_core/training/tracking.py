"""Simulated scenes through the tracker itself, spread over processes."""

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
from lmeec_core.jobs import run_jobs
from lmeec_core.networks import LMEEC, build_model
from lmeec_core.tracker import Correspondence, CorrespondenceTracker
from lmeec_core.training.sampling import MIN_AREA
from lmeec_core.training.store import SceneStore


def qualifies(query_area: float, target_area: float) -> bool:
    """Whether a query counts: well visible where it is given; well visible or absent elsewhere."""
    return query_area >= MIN_AREA and (target_area >= MIN_AREA or target_area == 0)


class Clip(NamedTuple):
    """A scene for a process of its own."""

    number: int
    weights: str
    device: str
    config: ModelConfig
    memory: MemoryConfig | None
    packed: NDArray[np.uint8]
    area: NDArray[np.float32]


Report = Callable[[int, int], None]
"""Called with the number of scenes done and their total."""
T = TypeVar("T")


def each_scene(
    work: Callable[[LMEEC, Clip], T],
    model: LMEEC,
    store: SceneStore,
    scenes: int,
    memory: MemoryConfig | None = None,
    frames: int | None = None,
    precision: Precision = "fp32",
    report: Report = lambda done, total: None,
) -> list[T]:
    """What ``work`` makes of the first scenes, in their order.

    Each core works on scenes of its own, with a share of the GPU if the scenes lie there, so
    ``work`` is a function of a module.

    Args:
        work: gets the network and a scene.
        model, store: the network and the scenes.
        scenes: use the first so many.
        memory: for the scenes' trackers.
        frames: use the first so many of each scene; None: all.
        precision: of the processes' networks; with one core ``model`` itself is taken as it is.
        report: called with the number of scenes done and their total.

    Raises:
        ExplainedError: a process failed; says why.
    """
    model.eval()
    count = min(scenes, store.count)
    cores = min(os.cpu_count() or 1, count)
    area = store.table[:, :frames, :, :, 0].cpu().numpy()
    made: dict[int, T] = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        if cores > 1:
            torch.save(model.state_dict(), weights)
        clips = (
            Clip(
                i,
                str(weights),
                str(store.device),
                model.config,
                memory,
                store.packed[i, :frames].cpu().numpy(),
                area[i],
            )
            for i in range(count)
        )
        if cores > 1:
            apart = functools.partial(_apart, work, precision)
            for result in run_jobs(apart, clips, cores, timeout=3600.0):
                if result.error is not None:
                    raise ExplainedError(f"scene {result.job.number}: {result.error}")
                made[result.job.number] = result.value
                report(len(made), count)
        else:
            for clip in clips:
                made[clip.number] = work(model, clip)
                report(len(made), count)
    return [made[number] for number in sorted(made)]


def _apart(work: Callable[[LMEEC, Clip], T], precision: Precision, clip: Clip) -> T:
    torch.set_num_threads(1)
    return work(_loaded(clip.weights, clip.device, clip.config, precision), clip)


@functools.cache
def _loaded(weights: str, device: str, config: ModelConfig, precision: Precision) -> LMEEC:
    model = build_model(config)
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    if precision == "bf16":
        model.cast_weights()
    return model.requires_grad_(False).to(device)


class Answer(NamedTuple):
    """What a tracker said of one object in one target view on one frame."""

    query: int
    target: int
    query_area: float  # pixels
    target_area: float
    truth: NDArray[np.bool_]
    found: Correspondence

    @property
    def counts(self) -> bool:
        """Whether it is scored, see :func:`qualifies`."""
        return qualifies(self.query_area, self.target_area)


def track_scene(model: LMEEC, clip: Clip) -> Iterator[list[Answer]]:
    """A scene through trackers of both directions, all objects at once.

    Yields the answers of a step, object by object and target by target.
    """
    frames, cameras = clip.packed.shape[:2]
    exos = list(range(1, cameras))
    for query, targets in [(0, exos), *((exo, [0]) for exo in exos)]:
        names = [str(t) for t in targets]
        tracker = CorrespondenceTracker(model, str(query), names, clip.memory, frames)
        for frame in range(frames):
            labels, area = clip.packed[frame, ..., 3], clip.area[frame]
            given = {str(n): labels[query] == n for n in np.flatnonzero(area[query])}
            images = {
                str(c): np.ascontiguousarray(clip.packed[frame, c, ..., :3])
                for c in (query, *targets)
            }
            found = tracker.step(images, given)
            yield [
                Answer(
                    query,
                    target,
                    float(area[query, int(name)]),
                    float(area[target, int(name)]),
                    labels[target] == int(name),
                    found[str(target)][name],
                )
                for name in given
                for target in targets
            ]
