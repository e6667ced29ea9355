"""The topics ~/clouds: point cloud and 3D box of each object, from depth images."""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped
from lmeec.msg import CorrespondenceMaskArray, ObjectPoint, ObjectPointArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from lmeec_core import overlay
from lmeec_core.depth.cloud import Cloud, DepthView, object_cloud
from lmeec_core.depth.fusion import Located, fuse
from lmeec_core.depth.images import Depth
from lmeec_core.errors import InputError
from lmeec_core.geometry import GeometryError, Intrinsics, Pose, Triangulation
from lmeec_core.sync.stream_monitor import LogThrottle
from lmeec_ros.inference.worker import Worker
from lmeec_ros.io import standard
from lmeec_ros.io.images import to_depth
from lmeec_ros.io.messages import LabelTable, Mask, masks_from_array
from lmeec_ros.io.publishers import destroy_publisher, make_publisher
from lmeec_ros.io.synchronizer import nanoseconds, stamp_of
from lmeec_ros.parameters.config import NodeConfig
from lmeec_ros.parameters.qos_overrides import overriding

CLOUDS, MARKERS, DETECTIONS = "~/clouds", "~/clouds/markers", "~/clouds/detections"
STANDARD = {
    MARKERS: "visualization_msgs/MarkerArray",
    DETECTIONS: "vision_msgs/Detection3DArray",
}
HELD = 10
"""Depth images kept per camera for masks that arrive later."""
PATIENCE = 0.2
"""Seconds that a set waits for its depth images, in the thread of the clouds."""
SETS_WAITING = 3
"""Maximum number of waiting sets; the oldest is dropped."""
END_PATIENCE = 5.0
"""Seconds to wait for the thread to end."""
REPEAT = 30.0
"""Seconds after which the same warning may be logged again."""
FOLLOW = 0.5
"""Seconds between checks for subscribers."""
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("label", "<u4")])
_KINDS = {"x": PointField.FLOAT32, "y": PointField.FLOAT32, "z": PointField.FLOAT32,
          "rgb": PointField.FLOAT32, "label": PointField.UINT32}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A set of masks with everything needed to locate its objects.

    Attributes:
        points: the triangulated points; the clouds have the same header.
        headers: camera to the header of its image.
        cameras: camera to its intrinsics and pose; cameras that lack either are left out.
        query_masks: object id to its mask in the query camera's image.
        masks: camera to its published masks.
        table: labels of the objects.
    """

    points: ObjectPointArray
    headers: Mapping[str, Header]
    cameras: Mapping[str, tuple[Intrinsics, Pose]]
    query_masks: Mapping[str, Mask | None]
    masks: Mapping[str, CorrespondenceMaskArray]
    table: LabelTable


class DepthTopics:
    """Subscriptions to the cameras' depth images, while they are needed, and the last images."""

    def __init__(self, node: Node, config: NodeConfig) -> None:
        self._node, self._config = node, config
        self._names = [name for name in config.views if config.cameras[name].depth]
        self._held: dict[str, deque[Any]] = {name: deque(maxlen=HELD) for name in self._names}
        self._subscriptions: list[Any] = []
        self._changed = threading.Condition()

    def follow(self, wanted: bool) -> None:
        """Subscribe, or unsubscribe and drop the images."""
        if wanted == bool(self._subscriptions):
            return
        if not wanted:
            for one in self._subscriptions:
                self._node.destroy_subscription(one)
            self._subscriptions = []
            self.forget()
            return
        for name in self._names:
            given = self._config.cameras[name]
            kind: Any = Image if given.depth_transport == "raw" else CompressedImage
            self._subscriptions.append(
                self._node.create_subscription(
                    kind,
                    given.depth,
                    partial(self._take, name),
                    qos_profile_sensor_data,
                    qos_overriding_options=overriding(self._node, given.depth, "subscription"),
                )
            )

    def nearest(self, headers: Mapping[str, Header], tolerance: float) -> dict[str, Any]:
        """Return each camera's depth image with the stamp nearest to that of its image.

        Waits up to :data:`PATIENCE` seconds; cameras without a depth image are left out.

        Args:
            headers: camera to the header of its image.
            tolerance: largest difference of the stamps, seconds.
        """
        wanted = {n: nanoseconds(headers[n].stamp) for n in self._names if n in headers}
        end = time.monotonic() + PATIENCE
        with self._changed:
            while True:
                found = {name: self._near(name, wanted[name], tolerance) for name in wanted}
                left = end - time.monotonic()
                if None not in found.values() or left <= 0:
                    return {name: msg for name, msg in found.items() if msg is not None}
                self._changed.wait(left)

    def forget(self) -> None:
        """Drop all images."""
        with self._changed:
            for held in self._held.values():
                held.clear()

    def _take(self, name: str, msg: Any) -> None:
        with self._changed:
            self._held[name].append(msg)
            self._changed.notify_all()

    def _near(self, name: str, stamp: int, tolerance: float) -> Any:
        found = min(self._held[name], key=lambda msg: abs(stamp_of(msg) - stamp), default=None)
        if found is None or abs(stamp_of(found) - stamp) > tolerance * 1e9:
            return None
        return found


class Clouds:
    """Publishes `~/clouds`, and the boxes as standard messages, while they have subscribers.

    Args:
        node: the node; a lifecycle node publishes only while it is active.
        config: cameras and their depth topics.

    Attributes:
        located: number of objects located so far.
        refused: number of objects and depth images that could not be used, by reason.
    """

    def __init__(self, node: Node, config: NodeConfig) -> None:
        self._node = node
        self._topics = DepthTopics(node, config)
        self._throttle = LogThrottle(REPEAT, count=False)
        self.located = 0
        self.refused: Counter[str] = Counter()
        kinds: dict[str, Any] = {CLOUDS: PointCloud2}
        if config.output.standard:
            kinds |= standard.installed(STANDARD, node.get_logger().info)
        self._publishers = {
            topic: make_publisher(node, kind, topic, config.output.qos_depth)
            for topic, kind in kinds.items()
        }
        self._worker: Worker[tuple[Scene, NodeConfig]]
        self._worker = Worker(self._process, self._failed, SETS_WAITING, "clouds")
        self._worker.start()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(FOLLOW, self._follow, clock=steady)

    def has_listeners(self) -> bool:
        """Return whether any of the topics has subscribers."""
        return any(one.get_subscription_count() for one in self._publishers.values())

    def publish(self, scene: Scene, config: NodeConfig) -> None:
        """Locate and publish the objects of a set, in the thread of the clouds."""
        if self.has_listeners() and not self._worker.put((scene, config)):
            self.refused["late"] += 1

    def forget(self) -> None:
        """Drop all waiting sets and images after a backward jump of time."""
        self._worker.discard()
        self._topics.forget()

    def destroy(self) -> None:
        """Destroy publishers and subscriptions."""
        self._node.destroy_timer(self._timer)
        self._worker.stop(END_PATIENCE)
        self._topics.follow(False)
        for publisher in self._publishers.values():
            destroy_publisher(self._node, publisher)

    def _follow(self) -> None:
        self._topics.follow(self.has_listeners())

    def _failed(self, error: Exception) -> None:
        self._refuse(type(error).__name__, f"~/clouds of a set failed: {error!r}")

    def _refuse(self, kind: str, text: str) -> None:
        self.refused[kind] += 1
        if line := self._throttle(text.partition(":")[0] + kind, text):
            self._node.get_logger().warning(line)

    def _process(self, given: tuple[Scene, NodeConfig], _: float) -> None:
        scene, config = given
        found = self.locate(scene, config)
        self.located += len(found)
        header, table = scene.points.header, scene.table
        centres = _centres(header, table, found)
        sizes = {name: one.cloud.extent.tolist() for name, one in found.items()}
        make = {
            CLOUDS: lambda: cloud_message(header, table, found),
            MARKERS: lambda: standard.markers(centres, sizes),
            DETECTIONS: lambda: standard.detections_3d(
                centres, standard.presence_of(centres, scene.masks), sizes
            ),
        }
        for topic, publisher in self._publishers.items():
            if publisher.get_subscription_count():
                publisher.publish(make[topic]())

    def locate(self, scene: Scene, config: NodeConfig) -> dict[str, Located]:
        """Locate the objects of a set; those that cannot be located are counted and logged."""
        views = self._views(scene, config)
        by_object: dict[str, dict[str, Cloud]] = {}
        for camera, view in views.items():
            masks = scene.query_masks
            if camera in scene.masks:
                limit = config.max_image_pixels, config.max_objects
                masks = masks_from_array(scene.masks[camera], scene.table, *limit)
            for name, mask in masks.items():
                if mask is None or not mask.any():
                    continue
                try:
                    by_object.setdefault(name, {})[camera] = object_cloud(mask, view)
                except InputError as error:
                    kind = getattr(error, "kind", "image")
                    self._refuse(kind, f"object {name!r} in {camera}: no point cloud: {error}")
        points = {one.object_id: one for one in scene.points.points}
        located = {}
        for name, clouds in by_object.items():
            if not clouds:
                continue
            try:
                one = fuse(clouds, _triangulation(points.get(name)))
                one.check(config.geometry.max_disagreement)
            except GeometryError as error:
                self._refuse(error.kind, f"object {name!r} is not in ~/clouds: {error}")
            else:
                located[name] = one
        return located

    def _views(self, scene: Scene, config: NodeConfig) -> dict[str, DepthView]:
        """Depth image, intrinsics and pose of each camera that has all three."""
        headers = {name: header for name, header in scene.headers.items() if name in scene.cameras}
        found = self._topics.nearest(headers, config.geometry.depth_tolerance)
        views = {}
        for name in headers:
            given = config.cameras[name]
            if not given.depth:
                continue
            if name not in found:
                self._refuse("no_image", f"camera {name!r}: no depth image with the stamp of its "
                             f"image arrived on {given.depth}")  # fmt: skip
                continue
            try:
                depth: Depth = to_depth(found[name], given.depth_transport, config.max_image_pixels)
            except InputError as error:
                self._refuse("image", f"camera {name!r} ({given.depth}): {error}")
            else:
                views[name] = DepthView(depth, *scene.cameras[name])
        return views


def cloud_message(header: Header, table: LabelTable, found: Mapping[str, Located]) -> PointCloud2:
    """Return the point cloud of all objects, with the fields x, y, z, rgb and label.

    Args:
        header: header of the message.
        table: labels of the objects; rgb is an object's colour in the overlay.
        found: object id to the located object.
    """
    parts = []
    for name, one in found.items():
        label = table.label_of(name)
        part = np.zeros(len(one.cloud.points), POINT)
        for axis, key in enumerate("xyz"):
            part[key] = one.cloud.points[:, axis]
        red, green, blue = overlay.colour(label - 1)
        part["rgb"], part["label"] = red << 16 | green << 8 | blue, label
        parts.append(part)
    points = np.concatenate(parts) if parts else np.zeros(0, POINT)
    fields = [
        PointField(name=name, offset=POINT.fields[name][1], datatype=kind, count=1)  # type: ignore[index]
        for name, kind in _KINDS.items()
    ]
    data = array("B")
    data.frombytes(points.tobytes())
    return PointCloud2(
        header=header, height=1, width=len(points), fields=fields, is_bigendian=False,
        point_step=POINT.itemsize, row_step=POINT.itemsize * len(points), data=data, is_dense=True,
    )  # fmt: skip


def _centres(header: Header, table: LabelTable, found: Mapping[str, Located]) -> ObjectPointArray:
    """The centre of each object's box, as the message from which markers and boxes are made."""
    message = ObjectPointArray(header=header)
    for name, one in found.items():
        point = PointStamped(header=header)
        point.point.x, point.point.y, point.point.z = map(float, one.cloud.centre)
        cameras = list(one.by_camera)
        message.points.append(
            ObjectPoint(object_id=name, label=table.label_of(name), point=point, cameras=cameras)
        )
    return message


def _triangulation(point: ObjectPoint | None) -> Triangulation | None:
    if point is None:
        return None
    place = point.point.point
    there = np.array([place.x, place.y, place.z])
    return Triangulation(there, float(point.reprojection_error), float(point.angle))
