"""Inspects the recordings of a dataset, and makes the plan that all its episodes share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmeec_core.calibration import Calibration
from lmeec_core.datasets import cameras as calibrated
from lmeec_core.datasets.clock import rate_of
from lmeec_core.datasets.episode import FindMasks
from lmeec_core.datasets.faces import FaceModel
from lmeec_core.datasets.frames import Episode, Plan
from lmeec_core.datasets.images import file_name
from lmeec_core.errors import InputError
from lmeec_core.offline.notices import collected
from lmeec_core.recordings import RecordingSource
from lmeec_core.takes.keys import look_alike
from lmeec_core.viewing.moments import Moment, Predictions, ResultPredictions
from lmeec_core.viewing.options import ViewOptions

INSPECTED = 8
"""Number of moments of each recording that are read for its frame rate; more are read until every
camera has had an image."""


@dataclass(frozen=True)
class DatasetOptions:
    """The options of `lmeec dataset` that determine the content; see its --help.

    Attributes:
        views: how to open each recording.
        fps, slots: None: determined from the recordings.
        task: None: the recordings' names.
        calibration: calibration file for all recordings; None: each recording's own.
        faces: YuNet model, to blur faces; None: faces are not blurred.
    """

    views: tuple[ViewOptions, ...]
    fps: int | None = None
    slots: int | None = None
    threshold: float = 0.5
    task: str | None = None
    calibration: Path | None = None
    hand: str | None = None
    faces: Path | None = None


@dataclass
class Seen:
    """The properties of a recording, from its first moments."""

    options: ViewOptions
    name: str
    frames: int
    query: str
    sizes: dict[str, tuple[int, int] | None]
    objects: list[str]
    fps: int
    calibration: Path | None


@dataclass
class Work:
    """The plan and the episodes of a dataset, and texts about what is left out of it."""

    plan: Plan
    episodes: list[Episode]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def make_plan(options: DatasetOptions, sources: Sequence[RecordingSource], find: FindMasks) -> Work:
    """Inspect the recordings and make the plan.

    Args:
        options: the options of the dataset.
        sources: reads each of the recordings of ``options.views``.
        find: opens predictions.

    Raises:
        InputError: no recording can be read, or they have nothing in common.
    """
    problems: list[str] = []
    notes: list[str] = []
    seen = []
    for view, source in zip(options.views, sources, strict=True):
        try:
            seen.append(_inspect(view, source, find))
        except InputError as error:
            if len(options.views) == 1:
                raise
            problems.append(str(error))
    if not seen:
        raise InputError(f"no recording can be read: {problems[0]}")
    kept, cameras, sizes = _common(seen, problems)
    slots, beyond = _slots(options, kept, problems)
    fps = options.fps or max(one.fps for one in kept)
    slower = [one for one in kept if one.fps != fps]
    if slower and options.fps is None:
        text = ", ".join(f"{one.name} {one.fps} Hz" for one in slower[:3])
        notes.append(f"the clock has {fps} Hz, like the fastest recording; others: {text}")
    names = _labels(kept)
    calibrations = _calibrations(options, kept, names, sizes, (problems, notes))
    if options.hand is not None and options.hand not in slots:
        raise InputError(
            f"--hand {options.hand}: no such object among {list(slots)}"
            f"{look_alike(options.hand, slots)}; the hand must be an object with its own masks"
        )
    predicted = any(view.predictions is not None for view in options.views)
    plan = Plan(
        fps=fps,
        fps_given=options.fps is not None,
        query=cameras[0],
        cameras=cameras,
        sizes=sizes,
        slots=slots,
        beyond=beyond,
        threshold=options.threshold,
        predicted=predicted,
        located=any(len(one.placed) >= 2 for one in calibrations),
        hand=options.hand or "",
        faces=None if options.faces is None else FaceModel.of(options.faces),
    )
    episodes = [
        _episode(one, label, options, known)
        for one, label, known in zip(kept, names, calibrations, strict=True)
    ]
    return Work(plan, episodes, problems, notes)


def _inspect(view: ViewOptions, source: RecordingSource, find: FindMasks) -> Seen:
    """Read the first moments of a recording. Its problems are reported later, when the episode is
    made."""
    listed: list[str] = []

    def predictions(direction: str, take: str, objects: Collection[str] | None) -> Predictions:
        found = find(view.predictions, direction, take, objects, [])
        listed.extend(objects or ())
        if isinstance(found, ResultPredictions):
            listed.extend(found.objects)
        return found

    problems: list[str] = []
    with collected():
        viewed = source.open(view, predictions, problems, [])
        first: list[Moment] = []
        sizes: dict[str, tuple[int, int] | None] = {}
        for moment in viewed.moments:
            if len(first) < INSPECTED:
                first.append(moment)
            for one in (moment.query, *moment.targets):
                if sizes.get(one.camera) is None:
                    shape = None if one.image is None else (one.image.shape[0], one.image.shape[1])
                    sizes[one.camera] = shape
            if len(first) == INSPECTED and None not in sizes.values():
                break
    if not first:
        why = "; ".join(dict.fromkeys(problems)) or "no frames, or no sets"
        raise InputError(f"{view.source}: nothing to export: {why}")
    for moment in first:
        for one in (moment.query, *moment.targets):
            listed += [*one.masks, *(one.truth or ())]
    wanted = [name for name in dict.fromkeys(listed) if not view.objects or name in view.objects]
    query = first[0].query.camera
    rate, calibration = rate_of(first), viewed.calibration
    return Seen(view, viewed.name, viewed.count, query, sizes, wanted, rate, calibration)


def _common(
    seen: list[Seen], problems: list[str]
) -> tuple[list[Seen], tuple[str, ...], dict[str, tuple[int, int]]]:
    """The recordings that match the first one, the cameras that all of them have, and the sizes of
    their images."""
    first = seen[0]
    kept = []
    for one in seen:
        if one.query != first.query:
            problems.append(
                f"{one.name}: left out: its query camera is {one.query}, that of the first "
                f"recording {first.query}; make a separate dataset, or choose one with --query"
            )
            continue
        both = [name for name, size in one.sizes.items() if size and first.sizes.get(name)]
        odd = [name for name in both if one.sizes[name] != first.sizes[name]]
        if odd:
            a, b = one.sizes[odd[0]] or (0, 0), first.sizes[odd[0]] or (0, 0)
            problems.append(
                f"{one.name}: left out: camera {odd[0]} has images of {a[1]} x {a[0]}, in the "
                f"first recording {b[1]} x {b[0]}; a dataset has one size for each camera"
            )
            continue
        kept.append(one)
    names = dict.fromkeys(name for one in kept for name in one.sizes)
    sizes: dict[str, tuple[int, int]] = {}
    for name in names:
        without = [one.name for one in kept if one.sizes.get(name) is None]
        size = first.sizes.get(name)
        if without or size is None:
            where = f"in {', '.join(without[:3])}{', ...' if len(without) > 3 else ''}"
            problems.append(f"camera {name}: left out: it has no images {where}")
        else:
            sizes[name] = size
    if first.query not in sizes:
        raise InputError(f"{first.options.source}: no images of the query camera {first.query}")
    return kept, tuple(sizes), sizes


def _slots(
    options: DatasetOptions, kept: Iterable[Seen], problems: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The objects that get slots, and those for which there are too few."""
    names = list(dict.fromkeys(name for one in kept for name in one.objects))
    if not names:
        raise InputError(
            "the recordings have no objects: no masks in the query view, and no predictions"
        )
    count = options.slots or len(names)
    if len(names) > count:
        listed = ", ".join(map(repr, names[count : count + 5]))
        more = "" if len(names) <= count + 5 else f" and {len(names) - count - 5} more"
        problems.append(f"{len(names)} objects, but --slots {count}: left out: {listed}{more}")
    # Unused slots get names that no object has.
    spare = (f"#{number}" for number in range(count + len(names)))
    free = [name for name in spare if name not in names][: max(0, count - len(names))]
    return tuple(names[:count] + free), tuple(names[count:])


def _calibrations(
    options: DatasetOptions,
    kept: Sequence[Seen],
    names: Sequence[str],
    sizes: Mapping[str, tuple[int, int]],
    messages: tuple[list[str], list[str]],
) -> list[Calibration]:
    """The calibration of each recording: the one given for all, or its own. Problems and notes are
    added to the two lists of ``messages``."""
    if options.calibration is not None:
        one = calibrated.given(options.calibration, list(sizes), sizes, *messages)
        return [one] * len(kept)
    paths = {name: seen.calibration for name, seen in zip(names, kept, strict=True)}
    found = calibrated.own(paths, sizes, *messages)
    return [found[name] for name in names]


def _labels(kept: Sequence[Seen]) -> list[str]:
    """Unique file names made from the recordings' names."""
    labels: list[str] = []
    for seen in kept:
        name = file_name(seen.name)
        tries = (name, *(f"{name}_{number}" for number in range(2, len(labels) + 3)))
        labels.append(next(one for one in tries if one not in labels))
    return labels


def _episode(seen: Seen, label: str, given: DatasetOptions, calibration: Calibration) -> Episode:
    options = seen.options
    inputs = [fingerprint(options.source)]
    if options.predictions is not None:
        inputs.append(fingerprint(options.predictions))
    if options.params is not None:
        inputs.append(fingerprint(options.params))
    inputs.append(repr((options.take, options.direction, options.query, options.objects)))
    return Episode(
        options, seen.name, label, given.task or seen.name, seen.frames, "; ".join(inputs),
        calibration, given.calibration or seen.calibration,
    )  # fmt: skip


def fingerprint(path: Path) -> str:
    """A digest of the names, sizes and times of the files at a path, without hidden files."""
    content = hashlib.sha256()
    files = [path] if path.is_file() else []
    for folder, names, inside in os.walk(path):
        names[:] = sorted(name for name in names if not name.startswith("."))
        files += [Path(folder, name) for name in sorted(inside) if not name.startswith(".")]
    for file in files:
        state = file.stat()
        place = str(file.relative_to(path))
        content.update(repr((place, state.st_size, state.st_mtime_ns)).encode())
    return content.hexdigest()[:32]
