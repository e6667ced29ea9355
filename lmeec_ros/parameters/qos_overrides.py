"""Support for ROS's qos_overrides.* parameters, which set the QoS of topics."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

from lmeec_ros.parameters.files import ParameterError

if TYPE_CHECKING:
    # Not imported at run time: parameters can be read without ROS.
    from rclpy.node import Node
    from rclpy.qos_overriding_options import QoSOverridingOptions

Entity = Literal["publisher", "subscription"]
PREFIX = "qos_overrides."


def overriding(node: Node, topic: str, entity: Entity) -> QoSOverridingOptions:
    """Return the policies that parameters may override for one publisher or subscription.

    Only policies that are given as parameters are included; the others keep the node's values.

    Args:
        node: the node that creates the publisher or the subscription.
        topic: topic name, as passed to the node.
        entity: whether it is a publisher or a subscription.
    """
    from rclpy.qos import QoSPolicyKind
    from rclpy.qos_overriding_options import QoSOverridingOptions

    start = f"{PREFIX}{node.resolve_topic_name(topic)}.{entity}."
    given = [name.removeprefix(start) for name in _given(node) if name.startswith(start)]
    return QoSOverridingOptions([kind for kind in QoSPolicyKind if kind.name.lower() in given])


def refuse_unused(node: Node, later: Collection[str] = ()) -> None:
    """Refuse overrides that apply to no publisher or subscription of the node.

    Args:
        node: the node, with all its publishers and subscriptions.
        later: resolved topics that the node may subscribe to later.

    Raises:
        ParameterError: if an override names an unknown topic or a policy that cannot be set.
    """
    postponed = tuple(f"{PREFIX}{topic}.subscription." for topic in later)
    left = [n for n in _given(node) if not (node.has_parameter(n) or n.startswith(postponed))]
    if not left:
        return
    own = [f"{p.topic_name} (publisher)" for p in node.publishers]
    subscribed = {one.topic_name for one in node.subscriptions}
    own += [f"{topic} (subscription)" for topic in sorted(subscribed.union(later))]
    raise ParameterError(
        f"{left[0]}: given, but it matches no publisher or subscription of this node; "
        f"{PREFIX}<topic>.publisher.<policy> or .subscription.<policy> with a policy such as depth "
        f"or reliability expected, and one of these topics with its namespace: {', '.join(own)}"
    )


def _given(node: Node) -> list[str]:
    # rclpy has no public way to read overrides of undeclared parameters.
    return [name for name in node._parameter_overrides if name.startswith(PREFIX)]
