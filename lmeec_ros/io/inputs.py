"""One input of the node: its subscription, the quality of service, and what is known of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from lmeec.msg import CorrespondenceMaskArray
from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from sensor_msgs.msg import CompressedImage, Image

from lmeec_core.sync.stream_monitor import StreamMonitor
from lmeec_ros.io import filters
from lmeec_ros.io.outputs import Outputs
from lmeec_ros.parameters.config import NodeConfig

DEPTH = 5
LOOK_AGAIN = 2.0
"""Seconds after which a silent input's publishers are looked at again."""
QUERY_MASKS = "query masks"
"""Name of the query masks' input."""
TRANSPORTS = {"sensor_msgs/msg/Image": "raw", "sensor_msgs/msg/CompressedImage": "compressed"}
"""Value of the parameter `transport` for messages of a type."""


class InputStream(filters.SimpleFilter):  # type: ignore[misc]
    """A topic as a filter that outlives its subscription.

    With qos `auto` the subscription is reliable if every publisher offers it (or there is none
    yet), else best effort, which hears every publisher; `refresh` follows publishers that come
    later. Only `open` and `look` ask the ROS graph; everything else knows what they found.

    Args:
        node: the node.
        name: name of the input in logs and in the pairing.
        topic: topic, as given (remappings apply).
        msg_type: type of its messages.
        qos: auto, sensor_data or reliable.
        parameter: name of the parameter that sets the qos, for hints.
        group: callback group of the subscription.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        topic: str,
        msg_type: Any,
        qos: str,
        parameter: str,
        group: CallbackGroup,
    ) -> None:
        super().__init__()
        self.name = name
        self.topic = node.resolve_topic_name(topic)
        self.msg_type = msg_type
        self.monitor = StreamMonitor()
        self.reliability: ReliabilityPolicy | None = None
        self.on_error: Callable[[Exception], None] | None = None
        self._node = node
        self._qos = qos
        self._parameter = parameter
        self._group = group
        self._subscriber: Any = None
        self._retired: Any = None  # the one before, until the next refresh
        self._given_topic = topic
        self._offers: list[Any] = []  # the publishers, when `look` last saw them
        self._elsewhere = ""  # and other topics of this type, if there were none
        self._looked = 0.0
        self._looks = 0  # that are due because a publisher came or went
        self._told = True  # whether the middleware tells of that

    @property
    def is_open(self) -> bool:
        """Whether it is subscribed."""
        return self._subscriber is not None

    @property
    def matched(self) -> int:
        """Number of publishers that it is connected to and hears from now on."""
        return int(self._subscriber.sub.get_publisher_count()) if self.is_open else 0

    @property
    def type_name(self) -> str:
        """The type of its messages as ROS writes it, as sensor_msgs/msg/Image."""
        package = self.msg_type.__module__.split(".")[0]
        return f"{package}/msg/{self.msg_type.__name__}"

    def open(self) -> None:
        """Subscribe."""
        self.monitor = StreamMonitor()
        self._ask()
        self._looks = 1  # the graph may not know all of them yet
        self._subscribe(self._wanted())

    def close(self) -> None:
        """Unsubscribe; nothing comes any more."""
        for subscriber in (self._retired, self._subscriber):
            if subscriber is not None:
                self._drop(subscriber)
        self._retired = self._subscriber = self.reliability = None

    def refresh(self) -> None:
        """Subscribe anew if the publishers have changed what they offer (qos `auto`)."""
        if self._retired is not None:
            self._drop(self._retired)
            self._retired = None
        if self._subscriber is None or self._qos != "auto":
            return
        wanted = self._wanted()
        if wanted != self.reliability:
            # The old one goes with the next call only: publishers take a while to find the new
            # one, and nothing is to be lost between.
            self._retired = self._subscriber
            self._subscribe(wanted)

    def due(self, silent: bool) -> float:
        """For how many seconds a look at the publishers has been due; below 0: it is not yet."""
        if not self.is_open:
            return -1.0
        since = time.monotonic() - self._looked
        if self._looks:
            return since
        again = silent or not self._offers or not self._told
        return since - LOOK_AGAIN if again else -1.0

    def look(self) -> None:
        """Ask the ROS graph who publishes on the topic."""
        self._looks = max(0, self._looks - 1)
        self._ask()
        self._elsewhere = "" if self._offers else self._like()

    def _ask(self) -> None:
        self._looked = time.monotonic()
        self._offers = list(self._node.get_publishers_info_by_topic(self.topic))

    def publishers(self) -> list[Any]:
        """Return the endpoints that published on the topic at the last look."""
        return list(self._offers)

    def describe_publishers(self) -> str:
        """Say in words who publishes on the topic, and what to change if that does not fit."""
        offers = self.publishers()
        if not offers:
            return f"nobody publishes there{self._elsewhere}"
        texts = []
        for offer in offers:
            kind = "reliable" if _is_reliable(offer) else "best effort"
            who = f"{offer.node_namespace.rstrip('/')}/{offer.node_name}"
            texts.append(f"{who} offers {offer.topic_type}, {kind}")
        hint = ""
        if all(offer.topic_type != self.type_name for offer in offers):
            remedy = type_remedy(
                self.type_name, offers[0].topic_type, self._parameter.removesuffix("qos")
            )
            hint = f"; {self.type_name} is expected: {remedy}"
        elif self.reliability == ReliabilityPolicy.RELIABLE and not all(map(_is_reliable, offers)):
            hint = f"; a reliable subscription does not hear it: set {self._parameter} to auto"
        return "; ".join(texts) + hint

    def _like(self) -> str:
        """Topics of the right type, for whoever mistook the name."""
        known = self._node.get_topic_names_and_types()
        topics = [name for name, types in known if self.type_name in types and name != self.topic]
        own = {p.topic_name for p in self._node.publishers}
        topics = [name for name in topics if name not in own and self._published(name)][:5]
        return f" (but {self.type_name} comes on {', '.join(topics)})" if topics else ""

    def _published(self, topic: str) -> bool:
        offers = self._node.get_publishers_info_by_topic(topic)
        return any(offer.topic_type == self.type_name for offer in offers)

    def _wanted(self) -> ReliabilityPolicy:
        if self._qos == "reliable":
            return ReliabilityPolicy.RELIABLE
        if self._qos == "sensor_data":
            return ReliabilityPolicy.BEST_EFFORT
        offers = self.publishers()
        if not offers:
            # A reliable subscription gets the very first message of a publisher to come; a best
            # effort one misses it while they find each other.
            return self.reliability or ReliabilityPolicy.RELIABLE
        if all(map(_is_reliable, offers)):
            return ReliabilityPolicy.RELIABLE
        return ReliabilityPolicy.BEST_EFFORT

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        if self.reliability is not None:
            self._node.get_logger().info(
                f"{self.name}: {self.topic} now subscribed {_words(reliability)}, as offered"
            )
        self.reliability = reliability
        events = SubscriptionEventCallbacks(
            incompatible_qos=self._on_incompatible, matched=self._on_matched
        )
        try:
            self._subscriber = self._make_subscriber(reliability, events)
        except UnsupportedEventTypeError:  # not every middleware tells of publishers
            self._told = False
            events.matched = None
            self._subscriber = self._make_subscriber(reliability, events)
        self._subscriber.registerCallback(self._on_message)

    def _make_subscriber(
        self, reliability: ReliabilityPolicy, events: SubscriptionEventCallbacks
    ) -> Any:
        return filters.Subscriber(
            self._node,
            self.msg_type,
            self._given_topic,
            qos_profile=QoSProfile(depth=DEPTH, reliability=reliability),
            callback_group=self._group,
            event_callbacks=events,
        )

    def _drop(self, subscriber: Any) -> None:
        subscriber.callbacks.clear()
        self._node.destroy_subscription(subscriber.sub)

    def _on_message(self, msg: Any) -> None:
        # An exception would end the executor, and with it the node.
        try:
            stamp = filters.stamp_of(msg)
            if self._retired is not None and stamp == self.monitor.newest_ns:
                return  # it came by both subscriptions
            self.monitor.add(stamp)
            self.signalMessage(msg)
        except Exception as error:
            if self.on_error is None:
                raise
            self.on_error(error)

    def _on_matched(self, _: Any) -> None:
        # Twice: the event may come before the graph tells of it.
        self._looks = 2

    def _on_incompatible(self, event: Any) -> None:
        self._looks = 2
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        text = f"{self.name}: a publisher on {self.topic} offers an incompatible {policy}; "
        if self._qos == "auto":
            self._node.get_logger().info(text + "following it")
        else:
            self._node.get_logger().warning(text + f"set {self._parameter} to auto to hear it")


def type_remedy(expected: str, offered: str, parameter: str) -> str:
    """What to change where a topic has another type than the parameters say.

    Args:
        expected, offered: types, as sensor_msgs/msg/Image.
        parameter: the input's parameters begin with this, as "cameras.ego."
    """
    transport = TRANSPORTS.get(offered)
    if transport is None or expected not in TRANSPORTS:
        return "check the topic"
    return f"set {parameter}transport to {transport}"


def _is_reliable(offer: Any) -> bool:
    return bool(offer.qos_profile.reliability == ReliabilityPolicy.RELIABLE)


def _words(reliability: ReliabilityPolicy) -> str:
    return "reliable" if reliability == ReliabilityPolicy.RELIABLE else "best effort"


def make_inputs(node: Node, config: NodeConfig, group: CallbackGroup) -> list[InputStream]:
    """Return the inputs: the query camera's, the query masks', then the targets' in order.

    Args:
        node: the node.
        config: its configuration.
        group: callback group of the subscriptions.
    """

    def camera_input(name: str) -> InputStream:
        camera = config.cameras[name]
        kind = Image if camera.transport == "raw" else CompressedImage
        parameter = f"cameras.{name}.qos"
        return InputStream(node, name, camera.topic, kind, camera.qos, parameter, group)

    masks = config.query_masks
    kind: Any = Image if masks.transport == "raw" else CompressedImage
    if masks.type == "mask_array":
        kind = CorrespondenceMaskArray
    query_masks = InputStream(
        node, QUERY_MASKS, masks.topic, kind, masks.qos, "query_masks.qos", group
    )
    targets = [camera_input(name) for name in config.target_cameras]
    return [camera_input(config.query_camera), query_masks, *targets]


def look_around(inputs: Sequence[InputStream], silent: Collection[str] = ()) -> None:
    """Follow the publishers: at most one input, the one most due, asks the ROS graph.

    Args:
        inputs: of the node.
        silent: names of those that are silent.
    """
    most = max(inputs, key=lambda one: one.due(one.name in silent), default=None)
    if most is not None and most.due(most.name in silent) >= 0:
        most.look()
    for one in inputs:
        one.refresh()


def open_inputs(
    inputs: Sequence[InputStream],
    config: NodeConfig,
    outputs: Outputs,
    synchronizer: filters.Synchronizer,
) -> None:
    """Open what is to be heard: all inputs, or (output.lazy) of the targets those listened to.

    Args:
        inputs: the query camera's, the query masks', then the targets'.
        config: the configuration as it is now.
        outputs: tells who listens.
        synchronizer: what the inputs feed; it does without the targets that are closed.
    """
    for number, one in enumerate(inputs):
        wanted = number < 2 or not config["output.lazy"] or outputs.has_listeners(one.name)
        if number >= 2:
            synchronizer.switch(one.name, wanted)
        if wanted and not one.is_open:
            one.open()
        elif one.is_open and not wanted:
            one.close()
