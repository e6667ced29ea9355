"""The node's publishers: masks, label image and overlay of each target camera, and points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmeec.msg import CorrespondenceMaskArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lmeec_ros.geometry import Points
from lmeec_ros.parameters import NodeConfig, topic_token
from lmeec_ros.pipeline import SetProcessor, TargetOutput

KINDS: tuple[tuple[str, Any], ...] = (
    ("masks", CorrespondenceMaskArray),
    ("label_image", Image),
    ("overlay", Image),
)


class Outputs:
    """Lifecycle publishers `~/<target>/masks`, `~/<target>/label_image`, `~/<target>/overlay`.

    Args:
        node: the node; its activation lets them publish.
        config: target cameras, depth and geometry.

    Raises:
        ValueError: if the points cannot be had; see :class:`lmeec_ros.geometry.Points`.
    """

    def __init__(self, node: LifecycleNode, config: NodeConfig) -> None:
        self._node = node
        self.points = Points(node, config) if config["output.points"] else None
        # Reliable publishers are heard by reliable and by best-effort subscriptions.
        qos = QoSProfile(depth=config["output.qos_depth"], reliability=ReliabilityPolicy.RELIABLE)
        self._publishers: dict[tuple[str, str], Any] = {
            (target, kind): node.create_lifecycle_publisher(
                msg_type, f"~/{topic_token(target)}/{kind}", qos
            )
            for target in config.target_cameras
            for kind, msg_type in KINDS
        }

    def publish(
        self, query_header: Header, found: Mapping[str, TargetOutput], processor: SetProcessor
    ) -> None:
        """Publish a set: each target camera's outputs, and the objects' points in space."""
        for target, output in found.items():
            self._publish(target, output, processor)
        if self.points is not None:
            self.points.publish(query_header, found, processor)

    def _publish(self, target: str, output: TargetOutput, processor: SetProcessor) -> None:
        """Publish what is wanted; label image and overlay are made only if someone listens."""
        config, table = processor.config, processor.table
        threshold = config["presence_threshold"]
        if config["output.masks"]:
            self._publishers[target, "masks"].publish(output.message)
        if self._wanted(target, "label_image", config):
            label_image = output.label_image(table, threshold)
            self._publishers[target, "label_image"].publish(label_image)
        if self._wanted(target, "overlay", config):
            self._publishers[target, "overlay"].publish(output.overlay(table, threshold))

    def has_listeners(self, target: str) -> bool:
        """Whether anybody subscribes to an output of the target."""
        publishers = (one for (name, _), one in self._publishers.items() if name == target)
        return any(one.get_subscription_count() for one in publishers)

    def _wanted(self, target: str, kind: str, config: NodeConfig) -> bool:
        publisher = self._publishers[target, kind]
        return bool(config[f"output.{kind}"] and publisher.get_subscription_count())

    def forget(self) -> None:
        """Forget what belongs to the time before a backward jump."""
        if self.points is not None:
            self.points.forget()

    def destroy(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()
        if self.points is not None:
            self.points.destroy()
