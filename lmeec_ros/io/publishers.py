"""Publishers as the node and the points have them."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from lmeec_ros.parameters.qos_overrides import overriding


def make_publisher(node: Node, kind: Any, topic: str, depth: int, latched: bool = False) -> Any:
    """A reliable publisher, which reliable and best-effort subscriptions hear.

    Args:
        node: a lifecycle node's activation lets it publish.
        kind: message class.
        topic: its name, as "~/points".
        depth: of its queue.
        latched: late subscribers get the last message.
    """
    qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)
    if latched:
        qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
    options: dict[str, Any] = {"qos_overriding_options": overriding(node, topic, "publisher")}
    if isinstance(node, LifecycleNode):
        return node.create_lifecycle_publisher(kind, topic, qos, **options)
    return node.create_publisher(kind, topic, qos, **options)


def destroy_publisher(node: Node, publisher: Any) -> None:
    """Take a publisher of `make_publisher` down."""
    if isinstance(node, LifecycleNode):
        node.destroy_lifecycle_publisher(publisher)
    else:
        node.destroy_publisher(publisher)
