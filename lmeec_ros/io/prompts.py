"""Read prompts from four message types: lmeec/Prompt, two kinds of clicks, detector boxes.

Only the form is checked here. Whether a prompt can be used is decided by the tracker, once the
image that the prompt belongs to is known.
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
"""Maximum number of points in a prompt, and of boxes in a message."""
DEFAULT_OBJECT = "object_1"


@dataclass(frozen=True, eq=False)
class Marking:
    """A prompt, and the image that it belongs to.

    Attributes:
        prompt: the object, and the points, box or mask that mark it.
        camera: name of a camera, or the frame_id of its images.
        stamp_ns: stamp of the image in nanoseconds; 0 for the newest image.
        tolerance: largest difference from the image's stamp, seconds; None for pairing.tolerance.
        detected: whether the prompt comes from a detector. Such a box is clipped to the image, and
            used only if the object is unknown or lost.
    """

    prompt: Prompt
    camera: str
    stamp_ns: int = 0
    tolerance: float | None = None
    detected: bool = False


def read_prompt(config: NodeConfig, msg: Any) -> Marking:
    """Read a lmeec/Prompt.

    Raises:
        InputError: if the camera is unknown, the object id is missing or too long, there are too
            many points, or the mask cannot be read.
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
            raise InputError(f"prompt for {name!r}, mask: {error}") from error
    points = tuple((float(p.x), float(p.y)) for p in msg.points)
    labels = tuple(int(label) for label in msg.labels)
    box: Any = tuple(float(value) for value in msg.box) or None
    if points and not labels:
        labels = (1,) * len(points)
    prompt = Prompt(name, points, labels, box, mask)
    return Marking(prompt, camera, nanoseconds(msg.header.stamp))


def read_click(config: NodeConfig, point: Any, header: Any = None, camera: str = "") -> Marking:
    """Read a click, a geometry_msgs/Point in pixels.

    Args:
        config: names the object, and the camera if neither `header` nor `camera` does.
        point: the point; z must be 0 if there is a header.
        header: header of a PointStamped; None for a click on the newest image.
        camera: name of the camera, for a click without a header.

    Raises:
        InputError: if the point is one in space, or prompts.clicks.object is too long.
    """
    clicks = config.prompts.clicks
    if header is not None and point.z:
        raise InputError(
            f"click at ({point.x:g}, {point.y:g}, {point.z:g}) in {header.frame_id!r} given, which "
            "is a point in space; x and y in pixels of an image, with z 0, expected"
        )
    name = _object_id(clicks.object or next(iter(config.objects.values()), DEFAULT_OBJECT))
    prompt = Prompt(name, ((float(point.x), float(point.y)),), (1,))
    given = header.frame_id if header is not None else camera
    camera = given or clicks.camera or config.query_camera
    stamp = nanoseconds(header.stamp) if header is not None else 0
    return Marking(prompt, camera, stamp, clicks.tolerance)


def read_detections(config: NodeConfig, msg: Any) -> tuple[list[Marking], list[InputError]]:
    """Read the boxes of a vision_msgs/Detection2DArray, the best-scored one of each object.

    The object id is the detection's id, or its class if it has no id. Boxes with a score below
    prompts.detections.min_score are left out.

    Returns:
        the prompts, and an error for each box that cannot be used.
    """
    errors: list[InputError] = []
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
            errors.append(error)
            continue
        if name not in best or best[name][0] < score:
            stamp = nanoseconds(header.stamp)
            best[name] = score, Marking(prompt, camera, stamp, detected=True)
    return [marking for _, marking in best.values()], errors


def _object_id(name: str) -> str:
    if not 1 <= len(name) <= MAX_ID:
        raise InputError(
            f"prompt: object id {name[:80]!r} given, a text of 1 to {MAX_ID} characters expected"
        )
    return name


def _box(bbox: Any) -> tuple[float, float, float, float]:
    """The axis-aligned box (x0, y0, x1, y1) around a vision_msgs/BoundingBox2D, maybe rotated."""
    centre = getattr(bbox.center, "position", bbox.center)  # a Pose2D in older vision_msgs
    x, y, turn = float(centre.x), float(centre.y), float(bbox.center.theta)
    width, height = float(bbox.size_x), float(bbox.size_y)
    if not all(map(math.isfinite, (x, y, turn, width, height))) or min(width, height) <= 0:
        raise InputError(
            f"detection: box of {width} x {height} at ({x}, {y}), rotated by {turn}, given; finite "
            "numbers and a size above 0 expected"
        )
    across, along = abs(math.cos(turn)), abs(math.sin(turn))
    half = (width * across + height * along) / 2, (width * along + height * across) / 2
    return x - half[0], y - half[1], x + half[0], y + half[1]
