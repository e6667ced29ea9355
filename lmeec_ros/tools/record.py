"""Record topics into a rosbag2 bag (MCAP)."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from lmeec_core.bags.bag import MASKS_TYPE, BagError, BagWriter
from lmeec_ros.tools.play import message_class

DEPTH = 1000
"""Queue depth of the subscriptions, for when recording is slower than the publishers."""

log = logging.getLogger(__name__)


class TopicRecorder:
    """Subscribes to topics, also those that appear later, and writes every message received.

    Messages are not decoded. Their time in the bag is the time of arrival by the node's clock. The
    callbacks run in the executor that spins the node; call `close` after it has stopped, or use
    `spin_until` for both.

    Args:
        node: creates the subscriptions.
        path: folder of the bag, which is created when the bag is closed.
        topics: topic names; default: the masks of the node ``of_node``.
        of_node: name of the node whose outputs are recorded by default.
        everything: if no topics are given, record all outputs of that node, not only the masks.
        overwrite: replace an existing bag.
        on_message: called with topic and serialised message after each message is written.

    Attributes:
        counts: messages written, by topic.
        problems: topic to the reason why it cannot be recorded.
    """

    def __init__(
        self,
        node: Node,
        path: str | os.PathLike[str],
        topics: Sequence[str] | None = None,
        *,
        of_node: str = "lmeec",
        everything: bool = False,
        overwrite: bool = False,
        on_message: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self._writer = BagWriter(path, overwrite=overwrite, keep=True)
        self._node = node
        self._wanted = [node.resolve_topic_name(topic) for topic in topics or ()]
        self._of_node = of_node
        self._everything = everything
        self.on_message = on_message
        self._subscriptions: dict[str, Subscription] = {}
        self._lock = threading.Lock()
        self._closed = False
        self.problems: dict[str, str] = {}
        self._timer = node.create_timer(0.1, self.discover)
        self.discover()

    @property
    def counts(self) -> dict[str, int]:
        """Messages written so far, by topic."""
        return dict(self._writer.counts)

    @property
    def missing(self) -> tuple[str, ...]:
        """Topics given that have no publisher yet."""
        return tuple(topic for topic in self._wanted if topic not in self._subscriptions)

    def discover(self) -> None:
        """Subscribe to wanted topics that have a publisher now."""
        for topic, types in self._node.get_topic_names_and_types():
            if topic in self._subscriptions or topic in self.problems:
                continue
            if not self._is_wanted(topic, types[0]):
                continue
            publishers = self._node.get_publishers_info_by_topic(topic)
            if not publishers:
                continue
            try:
                self._subscribe(topic, publishers[0].topic_type, publishers)
            except BagError as error:
                self.problems[topic] = str(error)
                log.warning("%s is not recorded: %s", topic, error)

    def close(self) -> None:
        """Stop recording and complete the bag. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._node.destroy_timer(self._timer)
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._writer.close()

    def abort(self) -> None:
        """Stop recording and delete the unfinished bag."""
        with self._lock:
            self._closed = True
        self._writer.abort()

    def _is_wanted(self, topic: str, type_name: str) -> bool:
        if self._wanted:
            return topic in self._wanted
        of_node = f"/{self._of_node}/" in topic
        return of_node and (self._everything or type_name == MASKS_TYPE)

    def _subscribe(
        self, topic: str, type_name: str, publishers: Sequence[TopicEndpointInfo]
    ) -> None:
        kind = message_class(type_name)

        def write(data: bytes) -> None:
            with self._lock:
                if self._closed:
                    return
                try:
                    self._writer.write(topic, self._node.get_clock().now().nanoseconds, data)
                except BagError:
                    self._closed = True  # the writer has saved what it could
                    raise
            if self.on_message is not None:
                self.on_message(topic, data)

        profile = _profile(publishers)
        latched = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        with self._lock:
            self._writer.add_topic(topic, type_name, latched=latched)
        self._subscriptions[topic] = self._node.create_subscription(
            kind, topic, write, profile, raw=True
        )


def spin_until(
    recorder: TopicRecorder,
    node: Node,
    stop: threading.Event,
    *,
    duration: float | None = None,
    each: Callable[[], None] | None = None,
) -> None:
    """Record until ``stop`` is set or the duration is over, then close the bag.

    Messages that had arrived when the recording was stopped are written too. The bag is also closed
    if an exception ends the recording.

    Args:
        recorder: the recorder.
        node: its node, which is spun here.
        stop: setting it ends the recording.
        duration: seconds; None for no limit.
        each: called regularly while recording.

    Raises:
        BagError: if the bag cannot be completed (disk full); the text says how much is saved.
    """
    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    end = time.monotonic() + duration if duration is not None else float("inf")
    try:
        while not stop.is_set() and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
            if each is not None:
                each()
        quiet, seen = 0, sum(recorder.counts.values())
        deadline = time.monotonic() + 5.0
        while quiet < 3 and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)
            now = sum(recorder.counts.values())
            quiet, seen = (quiet + 1 if now == seen else 0), now
    finally:
        executor.remove_node(node)
        executor.shutdown(timeout_sec=1.0)
        recorder.close()


def _profile(publishers: Sequence[TopicEndpointInfo]) -> QoSProfile:
    """QoS that matches all publishers: reliable and transient local only if all of them are."""
    reliable = all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in publishers)
    latched = all(p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
