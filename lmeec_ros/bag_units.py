"""A bag tracked offline: the node's parameters, pairing and processing, as fast as it goes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builtin_interfaces.msg import Time
from lmeec.msg import CorrespondenceMaskArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

import lmeec_core as lm
from lmeec_core.offline.compute import Recorder
from lmeec_core.offline.records import FrameRecord, Stamp
from lmeec_core.offline.units import Plan, Recording, Settings, Unit, weights_digest
from lmeec_core.takes import is_ego
from lmeec_core.takes.results import DIRECTIONS
from lmeec_ros import filters, parameters, take_bags
from lmeec_ros.bags import BagError, BagReader
from lmeec_ros.messages import LabelTable, masks_from_array
from lmeec_ros.parameters import NodeConfig
from lmeec_ros.pipeline import InputError, SetProcessor, TargetOutput
from lmeec_ros.take_bags import RecordingInfo

QUERY_MASKS = "query masks"
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


@dataclass(frozen=True)
class Input:
    """One of the streams that are paired: its name, topic and message class."""

    name: str
    topic: str
    kind: Any

    @property
    def type(self) -> str:
        """The message type as ROS writes it."""
        return f"{self.kind.__module__.split('.')[0]}/msg/{self.kind.__name__}"


@dataclass(frozen=True)
class _Header:
    stamp: Time


@dataclass(frozen=True)
class Recorded:
    """A recorded message that is not decoded before a set needs it."""

    header: _Header
    data: bytes


def read_config(
    path: Path,
    given: Path | None,
    changes: Mapping[str, Any] | None = None,
    node: str | None = None,
) -> NodeConfig:
    """The node's configuration for a bag.

    Args:
        path: the bag.
        given: the node's parameter file; None: what the bag says itself, if it was made of a take.
        changes: values by full name that come on top.
        node: the node (name with namespace) that the file is read for; None: its node called lmeec.

    Raises:
        ParameterError: a value that is wrong, or a file without parameters for the node.
        BagError: the bag cannot be read, or has no parameters of its own.
    """
    if given is not None:
        values = parameters.read_file(given, node)
    elif node is not None:
        raise parameters.ParameterError(
            f"--node {node}: belongs to a parameter file, and none is given (--params)"
        )
    else:
        with BagReader(path) as bag:
            info = RecordingInfo.read(bag)
            topics = [topic.name for topic in bag.topics.values() if topic.type in IMAGES]
        if info is None:
            raise BagError(
                f"{path}: which topics are the cameras? Name a parameter file of the node with "
                f"--params (config/lmeec.yaml shows one); image topics of the bag: "
                f"{', '.join(sorted(topics)) or 'none'}"
            )
        values = parameters.flatten(take_bags.node_parameters(info))
    return parameters.load({**values, **(changes or {})})


def settings_of(config: NodeConfig, threads: int) -> Settings:
    """The settings that a configuration of the node stands for.

    Raises:
        ValueError: no weights, or no such device.
    """
    from lmeec_core.checkpoint import resolve_device

    preset = config["model.preset"]
    return Settings(
        preset=preset,
        checkpoint=config.checkpoint,
        weights=weights_digest(preset, config.checkpoint, config.seed),
        device=str(resolve_device(config["model.device"])),
        precision=config["model.precision"],
        engine=config["model.engine"],
        seed=config.seed,
        require_mv_moe=config["model.require_mv_moe"],
        memory=config.memory(),
        presence_threshold=config["presence_threshold"],
        exclusive=config["output.exclusive"],
        max_objects=config["max_objects"],
        threads=threads,
        node=dict(config.values),
    )


def plan_bag(path: Path, config: NodeConfig, direction: str | None = None) -> Plan:
    """Cut a bag into units: one a target camera.

    Args:
        path: the bag.
        config: topics and cameras.
        direction: in the result file; None takes it from the names of the cameras.

    Raises:
        BagError: the bag cannot be read, or lacks a topic or has it with another type.
    """
    with BagReader(path) as bag:
        info = RecordingInfo.read(bag)
        inputs = inputs_of(config)
        check_topics(bag, inputs)
        count = bag.topics[inputs[0].topic].count
    cameras = camera_names(config, info)
    query = cameras[config.query_camera]
    targets = [cameras[name] for name in config.target_cameras]
    direction = direction or _direction(query, targets)
    objects = tuple(config.objects.values())
    name = info.take if info else path.resolve().name
    digest = _digest(path)
    units = [
        Unit(
            "bag", str(path.resolve()), name, direction, query, cameras[target], objects, count,
            digest, (config.query_camera, target),
        )
        for target in config.target_cameras
    ]  # fmt: skip
    frames = list(info.frames) if info else []
    return Plan(Recording(name, objects, {direction: frames}), units)


def inputs_of(config: NodeConfig) -> list[Input]:
    """The streams of a set, in the node's order: query camera, query masks, target cameras."""

    def camera(name: str) -> Input:
        given = config.cameras[name]
        return Input(name, given.topic, Image if given.transport == "raw" else CompressedImage)

    masks = config.query_masks
    kind: Any = Image if masks.transport == "raw" else CompressedImage
    if masks.type == "mask_array":
        kind = CorrespondenceMaskArray
    query_masks = Input(QUERY_MASKS, masks.topic, kind)
    return [camera(config.query_camera), query_masks, *map(camera, config.target_cameras)]


def check_topics(bag: BagReader, inputs: Sequence[Input]) -> None:
    """Raise BagError if a topic is not in the bag, or has another type than the parameters say."""
    known = bag.topics
    for one in inputs:
        topic = known.get(one.topic)
        if topic is None:
            fitting = sorted(name for name, other in known.items() if other.type == one.type)
            raise BagError(
                f"{bag.path}: no topic {one.topic!r} ({one.name}); with {one.type} it has "
                f"{', '.join(fitting) or 'none'}"
            )
        if topic.type != one.type:
            raise BagError(
                f"{bag.path}: {one.topic} ({one.name}) is {topic.type}, but the parameters say "
                f"{one.type}: set its transport or type"
            )


def camera_names(config: NodeConfig, info: RecordingInfo | None) -> dict[str, str]:
    """The configuration's camera names to those of the result file (the take's, if made of one)."""
    names = {name: name for name in config.cameras}
    if info is not None:
        by_topic = {topic: info.cameras[name] for name, topic in info.image_topics.items()}
        for name, camera in config.cameras.items():
            names[name] = by_topic.get(camera.topic, name)
    return names


def recorded_sets(path: Path, config: NodeConfig) -> Iterator[tuple[bool, list[Any]]]:
    """The sets of a bag as the node pairs them, decoded: (time jumped back before it, messages).

    Messages are in the order of :func:`inputs_of`; one that cannot be decoded is an InputError
    in its place, and a target without an image in a partial set has None.

    Raises:
        BagError: the bag cannot be read, lacks a topic or has it with another type.
    """
    inputs = inputs_of(config)
    sources = [filters.SimpleFilter() for _ in inputs]
    out: list[tuple[Recorded | None, ...]] = []
    jumps: list[int] = []
    synchronizer = filters.synchronizer_for(
        config, sources, [one.name for one in inputs], lambda *_: jumps.append(len(out))
    )
    synchronizer.registerCallback(lambda *messages: out.append(messages))

    def drain() -> Iterator[tuple[bool, list[Any]]]:
        for index, messages in enumerate(out):
            jumped = bool(jumps) and jumps[0] <= index
            if jumped:
                jumps.clear()
            yield jumped, [_decode(m, i) for m, i in zip(messages, inputs, strict=True)]
        out.clear()
        jumps[:] = [0] * bool(jumps)

    with BagReader(path) as bag:
        check_topics(bag, inputs)
        by_topic: dict[str, list[Any]] = {}
        for one, source in zip(inputs, sources, strict=True):
            by_topic.setdefault(one.topic, []).append(source)
        for topic, _, data in bag.messages(list(by_topic)):
            stamp = raw_stamp(data)
            if stamp is None:
                continue  # too short for a header: no message
            for source in by_topic[topic]:
                source.signalMessage(Recorded(_Header(stamp), data))
            yield from drain()
        synchronizer.flush()
        yield from drain()


def raw_stamp(data: bytes) -> Time | None:
    """The header's stamp of a serialised message that begins with a header; None if cut off.

    In CDR, four bytes (the second tells the order of bytes) come before seconds and nanoseconds.
    """
    if len(data) < 12:
        return None
    order: Any = "little" if data[1] & 1 else "big"
    sec = int.from_bytes(data[4:8], order, signed=True)
    nanosec = int.from_bytes(data[8:12], order)
    return Time(sec=sec, nanosec=nanosec)


def track_bag(
    unit: Unit, settings: Settings, model: lm.LMEEC, problems: list[str]
) -> Iterator[FrameRecord]:
    """Go through a bag as the node does, for one target camera.

    The sets are those of all target cameras together, as in the node. A set that cannot be used
    is left out and listed. One without an image of the target gives no record; the tracker takes
    it in all the same, since the other targets' steps renew the query's memory in the node.
    """
    assert settings.node is not None and unit.names is not None
    config = parameters.load(settings.node)
    path, target = Path(unit.source), unit.names[1]
    with BagReader(path) as bag:
        made = RecordingInfo.read(bag) is not None
    tracker = lm.CorrespondenceTracker(
        model, config.query_camera, (target,), config.memory(), max_objects=config["max_objects"]
    )
    table = LabelTable(config.objects)
    several = len(config.target_cameras) > 1
    processor = SetProcessor(tracker, replace(config, target_cameras=(target,)), table, several)
    index = 2 + config.target_cameras.index(target)
    recorder, last = Recorder(settings), None

    def refused(error: InputError) -> None:
        problems.append(f"{path}: {error}")

    for jumped, messages in recorded_sets(path, config):
        query, masks, goal = messages[0], messages[1], messages[index]
        broken = isinstance(query, InputError) or isinstance(masks, InputError)
        stamp = None if broken else filters.stamp_of(query)
        if jumped or (last is not None and stamp is not None and stamp <= last):
            tracker.reset()  # as the node does
            last = None
        try:
            found = processor.process(query, masks, {target: goal}, refused)
        except InputError as error:
            refused(error)
            continue
        last = stamp
        assert stamp is not None
        if target not in found:
            continue
        frame = take_bags.frame_of(stamp) if made else stamp
        yield _record(frame, found[target], table, recorder)


def _record(frame: int, output: TargetOutput, table: LabelTable, recorder: Recorder) -> FrameRecord:
    message = output.message
    size = (int(message.height), int(message.width))
    masks = masks_from_array(message, LabelTable())
    objects = [
        recorder.object(
            name, table.label_of(name), one.skipped is None, masks[name], size, one.presence,
            one.predicted_iou,
        )
        for name, one in output.found.items()
    ]  # fmt: skip
    stamps = [
        Stamp(filters.stamp_of(one), one.header.frame_id)
        for one in (output, _Query(message.query_header))
    ]
    return FrameRecord(frame, size, objects, True, *stamps)


@dataclass(frozen=True)
class _Query:
    header: Any


def _decode(message: Recorded | None, one: Input) -> Any:
    if message is None:
        return None
    try:
        return deserialize_message(message.data, one.kind)
    except Exception as error:  # rclpy raises errors of several kinds
        stamp = message.header.stamp
        return InputError(
            f"{one.name} ({one.topic}) at {stamp.sec}.{stamp.nanosec:09d}: {len(message.data)} "
            f"bytes are no {one.type}: {error}"
        )


def _direction(query: str, targets: Sequence[str]) -> str:
    """From exo to ego if only a target has a name like that of an ego camera."""
    ego = [is_ego(name) or name.lower().startswith("ego") for name in (query, *targets)]
    return DIRECTIONS[1] if any(ego[1:]) and not ego[0] else DIRECTIONS[0]


def _digest(path: Path) -> str:
    """Digest of the files' names, sizes and ends (where the storage formats have their index)."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            size = content.seek(0, 2)
            content.seek(max(0, size - 65536))
            digest.update(repr((file.name, size)).encode() + content.read())
    return digest.hexdigest()[:32]
