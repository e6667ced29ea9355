"""A take as a rosbag2 recording: images and query masks as sensor_msgs.

Every message of frame number f has the stamp f / 30 s + 1 s, and is stored at that time. The
frame_id is the camera's topic name. The bag's metadata describes its content as JSON
(`RecordingInfo`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from lmeec_core.bags.bag import (
    INFO_KEY,
    MASKS_TYPE,
    BagError,
    BagReader,
    BagWriter,
    typestore,
)
from lmeec_core.bags.mask_messages import BAG, SECOND_NS, label_image
from lmeec_core.bags.object_rows import object_row
from lmeec_core.takes import Take, is_ego

if TYPE_CHECKING:
    from lmeec_core.prompts import PlacedPrompt

FRAMES_PER_SECOND = 30
EPOCH_NS = 1_000_000_000
PROMPT_TYPE = "lmeec/msg/Prompt"
PROMPT_TOPIC = "/lmeec/prompt"
"""The prompt topic of a node with the default name."""
PROMPT_LEAD_NS = 50_000_000
"""A prompt is stored this much before its image, so that a player sends it first."""
MASK_KINDS = ("label_image", "mask_array")

Masks = dict[int, NDArray[np.bool_] | None]


def stamp_of_frame(frame: int) -> int:
    """Stamp of a frame number, nanoseconds."""
    return EPOCH_NS + round(frame * SECOND_NS / FRAMES_PER_SECOND)


def frame_of(stamp_ns: int) -> int:
    """Frame number of a stamp in nanoseconds."""
    return round((stamp_ns - EPOCH_NS) * FRAMES_PER_SECOND / SECOND_NS)


def topic_name(camera: str) -> str:
    """A camera's name as part of a topic: letters, digits and "_", beginning with a letter."""
    name = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9_]", "_", camera)).strip("_")
    return name if name[:1].isalpha() else f"camera_{name}"


@dataclass
class RecordingInfo:
    """The content of a bag made from a take.

    Attributes:
        take: name of the take.
        query: topic name of the query camera.
        targets: topic names of the target cameras.
        cameras: the cameras' names in the take, by topic name.
        image_topics: the cameras' image topics, by topic name of the camera.
        transport: "compressed" or "raw".
        mask_topic, mask_type: the query masks; the type is "label_image" or "mask_array". Both are
            empty if the bag has prompts instead.
        objects: object names by label (1, 2, ...).
        frames: the frame numbers.
        overlaps: number of mask pixels with several objects, which a label image cannot store.
        counts: number of messages by topic.
        prompt_topic: topic of the prompts (lmeec/msg/Prompt); empty if there are none.
    """

    take: str
    query: str
    targets: list[str]
    cameras: dict[str, str]
    image_topics: dict[str, str]
    transport: str
    mask_topic: str
    mask_type: str
    objects: dict[int, str]
    frames: list[int] = field(default_factory=list)
    overlaps: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    prompt_topic: str = ""

    @property
    def views(self) -> list[str]:
        """Topic names of the cameras with published masks: the targets and, with prompts, also the
        query camera."""
        return [*([self.query] if self.prompt_topic else []), *self.targets]

    def to_json(self) -> str:
        """The description as text, for a bag's metadata."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def read(cls, bag: BagReader) -> RecordingInfo | None:
        """The description from a bag's metadata; None for a bag that was not made from a take.

        Raises:
            BagError: the entry does not have the format that this package writes.
        """
        text = bag.info.get(INFO_KEY)
        if text is None:
            return None
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "it"
            raise BagError(
                f"{bag.path}: the entry {INFO_KEY!r} in its metadata is not what lmeec writes "
                f"({where}: {first['msg']})"
            ) from error


def bag_from_take(
    take: Take,
    path: str | os.PathLike[str],
    *,
    query: str | None = None,
    targets: Sequence[str] | None = None,
    objects: Sequence[str] | None = None,
    raw: bool = False,
    masks: str = "label_image",
    prompts: Sequence[PlacedPrompt] = (),
    overwrite: bool = False,
) -> RecordingInfo:
    """Write a take as a bag.

    Args:
        take: the recording.
        path: folder of the bag.
        query: "ego" (default), "exo" (the first exo camera) or a camera's name.
        targets: camera names; default: the exo cameras, or the ego camera if the query is exo.
        objects: objects to mark in the query view; default: all.
        raw: write decoded images (sensor_msgs/Image) instead of the take's JPEG bytes.
        masks: "label_image" (value = label, at the masks' own size) or "mask_array".
        prompts: prompts in the query camera, used instead of query masks.
        overwrite: replace an existing bag.

    Raises:
        BagError, TakeError: the take has no such camera or object, or a file is broken.
    """
    if masks not in MASK_KINDS:
        raise BagError(f"masks {masks!r} were asked for, expected one of {MASK_KINDS}")
    info = _plan(take, query, targets, objects, "raw" if raw else "compressed", masks)
    marked = _marked(info, prompts)
    image_type = "sensor_msgs/msg/Image" if raw else "sensor_msgs/msg/CompressedImage"
    mask_type = "sensor_msgs/msg/Image" if masks == "label_image" else MASKS_TYPE
    available = {name: set(take.frames(camera)) for name, camera in info.cameras.items()}
    with BagWriter(path, overwrite=overwrite) as bag:
        for topic in info.image_topics.values():
            bag.add_topic(topic, image_type)
        if marked:
            bag.add_topic(info.prompt_topic, PROMPT_TYPE)
        else:
            bag.add_topic(info.mask_topic, mask_type)
        for frame in info.frames:
            stamp = stamp_of_frame(frame)
            for prompt in marked.get(frame, ()):
                message = _prompt_message(prompt, stamp, info.query)
                bag.write(info.prompt_topic, stamp - PROMPT_LEAD_NS, message)
            if not marked:
                bag.write(info.mask_topic, stamp, _masks_message(take, info, frame))
            for name, topic in info.image_topics.items():
                if frame in available[name]:
                    message = _image_message(take, info.cameras[name], name, frame, raw)
                    bag.write(topic, stamp, message)
        info.counts = dict(bag.counts)
        bag.set_info(INFO_KEY, info.to_json())
    return info


def _marked(info: RecordingInfo, prompts: Sequence[PlacedPrompt]) -> dict[int, list[PlacedPrompt]]:
    """Prompts by frame; updates the description of the bag.

    Raises:
        BagError: the bag has no image or no object for a prompt.
    """
    marked: dict[int, list[PlacedPrompt]] = {}
    for one in prompts:
        there = one.camera in (info.query, info.cameras[info.query]) and one.frame in info.frames
        if not there or one.prompt.object_id not in info.objects.values():
            raise BagError(f"{one}: the query camera {info.query} with an image of that frame, and "
                           f"one of {list(info.objects.values())} expected")  # fmt: skip
        assert one.frame is not None
        marked.setdefault(one.frame, []).append(one)
    if marked:
        info.prompt_topic, info.mask_topic, info.mask_type = PROMPT_TOPIC, "", ""
    return marked


def node_parameters(info: RecordingInfo) -> dict[str, Any]:
    """The node's parameters (nested, as in its YAML file) for a bag made from a take."""
    cameras: dict[str, Any] = {
        name: {"topic": topic, "transport": info.transport, "qos": "reliable"}
        for name, topic in info.image_topics.items()
    }
    masks = {"topic": info.mask_topic, "type": info.mask_type, "qos": "reliable"}
    return {
        "camera_names": list(info.cameras),
        "cameras": cameras,
        "query_camera": info.query,
        "target_cameras": list(info.targets),
        "query_masks": {"source": "prompts"} if info.prompt_topic else masks,
        # In a take, frames may be seconds apart and cameras may have gaps; this is no failure.
        "pairing": {"partial_wait": 10.0},
        "max_objects": max(32, len(info.objects)),
        "objects": [object_row(label, name) for label, name in info.objects.items()],
    }


def _plan(
    take: Take,
    query: str | None,
    targets: Sequence[str] | None,
    objects: Sequence[str] | None,
    transport: str,
    masks: str,
) -> RecordingInfo:
    """The cameras, objects, topics and frames that go into the bag."""
    source = camera_of(take, query or "ego")
    if targets:
        chosen = [camera_of(take, name) for name in targets]
    else:
        chosen = [camera for camera in take.cameras if is_ego(camera) != is_ego(source)]
    chosen = [camera for camera in dict.fromkeys(chosen) if camera != source]
    if not chosen:
        raise BagError(f"{take.path}: no target camera besides the query camera {source!r}")
    names = {topic_name(camera): camera for camera in (source, *chosen)}
    if len(names) != 1 + len(chosen):
        raise BagError(f"{take.path}: cameras {[source, *chosen]} have the same topic names")
    unknown = [name for name in objects or () if name not in take.objects]
    if unknown:
        raise BagError(f"{take.path}: no object {unknown[0]!r}; it has {list(take.objects)}")
    wanted = list(dict.fromkeys(objects or take.objects))
    if not wanted:
        raise BagError(f"{take.path}: no objects are annotated in this take")
    frames = list(take.frames(source))
    if not frames:
        raise BagError(f"{take.path / source}: no frames (<number>.jpg)")
    suffix = "image_raw/compressed" if transport == "compressed" else "image_raw"
    name_of_query = topic_name(source)
    kind = "label_image" if masks == "label_image" else "masks"
    return RecordingInfo(
        take=take.name,
        query=name_of_query,
        targets=[topic_name(camera) for camera in chosen],
        cameras=names,
        image_topics={name: f"/{name}/{suffix}" for name in names},
        transport=transport,
        mask_topic=f"/{name_of_query}/{kind}",
        mask_type=masks,
        objects=dict(enumerate(wanted, start=1)),
        frames=frames,
    )


def camera_of(take: Take, name: str) -> str:
    """A camera of the take by its name, topic name, or "ego" / "exo" (the first one).

    Raises:
        BagError: the take has none of this name.
    """
    if name in take.cameras:
        return name
    if name == "ego":
        return take.ego
    if name == "exo" and take.exos:
        return take.exos[0]
    for camera in take.cameras:
        if topic_name(camera) == name:
            return camera
    raise BagError(f"{take.path}: no camera {name!r}; it has {list(take.cameras)}")


def _mask_size(take: Take, info: RecordingInfo, masks: Masks, frame: int) -> tuple[int, int]:
    """Size of the masks of a frame: of one of its masks, a mask of another frame, or the image."""
    for mask in masks.values():
        if mask is not None:
            return mask.shape[0], mask.shape[1]
    camera = info.cameras[info.query]
    for name in info.objects.values():
        for other in take.mask_frames(name, camera):
            rle = take.rle(name, camera, other)
            if rle is not None:
                return int(rle["size"][0]), int(rle["size"][1])
    height, width = take.image(camera, frame).shape[:2]
    return height, width


def _masks_message(take: Take, info: RecordingInfo, frame: int) -> Any:
    """The query masks of a frame."""
    camera, stamp = info.cameras[info.query], stamp_of_frame(frame)
    found = {label: take.mask(name, camera, frame) for label, name in info.objects.items()}
    size = _mask_size(take, info, found, frame)
    if info.mask_type == "label_image":
        labels, overlap = label_image(found, size)
        info.overlaps += overlap
        return _label_message(labels, stamp, info.query)
    return _array_message(found, info.objects, size, stamp, info.query)


def _prompt_message(placed: PlacedPrompt, stamp_ns: int, camera: str) -> Any:
    """A prompt of points, a box, or a mask at its own size."""
    types, prompt = typestore().types, placed.prompt
    header, point = BAG.header(stamp_ns, camera), types["geometry_msgs/msg/Point"]
    given = np.zeros((0, 0)) if prompt.mask is None else prompt.mask
    return types[PROMPT_TYPE](
        header=header,
        camera=camera,
        object_id=prompt.object_id,
        points=[point(x=float(x), y=float(y), z=0.0) for x, y in prompt.points],
        labels=np.asarray(prompt.labels, np.int32),
        box=np.asarray(prompt.box or (), np.float64),
        mask=BAG.image(header, given.astype(np.uint8), "mono8"),
    )


def _label_message(labels: NDArray[Any], stamp_ns: int, camera: str) -> Any:
    encoding = "8UC1" if labels.dtype == np.uint8 else "16UC1"
    return BAG.image(BAG.header(stamp_ns, camera), labels, encoding)


def _image_message(take: Take, camera: str, name: str, frame: int, raw: bool) -> Any:
    header = BAG.header(stamp_of_frame(frame), name)
    if raw:
        return BAG.image(header, take.image(camera, frame), "rgb8")
    data = np.frombuffer(take.image_bytes(camera, frame), dtype=np.uint8)
    types = typestore().types
    return types["sensor_msgs/msg/CompressedImage"](header=header, format="jpeg", data=data)


def _array_message(
    masks: Masks, names: dict[int, str], size: tuple[int, int], stamp_ns: int, camera: str
) -> Any:
    """CorrespondenceMaskArray of query masks: each object cropped to its bounding box."""
    header = BAG.header(stamp_ns, camera)
    entries = []
    for label, name in names.items():
        mask = masks[label]
        visible = float(mask is not None and mask.any())
        entries.append(BAG.mask(name, label, mask, header, visible, visible))
    return BAG.masks(header, header, (camera, camera), size, entries)
