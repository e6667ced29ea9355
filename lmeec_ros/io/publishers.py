"""Create and destroy publishers, those of lifecycle nodes and of plain ones."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from lmeec_ros.parameters.qos_overrides import overriding


def make_publisher(node: Node, kind: Any, topic: str, depth: int, latched: bool = False) -> Any:
    """Create a reliable publisher, which matches reliable and best-effort subscriptions.

    Args:
        node: the node; a lifecycle node publishes only while it is active.
        kind: message class.
        topic: topic name, such as "~/points".
        depth: queue depth.
        latched: whether late subscribers receive the last message.
    """
    qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)
    if latched:
        qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
    options: dict[str, Any] = {"qos_overriding_options": overriding(node, topic, "publisher")}
    if isinstance(node, LifecycleNode):
        return node.create_lifecycle_publisher(kind, topic, qos, **options)
    return node.create_publisher(kind, topic, qos, **options)


def destroy_publisher(node: Node, publisher: Any) -> None:
    """Destroy a publisher of `make_publisher`."""
    if isinstance(node, LifecycleNode):
        node.destroy_lifecycle_publisher(publisher)
    else:
        node.destroy_publisher(publisher)
