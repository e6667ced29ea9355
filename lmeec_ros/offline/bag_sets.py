"""Pair the messages of a recording into sets as the node does, and explain missing sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message

from lmeec_core.bags.bag import BagError, BagReader, Topic
from lmeec_core.errors import InputError
from lmeec_core.sync.image_set import QUERY_MASKS, ImageSet
from lmeec_core.sync.pairing import PairingStats
from lmeec_core.sync.stream_monitor import StreamMonitor
from lmeec_ros.health import reasons
from lmeec_ros.inference.pipeline import SetProcessor, TargetOutput
from lmeec_ros.io.inputs import Input, inputs_of, type_remedy
from lmeec_ros.io.synchronizer import make_synchronizer, stamp_of
from lmeec_ros.parameters.config import NodeConfig, absolute


class RecordedInput:
    """A :class:`~lmeec_ros.health.reasons.Source` that is a topic of a recording.

    Args:
        one: the input.
        topics: topics of the recording, by name.
    """

    reliability = None

    def __init__(self, one: Input, topics: dict[str, Topic]) -> None:
        self.name, self.topic, self.type_name = one.name, one.topic, one.type_name
        self.monitor = StreamMonitor(window=2)
        self._parameter = one.parameter
        self._topics = topics

    def publishers(self) -> list[Any]:
        """Return one object with the recorded `topic_type`, or none if the topic is missing."""
        topic = self._topics.get(self.topic)
        return [] if topic is None else [SimpleNamespace(topic_type=topic.type)]

    def describe_publishers(self) -> str:
        """Describe what the recording has on the topic, and what to change if it does not fit."""
        topic = self._topics.get(self.topic)
        if topic is None:
            known = self._topics.values()
            like = sorted(t.name for t in known if t.type == self.type_name)
            return (
                f"the recording has no topic {self.topic!r} ({self.name}); its topics of type "
                f"{self.type_name}: {', '.join(like) or 'none'}"
            )
        if topic.type != self.type_name:
            return (
                f"the recorded type is {topic.type}, but the parameters need {self.type_name}: "
                f"{type_remedy(self.type_name, topic.type, self._parameter, self.topic)}"
            )
        return f"the recording has {topic.count} messages on it"


def inputs_in(bag: BagReader, config: NodeConfig) -> ImageSet[Input]:
    """Return the configured inputs, each with the one of its topics that the bag has."""
    types = {name: (topic.type,) for name, topic in bag.topics.items()}

    def found(one: Input) -> Input:
        named = replace(one, topic=absolute(one.topic), other=one.other and absolute(one.other))
        return replace(named, topic=named.chosen(lambda topic: types.get(topic, ())), other="")

    return inputs_of(config).map(found)


def check_topics(bag: BagReader, inputs: Iterable[Input]) -> None:
    """Raise BagError if an input's topic is not in the bag, or is of another type."""
    known = bag.topics
    for one in inputs:
        topic = known.get(one.topic)
        if topic is None or topic.type != one.type_name:
            raise BagError(f"{bag.path}: {reasons.silent(RecordedInput(one, known), None)}")


class RecordedSets:
    """The decoded sets of a bag, paired as in the node.

    Iterate over it once, for pairs (whether time jumped back before this set, set of messages). An
    InputError takes the place of a message that cannot be decoded.

    Args:
        path: the bag.
        config: topics, cameras and pairing.

    Raises:
        BagError: during iteration, if the bag cannot be read, or a topic is missing or has another
            type.
    """

    def __init__(self, path: Path, config: NodeConfig) -> None:
        self.path, self.config = path, config
        self.lost: list[str] = []
        """Texts about what could not be read from the bag."""
        self._recorded: ImageSet[RecordedInput] | None = None
        self._stats: PairingStats | None = None

    def __iter__(self) -> Iterator[tuple[bool, ImageSet[Any]]]:
        out: list[ImageSet[Recorded]] = []
        jumps: list[int] = []
        synchronizer = make_synchronizer(self.config, out.append, lambda *_: jumps.append(len(out)))

        def drain() -> Iterator[tuple[bool, ImageSet[Any]]]:
            for index, found in enumerate(out):
                jumped = bool(jumps) and jumps[0] <= index
                if jumped:
                    jumps.clear()
                yield jumped, _decode_set(found, inputs)
            out.clear()
            jumps[:] = [0] * bool(jumps)

        with BagReader(self.path) as bag:
            self.lost = bag.lost
            inputs = inputs_in(bag, self.config)
            check_topics(bag, inputs)
            self._recorded = inputs.map(lambda one: RecordedInput(one, bag.topics))
            by_topic: dict[str, list[RecordedInput]] = {}
            for one in self._recorded:
                by_topic.setdefault(one.topic, []).append(one)
            for topic, _, data in bag.messages(list(by_topic)):
                stamp = raw_stamp(data)
                if stamp is None:
                    self._too_short(topic, len(data))
                    continue
                message = Recorded(_Header(stamp), data)
                for one in by_topic[topic]:
                    one.monitor.add(stamp_of(message))
                    synchronizer.add(one.name, message)
                yield from drain()
            synchronizer.flush()
            yield from drain()
        self._stats = synchronizer.stats()

    def problem(self, target: str) -> str:
        """Return why less than half of the possible sets have an image of a target.

        The reason and the remedy are those that the node gives on ~/status. To be called after the
        iteration.

        Args:
            target: name of the target camera.

        Returns:
            The text; "" if at least half of the possible sets have an image.
        """
        assert self._stats is not None and self._recorded is not None
        reason = reasons.of_recording(self._recorded, self._stats, self.config, target)
        return f"{self.path}: {reason.kind}: {reason}" if reason else ""

    def account(self, target: str) -> str:
        """Return how many messages are in no set of a target, by stream and reason; "" if none."""
        assert self._stats is not None
        streams = self._stats.streams
        names = [n for n in (self.config.query_camera, QUERY_MASKS, target) if n in streams]
        sets = streams[target].paired
        parts = []
        for name in names:
            left = streams[name].received - (sets if name == target else streams[name].paired)
            if left:
                why = ", ".join(f"{k} {v}" for k, v in streams[name].dropped.items())
                parts.append(f"{left} of {streams[name].received} {name}{f' ({why})' * bool(why)}")
        if self._stats.sets > sets:
            parts.append(f"{self._stats.sets - sets} sets without an image of {target}")
        if not parts:
            return ""
        return f"{self.path}, {target}: {sets} sets; not in a set: {'; '.join(parts)}"

    def _too_short(self, topic: str, size: int) -> None:
        text = f"{self.path}: {topic}: messages of less than 12 bytes left out, which have no "
        text += "header and are not images"
        if text not in self.lost:
            self.lost.append(text)


def steps(
    sets: RecordedSets,
    processor: SetProcessor,
    path: Path,
    problems: list[str],
    before: Callable[[ImageSet[Any]], object] = lambda _: None,
) -> Iterator[tuple[int, dict[str, TargetOutput]]]:
    """Process the sets of a bag as the node does.

    Args:
        sets: the sets.
        processor: the processor, which is reset when time jumps back.
        path: the bag.
        problems: receives a text for each set or image that cannot be used; it is left out.
        before: called with each set before it is processed.

    Returns:
        for each set the query image's stamp (ns), and the outputs by camera.
    """
    last: int | None = None

    def refused(_: str, error: InputError) -> None:
        problems.append(f"{path}: {error}")

    for jumped, given in sets:
        broken = isinstance(given.query, InputError) or isinstance(given.masks, InputError)
        stamp = None if broken else stamp_of(given.query)
        if jumped or (last is not None and stamp is not None and stamp <= last):
            processor.reset()  # as the node does
            last = None
        before(given)
        try:
            found = processor.process(given, refused)
        except InputError as error:
            refused("", error)
            continue
        last = stamp
        assert stamp is not None
        yield stamp, found


@dataclass(frozen=True)
class _Header:
    stamp: Time


@dataclass(frozen=True)
class Recorded:
    """A recorded message that is only decoded once it is in a set."""

    header: _Header
    data: bytes


def raw_stamp(data: bytes) -> Time | None:
    """Return the stamp of a serialised message that begins with a header; None if too short.

    In CDR, seconds and nanoseconds follow four bytes, the second of which gives the byte order.
    """
    if len(data) < 12:
        return None
    order: Any = "little" if data[1] & 1 else "big"
    sec = int.from_bytes(data[4:8], order, signed=True)
    nanosec = int.from_bytes(data[8:12], order)
    return Time(sec=sec, nanosec=nanosec)


def _decode_set(found: ImageSet[Recorded], inputs: ImageSet[Input]) -> ImageSet[Any]:
    targets, candidates = (
        {name: _decode(one, own[name]) for name, one in each.items()}
        for each, own in (
            (found.targets, inputs.targets), (found.candidates, inputs.candidates),
        )
    )  # fmt: skip
    masks = None
    if found.masks is not None and inputs.masks is not None:
        masks = _decode(found.masks, inputs.masks)
    return ImageSet(_decode(found.query, inputs.query), masks, targets, candidates)


def _decode(message: Recorded, one: Input) -> Any:
    try:
        return deserialize_message(message.data, one.kind)
    except Exception as error:  # rclpy raises errors of several kinds
        stamp = message.header.stamp
        return InputError(
            f"{one.name} ({one.topic}) at {stamp.sec}.{stamp.nanosec:09d}: {len(message.data)} "
            f"bytes cannot be decoded as {one.type_name}: {error}"
        )
