"""The node's results as vision_msgs and visualization_msgs, for tools that read these.

Both packages are optional: see `installed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from geometry_msgs.msg import Point, Pose
from lmeec.msg import CorrespondenceMaskArray, ObjectPoint, ObjectPointArray
from std_msgs.msg import ColorRGBA, Header

from lmeec_core import overlay

SPHERE = 0.05
"""Diameter of a marker's sphere and height of its text, metres."""


def installed(
    topics: Mapping[str, str], say: Callable[[str], object] = lambda _: None
) -> dict[str, Any]:
    """Return the message class of each topic, without topics whose package is not installed.

    Args:
        topics: topic name to message type, such as vision_msgs/Detection2DArray.
        say: called with a text for each missing package.
    """
    found: dict[str, Any] = {}
    missing: dict[str, list[str]] = {}
    for topic, type_name in topics.items():
        package, _, name = type_name.partition("/")
        kind = _TYPES[package](name)
        if kind is not None:
            found[topic] = kind
        else:
            missing.setdefault(package, []).append(topic)
    for package, lost in missing.items():
        say(
            f"not published: {', '.join(lost)}, because the ROS package {package} is not "
            f"installed (apt install ros-jazzy-{package.replace('_', '-')})"
        )
    return found


def _vision(name: str) -> Any:
    try:
        import vision_msgs.msg
    except ImportError:
        return None
    return getattr(vision_msgs.msg, name, None)  # versions before Jazzy lack some messages


def _visualization(name: str) -> Any:
    try:
        import visualization_msgs.msg
    except ImportError:
        return None
    return getattr(visualization_msgs.msg, name)


_TYPES: dict[str, Callable[[str], Any]] = {
    "vision_msgs": _vision,
    "visualization_msgs": _visualization,
}


def detections(message: CorrespondenceMaskArray) -> Any:
    """Return the visible objects as vision_msgs/Detection2DArray, with the header of their image.

    Boxes are in pixels, with (0, 0) at the corner of the image. `id` and the `class_id` of the
    only hypothesis are the object id, `score` is the presence.
    """
    from vision_msgs.msg import BoundingBox2D, Detection2D, Detection2DArray

    def made(entry: Any) -> Any:
        box, roi = BoundingBox2D(), entry.roi
        box.center.position.x = roi.x_offset + roi.width / 2
        box.center.position.y = roi.y_offset + roi.height / 2
        box.size_x, box.size_y = float(roi.width), float(roi.height)
        results = [_hypothesis(entry.object_id, entry.presence)]
        return Detection2D(header=message.header, results=results, bbox=box, id=entry.object_id)

    seen = [made(entry) for entry in message.masks if entry.visible]
    return Detection2DArray(header=message.header, detections=seen)


def label_info(header: Header, labels: Mapping[str, int], threshold: float) -> Any:
    """Return the vision_msgs/LabelInfo that names the object of each value in the label images.

    Args:
        header: header of the first label image that it applies to.
        labels: object id to label.
        threshold: presence from which an object is drawn into the label image.
    """
    from vision_msgs.msg import LabelInfo, VisionClass

    by_label = sorted(labels.items(), key=lambda item: item[1])
    classes = [VisionClass(class_id=label, class_name=name) for name, label in by_label]
    return LabelInfo(header=header, class_map=classes, threshold=threshold)


def presence_of(
    message: ObjectPointArray, masks: Mapping[str, CorrespondenceMaskArray]
) -> dict[str, float]:
    """Return each located object's smallest presence among the cameras used to locate it.

    Args:
        message: the points.
        masks: target camera to its masks.
    """
    return {
        one.object_id: min(
            (
                float(entry.presence)
                for camera, seen in masks.items()
                if camera in one.cameras
                for entry in seen.masks
                if entry.object_id == one.object_id
            ),
            default=1.0,  # located from query masks alone
        )
        for one in message.points
    }


def detections_3d(
    message: ObjectPointArray,
    presence: Mapping[str, float],
    sizes: Mapping[str, Sequence[float]] | None = None,
) -> Any:
    """Return located objects as vision_msgs/Detection3DArray.

    Args:
        message: the points.
        presence: object id to the presence, which becomes the score.
        sizes: object id to its box's size (x, y, z) in metres; None if unknown (boxes of size 0).
    """
    from vision_msgs.msg import BoundingBox3D, Detection3D, Detection3DArray

    def made(one: ObjectPoint) -> Any:
        pose = Pose(position=one.point.point)
        result = _hypothesis(one.object_id, presence.get(one.object_id, 0.0))
        result.pose.pose = pose
        box = BoundingBox3D(center=pose)
        if sizes is not None:
            box.size.x, box.size.y, box.size.z = map(float, sizes[one.object_id])
        return Detection3D(header=message.header, results=[result], bbox=box, id=one.object_id)

    return Detection3DArray(header=message.header, detections=[made(one) for one in message.points])


def markers(message: ObjectPointArray, sizes: Mapping[str, Sequence[float]] | None = None) -> Any:
    """Return a visualization_msgs/MarkerArray with a sphere and a name for each point.

    The first marker deletes all earlier ones. Colours are those of the overlay.

    Args:
        message: the points.
        sizes: object id to its box's size (x, y, z) in metres; boxes are drawn instead of spheres.
    """
    from visualization_msgs.msg import Marker, MarkerArray

    def made() -> Iterator[Any]:
        yield Marker(header=message.header, action=Marker.DELETEALL)
        for one in message.points:
            red, green, blue = (value / 255 for value in overlay.colour(one.label - 1))
            place = one.point.point
            sphere = Marker(
                header=message.header, ns="objects", id=one.label, type=Marker.SPHERE,
                color=ColorRGBA(r=red, g=green, b=blue, a=0.8), pose=Pose(position=place),
            )  # fmt: skip
            size = (SPHERE,) * 3 if sizes is None else sizes[one.object_id]
            sphere.scale.x, sphere.scale.y, sphere.scale.z = map(float, size)
            if sizes is not None:
                sphere.type, sphere.color.a = Marker.CUBE, 0.4
            yield sphere
            name = Marker(
                header=message.header, ns="names", id=one.label, type=Marker.TEXT_VIEW_FACING,
                color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0), text=one.object_id,
                pose=Pose(position=Point(x=place.x, y=place.y, z=place.z + 1.5 * SPHERE)),
            )  # fmt: skip
            name.scale.z = SPHERE
            yield name

    return MarkerArray(markers=list(made()))


def _hypothesis(name: str, score: float) -> Any:
    from vision_msgs.msg import ObjectHypothesisWithPose

    result = ObjectHypothesisWithPose()
    result.hypothesis.class_id, result.hypothesis.score = name, float(score)
    return result
