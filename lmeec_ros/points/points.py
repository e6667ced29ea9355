"""The topic ~/points: objects located in space from their masks in two or more cameras."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PointStamped
from lmeec.msg import CorrespondenceMaskArray, ObjectPoint, ObjectPointArray
from rclpy.node import Node
from std_msgs.msg import Header

from lmeec_core.calibration import Calibration, read_calibration
from lmeec_core.geometry import (
    GeometryError,
    Intrinsics,
    Pose,
    Triangulation,
    View,
    centroid,
    triangulate,
)
from lmeec_core.sync.stream_monitor import LogThrottle
from lmeec_ros.inference.worker import Worker
from lmeec_ros.io import standard
from lmeec_ros.io.camera_infos import CameraInfos
from lmeec_ros.io.messages import LabelTable, Mask
from lmeec_ros.io.publishers import destroy_publisher, make_publisher
from lmeec_ros.io.synchronizer import nanoseconds, offset_of
from lmeec_ros.parameters.config import NodeConfig, ParameterError
from lmeec_ros.points.camera_info import centre_of as centre_of
from lmeec_ros.points.camera_info import lens_of as lens_of
from lmeec_ros.points.depth import Clouds, Scene
from lmeec_ros.points.poses import Poses

if TYPE_CHECKING:
    # At run time this would import the network, which is not needed here.
    from lmeec_ros.inference.pipeline import SetProcessor

SETS_WAITING = 5
"""Maximum number of sets waiting for their transforms; the oldest is dropped."""
END_PATIENCE = 5.0
"""Seconds to wait for the thread to end."""
REPEAT = 30.0
"""Seconds after which the same message may be logged again."""
POINTS, MARKERS, DETECTIONS = "~/points", "~/points/markers", "~/points/detections"
STANDARD = {
    MARKERS: "visualization_msgs/MarkerArray",
    DETECTIONS: "vision_msgs/Detection3DArray",
}
"""Topics with the same content as standard messages, if their packages are installed."""


@dataclass(frozen=True)
class Seen:
    """Configuration, labels and query masks at the time when a set was processed."""

    config: NodeConfig
    table: LabelTable
    query_masks: Mapping[str, Mask | None]


class Found(Protocol):
    """The result of a set for one camera."""

    @property
    def message(self) -> CorrespondenceMaskArray:
        """Masks of the camera."""

    @property
    def header(self) -> Header:
        """Header of the camera's image."""


_Set = tuple[Header, Mapping[str, Found], Seen]


class Points:
    """Publishes `~/points`, and the same as standard messages while they have subscribers.

    Intrinsics come from the calibration file, else from CameraInfo; poses from the file, else from
    tf.

    Args:
        node: the node; a lifecycle node publishes only while it is active.
        config: cameras, objects and geometry.
        infos: provides CameraInfo of cameras whose intrinsics are not in the calibration file.

    Attributes:
        frame: frame of the points.
        located: number of objects located so far.
        refused: number of objects and cameras that could not be used, by reason.
        clouds: the clouds; None if no camera has a depth topic.

    Raises:
        ParameterError: if there is no common frame, or poses are missing and tf2_ros too.
        lmeec_core.calibration.CalibrationError: if the calibration file cannot be used.
    """

    def __init__(self, node: Node, config: NodeConfig, infos: CameraInfos) -> None:
        self._node, self._infos = node, infos
        file = config.geometry.calibration
        self._calibration = read_calibration(file) if file else Calibration()
        self.frame = config.geometry.frame or self._calibration.frame
        if not self.frame:
            raise ParameterError(
                "geometry.frame: nothing given; the frame of ~/points, or a calibration file, "
                "expected (or output.points: false)"
            )
        if self._calibration.frame not in ("", self.frame):
            raise ParameterError(
                f"geometry.frame: {self.frame!r} given, but the poses in {file} are in "
                f"{self._calibration.frame!r}; leave it empty"
            )
        if self._calibration.moving:
            raise ParameterError(
                f"geometry.calibration: {file} has a pose per frame for "
                f"{', '.join(self._calibration.moving)}, which only recorded takes have; leave "
                "these poses out: the poses of moving cameras come from tf"
            )
        known = {*self._calibration.lenses, *self._calibration.poses}
        if strange := sorted(known - {*config.views}):
            node.get_logger().warning(
                f"geometry.calibration: {file} describes {', '.join(strange)}, unknown to this "
                f"node (its cameras: {', '.join(config.views)})"
            )
        self._throttle = LogThrottle(REPEAT, count=False)
        self.located = 0
        self.refused: Counter[str] = Counter()
        self._poses: Poses | None = None
        # A transform may arrive after its image, and inference must not wait for it.
        self._waiting: Worker[_Set] | None = None
        self._publishers: dict[str, Any] = {}
        self.clouds: Clouds | None = None
        try:
            self._open(config)
        except BaseException:
            self.destroy()
            raise

    def _open(self, config: NodeConfig) -> None:
        """Subscribe to tf and CameraInfo if they are needed, and create the publishers."""
        node, moving = self._node, {*config.views} - self._calibration.poses.keys()
        if moving:
            self._poses = Poses(node, self.frame)
        self._infos.keep({*config.views} - self._calibration.lenses.keys())
        kinds = {POINTS: ObjectPointArray}
        if config.output.standard:
            kinds |= standard.installed(STANDARD, node.get_logger().info)
        for topic, kind in kinds.items():
            self._publishers[topic] = make_publisher(node, kind, topic, config.output.qos_depth)
        if any(config.cameras[name].depth for name in config.views):
            self.clouds = Clouds(node, config)
        if moving:
            self._waiting = Worker(self._publish, self._failed, SETS_WAITING, "points")
            self._waiting.start()

    def publish(
        self, query_header: Header, found: Mapping[str, Found], processor: Seen | SetProcessor
    ) -> None:
        """Locate the objects of a set, and publish those that could be located.

        Args:
            query_header: header of the query image.
            found: target camera to its result.
            processor: configuration, labels and query masks of the set.
        """
        # A copy, since the processor continues with the next set.
        seen = Seen(processor.config, processor.table, processor.query_masks)
        if self._waiting is None:
            self._publish((query_header, found, seen))
        elif not self._waiting.put((query_header, found, seen)):
            self.refused["late"] += 1

    def _publish(self, one: _Set, _: float = 0.0) -> None:
        query_header, found, seen = one
        cameras = self._cameras(seen.config, query_header, found)
        message = self.locate(*one, cameras)
        masks = {name: output.message for name, output in found.items()}
        make = {
            POINTS: lambda: message,
            MARKERS: lambda: standard.markers(message),
            DETECTIONS: lambda: standard.detections_3d(
                message, standard.presence_of(message, masks)
            ),
        }
        for topic, publisher in self._publishers.items():
            if topic == POINTS or publisher.get_subscription_count():
                publisher.publish(make[topic]())
        if self.clouds is not None:
            headers = _headers(seen.config, query_header, found)
            given = Scene(message, headers, cameras, seen.query_masks, masks, seen.table)
            self.clouds.publish(given, seen.config)

    def _failed(self, error: Exception) -> None:
        if line := self._throttle(type(error).__name__, f"~/points of a set failed: {error!r}"):
            self._node.get_logger().error(line)

    def has_listeners(self) -> bool:
        """Return whether any of the topics, including the clouds, has subscribers."""
        if self.clouds is not None and self.clouds.has_listeners():
            return True
        return any(one.get_subscription_count() for one in self._publishers.values())

    def locate(
        self,
        query_header: Header,
        found: Mapping[str, Found],
        seen: Seen | SetProcessor,
        cameras: Mapping[str, tuple[Intrinsics, Pose]] | None = None,
    ) -> ObjectPointArray:
        """Locate the objects of a set.

        Args:
            query_header, found, seen: as in :meth:`publish`.
            cameras: camera to its intrinsics and pose; None: those known now.
        """
        config, table = seen.config, seen.table
        header = Header(stamp=query_header.stamp, frame_id=self.frame)
        message = ObjectPointArray(header=header)
        if cameras is None:
            cameras = self._cameras(config, query_header, found)
        for name, places in _centroids(config, found, seen.query_masks).items():
            try:
                views = {
                    camera: View(*cameras[camera], cameras[camera][0].scaled(pixel, size))
                    for camera, (pixel, size) in places.items()
                    if camera in cameras
                }
                limits = config.geometry.max_error, config.geometry.min_angle
                point = triangulate(list(views.values()), *limits)
            except GeometryError as error:
                self.refused[error.kind] += 1
                text = f"object {name!r} is not located: {error}"
                # Kind "views" is normal: fewer than two cameras see the object.
                if error.kind != "views" and (line := self._throttle(f"{name} {error.kind}", text)):
                    self._node.get_logger().info(line)
                continue
            self.located += 1
            message.points.append(_message(name, table, header, point, list(views)))
        return message

    def _cameras(
        self, config: NodeConfig, query_header: Header, found: Mapping[str, Found]
    ) -> dict[str, tuple[Intrinsics, Pose]]:
        """Intrinsics and pose of each camera; a camera that lacks either is logged and left out."""
        cameras = {}
        for camera, header in _headers(config, query_header, found).items():
            try:
                lens = self._lens(config, camera)
                cameras[camera] = lens, self._pose(config, camera, header)
            except GeometryError as error:
                self.refused[error.kind] += 1
                text = f"camera {camera!r} is not used for ~/points: {error}"
                if line := self._throttle(f"{camera} {error.kind}", text):
                    self._node.get_logger().warning(line)
        return cameras

    def _pose(self, config: NodeConfig, camera: str, header: Header) -> Pose:
        if camera in self._calibration.poses:
            return self._calibration.poses[camera]
        assert self._poses is not None
        pose = self._poses.at(_in_common_time(header, offset_of(config, camera)))
        info = None if camera in self._calibration.lenses else self._infos.get(camera)
        if info is not None:  # unlike the file's pose, tf's is that of the header's frame
            centre = centre_of(info, config.cameras[camera].rectified)
            pose = Pose(pose.rotation, pose.position + pose.rotation @ centre)
        return pose

    def _lens(self, config: NodeConfig, camera: str) -> Intrinsics:
        if camera in self._calibration.lenses:
            return self._calibration.lenses[camera]
        given = config.cameras[camera]
        info = self._infos.get(camera)
        if info is None:
            raise GeometryError("calibration", f"no CameraInfo arrived on {given.camera_info}")
        return lens_of(info, given.rectified)

    def forget(self) -> None:
        """Drop waiting sets, transforms and depth images after a backward jump of time."""
        if self._waiting is not None:
            self._waiting.discard()
        if self._poses is not None:
            self._poses.forget()
        if self.clouds is not None:
            self.clouds.forget()

    def destroy(self) -> None:
        """Destroy publishers and subscriptions."""
        if self._waiting is not None:
            self._waiting.stop(END_PATIENCE)
        if self.clouds is not None:
            self.clouds.destroy()
        for publisher in self._publishers.values():
            destroy_publisher(self._node, publisher)
        if self._poses is not None:
            self._poses.close()


def _headers(
    config: NodeConfig, query_header: Header, found: Mapping[str, Found]
) -> dict[str, Header]:
    """The header of each camera's image."""
    headers = {config.query_camera: query_header}
    return headers | {camera: output.header for camera, output in found.items()}


def _in_common_time(header: Header, offset: int) -> Header:
    """A camera's header with the stamp used for pairing, for the lookup in tf.

    Raises:
        GeometryError: if that stamp would be negative.
    """
    stamp = nanoseconds(header.stamp) + offset
    if stamp < 0:
        raise GeometryError(
            "transform",
            f"the image's stamp, {nanoseconds(header.stamp) / 1e9:.3f} s, and the camera's "
            f"time_offset, {offset / 1e9:.3f} s, add up to a negative time",
        )
    seconds, rest = divmod(stamp, 1_000_000_000)
    return Header(stamp=Time(sec=seconds, nanosec=rest), frame_id=header.frame_id)


Centroids = dict[str, tuple[Any, tuple[int, int]]]


def _centroids(
    config: NodeConfig, found: Mapping[str, Found], query_masks: Mapping[str, Mask | None]
) -> dict[str, Centroids]:
    """Object id to camera to the mask's centroid (x, y) and the image size (width, height)."""
    seen: dict[str, Centroids] = {}
    for name, mask in query_masks.items():
        if mask is not None and mask.any():
            height, width = mask.shape
            seen[name] = {config.query_camera: (np.array(centroid(mask)), (width, height))}
    for camera, output in found.items():
        size = int(output.message.width), int(output.message.height)
        for entry in output.message.masks:
            if entry.visible:
                pixel = np.array([entry.centroid_x, entry.centroid_y])
                seen.setdefault(entry.object_id, {})[camera] = (pixel, size)
    return seen


def _message(
    name: str, table: LabelTable, header: Header, found: Triangulation, cameras: list[str]
) -> ObjectPoint:
    point = PointStamped(header=header)
    point.point.x, point.point.y, point.point.z = (float(value) for value in found.point)
    return ObjectPoint(
        object_id=name,
        label=table.label_of(name),
        point=point,
        reprojection_error=found.error,
        angle=found.angle,
        cameras=cameras,
    )
