"""The node's inputs: their subscriptions, qualities of service, and what is known of them."""

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
LOOK_AGAIN = 2.0
"""Seconds after which a silent input's publishers are looked at again."""
TRANSPORTS = {"sensor_msgs/msg/Image": "raw", "sensor_msgs/msg/CompressedImage": "compressed"}
"""Value of the parameter `transport` for messages of a type."""


@dataclass(frozen=True)
class Input:
    """One of the streams that are paired, as the configuration has it.

    Attributes:
        name: of the camera, QUERY_MASKS, or the name of its candidates.
        topic: as given (the node's remappings apply).
        other: one that is taken instead while only that has messages of the type; "": none.
        kind: message class.
        qos: auto, sensor_data or reliable.
        parameter: the parameters about it begin with this, as "cameras.ego."
    """

    name: str
    topic: str
    other: str
    kind: Any
    qos: str
    parameter: str

    @property
    def type_name(self) -> str:
        """The type of its messages as ROS writes it, as sensor_msgs/msg/Image."""
        return f"{self.kind.__module__.split('.')[0]}/msg/{self.kind.__name__}"

    @property
    def topics(self) -> tuple[str, ...]:
        """The topic, and the other one if there is one."""
        return (self.topic, self.other) if self.other else (self.topic,)

    def chosen(self, offered: Callable[[str], Collection[str]]) -> str:
        """Which of the topics to take: the first that has messages of the type, else the first.

        Args:
            offered: topic to the types that are published on it.
        """
        there = (topic for topic in self.topics if self.type_name in offered(topic))
        return next(there, self.topic)


def inputs_of(config: NodeConfig) -> ImageSet[Input]:
    """The streams that a configuration names; those of prompts have no query masks."""

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
    """A topic's messages, whatever becomes of the subscription.

    Of two topics it takes the one on which messages of its type are published.

    With qos `auto` the subscription is reliable if every publisher offers it (or there is none
    yet), else best effort, which hears every publisher; `refresh` follows publishers that come
    later. Only `open` and `look` query the ROS graph; everything else uses what they found.

    Args:
        node: the node.
        given: the input.
        group: callback group of the subscription.
        take: called with the input's name and each message.
        failed: called with what is being done and an exception of `take`.
    """

    def __init__(
        self,
        node: Node,
        given: Input,
        group: CallbackGroup,
        take: Callable[[str, Any], None],
        failed: Callable[[str, Exception], None],
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
        self._take, self._failed = take, failed
        self._subscription: Any = None
        self._retired: Any = None  # the one before, until the next refresh
        self._offers: list[Any] = []  # the publishers, when `look` last saw them
        self._elsewhere = ""  # and other topics of this type, if there were none
        self._looked = 0.0
        self._looks = 0  # that are due because a publisher came or went
        self._notified = True  # whether the middleware reports that

    @property
    def is_open(self) -> bool:
        """Whether it is subscribed."""
        return self._subscription is not None

    @property
    def matched(self) -> int:
        """Number of publishers that it is connected to and hears from now on."""
        return int(self._subscription.get_publisher_count()) if self.is_open else 0

    def open(self) -> None:
        """Subscribe."""
        self.monitor = StreamMonitor()
        self._ask()
        self._looks = 1  # the graph may not know all of them yet
        self._subscribe(self._wanted())

    def close(self) -> None:
        """Unsubscribe; nothing comes any more."""
        subscriptions = self._retired, self._subscription
        self._retired = self._subscription = self.reliability = self._subscribed = None
        for subscription in subscriptions:
            if subscription is not None:
                self._node.destroy_subscription(subscription)

    def refresh(self) -> None:
        """Subscribe again if the publishers have changed what they offer (qos `auto`)."""
        if self._retired is not None:
            self._node.destroy_subscription(self._retired)
            self._retired = None
        if self._subscription is None:
            return
        wanted = self._wanted()
        if (self.topic, wanted) != self._subscribed:
            # The old one is destroyed by the next call only: publishers take a while to find
            # the new one, and nothing must be lost until then.
            self._retired = self._subscription
            self._subscribe(wanted)

    def due(self, silent: bool) -> float:
        """Seconds for which a look at the publishers has been due; negative: not yet."""
        if not self.is_open:
            return -1.0
        since = time.monotonic() - self._looked
        if self._looks:
            return since
        again = silent or not self._offers or not self._notified
        return since - LOOK_AGAIN if again else -1.0

    def look(self) -> None:
        """Ask the ROS graph who publishes on the topic."""
        self._looks = max(0, self._looks - 1)
        self._ask()
        self._elsewhere = "" if self._offers else self._like()

    def _ask(self) -> None:
        self._looked = time.monotonic()
        offers = {t: list(self._node.get_publishers_info_by_topic(t)) for t in self.topics}
        there = [t for t in self.topics if any(o.topic_type == self.type_name for o in offers[t])]
        if there and self.topic not in there:
            self.topic = there[0]
        self._offers = offers[self.topic]

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
                self.type_name, offers[0].topic_type, self._given.parameter, self.topic
            )
            hint = f"; {self.type_name} is expected: {remedy}"
        elif self.reliability == ReliabilityPolicy.RELIABLE and not all(map(_is_reliable, offers)):
            parameter = f"{self._given.parameter}qos"
            hint = f"; a reliable subscription does not hear it: set {parameter} to auto"
        return "; ".join(texts) + hint

    def _like(self) -> str:
        """Other topics of the right type, in case the name is wrong."""
        known = self._node.get_topic_names_and_types()
        topics = [name for name, types in known if self.type_name in types and name != self.topic]
        own = {p.topic_name for p in self._node.publishers}
        topics = [name for name in topics if name not in own and self._published(name)][:5]
        return f" (but {self.type_name} comes on {', '.join(topics)})" if topics else ""

    def _published(self, topic: str) -> bool:
        offers = self._node.get_publishers_info_by_topic(topic)
        return any(offer.topic_type == self.type_name for offer in offers)

    def _wanted(self) -> ReliabilityPolicy:
        if self._given.qos == "reliable":
            return ReliabilityPolicy.RELIABLE
        if self._given.qos == "sensor_data":
            return ReliabilityPolicy.BEST_EFFORT
        offers = self.publishers()
        if not offers:
            # A reliable subscription gets the first message of a publisher that comes later; a
            # best effort one misses it while they discover each other.
            return self._subscribed[1] if self._subscribed else ReliabilityPolicy.RELIABLE
        if all(map(_is_reliable, offers)):
            return ReliabilityPolicy.RELIABLE
        return ReliabilityPolicy.BEST_EFFORT

    def _subscribe(self, reliability: ReliabilityPolicy) -> None:
        if self._subscribed is not None:
            self._node.get_logger().info(
                f"{self.name}: {self.topic} now subscribed {_words(reliability)}, as offered"
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
        self.reliability = qos.reliability  # with the user's overrides
        return subscription

    def _on_message(self, msg: Any) -> None:
        if not self.is_open:
            return
        # An exception would end the executor, and with it the node.
        try:
            stamp = stamp_of(msg)
            if self._retired is not None and stamp == self.monitor.newest_ns:
                return  # it came by both subscriptions
            self.monitor.add(stamp)
            self._take(self.name, msg)
        except Exception as error:
            self._failed(f"input {self.name}", error)

    def _on_matched(self, _: Any) -> None:
        # Twice: the event may come before the graph knows it.
        self._looks = 2

    def _on_incompatible(self, event: Any) -> None:
        self._looks = 2
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        text = f"{self.name}: a publisher on {self.topic} offers an incompatible {policy}; "
        if self._given.qos == "auto":
            self._node.get_logger().info(text + "following it")
        else:
            self._node.get_logger().warning(
                text + f"set {self._given.parameter}qos to auto to hear it"
            )


def type_remedy(expected: str, offered: str, parameter: str, topic: str) -> str:
    """What to change where a topic has another type than the parameters say.

    Args:
        expected, offered: types, as sensor_msgs/msg/Image.
        parameter: the input's parameters begin with this, as "cameras.ego."
        topic: its name, resolved.
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


def look_around(inputs: ImageSet[InputStream], silent: Collection[str] = ()) -> None:
    """Follow the publishers: at most one input, the one most overdue, queries the ROS graph.

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
    inputs: ImageSet[InputStream],
    lazy: bool,
    has_listeners: Callable[[str], bool],
    synchronizer: Synchronizer,
) -> None:
    """Open all inputs, or (`lazy`) of the targets only those whose outputs are listened to.

    Args:
        inputs: of the node.
        lazy: output.lazy as it is now.
        has_listeners: whether anyone listens to the outputs of a target camera.
        synchronizer: what the inputs feed; it does without the targets that are closed.
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
