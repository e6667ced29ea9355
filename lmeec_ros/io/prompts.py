"""Prompts of four kinds of messages: our own, clicks of two kinds, boxes of a detector.

Only the form is checked here. Whether a prompt can be used is for the tracker to say, once the
image that it belongs to is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lmeec_core.errors import InputError
from lmeec_core.prompts import Prompt
from lmeec_ros.io import images
from lmeec_ros.io.messages import MAX_ID
from lmeec_ros.io.synchronizer import nanoseconds
from lmeec_ros.parameters.config import NodeConfig

MAX_POINTS = 1000
"""Most points of a prompt, and most boxes of a message."""
DEFAULT_OBJECT = "object_1"


@dataclass(frozen=True, eq=False)
class Marking:
    """A prompt, and the image that it belongs to.

    Attributes:
        prompt: the object and where it is.
        camera: name of a camera, or the frame_id of its images.
        stamp_ns: of the image; 0: the newest one.
        tolerance: largest distance from the image's stamp, seconds; None: pairing.tolerance.
        detected: whether it comes from a detector: it is cut to the image, and marks an object only
            while that is not seen.
    """

    prompt: Prompt
    camera: str
    stamp_ns: int = 0
    tolerance: float | None = None
    detected: bool = False


def read_prompt(config: NodeConfig, msg: Any) -> Marking:
    """A lmeec/Prompt.

    Raises:
        InputError: no such camera, no object id, too many points, or a mask that cannot be read.
    """
    name = _object_id(msg.object_id)
    camera = msg.camera or config.query_camera
    if camera not in config.views:
        raise InputError(
            f"prompt for {name!r}: camera {camera!r} given, one of {', '.join(config.views)} "
            "expected (parameters query_camera and target_cameras)"
        )
    if max(len(msg.points), len(msg.labels), len(msg.box)) > MAX_POINTS:
        raise InputError(
            f"prompt for {name!r}: {len(msg.points)} points, {len(msg.labels)} labels and a box of "
            f"{len(msg.box)} numbers given, at most {MAX_POINTS} points expected"
        )
    mask = None
    if msg.mask.width or msg.mask.height or len(msg.mask.data):
        try:
            mask = images.to_labels(msg.mask, config.max_image_pixels) > 0
        except images.ImageError as error:
            raise InputError(f"prompt for {name!r}, its mask: {error}") from error
    points = tuple((float(p.x), float(p.y)) for p in msg.points)
    labels = tuple(int(label) for label in msg.labels)
    box: Any = tuple(float(value) for value in msg.box) or None
    if points and not labels:
        labels = (1,) * len(points)
    prompt = Prompt(name, points, labels, box, mask)
    return Marking(prompt, camera, nanoseconds(msg.header.stamp))


def read_click(config: NodeConfig, point: Any, header: Any = None, camera: str = "") -> Marking:
    """A geometry_msgs/Point in pixels.

    Args:
        config: which object, and which camera where neither header nor `camera` says so.
        point: x and y.
        header: of a PointStamped; None: it is for the newest image.
        camera: name of the camera that it is for.

    Raises:
        InputError: a point in space, or prompts.clicks.object is too long.
    """
    clicks = config.prompts.clicks
    if header is not None and point.z:
        raise InputError(
            f"click at ({point.x:g}, {point.y:g}, {point.z:g}) in {header.frame_id!r} given, which "
            "is a point in space; x and y in pixels of an image, and z 0, expected"
        )
    name = _object_id(clicks.object or next(iter(config.objects.values()), DEFAULT_OBJECT))
    prompt = Prompt(name, ((float(point.x), float(point.y)),), (1,))
    given = header.frame_id if header is not None else camera
    camera = given or clicks.camera or config.query_camera
    stamp = nanoseconds(header.stamp) if header is not None else 0
    return Marking(prompt, camera, stamp, clicks.tolerance)


def read_detections(config: NodeConfig, msg: Any) -> tuple[list[Marking], list[InputError]]:
    """The boxes of a vision_msgs/Detection2DArray, of an object the one with the highest score.

    An object is called like the detection's id, else like its class. Boxes below
    prompts.detections.min_score are left out.

    Returns:
        what marks objects, and why other boxes cannot.
    """
    wrong: list[InputError] = []
    best: dict[str, tuple[float, Marking]] = {}
    if len(msg.detections) > MAX_POINTS:
        return [], [
            InputError(f"{len(msg.detections)} detections given, at most {MAX_POINTS} expected")
        ]
    for one in msg.detections:
        score, kind = max(
            ((float(r.hypothesis.score), r.hypothesis.class_id) for r in one.results),
            default=(1.0, ""),
        )
        if not score >= config.prompts.detections.min_score:
            continue
        try:
            name = _object_id(one.id or kind)
            header = one.header if one.header.frame_id else msg.header
            camera = header.frame_id or config.query_camera
            prompt = Prompt(name, box=_box(one.bbox))
        except InputError as error:
            wrong.append(error)
            continue
        if name not in best or best[name][0] < score:
            stamp = nanoseconds(header.stamp)
            best[name] = score, Marking(prompt, camera, stamp, detected=True)
    return [marking for _, marking in best.values()], wrong


def _object_id(name: str) -> str:
    if not 1 <= len(name) <= MAX_ID:
        raise InputError(
            f"prompt: object id {name[:80]!r} given, a text of 1 to {MAX_ID} characters expected"
        )
    return name


def _box(bbox: Any) -> tuple[float, float, float, float]:
    """The upright box around a vision_msgs/BoundingBox2D, which may be turned."""
    centre = getattr(bbox.center, "position", bbox.center)  # older vision_msgs: a Pose2D
    x, y, turn = float(centre.x), float(centre.y), float(bbox.center.theta)
    width, height = float(bbox.size_x), float(bbox.size_y)
    if not all(map(math.isfinite, (x, y, turn, width, height))) or min(width, height) <= 0:
        raise InputError(
            f"detection: box of {width} x {height} at ({x}, {y}), turned by {turn}, given; finite "
            "numbers and a size above 0 expected"
        )
    across, along = abs(math.cos(turn)), abs(math.sin(turn))
    half = (width * across + height * along) / 2, (width * along + height * across) / 2
    return x - half[0], y - half[1], x + half[0], y + half[1]
