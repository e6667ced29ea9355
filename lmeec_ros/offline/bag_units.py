"""Track a bag offline with the node's parameters, pairing and processing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lmeec_core.bags import take_bags
from lmeec_core.bags.bag import BagError, BagReader
from lmeec_core.bags.files import JOURNALS
from lmeec_core.bags.take_bags import RecordingInfo
from lmeec_core.correspondence import Method
from lmeec_core.errors import InputError
from lmeec_core.offline.compute import Recorder
from lmeec_core.offline.records import FrameRecord, Stamp
from lmeec_core.offline.take_plan import more_digests
from lmeec_core.offline.units import Plan, Recording, Settings, Unit, weights_digest
from lmeec_core.prompts import Prompts
from lmeec_core.takes import is_ego
from lmeec_core.takes.results import DIRECTIONS
from lmeec_ros.inference.pipeline import SetProcessor, TargetOutput
from lmeec_ros.io.messages import LabelTable, masks_from_array
from lmeec_ros.io.synchronizer import nanoseconds
from lmeec_ros.offline.bag_prompts import pairs, place_prompts
from lmeec_ros.offline.bag_sets import RecordedSets, check_topics, inputs_in, steps
from lmeec_ros.parameters import config as parameters
from lmeec_ros.parameters import files as parameter_files
from lmeec_ros.parameters.config import NAME, NodeConfig, with_full_names

if TYPE_CHECKING:
    from lmeec_core.config import Precision

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


def read_config(
    path: Path,
    given: Path | None,
    changes: Mapping[str, Any] | None = None,
    node: str | None = None,
    prompted: bool = False,
) -> NodeConfig:
    """Return the node's configuration for a bag.

    Args:
        path: the bag.
        given: the node's parameter file; None: parameters from the bag, if it was made from a take.
        changes: full parameter name to value, overriding those of the file.
        node: node (name with namespace) for which the file is read; None: the one called lmeec.
        prompted: whether prompts are given instead of query masks.

    Raises:
        ParameterError: if a value is wrong, or the file has no parameters for the node.
        BagError: if the bag cannot be read, or has no parameters and no file is given.
    """
    if given is not None:
        name = f"/{node.strip('/')}" if node else parameter_files.read(given).node_called(NAME)
        values = with_full_names(parameters.read_file(given, name), name)
    elif node is not None:
        raise parameters.ParameterError(
            f"--node {node} given without a parameter file; --params expected as well"
        )
    else:
        with BagReader(path) as bag:
            info = RecordingInfo.read(bag)
            topics = [topic.name for topic in bag.topics.values() if topic.type in IMAGES]
        if info is None:
            raise BagError(
                f"{path}: the topics of the cameras are unknown; a parameter file of the node "
                "(--params, for example like config/lmeec.yaml) expected. Image topics of the bag: "
                f"{', '.join(sorted(topics)) or 'none'}"
            )
        values = parameters.flatten(take_bags.node_parameters(info))
    source = {"query_masks.source": "prompts"} if prompted else {}
    config = parameters.load({**values, **(changes or {}), **source})
    if config.prompted and not prompted:
        raise parameters.ParameterError(
            "query_masks.source: 'prompts' given for a bag, but no prompts; --prompts FILE, or "
            "'topic' and a topic with query masks, expected"
        )
    return config


def settings_of(config: NodeConfig, threads: int) -> Settings:
    """Return the tracking settings for a configuration of the node.

    Raises:
        ValueError: if there are no weights, or the device does not exist.
    """
    from lmeec_core.checkpoint import resolve_device

    preset = config.model.preset
    return Settings(
        method=config.method,
        preset=preset,
        checkpoint=config.model.checkpoint,
        weights=weights_digest(preset, config.model.checkpoint, config.model.seed, config.method)
        + more_digests(config.candidates, config.omama),
        device=str(resolve_device(config.model.device)),
        precision=cast("Precision", config.model.precision),  # Settings resolves auto
        engine=config.model.engine,
        seed=config.model.seed,
        require_mv_moe=config.model.require_mv_moe,
        memory=config.memory,
        presence_threshold=config.presence_threshold,
        exclusive=config.output.exclusive,
        max_objects=config.max_objects,
        threads=threads,
        candidates=config.candidates,
        omama=config.omama,
        text=config.text,
        node=dict(config.values),
    )


def plan_bag(
    path: Path, config: NodeConfig, direction: str | None = None, prompts: Prompts | None = None
) -> Plan:
    """Divide a bag into units of work, one for each target camera.

    Args:
        path: the bag.
        config: topics and cameras.
        direction: direction in the result file; None: inferred from the names of the cameras.
        prompts: prompts instead of query masks, in any of the cameras.

    Raises:
        BagError: if the bag cannot be read, or a topic is missing or has another type.
        InputError: if the prompts are for another recording.
    """
    with BagReader(path) as bag:
        info = RecordingInfo.read(bag)
        inputs = inputs_in(bag, config)
        check_topics(bag, inputs)
        count = bag.topics[inputs.query.topic].count
        lost, notes = tuple(bag.lost), tuple(bag.notes)
    cameras = camera_names(config, info)
    objects = tuple(config.objects.values())
    name = info.take if info else path.resolve().name
    digest, listed = _digest(path), list(info.frames) if info else []
    if prompts is not None:
        if prompts.recording not in (None, name, path.resolve().name):
            raise InputError(f"{path}: prompts for {prompts.recording!r} given, {name!r} expected")
        views = {camera: cameras[camera] for camera in config.views}
        placed, problems = place_prompts(prompts, views, path)
        units = [
            Unit(
                "bag", str(path.resolve()), name, direction or _direction(cameras[one], [target]),
                cameras[one], target, tuple(objects), count, digest, (one, other),
                prompts=tuple(p for p in placed if p.prompt.object_id in objects),
            )
            for one, other, objects in pairs(config, placed)
            for target in (cameras[other],)
        ]  # fmt: skip
        frames = {unit.direction: listed for unit in units}
        recording = Recording(name, prompts.objects, frames)
        return Plan(recording, units, (*lost, *problems), notes)
    query = cameras[config.query_camera]
    direction = direction or _direction(query, [cameras[name] for name in config.target_cameras])
    units = [
        Unit(
            "bag", str(path.resolve()), name, direction, query, cameras[target], objects, count,
            digest, (config.query_camera, target),
        )
        for target in config.target_cameras
    ]  # fmt: skip
    return Plan(Recording(name, objects, {direction: listed}), units, lost, notes)


def camera_names(config: NodeConfig, info: RecordingInfo | None) -> dict[str, str]:
    """Return the camera names of the result file: those of the take that the bag was made from.

    Args:
        config: the cameras; without a take, the names are the same.
        info: description of a bag that was made from a take.

    Returns:
        configured camera name to its name in the result file.
    """
    names = {name: name for name in config.cameras}
    if info is not None:
        by_topic = {topic: info.cameras[name] for name, topic in info.image_topics.items()}
        for name, camera in config.cameras.items():
            names[name] = by_topic.get(camera.address, name)
    return names


def track_bag(
    unit: Unit, settings: Settings, method: Method, problems: list[str], notices: list[str]
) -> Iterator[FrameRecord]:
    """Track one target camera in a bag as the node does.

    Sets are paired from all target cameras, as in the node. A set without an image of the target
    gives no record, but is still processed: in the node, such a set updates the query's memory.

    Args:
        unit: the cameras and objects.
        settings: settings of the run.
        method: the method.
        problems: receives sets that cannot be used and are left out, what could not be read, and
            the reason if there are few sets or none.
        notices: receives the numbers of messages that are in no set, and other remarks.
    """
    assert settings.node is not None and unit.names is not None
    config = parameters.load(settings.node)
    path, target = Path(unit.source), unit.names[1]
    with BagReader(path) as bag:
        made = RecordingInfo.read(bag) is not None
    tracker = method.tracker(config.query_camera, (target,), max_objects=config.max_objects)
    table = LabelTable(config.objects, config.ignore_labels)
    several = len(config.target_cameras) > 1
    processor = SetProcessor(tracker, replace(config, target_cameras=(target,)), table, several)
    recorder = Recorder(settings)
    searched: set[str] | None = None  # ids of all objects searched; None: no set was processed
    sets = RecordedSets(path, config)
    for stamp, found in steps(sets, processor, path, problems):
        if target not in found:
            continue
        sought = {name for name, one in found[target].found.items() if one.skipped is None}
        searched = (searched or set()) | sought
        frame = take_bags.frame_of(stamp) if made else stamp
        yield _record(frame, found[target], table, recorder)
    problems += sets.lost
    problems += filter(None, [sets.problem(target)])
    notices += filter(None, [sets.account(target)])
    notices += (f"{path}: {text}" for text in table.ignored_text())
    if searched is not None:
        absent = _never_searched(searched, config)
        (notices if searched else problems).extend(f"{path}: {text}" for text in absent)


def _never_searched(searched: Set[str], config: NodeConfig) -> list[str]:
    """Texts about query masks without any object, or without objects that parameters name."""
    topic = config.query_masks.address
    if not searched:
        return [
            f"the query masks ({topic}) contain no object in any set, so nothing was searched; "
            "masks of the objects expected (label images: the value of a pixel is the label)"
        ]
    named = {"objects names": set(config.objects.values()), "text describes": set(config.text)}
    return [
        f"the query masks ({topic}) never contain {', '.join(map(repr, sorted(absent)))}, which "
        f"the parameter {what}; check the labels in the masks"
        for what, names in named.items()
        if (absent := names - searched)
    ]


def _record(frame: int, output: TargetOutput, table: LabelTable, recorder: Recorder) -> FrameRecord:
    message = output.message
    size = (int(message.height), int(message.width))
    masks = masks_from_array(message, LabelTable())
    objects = [
        recorder.object(
            name, table.label_of(name), one.skipped is None, masks[name], size, one.presence,
            one.score,
        )
        for name, one in output.found.items()
    ]  # fmt: skip
    headers = (output.header, message.query_header)
    stamp, query_stamp = (Stamp(nanoseconds(one.stamp), one.frame_id) for one in headers)
    return FrameRecord(frame, size, objects, True, stamp, query_stamp)


def _direction(query: str, targets: Sequence[str]) -> str:
    """The direction exo to ego if only a target is named like an ego camera, else ego to exo."""
    ego = [is_ego(name) or name.lower().startswith("ego") for name in (query, *targets)]
    return DIRECTIONS[1] if any(ego[1:]) and not ego[0] else DIRECTIONS[0]


def _digest(path: Path) -> str:
    """Digest of the files' names, sizes and last 64 KB (where storage formats keep their index)."""
    beside = [path.with_name(path.name + suffix) for suffix in ("", *JOURNALS)]
    files = sorted(file for file in (path.iterdir() if path.is_dir() else beside) if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            size = content.seek(0, 2)
            content.seek(max(0, size - 65536))
            digest.update(repr((file.name, size)).encode() + content.read())
    return digest.hexdigest()[:32]
