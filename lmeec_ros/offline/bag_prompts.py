"""Track objects in a bag from prompts instead of query masks, with the node's processing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmeec_core.bags import take_bags
from lmeec_core.bags.bag import BagReader
from lmeec_core.bags.take_bags import RecordingInfo
from lmeec_core.correspondence import Method
from lmeec_core.errors import InputError
from lmeec_core.offline.compute import Recorder
from lmeec_core.offline.records import FrameRecord, Stamp
from lmeec_core.offline.units import Settings, Unit
from lmeec_core.prompts import PlacedPrompt, PromptedTracker, Prompts
from lmeec_core.sync.image_set import ImageSet
from lmeec_core.takes.keys import look_alike
from lmeec_ros.inference.pipeline import SetProcessor, TargetOutput, prompted_tracker
from lmeec_ros.io.messages import LabelTable, masks_from_array
from lmeec_ros.io.prompts import Marking
from lmeec_ros.io.synchronizer import nanoseconds, stamp_of
from lmeec_ros.offline.bag_sets import RecordedSets, steps
from lmeec_ros.parameters import config as parameters
from lmeec_ros.parameters.config import NodeConfig


def place_prompts(
    prompts: Prompts, cameras: Mapping[str, str], where: Path
) -> tuple[list[PlacedPrompt], list[str]]:
    """Convert the prompts' camera names to those of the node.

    Args:
        prompts: prompts, with camera names of the result file or of the node.
        cameras: camera names of the node to those of the result file.
        where: the bag.

    Returns:
        the converted prompts, and a text for each prompt whose camera is unknown.
    """
    placed, problems = [], []
    known = {**{name: name for name in cameras}, **{there: ours for ours, there in cameras.items()}}
    for one in prompts.prompts:
        if one.camera in known:
            placed.append(replace(one, camera=known[one.camera]))
        else:
            names = ", ".join(map(repr, cameras.values()))
            text = f"unknown camera; {names} expected{look_alike(one.camera, known)}"
            problems.append(f"{where}: {one}: {text}")
    return placed, problems


def pairs(config: NodeConfig, placed: list[PlacedPrompt]) -> Iterator[tuple[str, str, list[str]]]:
    """Iterate over (camera in which objects are marked, camera in which to find them, objects).

    The pairs are those of the query camera with each target camera, in both directions.
    """
    for query in config.views:
        names = list(dict.fromkeys(o.prompt.object_id for o in placed if o.camera == query))
        others = config.target_cameras if query == config.query_camera else (config.query_camera,)
        for target in others if names else ():
            yield query, target, names


def track_prompted_bag(
    unit: Unit, settings: Settings, method: Method, problems: list[str], notices: list[str]
) -> Iterator[FrameRecord]:
    """Track one pair of cameras in a bag as the node does, applying prompts with their images.

    Each set with an image of the target gives a record of all objects of the unit.

    Args:
        unit: the cameras, objects and prompts.
        settings: settings of the run.
        method: the method.
        problems: receives prompts that cannot be used or whose image is in no set, and what could
            not be read or paired.
        notices: receives the numbers of messages that are in no set.
    """
    assert settings.node is not None and unit.names is not None
    config = parameters.load(settings.node)
    path, (query, target) = Path(unit.source), unit.names
    with BagReader(path) as bag:
        made = RecordingInfo.read(bag) is not None
    other = target if query == config.query_camera else query
    own = replace(config, target_cameras=(other,))
    tracker = prompted_tracker(method, own)
    table = LabelTable(config.objects, config.ignore_labels)
    processor = SetProcessor(tracker, own, table, len(config.target_cameras) > 1)
    recorder, sets = Recorder(settings), RecordedSets(path, config)
    schedule = _PromptSchedule(unit.prompts, processor, tracker, own, made, path, problems)
    for stamp, found in steps(sets, processor, path, problems, schedule.submit):
        schedule.collect()
        if target in found:
            yield _record(_number(stamp, made), unit, query, found, tracker, recorder)
    schedule.end()
    problems += sets.lost
    problems += filter(None, [sets.problem(other)])
    notices += filter(None, [sets.account(other)])


class _PromptSchedule:
    """Submits the prompts of each set to the processor, and reports those that were not used."""

    def __init__(
        self,
        prompts: tuple[PlacedPrompt, ...],
        processor: SetProcessor,
        tracker: PromptedTracker,
        config: NodeConfig,
        made: bool,
        path: Path,
        problems: list[str],
    ) -> None:
        assert processor.marks is not None
        self._marks, self._tracker, self._config = processor.marks, tracker, config
        self._made, self._path, self._problems = made, path, problems
        self._left = list(prompts)
        self._submitted: list[tuple[PlacedPrompt, Future[Any]]] = []

    def submit(self, given: ImageSet[Any]) -> None:
        """Submit the prompts of a set; to be called before it is processed."""
        messages = {self._config.query_camera: given.query, **given.targets}
        stamps = {
            name: stamp_of(message)
            for name, message in messages.items()
            if message is not None and not isinstance(message, InputError)
        }
        anchor = stamps.get(self._config.query_camera)
        number = None if anchor is None else _number(anchor, self._made)
        for one in list(self._left):
            stamp = stamps.get(one.camera)
            here = number == one.frame if one.stamp is None else stamp == one.stamp
            if not here:
                continue
            if one.camera not in self._config.views:  # another unit tracks the object from there
                self._tracker.forget(one.prompt.object_id)
            elif stamp is not None:
                marking = Marking(one.prompt, one.camera, stamp, tolerance=0.0)
                self._submitted.append((one, self._marks.submit(marking, self._config)))
            else:
                continue
            self._left.remove(one)

    def collect(self) -> None:
        """Report refused prompts; to be called after a set was processed."""
        for one, answer in [(o, a) for o, a in self._submitted if a.done()]:
            self._submitted = [(o, a) for o, a in self._submitted if o is not one]
            if (error := answer.exception()) is not None:
                self._problems.append(f"{self._path}: {one}: {error}")

    def end(self) -> None:
        """Report prompts whose image could not be processed or is in no set."""
        self._marks.refuse_all("end", "its image could not be processed")
        self.collect()
        for one in self._left:
            self._problems.append(f"{self._path}: {one}: no set has this image")


def _number(stamp: int, made: bool) -> int:
    """A frame's number in the result file."""
    return take_bags.frame_of(stamp) if made else stamp


def _record(
    frame: int,
    unit: Unit,
    query: str,
    found: Mapping[str, TargetOutput],
    tracker: PromptedTracker,
    recorder: Recorder,
) -> FrameRecord:
    assert unit.names is not None
    output = found[unit.names[1]]
    message, ours = output.message, [n for n, c in tracker.objects.items() if c == query]
    size = (int(message.height), int(message.width))
    masks, records = masks_from_array(message, LabelTable()), []
    for label, name in enumerate(unit.objects, start=1):
        one = output.found.get(name) if name in ours else None
        numbers = (0.0, 0.0) if one is None else (one.presence, one.score)
        mask = None if one is None else masks[name]
        records.append(recorder.object(name, label, True, mask, size, *numbers))
    shown = found[query].found if query in found else {}
    headers = (output.header, message.query_header)
    stamp, query_stamp = (Stamp(nanoseconds(one.stamp), one.frame_id) for one in headers)
    tracked = recorder.tracked({name: shown[name] for name in ours if name in shown})
    return FrameRecord(frame, size, records, True, stamp, query_stamp, tracked)
