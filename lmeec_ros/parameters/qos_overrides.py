"""ROS's own parameters for the quality of service of topics: qos_overrides.*."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

from lmeec_ros.parameters.files import ParameterError

if TYPE_CHECKING:
    # Imported where it is used: what reads parameters needs no ROS.
    from rclpy.node import Node
    from rclpy.qos_overriding_options import QoSOverridingOptions

Entity = Literal["publisher", "subscription"]
PREFIX = "qos_overrides."


def overriding(node: Node, topic: str, entity: Entity) -> QoSOverridingOptions:
    """The policies that parameters set for one topic; all others stay as the node has them.

    Args:
        node: makes the publisher or the subscription.
        topic: as it is given to the node.
        entity: which of the two it is.
    """
    from rclpy.qos import QoSPolicyKind
    from rclpy.qos_overriding_options import QoSOverridingOptions

    start = f"{PREFIX}{node.resolve_topic_name(topic)}.{entity}."
    given = [name.removeprefix(start) for name in _given(node) if name.startswith(start)]
    return QoSOverridingOptions([kind for kind in QoSPolicyKind if kind.name.lower() in given])


def refuse_unused(node: Node, later: Collection[str] = ()) -> None:
    """Refuse what no publisher or subscription of the node has taken.

    Args:
        node: all of whose publishers and subscriptions are there.
        later: resolved topics that it may subscribe to later on.

    Raises:
        ParameterError: an override for a topic, or of a policy, that cannot be set.
    """
    postponed = tuple(f"{PREFIX}{topic}.subscription." for topic in later)
    left = [n for n in _given(node) if not (node.has_parameter(n) or n.startswith(postponed))]
    if not left:
        return
    own = [f"{p.topic_name} (publisher)" for p in node.publishers]
    own += [f"{topic} (subscription)" for topic in sorted({*later, *_heard(node)})]
    raise ParameterError(
        f"{left[0]}: given, but nothing of this node takes it; "
        f"{PREFIX}<topic>.publisher.<policy> or .subscription.<policy> with a policy such as depth "
        f"or reliability expected, and one of these topics with its namespace: {', '.join(own)}"
    )


def _heard(node: Node) -> list[str]:
    return [one.topic_name for one in node.subscriptions]


def _given(node: Node) -> list[str]:
    # rclpy has no public way to see overrides that nobody declared.
    return [name for name in node._parameter_overrides if name.startswith(PREFIX)]
