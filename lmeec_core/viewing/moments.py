"""What is to be seen at one moment of a recording, and where predictions come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lmeec_core.takes import DIRECTIONS, Results, Take, TakeError, is_ego

FRAMES_PER_SECOND = 30.0
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class View:
    """One camera at one moment.

    Attributes:
        camera: its name.
        image: RGB uint8 (H, W, 3); None where there is none.
        masks: by object; the query masks, or the predicted ones. None: none or not visible.
        truth: by object, the true masks, where they are known (target cameras).
        presence: by object, the predicted probability that it is there.
        score: by object, the predicted IoU, where it is known.
    """

    camera: str
    image: NDArray[np.uint8] | None
    masks: Mapping[str, Mask | None]
    truth: Mapping[str, Mask | None] | None = None
    presence: Mapping[str, float] = field(default_factory=dict)
    score: Mapping[str, float] = field(default_factory=dict)


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
    """Where predictions are looked up."""

    def find(self, frame: int, stamp_ns: int, query: Camera, target: Camera) -> dict[str, Shown]:
        """Predictions for one target image, by object.

        Args:
            frame: number in the result file.
            stamp_ns: the target image's stamp.
            query, target: the cameras.
        """


class ResultPredictions:
    """Predictions of a result file.

    Args:
        results: the file's part for one direction.
        take: the recording's name in it.

    Raises:
        TakeError: it has no such take.
    """

    def __init__(self, results: Results, take: str, path: Path) -> None:
        if take not in results.takes:
            raise TakeError(
                path, f"no take {take!r} ({results.direction}); it has {list(results.takes)[:8]}"
            )
        self._by_image: dict[tuple[int, str], dict[str, tuple[dict[str, object], float]]] = {}
        for one in results.predictions(take):
            self._by_image.setdefault((one.frame, one.pair), {})[one.object_name] = (
                one.rle,
                one.confidence,
            )

    def find(self, frame: int, stamp_ns: int, query: Camera, target: Camera) -> dict[str, Shown]:
        """See :class:`Predictions`."""
        from lmeec_core.takes import decode_mask

        found = self._by_image.get((frame, f"{query.name}_{target.name}"), {})
        return {
            name: Shown(decode_mask(rle), confidence, None)
            for name, (rle, confidence) in found.items()
        }


class NoPredictions:
    """Only the query masks, and the truth."""

    def find(self, frame: int, stamp_ns: int, query: Camera, target: Camera) -> dict[str, Shown]:
        """Nothing."""
        return {}


def target_view(
    camera: str,
    image: NDArray[np.uint8] | None,
    objects: Sequence[str],
    found: Mapping[str, Shown],
    truth: Mapping[str, Mask | None] | None = None,
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
    )


def choose_query(take: Take, direction: str, query: str | None) -> tuple[str, list[str]]:
    """Query camera and target cameras of a take.

    Raises:
        TakeError: no such camera.
    """
    if query is not None and query not in take.cameras:
        raise TakeError(take.path, f"no camera {query!r}; the take has {list(take.cameras)}")
    if query is not None:
        direction = DIRECTIONS[0] if is_ego(query) else DIRECTIONS[1]
    pairs = [pair for pair in take.pairs(direction) if query in (None, pair.query)]
    return pairs[0].query, [pair.target for pair in pairs if pair.query == pairs[0].query]


def take_moments(
    take: Take,
    query: str,
    targets: Sequence[str],
    objects: Sequence[str],
    predictions: Predictions,
    report: Callable[[str], None],
) -> Iterator[Moment]:
    """The moments of a take: the frames of the query camera.

    Images that are not there are left dark, damaged ones and masks too and told to ``report``.

    Raises:
        TakeError: if the take has no images of the query camera.
    """
    from lmeec_ros.take_bags import stamp_of, topic_name  # rosbags only, no ROS

    source = Camera(query, topic_name(query))
    frames = take.frames(query)
    if not take.has_images or not frames:
        raise TakeError(take.image_path(query, 0), f"no images of camera {query!r}")
    shown = {target: _frames(take, target, report) for target in targets}
    for frame in frames:
        views = []
        for target in targets:
            camera = Camera(target, topic_name(target))
            found = predictions.find(frame, stamp_of(frame), source, camera)
            found = {name: one for name, one in found.items() if name in objects}
            truth = {name: _mask(take, name, target, frame, report) for name in objects}
            image = _image(take, target, frame, report) if frame in shown[target] else None
            views.append(target_view(target, image, objects, found, truth))
        asked = {name: _mask(take, name, query, frame, report) for name in objects}
        seconds = (frame - frames[0]) / FRAMES_PER_SECOND
        view = View(query, _image(take, query, frame, report), asked)
        yield Moment(frame, seconds, view, views)


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
    take: Take, name: str, camera: str, frame: int, report: Callable[[str], None]
) -> Mask | None:
    try:
        return take.mask(name, camera, frame)
    except TakeError as error:
        report(str(error))
        return None
