"""Computes one unit of work: a pure function of the recording and the settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from lmeec_core.files import write_text
from lmeec_core.offline.notices import collected
from lmeec_core.offline.queries import GivenMasks, MarkedObjects, Queries
from lmeec_core.offline.records import FrameRecord, ObjectRecord, QueryRecord, Small, dump
from lmeec_core.offline.units import Job, Settings, Unit
from lmeec_core.takes import Take, TakeError, Takes, encode_mask, open_takes

if TYPE_CHECKING:
    from lmeec_core.config import EngineName
    from lmeec_core.correspondence import CorrespondenceLike, Method
    from lmeec_core.encoded import Encode
    from lmeec_core.model import LMEEC

Report = Callable[[int], None]
"""Called with the number of frames done."""

# Caches of one entry, shared by the units that a worker process computes.
_LOADED: dict[str, Method] = {}
_VIEW_MODELS: dict[str, LMEEC] = {}
_TAKES: dict[tuple[object, ...], Takes] = {}


def work(job: Job) -> bytes:
    """:func:`compute` for worker processes and cluster nodes; writes progress to a file."""
    if job.progress is None:
        return compute(job, lambda _: None)
    path = Path(job.progress)

    def report(done: int) -> None:
        with suppress(OSError):  # without a shared folder, for example; the unit must not fail
            write_text(path, str(done))

    return compute(job, report)


def compute(job: Job, report: Report) -> bytes:
    """Track a unit and return the bytes of its file (:mod:`lmeec_core.offline.records`).

    Single frames that cannot be read are left out and listed in the file.

    Raises:
        TakeError, BagError: the recording cannot be read at all.
    """
    unit, settings = job.unit, job.settings
    problems: list[str] = []
    with _threads(settings.threads), collected() as notices:
        frames = job.source.track(unit, settings, problems, notices)
        head = {"unit": unit.identity(), "settings": settings.identity()}
        return dump(head, _counted(frames, report), problems, notices)


def method_of(settings: Settings) -> Method:
    """The loaded method of the settings; cached until another one is requested."""
    from lmeec_core.methods import load_with

    key = _key(settings)
    if key not in _LOADED:
        _LOADED.clear()
        arguments = {name: getattr(settings, name) for name in _ARGUMENTS}
        arguments["engine"] = settings.engines or settings.engine
        _LOADED[key] = load_with(settings.method, arguments)
    return _LOADED[key]


_ARGUMENTS = (
    "preset", "checkpoint", "device", "precision", "seed", "require_mv_moe", "memory",
    "candidates", "omama", "text",
)  # fmt: skip


def _key(settings: Settings) -> str:
    names = {"method", "weights", "engine", "engines", *_ARGUMENTS}
    return settings.model_dump_json(include=names)


def finder_of(settings: Settings) -> Method:
    """The method of the settings, with the cycle check if the settings ask for it."""
    from lmeec_core.methods.cycle import CycleChecked

    method = method_of(settings)
    return CycleChecked(method, _encode_of(method)) if settings.cycle_check else method


def _encode_of(method: Method) -> Encode | None:
    """The function that encodes views for all trackers of a method; None without a network."""
    return getattr(method, "encode", None)


def view_model_of(settings: Settings) -> LMEEC:
    """The network that tracks marked objects in their query view; cached.

    It is the network that finds correspondences, unless the settings name another one.
    """
    from lmeec_core.checkpoint import load_model

    assert settings.prompts is not None
    view = settings.prompts
    if view.preset is None:
        network: Any = method_of(settings)
        return cast("LMEEC", network.model)
    same = {name: getattr(settings, name) for name in ("device", "precision", "seed")}
    # "auto" measures, and could choose differently in each process.
    engine: Any = "eager" if settings.engine == "auto" else settings.engine
    key = json.dumps([view.preset, view.weights, view.checkpoint, engine, same])
    if key not in _VIEW_MODELS:
        _VIEW_MODELS.clear()
        _VIEW_MODELS[key] = load_model(
            view.preset, checkpoint=view.checkpoint, engine=engine, require_mv_moe=False, **same
        )
    return _VIEW_MODELS[key]


def with_engines(
    settings: Settings,
    before: Mapping[str, EngineName] | None,
    steps: int = 0,
    listener: Callable[[str], None] = lambda _: None,
) -> Settings:
    """The settings with the engines that ``auto`` chooses, for all processes and later runs.

    Args:
        settings: returned unchanged if the engine is not ``auto``, or the method has no engine.
        before: the engines that an earlier run chose with the same settings; they are kept.
        steps: number of steps that each process will compute. If there are many, missing engine
            files are built first, because engines do not change during the run.
        listener: called with a text about the file being built.
    """
    from lmeec_core.engine import chosen_engines, make_first
    from lmeec_core.methods import has_setting

    if settings.engine != "auto" or not has_setting(settings.method, "engine"):
        return settings
    if before is not None:
        return settings.model_copy(update={"engines": dict(before)})
    with _threads(settings.threads):
        network: Any = method_of(settings)
        make_first(network.model, settings.memory, steps, listener)
        chosen = chosen_engines(network.model)
    made = settings.model_copy(update={"engines": chosen})
    _LOADED[_key(made)] = _LOADED.pop(_key(settings))
    return made


def forget_method() -> None:
    """Free the loaded networks."""
    _LOADED.clear()
    _VIEW_MODELS.clear()


def open_take(unit: Unit) -> Take:
    """The take of a unit; a large file is indexed only once per process.

    Raises:
        TakeError: the take cannot be opened.
    """
    path = Path(unit.source)
    try:
        state = path.stat()
    except OSError as error:
        raise TakeError(path, f"cannot be read: {error}") from error
    key = (unit.source, unit.videos, state.st_mtime_ns, state.st_size)
    if key not in _TAKES:
        _TAKES.clear()
        _TAKES[key] = open_takes(path, videos=unit.videos)
    return _TAKES[key].open(unit.take)


def track_take(unit: Unit, settings: Settings, problems: list[str]) -> Iterator[FrameRecord]:
    """Track a take over the frames of the query camera.

    A query frame whose target image is missing or damaged gives a record without an image, and
    does not change the tracker's memory.
    """
    take, method, finder = open_take(unit), method_of(settings), finder_of(settings)
    queries: Queries
    if settings.prompts is None:
        queries = GivenMasks(take, unit, settings, finder, problems)
    else:
        model = view_model_of(settings)
        encode = _encode_of(method) if model is getattr(method, "model", None) else None
        queries = MarkedObjects(take, unit, settings, finder, model, encode, problems)
    recorder, size = Recorder(settings), _size(take, unit.target)
    for frame in queries.frames:
        try:
            step = queries.step(frame)
        except ValueError as error:
            problems.append(f"{take.path}: frame {frame}: {error}")
            continue
        wanted, tracked = queries.asked(frame), recorder.tracked(step.tracked)
        if step.size is not None:
            size = step.size
            yield recorder.record(frame, size, unit.objects, step.found, wanted, tracked)
        elif size is not None and (wanted or tracked):
            yield recorder.absent(frame, size, unit.objects, wanted, tracked)
    problems += take.left_out


class Recorder:
    """Makes records of the tracker's results."""

    def __init__(self, settings: Settings) -> None:
        self.threshold = settings.presence_threshold
        self._small = Small()

    def record(
        self,
        frame: int,
        size: tuple[int, int],
        objects: tuple[str, ...],
        found: Mapping[str, CorrespondenceLike],
        asked: set[str],
        tracked: list[QueryRecord],
    ) -> FrameRecord:
        """The record of a step.

        Args:
            frame: number of the frame.
            size: (height, width) of the target image.
            objects: all objects of the unit; their labels are their positions, from 1.
            found: results by object; an object without a result is absent.
            asked: objects with an annotation in the query view.
            tracked: see :meth:`tracked`.
        """
        records = []
        for label, name in enumerate(objects, start=1):
            one = found.get(name)
            mask = None if one is None else one.mask(self.threshold)
            numbers = (0.0, 0.0) if one is None else (one.presence, one.score)
            records.append(self.object(name, label, name in asked, mask, size, *numbers))
        return FrameRecord(frame, size, records, tracked=tracked)

    def tracked(self, found: Mapping[str, CorrespondenceLike]) -> list[QueryRecord]:
        """The records of objects that are tracked from prompts in the query view."""
        return [
            QueryRecord(name, one.presence, self._small.of(one.mask(self.threshold), one.size))
            for name, one in found.items()
        ]

    def object(
        self,
        name: str,
        label: int,
        asked: bool,
        mask: NDArray[np.bool_] | None,
        size: tuple[int, int],
        presence: float,
        score: float,
    ) -> ObjectRecord:
        """The record of one object; an empty mask is not visible, as in the node's messages."""
        visible = mask is not None and bool(mask.any())
        full = encode_mask(mask) if visible and mask is not None else None
        small = self._small.of(mask if visible else None, size)
        score = min(1.0, max(0.0, score))
        return ObjectRecord(name, label, asked, visible, presence, score, small, full)

    def absent(
        self,
        frame: int,
        size: tuple[int, int],
        objects: tuple[str, ...],
        asked: set[str],
        tracked: list[QueryRecord],
    ) -> FrameRecord:
        """The record of a frame without a target image."""
        empty = [
            self.object(name, label, name in asked, None, size, 0.0, 0.0)
            for label, name in enumerate(objects, start=1)
        ]
        return FrameRecord(frame, size, empty, image=False, tracked=tracked)


def _size(take: Take, camera: str) -> tuple[int, int] | None:
    """(height, width) of a camera's images, None if none can be read."""
    for frame in take.frames(camera):
        with suppress(TakeError):
            height, width = take.image(camera, frame).shape[:2]
            return height, width
    return None


def _counted(frames: Iterator[FrameRecord], report: Report) -> Iterator[FrameRecord]:
    for count, frame in enumerate(frames, start=1):
        yield frame
        report(count)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Use this number of torch threads within the `with` statement."""
    import torch

    before: Any = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
