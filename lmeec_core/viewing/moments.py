"""The images and masks of one moment of a recording, and sources of predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.evaluation import benchmark_size, iou
from lmeec_core.evaluation.truth import named
from lmeec_core.evaluation.validation import look_through
from lmeec_core.takes import (
    Prediction,
    Results,
    Take,
    TakeError,
    decode_mask,
    resize_mask,
)
from lmeec_core.takes.keys import look_alike
from lmeec_core.takes.rle import check_aspect

FRAMES_PER_SECOND = 30.0
Mask = NDArray[np.bool_]


class ViewName(NamedTuple):
    """A camera and, if several methods are shown, the method that its masks are from."""

    camera: str
    method: str | None


@dataclass(frozen=True)
class View:
    """One camera at one moment.

    Attributes:
        camera: the camera's name.
        image: RGB uint8 (H, W, 3); None if there is no image.
        masks: query masks or predicted masks, by object; None for an object without a mask.
        truth: true masks, by object, for target cameras; None if unknown.
        presence: predicted presence probability, by object.
        score: predicted IoU, by object, if known.
        stamp_ns: the image's stamp; None if there is no image.
        method: the method that the masks are from, if several methods are shown.
    """

    camera: str
    image: NDArray[np.uint8] | None
    masks: Mapping[str, Mask | None]
    truth: Mapping[str, Mask | None] | None = None
    presence: Mapping[str, float] = field(default_factory=dict)
    score: Mapping[str, float] = field(default_factory=dict)
    stamp_ns: int | None = None
    method: str | None = None

    @property
    def name(self) -> ViewName:
        """Unique among the views of a moment."""
        return ViewName(self.camera, self.method)

    @property
    def title(self) -> str:
        """The camera and, if there are several methods, the method."""
        return self.camera if self.method is None else f"{self.camera}, {self.method}"


@dataclass(frozen=True)
class Moment:
    """The query camera and the target cameras at one moment.

    Attributes:
        frame: the frame's number in the result file.
        seconds: since the beginning of the recording.
    """

    frame: int
    seconds: float
    query: View
    targets: list[View]


class Shown(NamedTuple):
    """A prediction for one object in one target image."""

    mask: Mask | None
    presence: float
    score: float | None


class Camera(NamedTuple):
    """A camera's name in the result file, and in messages."""

    name: str
    message_name: str


class Predictions(Protocol):
    """A source of predictions."""

    def find(self, frame: int, stamp_ns: int, query: Camera, target: Camera) -> dict[str, Shown]:
        """Predictions for one target image, by object.

        Args:
            frame: number in the result file.
            stamp_ns: the target image's stamp.
            query, target: the cameras.
        """

    @property
    def objects(self) -> Sequence[str]:
        """The objects with predictions."""

    @property
    def tracked(self) -> bool:
        """Whether the query masks were tracked from prompts and are part of the predictions."""

    def query_masks(self, frame: int, stamp_ns: int, query: Camera) -> Mapping[str, Mask | None]:
        """The masks in a query image, by object, if they were tracked from prompts.

        Args:
            frame: number in the result file.
            stamp_ns: the image's stamp.
            query: the camera.
        """


class ResultPredictions:
    """Predictions from a result file; those that cannot be read are left out and reported.

    Args:
        results: the file's content for one direction.
        take: the recording's name in the file.
        path: the file.
        report: called with a text for everything that is left out.

    Attributes:
        objects: all objects that the file lists for the take, even without predictions.

    Raises:
        TakeError: the file has no such take, or most of its predictions cannot be read.
    """

    def __init__(
        self, results: Results, take: str, path: Path, report: Callable[[str], None]
    ) -> None:
        if take not in results.takes:
            raise TakeError(
                path,
                f"no take {take!r} ({results.direction}); it has {list(results.takes)[:8]}"
                f"{look_alike(take, results.takes)}",
            )
        self._path, self._report = path, report
        self._results, self._take = results, take
        self.objects = results.objects(take)
        self._by_image: dict[tuple[int, str], dict[str, Prediction]] = {}
        self._asked: set[tuple[int, str]] = set()
        forms = look_through(results, take)
        if forms.unreadable:
            count, first = len(forms.unreadable), forms.unreadable[0][1]
            text = f"{count} of {forms.total} predictions cannot be read; the first: {first}"
            if 2 * count > forms.total:
                raise TakeError(path, text)
            report(f"{path}: {text}")
        for one in forms.readable:
            self._by_image.setdefault((one.frame, one.pair), {})[one.object_name] = one

    def find(self, frame: int, stamp_ns: int, query: Camera, target: Camera) -> dict[str, Shown]:
        """See :class:`Predictions`."""
        place = frame, f"{query.name}_{target.name}"
        self._asked.add(place)
        shown = {}
        for name, one in self._by_image.get(place, {}).items():
            try:
                shown[name] = Shown(one.mask, one.confidence, None)
            except InputError as error:
                where = named(one.take, name, one.pair, frame)
                self._report(f"{self._path}: {where}: {error}")
        return shown

    @property
    def tracked(self) -> bool:
        """See :class:`Predictions`."""
        return self._results.tracked(self._take)

    def query_masks(self, frame: int, stamp_ns: int, query: Camera) -> Mapping[str, Mask | None]:
        """See :class:`Predictions`."""
        masks: dict[str, Mask | None] = {}
        for name in self.objects:
            try:
                rle = self._results.query_rle(self._take, name, query.name, frame)
                masks[name] = None if rle is None else decode_mask(rle)
            except InputError as error:
                where = f"object {name!r}, query mask in {query.name}, frame {frame}"
                self._report(f"{self._path}: {where}: {error}")
        return masks

    def unshown(self) -> list[str]:
        """A text about predictions that were never requested; an empty list if there are none.

        Predictions for other cameras are ignored, unless none of the file's cameras was requested.
        """
        if not self._by_image:
            return [f"{self._path}: no predictions for this take"]
        asked = list(dict.fromkeys(pair for _, pair in self._asked))
        there = list(dict.fromkeys(pair for _, pair in self._by_image))
        if not set(asked) & set(there):
            alike = next(filter(None, (look_alike(pair, there) for pair in asked)), "")
            return [
                f"{self._path}: no predictions for {asked}, the cameras shown; the file has "
                f"{there}{alike}"
            ]
        beside = sorted(place for place in self._by_image.keys() - self._asked if place[1] in asked)
        if not beside:
            return []
        frame, pair = beside[0]
        return [
            f"{self._path}: predictions for {len(beside)} frames that the recording does not have, "
            f"for example frame {frame} of {pair}"
        ]


class NoPredictions:
    """Only the query masks, and the truth."""

    objects: Sequence[str] = ()
    tracked = False

    def find(self, frame: int, stamp_ns: int, query: Camera, target: Camera) -> dict[str, Shown]:
        """No predictions."""
        return {}

    def query_masks(self, frame: int, stamp_ns: int, query: Camera) -> Mapping[str, Mask | None]:
        """No masks."""
        return {}


def true_iou(mask: Mask | None, truth: Mask | None) -> float | None:
    """IoU at the benchmark's size; None without truth."""
    if truth is None:
        return None
    size = benchmark_size(*truth.shape)
    found = np.zeros(size, bool) if mask is None else resize_mask(mask, size)
    return float(iou(found, resize_mask(truth, size)))


def target_view(
    camera: str,
    image: NDArray[np.uint8] | None,
    objects: Sequence[str],
    found: Mapping[str, Shown],
    truth: Mapping[str, Mask | None] | None = None,
    stamp_ns: int | None = None,
) -> View:
    """A target camera's view with predictions."""
    names = list(dict.fromkeys((*objects, *found)))
    known = {name: found[name] for name in names if name in found}
    return View(
        camera,
        image,
        {name: known[name].mask if name in known else None for name in names},
        truth,
        {name: one.presence for name, one in known.items()},
        {name: one.score for name, one in known.items() if one.score is not None},
        None if image is None else stamp_ns,
    )


def drop_misshapen(
    found: Mapping[str, Shown],
    image: NDArray[np.uint8] | None,
    where: str,
    report: Callable[[str], None],
) -> dict[str, Shown]:
    """Predictions by object, without those whose aspect ratio differs from the image's.

    Args:
        found: all predictions for one image.
        image: (H, W, 3); None if there is no image.
        where: describes the image in reports.
        report: called with a text for each prediction that is left out.
    """
    kept = {}
    for name, one in found.items():
        try:
            if image is not None and one.mask is not None and one.mask.any():
                check_aspect(one.mask.shape, image.shape[:2])
        except InputError as error:
            report(f"{where}, object {name!r}: {error}")
        else:
            kept[name] = one
    return kept


def take_moments(
    take: Take,
    query: str,
    targets: Sequence[str],
    objects: Sequence[str],
    predictions: Predictions,
    report: Callable[[str], None],
) -> Iterator[Moment]:
    """The moments of a take, one per frame of the query camera.

    Missing images are None. Damaged images and masks are None as well, and are reported.

    Raises:
        TakeError: the take has no images of the query camera.
    """
    from lmeec_core.bags.take_bags import stamp_of_frame, topic_name  # needs rosbags, not ROS

    source = Camera(query, topic_name(query))
    frames = take.frames(query)
    if not take.has_images or not frames:
        raise TakeError(take.image_path(query, 0), f"no images of camera {query!r}")
    shown = {target: _frames(take, target, report) for target in targets}
    known = [name for name in objects if name in take.objects]  # others were marked by prompts
    reported = take.left_out
    for text in reported:
        report(text)
    for frame in frames:
        views, stamp = [], stamp_of_frame(frame)
        for target in targets:
            camera = Camera(target, topic_name(target))
            found = predictions.find(frame, stamp, source, camera)
            image = _image(take, target, frame, report) if frame in shown[target] else None
            where = f"{take.path}: frame {frame}, prediction for {target}"
            found = {name: found[name] for name in found if name in objects}
            found = drop_misshapen(found, image, where, report)
            truth = {name: _mask(take, name, target, frame, image, report) for name in known}
            views.append(target_view(target, image, objects, found, truth, stamp))
        picture = _image(take, query, frame, report)
        if predictions.tracked:
            there = predictions.query_masks(frame, stamp, source)
            asked = {name: there.get(name) for name in objects}
        else:
            asked = {name: _mask(take, name, query, frame, picture, report) for name in objects}
        seconds = (frame - frames[0]) / FRAMES_PER_SECOND
        view = View(query, picture, asked, stamp_ns=None if picture is None else stamp)
        yield Moment(frame, seconds, view, views)
    for text in take.left_out:  # found while reading the images
        if text not in reported:
            report(text)


class MomentWriter(Protocol):
    """A file that moments are written to, in order."""

    def add(self, moment: Moment) -> None:
        """Write one moment."""


def tee(moments: Iterable[Moment], writers: Sequence[MomentWriter]) -> Iterator[Moment]:
    """Yield the moments, passing each to all writers."""
    for moment in moments:
        for writer in writers:
            writer.add(moment)
        yield moment


def _frames(take: Take, camera: str, report: Callable[[str], None]) -> set[int]:
    try:
        return set(take.frames(camera))
    except TakeError as error:
        report(str(error))
        return set()


def _image(
    take: Take, camera: str, frame: int, report: Callable[[str], None]
) -> NDArray[np.uint8] | None:
    try:
        return take.image(camera, frame)
    except TakeError as error:
        report(str(error))
        return None


def _mask(
    take: Take,
    name: str,
    camera: str,
    frame: int,
    image: NDArray[np.uint8] | None,
    report: Callable[[str], None],
) -> Mask | None:
    try:
        return take.mask(name, camera, frame, image=None if image is None else image.shape[:2])
    except TakeError as error:
        report(str(error))
        return None
