"""One episode of a dataset: reads a recording, resamples it to the common clock, and writes it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lmeec_core.datasets.clock import Tally, resample
from lmeec_core.datasets.faces import Faces
from lmeec_core.datasets.frames import (
    CameraTick,
    Episode,
    Plan,
    Tick,
    object_spans,
    pose_rows,
    positions,
    rows_of,
    touches,
)
from lmeec_core.datasets.interaction import Interaction
from lmeec_core.errors import InputError
from lmeec_core.files import NewFolder, write_text
from lmeec_core.offline.notices import collected
from lmeec_core.recordings import RecordingSource
from lmeec_core.viewing.moments import Moment, Predictions, ResultPredictions, View

FACTS = "episode.json"
Report = Callable[[int], None]


class FindMasks(Protocol):
    """Opens the predictions for a recording; a module-level function, to be pickled for workers."""

    def __call__(
        self,
        path: Path | None,
        direction: str,
        take: str,
        objects: Collection[str] | None,
        problems: list[str],
    ) -> Predictions:
        """The predictions for a take; texts about what is left out are added to ``problems``."""


class EpisodeWriter(Protocol):
    """Writes one episode into a folder."""

    def add(self, tick: Tick) -> None:
        """Write the next tick."""

    def close(self) -> dict[str, Any]:
        """Finish the files.

        Returns:
            Data for :meth:`Format.finish`, ready for JSON; "problems" lists what the format cannot
            store.
        """

    def abort(self) -> None:
        """Close open files; the folder will be removed."""


class Format(Protocol):
    """A dataset format. Instances are sent to worker processes."""

    @property
    def name(self) -> str:
        """The name, as in --format."""

    def check(self) -> None:
        """Import the packages that the format needs.

        Raises:
            ImportError: a package is not installed.
        """

    def writer(self, folder: Path, plan: Plan, episode: Episode) -> EpisodeWriter:
        """A writer for one episode."""

    def finish(self, out: Path, plan: Plan, parts: list[Part], notes: Mapping[str, Any]) -> None:
        """Combine the episodes' files into the dataset.

        Args:
            out: the dataset's folder, empty; files of parts may be linked into it.
            plan: the plan of the dataset.
            parts: the finished episodes, in order; at least one.
            notes: the content of the side files (objects, cameras, provenance), by name.
        """


class Part(NamedTuple):
    """A finished episode.

    Attributes:
        episode: the episode.
        folder: the folder of its files.
        facts: "length" in ticks, "objects" (first tick, last tick and number of ticks, by object
            and camera), "poses" (for each tick, by moving camera), "written" (what the writer
            returned), "problems", "notes".
    """

    episode: Episode
    folder: Path
    facts: dict[str, Any]


class Job(NamedTuple):
    """An episode to make; sent to worker processes."""

    source: RecordingSource
    find: FindMasks
    format: Format
    plan: Plan
    episode: Episode
    folder: Path
    """The folder of the finished episode."""
    progress: Path | None = None
    """File to write the number of moments done to, for the progress bar."""


def identity(job: Job) -> dict[str, Any]:
    """Everything that an episode's files depend on."""
    return {
        "format": [job.format.name, job.format.__dict__],
        "plan": job.plan.identity(),
        "episode": job.episode.identity(),
    }


def facts_of(folder: Path) -> dict[str, Any] | None:
    """The facts stored with a finished episode; None if there are none."""
    try:
        found = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def work(job: Job) -> str | None:
    """:func:`make` for worker processes and cluster nodes; writes progress to a file.

    Returns:
        Why the recording could not be read; None if the episode was made.
    """

    def report(done: int) -> None:
        if job.progress is not None:
            with suppress(OSError):  # without progress, the episode must still be made
                write_text(job.progress, str(done))

    try:
        make(job, report)
    except InputError as error:
        return str(error)
    return None


def make(job: Job, report: Report) -> None:
    """Write one episode; its folder gets its final name once it is complete.

    Raises:
        InputError: the recording or its predictions cannot be read at all, or have no frames.
    """
    problems: list[str] = []
    notes: list[str] = []
    tally = Tally()
    new = NewFolder(job.folder)
    new.content.mkdir()
    try:
        with collected() as warnings:
            reader = _Reader(job, problems, notes)
            facts = _write(job, reader.ticks(tally, report), new.content)
            reader.finish()
            problems += [f"{job.episode.name}: {x}" for x in facts["written"].get("problems", ())]
        clock_problems, clock_notes = tally.texts(job.plan.fps, job.plan.fps_given)
        name = job.episode.name
        problems[:0] = [f"{name}: {text}" for text in clock_problems]
        notes[:0] = [f"{name}: {text}" for text in clock_notes]
        notes += warnings
        facts |= {"problems": list(dict.fromkeys(problems)), "notes": list(dict.fromkeys(notes))}
        facts["identity"] = identity(job)
        write_text(new.content / FACTS, json.dumps(facts, ensure_ascii=False))
        shutil.rmtree(job.folder, ignore_errors=True)
        new.publish()
    finally:
        new.discard()


def _write(job: Job, ticks: Iterator[Tick], folder: Path) -> dict[str, Any]:
    spans: dict[str, dict[str, list[int]]] = {}
    poses: dict[str, list[list[float] | None]] = {}
    writer, length, done = job.format.writer(folder, job.plan, job.episode), 0, False
    try:
        for tick in ticks:
            writer.add(tick)
            object_spans(spans, tick, job.plan.slots)
            for camera, row in pose_rows(job.episode.calibration, tick.frame).items():
                poses.setdefault(camera, []).append(row)
            length += 1
        if not length:
            raise InputError(f"{job.episode.name}: no frame could be read")
        written = writer.close()
        done = True
    finally:
        if not done:
            writer.abort()
    return {"length": length, "objects": spans, "poses": poses, "written": written}


class _Reader:
    """Reads a recording tick by tick, and counts what is missing."""

    def __init__(self, job: Job, problems: list[str], notes: list[str]) -> None:
        self.plan, self.episode, self.problems = job.plan, job.episode, problems
        self._found: list[Predictions] = []
        options = job.episode.options

        def find(direction: str, take: str, objects: Collection[str] | None) -> Predictions:
            found = job.find(options.predictions, direction, take, objects, problems)
            self._found.append(found)
            return found

        self._viewed = job.source.open(options, find, problems, notes)
        self._notes, self._ticks = notes, 0
        self._unknown = dict.fromkeys(self.plan.cameras, 0)
        self._interaction = Interaction()
        self._faces = None if self.plan.faces is None else Faces(self.plan.faces)
        self._images, self._with_faces = Counter[str](), Counter[str]()
        self._expected = {*self.plan.slots, *self.plan.beyond}
        self._asked = options.objects
        self._beyond: dict[str, None] = {}
        self._missing = dict.fromkeys(self.plan.cameras, 0)
        self._odd: dict[str, tuple[int, int]] = {}

    def ticks(self, tally: Tally, report: Report) -> Iterator[Tick]:
        """The ticks of the common clock."""
        shown: tuple[Moment, Tick] | None = None
        for number, moment in resample(self._viewed.moments, self.plan.fps, tally):
            if shown is not None and shown[0] is moment:
                tick = shown[1]._replace(number=number)
            else:
                tick = self._tick(number, moment)
            shown = moment, tick
            report(tally.moments)
            self._ticks += 1
            for camera, one in tick.cameras.items():
                self._unknown[camera] += not one.rows.known.any()
            yield tick

    def finish(self) -> None:
        """Report what was missing."""
        plan, name = self.plan, self.episode.name
        for camera, count in self._missing.items():
            if count:
                self.problems.append(
                    f"{name}: {count} frames have no image from camera {camera}: black in the "
                    "dataset, with the stamp -1"
                )
        for camera in plan.cameras if self._faces is not None else ():
            text = f"{self._with_faces[camera]} of {self._images[camera]} images of camera {camera}"
            self._notes.append(f"{name}: faces were found and blurred in {text}")
        for camera, size in self._odd.items():
            height, width = plan.sizes[camera]
            self.problems.append(
                f"{name}: camera {camera} has images of {size[1]} x {size[0]}, not {width} x "
                f"{height} like the first ones: left out"
            )
        for camera, count in self._unknown.items():
            if count == self._ticks:
                hint = "" if plan.predicted else "; give a result file or a bag of masks"
                self.problems.append(f"{name}: camera {camera} has no masks{hint}")
            elif count:
                text = f"{count} of {self._ticks} ticks have no mask in camera {camera}"
                self._notes.append(f"{name}: {text}")
        if self._beyond:
            listed = ", ".join(map(repr, self._beyond))
            self.problems.append(
                f"{name}: objects without a slot: {listed}; they appear only after the first "
                "frames: name all objects in the result file or in the parameter file"
            )
        for found in self._found:
            if isinstance(found, ResultPredictions):
                self.problems += found.unshown()

    def _tick(self, number: int, moment: Moment) -> Tick:
        views = {view.camera: view for view in (moment.query, *moment.targets)}
        cameras = {name: self._camera(name, views.get(name)) for name in self.plan.cameras}
        objects = positions(cameras, self.plan, self.episode.calibration, moment.frame)
        objects |= touches(cameras, self.plan, self._interaction)
        return Tick(number, moment.frame, cameras, objects)

    def _camera(self, name: str, view: View | None) -> CameraTick:
        view = view or View(name, None, {})
        size = self.plan.sizes[name]
        image = view.image
        if image is not None and image.shape[:2] != size:
            self._odd.setdefault(name, (image.shape[0], image.shape[1]))
            image = None
        rows = rows_of(view, self.plan)
        for given in (view.masks, view.truth or {}):
            for one, mask in given.items():
                unknown = mask is not None and one not in self._expected
                if unknown and (not self._asked or one in self._asked):
                    self._beyond.setdefault(one)
        if image is None:
            self._missing[name] += 1
            return CameraTick(np.zeros((*size, 3), np.uint8), -1, rows)
        if self._faces is not None:
            image, count = self._faces.blurred(image)
            self._images[name] += 1
            self._with_faces[name] += count > 0
        return CameraTick(image, -1 if view.stamp_ns is None else view.stamp_ns, rows)
