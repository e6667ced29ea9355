"""The node's inputs: their subscriptions, their QoS, and the publishers on their topics."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from lmeec.msg import CorrespondenceMaskArray
from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from sensor_msgs.msg import CompressedImage, Image

from lmeec_core.sync.image_set import QUERY_MASKS as QUERY_MASKS
from lmeec_core.sync.image_set import ImageSet, candidates_of
from lmeec_core.sync.stream_monitor import StreamMonitor
from lmeec_ros.io.synchronizer import Synchronizer, stamp_of, subscribe
from lmeec_ros.parameters import video
from lmeec_ros.parameters.config import NodeConfig
from lmeec_ros.parameters.qos_overrides import overriding

DEPTH = 5
QUERY_AGAIN = 2.0
"""Seconds after which a silent input queries the ROS graph for publishers again."""
TRANSPORTS = {"sensor_msgs/msg/Image": "raw", "sensor_msgs/msg/CompressedImage": "compressed"}
"""Message type to the matching value of the parameter `transport`."""


@dataclass(frozen=True)
class Input:
    """Configuration of one of the paired streams.

    Attributes:
        name: name of the camera, QUERY_MASKS, or the stream name of a camera's candidates.
        topic: topic as configured (the node's remappings apply).
        other: topic used instead while only that one has publishers of the type; "" for none.
        kind: message class.
        qos: auto, sensor_data or reliable.
        parameter: prefix of the parameters that configure this input, such as "cameras.ego."
    """

    name: str
    topic: str
    other: str
    kind: Any
    qos: str
    parameter: str

    @property
    def type_name(self) -> str:
        """Message type, such as sensor_msgs/msg/Image."""
        return f"{self.kind.__module__.split('.')[0]}/msg/{self.kind.__name__}"

    @property
    def topics(self) -> tuple[str, ...]:
        """The topic, followed by the alternative one if there is one."""
        return (self.topic, self.other) if self.other else (self.topic,)

    def chosen(self, offered: Callable[[str], Collection[str]]) -> str:
        """Return the first topic on which the type is published, else the first topic.

        Args:
            offered: returns the types published on a topic.
        """
        published = (topic for topic in self.topics if self.type_name in offered(topic))
        return next(published, self.topic)


def inputs_of(config: NodeConfig) -> ImageSet[Input]:
    """Return the inputs of a configuration; no query masks if objects are marked by prompts."""

    def camera(name: str) -> Input:
        given = config.cameras[name]
        kind = Image if given.transport == "raw" else CompressedImage
        return Input(name, given.topic, given.other, kind, given.qos, f"cameras.{name}.")

    def candidates(name: str) -> Input:
        given = config.candidate_masks[name]
        kind = Image if given.transport == "raw" else CompressedImage
        stream = candidates_of(name)
        return Input(stream, given.topic, given.other, kind, given.qos, "candidate_masks.")

    masks = config.query_masks
    kind: Any = Image if masks.transport == "raw" else CompressedImage
    if masks.type == "mask_array":
        kind = CorrespondenceMaskArray
    return ImageSet(
        camera(config.query_camera),
        None
        if config.prompted
        else Input(QUERY_MASKS, masks.topic, masks.other, kind, masks.qos, "query_masks."),
        {name: camera(name) for name in config.target_cameras},
        {name: candidates(name) for name in config.candidate_masks},
    )


class InputStream:
    """Receives the messages of an input, resubscribing when its publishers change.

    If the input has two topics, it subscribes to the one on which its type is published.

    With qos `auto` the subscription is reliable if every publisher is (or there is none yet), else
    best effort, which matches every publisher; `refresh` adapts it to publishers that appear later.
    Only `open` and `query_graph` query the ROS graph; everything else uses their last result.

    Args:
        node: the node.
        given: configuration of the input.
        group: callback group of the subscription.
        on_message: called with the input's name and each message.
        on_error: called with a description of the activity and an exception of `on_message`.
    """

    def __init__(
        self,
        node: Node,
        given: Input,
        group: CallbackGroup,
        on_message: Callable[[str, Any], None],
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self.name, self.type_name = given.name, given.type_name
        self.topics = tuple(node.resolve_topic_name(topic) for topic in given.topics)
        self.topic = self.topics[0]
        self._subscribed: tuple[str, ReliabilityPolicy] | None = None
        self.monitor = StreamMonitor()
        self.reliability: ReliabilityPolicy | None = None
        self._node = node
        self._given = given
        self._group = group
        self._deliver, self._on_error = on_message, on_error
        self._subscription: Any = None
        self._retired: Any = None  # the previous subscription, until the next refresh
        self._offers: list[Any] = []  # endpoints of the publishers at the last graph query
        self._similar = ""  # clause that names other topics of this type, if there were none
        self._queried = 0.0  # time of the last graph query
        self._queries_due = 0  # graph queries still to be made after a publisher came or went
        self._notified = True  # whether the middleware reports matched publishers

    @property
    def is_open(self) -> bool:
        """Whether the topic is subscribed."""
        return self._subscription is not None

    @property
    def matched(self) -> int:
        """Number of publishers that match the subscription."""
        return int(self._subscription.get_publisher_count()) if self.is_open else 0

    def open(self) -> None:
        """Subscribe."""
        self.monitor = StreamMonitor()
        self._find_publishers()
        self._queries_due = 1  # the graph may not list all publishers yet
        self._subscribe(self._wanted_reliability())

    def close(self) -> None:
        """Unsubscribe; no message is delivered after this."""
        subscriptions = self._retired, self._subscription
        self._retired = self._subscription = self.reliability = self._subscribed = None
        for subscription in subscriptions:
            if subscription is not None:
                self._node.destroy_subscription(subscription)

    def refresh(self) -> None:
        """Resubscribe if the publishers' topic or reliability has changed (qos `auto`)."""
        if self._retired is not None:
            self._node.destroy_subscription(self._retired)
            self._retired = None
        if self._subscription is None:
            return
        wanted = self._wanted_reliability()
        if (self.topic, wanted) != self._subscribed:
            # The old subscription lives until the next call: publishers take a while to discover
            # the new one, and no message must be lost until then.
            self._retired = self._subscription
            self._subscribe(wanted)

    def overdue(self, silent: bool) -> float:
        """Return the seconds for which a graph query has been due; negative if none is due.

        Args:
            silent: whether the input is silent.
        """
        if not self.is_open:
            return -1.0
        since = time.monotonic() - self._queried
        if self._queries_due:
            return since
        again = silent or not self._offers or not self._notified
        return since - QUERY_AGAIN if again else -1.0

    def query_graph(self) -> None:
        """Query the ROS graph for the topic's publishers."""
        self._queries_due = max(0, self._queries_due - 1)
        self._find_publishers()
        self._similar = "" if self._offers else self._similar_topics()

    def _find_publishers(self) -> None:
        self._queried = time.monotonic()
        offers = {t: list(self._node.get_publishers_info_by_topic(t)) for t in self.topics}
        found = [t for t in self.topics if any(o.topic_type == self.type_name for o in offers[t])]
        if found and self.topic not in found:
            self.topic = found[0]
        self._offers = offers[self.topic]

    def publishers(self) -> list[Any]:
        """Return the endpoints that published on the topic at the last graph query."""
        return list(self._offers)

    def describe_publishers(self) -> str:
        """Describe the topic's publishers, and what to change if they do not fit."""
        offers = self.publishers()
        if not offers:
            return f"the topic has no publisher{self._similar}"
        texts = []
        for offer in offers:
            kind = "reliable" if _is_reliable(offer) else "best effort"
            who = f"{offer.node_namespace.rstrip('/')}/{offer.node_name}"
            texts.append(f"{who} offers {offer.topic_type}, {kind}")
        hint = ""
        if all(offer.topic_type != self.type_name for offer in offers):
            remedy = type_remedy(
                self.type_name, offers[0].topic_type, self._given.parameter, self.topic
            )
            hint = f"; {self.type_name} is expected: {remedy}"
        elif self.reliability == ReliabilityPolicy.RELIABLE and not all(map(_is_reliable, offers)):
            parameter = f"{self._given.parameter}qos"
            hint = f"; a reliable subscription does not receive it: set {parameter} to auto"
        return "; ".join(texts) + hint

    def _similar_topics(self) -> str:
        """A clause that names other topics of the right type, in case the name is wrong."""
        known = self._node.get_topic_names_and_types()
        topics = [name for name, types in known if self.type_name in types and name != self.topic]
        own = {p.topic_name for p in self._node.publishers}
        topics = [name for name in topics if name not in own and self._published(name)][:5]
        names = ", ".join(topics)
        return f" (but {self.type_name} is published on {names})" if topics else ""

    def _published(self, topic: str) -> bool:
        offers = self._node.get_publishers_info_by_topic(topic)
        return any(offer.topic_type == self.type_name for offer in offers)

    def _wanted_reliability(self) -> ReliabilityPolicy:
        if self._given.qos == "reliable":
            return ReliabilityPolicy.RELIABLE
        if self._given.qos == "sensor_data":
            return ReliabilityPolicy.BEST_EFFORT
        offers = self.publishers()
        if not offers:
            # A reliable subscription receives the first message of a publisher that appears later;
            # a best effort one misses messages during discovery.
            return self._subscribed[1] if self._subscribed else ReliabilityPolicy.RELIABLE
        if all(map(_is_reliable, offers)):
            return ReliabilityPolicy.RELIABLE
        return ReliabilityPolicy.BEST_EFFORT

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        if self._subscribed is not None:
            self._node.get_logger().info(
                f"{self.name}: resubscribed to {self.topic} as {_words(reliability)}, "
                "like its publishers"
            )
        self._subscribed = (self.topic, reliability)
        events = SubscriptionEventCallbacks(
            incompatible_qos=self._on_incompatible, matched=self._on_matched
        )
        try:
            self._subscription = self._make_subscription(reliability, events)
        except UnsupportedEventTypeError:  # not every middleware reports publishers
            self._notified = False
            events.matched = None
            self._subscription = self._make_subscription(reliability, events)

    def _make_subscription(
        self, reliability: ReliabilityPolicy, events: SubscriptionEventCallbacks
    ) -> Any:
        qos = QoSProfile(depth=DEPTH, reliability=reliability)
        given = self._given.topics[self.topics.index(self.topic)]
        subscription = subscribe(
            self._node,
            self._given.kind,
            given,
            self._on_message,
            qos_profile=qos,
            callback_group=self._group,
            event_callbacks=events,
            qos_overriding_options=overriding(self._node, given, "subscription"),
        )
        self.reliability = qos.reliability  # after qos_overrides
        return subscription

    def _on_message(self, msg: Any) -> None:
        if not self.is_open:
            return
        # An exception would end the executor, and with it the node.
        try:
            stamp = stamp_of(msg)
            if self._retired is not None and stamp == self.monitor.newest_ns:
                return  # received through both subscriptions
            self.monitor.add(stamp)
            self._deliver(self.name, msg)
        except Exception as error:
            self._on_error(f"input {self.name}", error)

    def _on_matched(self, _: Any) -> None:
        self._queries_due = 2  # the graph may still be outdated at the first query

    def _on_incompatible(self, event: Any) -> None:
        self._queries_due = 2
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        text = f"{self.name}: a publisher on {self.topic} offers an incompatible {policy}; "
        if self._given.qos == "auto":
            self._node.get_logger().info(text + "adapting the subscription")
        else:
            self._node.get_logger().warning(
                text + f"set {self._given.parameter}qos to auto to receive its messages"
            )


def type_remedy(expected: str, offered: str, parameter: str, topic: str) -> str:
    """Return what to change if a topic's type is not the one that the parameters ask for.

    Args:
        expected, offered: message types, such as sensor_msgs/msg/Image.
        parameter: prefix of the input's parameters, such as "cameras.ego."
        topic: topic name, resolved.
    """
    if offered in video.PACKETS:
        return video.remedy(topic, parameter, video.PACKETS[offered])
    transport = TRANSPORTS.get(offered)
    if transport is None or expected not in TRANSPORTS:
        return "check the topic"
    return f"set {parameter}transport to {transport}"


def _is_reliable(offer: Any) -> bool:
    return bool(offer.qos_profile.reliability == ReliabilityPolicy.RELIABLE)


def _words(reliability: ReliabilityPolicy) -> str:
    return "reliable" if reliability == ReliabilityPolicy.RELIABLE else "best effort"


def follow_publishers(inputs: ImageSet[InputStream], silent: Collection[str] = ()) -> None:
    """Adapt the subscriptions to the publishers. Only the most overdue input queries the graph.

    Args:
        inputs: inputs of the node.
        silent: names of the silent ones.
    """
    first = max(inputs, key=lambda one: one.overdue(one.name in silent), default=None)
    if first is not None and first.overdue(first.name in silent) >= 0:
        first.query_graph()
    for one in inputs:
        one.refresh()


def open_inputs(
    inputs: ImageSet[InputStream],
    lazy: bool,
    has_listeners: Callable[[str], bool],
    synchronizer: Synchronizer,
) -> None:
    """Open all inputs; if `lazy`, only those targets whose outputs have subscribers.

    Args:
        inputs: inputs of the node.
        lazy: current value of output.lazy.
        has_listeners: returns whether the outputs of a target camera have subscribers.
        synchronizer: receives the messages; targets that are closed are switched off in it.
    """
    for one in inputs:
        wanted = True
        if one.name in inputs.targets:
            wanted = not lazy or has_listeners(one.name)
            synchronizer.switch(one.name, wanted)
        if wanted and not one.is_open:
            one.open()
        elif one.is_open and not wanted:
            one.close()
