"""lmeec_points: locate objects in a separate process, beside the node or on another machine."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import rclpy
from lmeec.msg import CorrespondenceMaskArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header

from lmeec_core.errors import InputError
from lmeec_core.sync.image_set import QUERY_MASKS
from lmeec_core.sync.pairing import MatchedSet, PairingCore
from lmeec_core.sync.stream_monitor import LogThrottle
from lmeec_ros.io.camera_infos import CameraInfos
from lmeec_ros.io.inputs import inputs_of
from lmeec_ros.io.messages import LabelTable, Mask
from lmeec_ros.io.reading import read_query_masks
from lmeec_ros.io.synchronizer import nanoseconds, stamp_of
from lmeec_ros.parameters import config as parameters
from lmeec_ros.parameters import files as parameter_files
from lmeec_ros.parameters.config import topic_token
from lmeec_ros.parameters.qos_overrides import overriding, refuse_unused
from lmeec_ros.points.points import Points, Seen

NAME = "lmeec_points"
DEPTH = 20
REPEAT = 30.0


@dataclass(frozen=True)
class _Found:
    """The masks of a camera, as published by the node."""

    message: CorrespondenceMaskArray

    @property
    def header(self) -> Header:
        return self.message.header


class PointsNode(Node):
    """Locates objects from the masks that the lmeec node publishes. It has the same parameters.

    It subscribes to `lmeec/<camera>/masks`, to the query masks, and to CameraInfo and tf if the
    calibration file lacks intrinsics or poses. Masks are paired by the stamp of their query image.

    Args:
        name: name of the node.
        kwargs: further arguments of rclpy.node.Node.

    Raises:
        lmeec_ros.parameters.config.ParameterError: if a parameter is wrong, unknown or missing.
        lmeec_core.calibration.CalibrationError: if the calibration file cannot be used.
    """

    def __init__(self, name: str = NAME, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.config = config = parameters.declare(self)
        self.table = LabelTable(config.objects, config.ignore_labels, self.get_logger().warning)
        self.infos = CameraInfos(self, config)
        self.points = Points(self, config, self.infos)
        self._throttle = LogThrottle(REPEAT, count=False)
        self._lock = threading.Lock()
        anchor = config.query_camera if config.prompted else QUERY_MASKS
        self._pairing: PairingCore[Any] = PairingCore(
            anchor,
            config.target_cameras,
            round(config.pairing.tolerance * 1e9),
            config.pairing.queue,
            config.target_cameras,
            round(config.pairing.partial_wait * 1e9) if config.pairing.partial else None,
        )
        for camera in config.published:
            topic = f"lmeec/{topic_token(camera)}/masks"
            take = partial(self._take, camera)
            self._subscribe(CorrespondenceMaskArray, topic, take, ReliabilityPolicy.RELIABLE)
        masks = inputs_of(config).masks
        if masks is not None:
            take = partial(self._take, QUERY_MASKS)
            # Best effort matches every publisher; the lmeec node reports lost masks.
            reliable = masks.qos == "reliable"
            policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
            self._subscribe(masks.kind, masks.topic, take, policy)
        later = [self.config.cameras[name].depth for name in config.views]
        refuse_unused(self, [self.resolve_topic_name(topic) for topic in later if topic])

    def close(self) -> None:
        """Release publishers and subscriptions, before the node is destroyed."""
        self.points.destroy()
        self.infos.close()

    def _subscribe(self, kind: Any, topic: str, take: Any, policy: ReliabilityPolicy) -> None:
        self.create_subscription(
            kind,
            topic,
            take,
            QoSProfile(depth=DEPTH, reliability=policy),
            qos_overriding_options=overriding(self, topic, "subscription"),
        )

    def _take(self, stream: str, message: Any) -> None:
        # All masks of a set carry the stamp of their query image.
        given = stream == QUERY_MASKS
        stamp = stamp_of(message) if given else nanoseconds(message.query_header.stamp)
        with self._lock:
            epoch = self._pairing.epoch
            found = self._pairing.add(stream, stamp, message)
            jumped = self._pairing.epoch != epoch
        if jumped:
            self.points.forget()
        for one in found:
            self._locate(one)

    def _locate(self, one: MatchedSet[Any]) -> None:
        items = dict(one.items)
        given = items.pop(QUERY_MASKS, None)
        try:
            masks: dict[str, Mask | None] = {}
            if given is not None:
                masks = read_query_masks(self.config, self.table, given)
        except InputError as error:
            if line := self._throttle("query masks", f"set left out: {error}"):
                self.get_logger().error(line)
            return
        query_header = next(iter(items.values())).query_header
        found = {camera: _Found(message) for camera, message in items.items()}
        for message in items.values():
            for entry in message.masks:
                self.table.label_of(entry.object_id, int(entry.label))
        self.points.publish(query_header, found, Seen(self.config, self.table, masks))


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is interrupted, and return the exit status."""
    try:
        rclpy.init(args=list(args) if args is not None else None)
        node = PointsNode()
        parameter_files.refuse_other_nodes(
            node.get_fully_qualified_name(),
            sys.argv if args is None else args,
            node.get_logger().warning,
        )
    except KeyboardInterrupt:
        return 0
    except InputError as error:
        print(f"{NAME}: not started: {error}", file=sys.stderr, flush=True)
        rclpy.try_shutdown()
        return 2
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    node.close()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0
