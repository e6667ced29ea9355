"""The topic ~/points: objects located in space from their masks in two or more cameras."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped
from lmeec.msg import ObjectPoint, ObjectPointArray
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo
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
from lmeec_ros.inference.pipeline import SetProcessor, TargetOutput
from lmeec_ros.inference.worker import Worker
from lmeec_ros.io.messages import LabelTable, Mask
from lmeec_ros.parameters.config import NodeConfig, ParameterError
from lmeec_ros.points.camera_info import centre_of as centre_of
from lmeec_ros.points.camera_info import lens_of as lens_of

try:
    import tf2_ros
except ImportError:
    tf2_ros = None

TRANSFORM_PATIENCE = 0.2
"""Seconds that a set waits for the transform of its stamp, in a thread of its own."""
SETS_WAITING = 5
"""Sets that may wait for their transforms; the oldest is dropped."""
END_PATIENCE = 5.0
REPEAT = 30.0


class Poses:
    """Poses of cameras in a frame at a time, from tf.

    Args:
        node: the node.
        frame: the common frame.

    Raises:
        ParameterError: if tf2_ros is not installed.
    """

    def __init__(self, node: LifecycleNode, frame: str) -> None:
        if tf2_ros is None:
            raise ParameterError(
                "geometry.calibration: without the pose of every camera, which takes the ROS "
                "package tf2_ros (not installed); put position and orientation of each camera "
                "into a calibration file"
            )
        self._frame = frame
        # It waits by the system's clock: simulated time may stand still.
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def at(self, header: Header) -> Pose:
        """The pose of the frame in a header, at its stamp.

        Raises:
            GeometryError: if tf does not know it; says what tf says.
        """
        try:
            found = self._buffer.lookup_transform(
                self._frame,
                header.frame_id,
                Time.from_msg(header.stamp),
                Duration(seconds=TRANSFORM_PATIENCE),
            ).transform
        except (tf2_ros.TransformException, ValueError) as error:
            raise GeometryError(
                "transform", f"no transform from {header.frame_id!r} to {self._frame!r}: {error}"
            ) from error
        place, turn = found.translation, found.rotation
        return Pose.from_quaternion((place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w))

    def forget(self) -> None:
        """Forget the transforms that are not static; else tf refuses older ones after a jump."""
        self._buffer.clear()

    def close(self) -> None:
        """Unsubscribe."""
        self._listener.unregister()


@dataclass(frozen=True)
class _Seen:
    """The settings of a set, as they were when it was processed."""

    config: NodeConfig
    table: LabelTable
    query_masks: Mapping[str, Mask | None]


_Set = tuple[Header, Mapping[str, TargetOutput], _Seen]


class Points:
    """Lifecycle publishers `~/points`, and `~/points/<object>` for the objects named by parameter.

    Lenses come from the calibration file, else from CameraInfo; poses from the file, else from tf.

    Args:
        node: the node.
        config: cameras, objects and geometry.

    Raises:
        ParameterError: if there is no common frame, or poses are missing and so is tf.
        lmeec_core.calibration.CalibrationError: if the file cannot be used.
    """

    def __init__(self, node: LifecycleNode, config: NodeConfig) -> None:
        self._node = node
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
        cameras = (config.query_camera, *config.target_cameras)
        known = {*self._calibration.lenses, *self._calibration.poses}
        if strange := sorted(known - {*cameras}):
            node.get_logger().warning(
                f"geometry.calibration: {file} describes {', '.join(strange)}, which is no camera "
                f"of this node ({', '.join(cameras)})"
            )
        moving = [name for name in cameras if name not in self._calibration.poses]
        self._infos: dict[str, Any] = {}
        self._throttle = LogThrottle(REPEAT, count=False)
        self.located = 0
        self.refused: Counter[str] = Counter()
        self._poses: Poses | None = None
        # A transform may come after its image; the inference must not wait for it.
        self._waiting: Worker[_Set] | None = None
        self._subscriptions: list[Any] = []
        self._all: Any = None
        self._named: dict[str, Any] = {}
        try:
            self._open(config, moving, [n for n in cameras if n not in self._calibration.lenses])
        except BaseException:
            self.destroy()
            raise

    def _open(self, config: NodeConfig, moving: list[str], unknown: list[str]) -> None:
        """Subscribe to tf and to CameraInfo where they are needed, and make the publishers."""
        node = self._node
        if moving:
            self._poses = Poses(node, self.frame)
        for name in unknown:
            take = partial(self._infos.__setitem__, name)
            topic = config.cameras[name].camera_info
            subscription = node.create_subscription(
                CameraInfo, topic, take, qos_profile_sensor_data
            )
            self._subscriptions.append(subscription)
        qos = QoSProfile(depth=config.output.qos_depth, reliability=ReliabilityPolicy.RELIABLE)
        self._all = node.create_lifecycle_publisher(ObjectPointArray, "~/points", qos)
        tokens = object_tokens(config.objects)
        for name, token in tokens.items():
            topic = f"~/points/{token}"
            self._named[name] = node.create_lifecycle_publisher(PointStamped, topic, qos)
        if given := [f"{n!r}: ~/points/{t}" for n, t in tokens.items() if t != object_token(n)]:
            node.get_logger().info(
                f"topic names take ASCII letters and digits only: {', '.join(given)}"
            )
        if moving:
            self._waiting = Worker(self._publish, self._failed, SETS_WAITING, "points")
            self._waiting.start()

    def publish(
        self, query_header: Header, found: Mapping[str, TargetOutput], processor: SetProcessor
    ) -> None:
        """Locate the objects of a set, and publish those that can be.

        Args:
            query_header: the query image's.
            found: target camera to what was found in it.
            processor: its configuration, labels and last query masks.
        """
        # The processor goes on to the next set.
        seen = _Seen(processor.config, processor.table, processor.query_masks)
        if self._waiting is None:
            self._publish((query_header, found, seen))
        elif not self._waiting.put((query_header, found, seen)):
            self.refused["late"] += 1

    def _publish(self, one: _Set, _: float = 0.0) -> None:
        message = self.locate(*one)
        self._all.publish(message)
        for point in message.points:
            if point.object_id in self._named:
                self._named[point.object_id].publish(point.point)

    def _failed(self, error: Exception) -> None:
        if line := self._throttle(type(error).__name__, f"~/points of a set failed: {error!r}"):
            self._node.get_logger().error(line)

    def has_listeners(self) -> bool:
        """Whether anybody subscribes to ~/points or to an object's own topic."""
        publishers = (self._all, *self._named.values())
        return any(one.get_subscription_count() for one in publishers)

    def locate(
        self, query_header: Header, found: Mapping[str, TargetOutput], seen: _Seen | SetProcessor
    ) -> ObjectPointArray:
        """Return the message of a set; arguments as in :meth:`publish`."""
        config, table = seen.config, seen.table
        header = Header(stamp=query_header.stamp, frame_id=self.frame)
        message = ObjectPointArray(header=header)
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
                # That the other cameras do not see an object is normal.
                if error.kind != "views" and (line := self._throttle(f"{name} {error.kind}", text)):
                    self._node.get_logger().info(line)
                continue
            self.located += 1
            message.points.append(_message(name, table, header, point, list(views)))
        return message

    def _cameras(
        self, config: NodeConfig, query_header: Header, found: Mapping[str, TargetOutput]
    ) -> dict[str, tuple[Intrinsics, Pose]]:
        """Lens and pose of each camera that has both now; what others lack is logged."""
        headers = {config.query_camera: query_header}
        headers |= {camera: output.header for camera, output in found.items()}
        cameras = {}
        for camera, header in headers.items():
            try:
                lens = self._lens(config, camera)
                cameras[camera] = lens, self._pose(config, camera, header)
            except GeometryError as error:
                self.refused[error.kind] += 1
                text = f"camera {camera!r} has no part in ~/points: {error}"
                if line := self._throttle(f"{camera} {error.kind}", text):
                    self._node.get_logger().warning(line)
        return cameras

    def _pose(self, config: NodeConfig, camera: str, header: Header) -> Pose:
        if camera in self._calibration.poses:
            return self._calibration.poses[camera]
        assert self._poses is not None
        pose = self._poses.at(header)
        if camera in self._infos:  # the file's pose is the camera's own, tf's is its header's
            centre = centre_of(self._infos[camera], config.cameras[camera].rectified)
            pose = Pose(pose.rotation, pose.position + pose.rotation @ centre)
        return pose

    def _lens(self, config: NodeConfig, camera: str) -> Intrinsics:
        if camera in self._calibration.lenses:
            return self._calibration.lenses[camera]
        given = config.cameras[camera]
        if camera not in self._infos:
            raise GeometryError("calibration", f"no CameraInfo came on {given.camera_info}")
        return lens_of(self._infos[camera], given.rectified)

    def forget(self) -> None:
        """Forget everything from before a backward jump of time."""
        if self._waiting is not None:
            self._waiting.discard()
        if self._poses is not None:
            self._poses.forget()

    def destroy(self) -> None:
        """Destroy publishers and subscriptions."""
        if self._waiting is not None:
            self._waiting.stop(END_PATIENCE)
        for publisher in (self._all, *self._named.values()):
            if publisher is not None:
                self._node.destroy_lifecycle_publisher(publisher)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        if self._poses is not None:
            self._poses.close()


def object_token(name: str) -> str:
    """An object's id in a form that topic names allow: other characters become _."""
    token = re.sub("[^A-Za-z0-9]+", "_", name)
    return f"_{token}" if token[0].isdigit() else token


def object_tokens(objects: Mapping[int, str]) -> dict[str, str]:
    """Each object's id to its part of a topic name, no two the same.

    Topic names take ASCII letters and digits only. An id with letters of other scripts is called
    object_<label> there.

    Args:
        objects: label to id.

    Raises:
        ParameterError: if ids differ in other characters only.
    """
    tokens: dict[str, str] = {}
    for label, name in objects.items():
        plain = all(letter.isascii() for letter in name if letter.isalnum())
        tokens[name] = object_token(name) if plain and any(map(str.isalnum, name)) else ""
        tokens[name] = tokens[name] or f"object_{label}"
    if len(set(tokens.values())) < len(tokens):
        raise ParameterError(
            f"objects: {', '.join(map(repr, tokens))} given, which do not all differ in their "
            "letters and digits; topics ~/points/<object> need that (or output.points: false)"
        )
    return tokens


Centroids = dict[str, tuple[Any, tuple[int, int]]]


def _centroids(
    config: NodeConfig, found: Mapping[str, TargetOutput], query_masks: Mapping[str, Mask | None]
) -> dict[str, Centroids]:
    """Object id to camera to the mask's centroid (x, y) and the size (width, height) around it."""
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
