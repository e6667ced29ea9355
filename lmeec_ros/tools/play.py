"""Publish a recording over ROS, at the recorded or another pace."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from lmeec_core.bags.bag import BagError, Topic, split_type
from lmeec_core.errors import InputError

DEPTH = 100
"""Queue depth of the publishers, for reliable subscribers that are slower."""
CLOCK_PERIOD = 0.01
"""Seconds between two messages on /clock."""

Pace = Callable[[int], bool]
"""Called with a message's stamp (ns) before it is published; returns True when the message is due,
or False to stop."""


class Recording(Protocol):
    """The interface of a bag for a player, implemented by `BagReader`."""

    path: Path

    @property
    def topics(self) -> Mapping[str, Topic]:
        """The topics by name."""

    def messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, int, bytes]]:
        """Iterate over topic, stamp (ns) and serialised message, in playing order."""


def message_class(type_name: str) -> Any:
    """Return the Python class of a message type, "package/msg/Name".

    Raises:
        BagError: if the name is malformed, or the package is not installed.
    """
    package, name = split_type(type_name)
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise BagError(f"{type_name}: this message type is not installed ({error})") from error


class Player:
    """Publishes the serialised messages of a bag on topics of the same names.

    Publishers are reliable, which also matches best-effort subscriptions, and transient local if
    the recorded ones were.

    Args:
        node: creates the publishers.
        bag: an open bag.
        topics: topics to publish; default: all whose message types are installed.
        remap: topic in the bag to the topic to publish on.
        clock: publish the bag's time on /clock.

    Attributes:
        skipped: topic to the reason why it is not published.

    Raises:
        BagError: if a topic given is not in the bag or its type is not installed, or if there is
            nothing to publish.
    """

    def __init__(
        self,
        node: Node,
        bag: Recording,
        *,
        topics: Collection[str] | None = None,
        remap: Mapping[str, str] | None = None,
        clock: bool = False,
    ) -> None:
        self.bag = bag
        self.skipped: dict[str, str] = {}
        known = bag.topics
        remap = dict(remap or {})
        for name in [*(topics or ()), *remap]:
            if name not in known:
                raise BagError(f"{bag.path}: no topic {name!r}; it has {sorted(known)}")
        self._node = node
        self._publishers: dict[str, Publisher] = {}
        for topic in known.values():
            if topics is not None and topic.name not in topics:
                continue
            if topic.name == "/clock" and clock:
                self.skipped[topic.name] = "--clock publishes another /clock"
                continue
            try:
                kind = message_class(topic.type)
            except BagError as error:
                if topics is not None:
                    raise
                self.skipped[topic.name] = str(error)
                continue
            name = remap.get(topic.name, topic.name)
            self._publishers[topic.name] = node.create_publisher(kind, name, _profile(topic))
        if not self._publishers:
            raise BagError(f"{bag.path}: nothing to publish; skipped {self.skipped}")
        self._clock = _ClockPublisher(node) if clock else None

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics of the bag that are published."""
        return tuple(self._publishers)

    @property
    def published(self) -> tuple[str, ...]:
        """Names of the topics on which they are published."""
        return tuple(publisher.topic_name for publisher in self._publishers.values())

    @property
    def count(self) -> int:
        """Number of messages in one pass."""
        known = self.bag.topics
        return sum(known[name].count for name in self._publishers)

    def unsubscribed(self) -> tuple[str, ...]:
        """Return the published topics without a subscriber."""
        alone = [p for p in self._publishers.values() if p.get_subscription_count() == 0]
        return tuple(publisher.topic_name for publisher in alone)

    def wait(self, seconds: float, stop: threading.Event | None = None) -> bool:
        """Wait up to `seconds` until every topic has a subscriber; return whether it has."""
        end = time.monotonic() + seconds
        while self.unsubscribed():
            if time.monotonic() >= end or (stop is not None and stop.is_set()):
                return False
            time.sleep(0.02)
        return True

    def play(
        self,
        *,
        rate: float = 1.0,
        stop: threading.Event | None = None,
        progress: Callable[[str, int], None] | None = None,
        pace: Pace | None = None,
    ) -> int:
        """Publish one pass of the bag.

        Args:
            rate: 2 plays at twice the recorded speed; 0 as fast as possible.
            stop: setting it ends the pass.
            progress: called with topic and stamp (ns) after each message.
            pace: decides when each message is due, instead of the bag's time and ``rate``.

        Returns:
            Number of messages published.
        """
        stop = stop or threading.Event()
        due = pace or _Pacer(rate, stop, self._clock)
        done = 0
        for topic, stamp, data in self.bag.messages(self.topics):
            if stop.is_set() or not due(stamp):
                break
            if self._clock is not None:
                self._clock.publish(stamp)
            self._publishers[topic].publish(data)
            done += 1
            if progress is not None:
                progress(topic, stamp)
        return done

    def flush(self, seconds: float = 5.0) -> bool:
        """Wait until reliable subscribers have acknowledged everything; return whether they did."""
        end = time.monotonic() + seconds
        return all(
            p.wait_for_all_acked(Duration(seconds=max(0.0, end - time.monotonic())))
            for p in self._publishers.values()
        )

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers.clear()


class _ClockPublisher:
    def __init__(self, node: Node) -> None:
        from rosgraph_msgs.msg import Clock

        self._type = Clock
        self._publisher = node.create_publisher(Clock, "/clock", 10)

    def publish(self, stamp_ns: int) -> None:
        message = self._type()
        message.clock.sec, message.clock.nanosec = divmod(stamp_ns, 1_000_000_000)
        self._publisher.publish(message)


class _Pacer:
    """Waits until a message is due, by its stamp's distance from that of the first message."""

    def __init__(self, rate: float, stop: threading.Event, clock: _ClockPublisher | None) -> None:
        if rate < 0:
            raise InputError(f"rate {rate} given, 0 (as fast as possible) or more expected")
        self._rate = rate
        self._stop = stop
        self._clock = clock
        self._first: int | None = None
        self._start = 0.0

    def __call__(self, stamp_ns: int) -> bool:
        if self._first is None:
            self._first, self._start = stamp_ns, time.monotonic()
        if self._rate == 0:
            return not self._stop.is_set()
        due = self._start + (stamp_ns - self._first) / 1e9 / self._rate
        while (left := due - time.monotonic()) > 0:
            if self._stop.wait(min(left, CLOCK_PERIOD) if self._clock else left):
                return False
            if self._clock is not None:
                now = self._first + (time.monotonic() - self._start) * self._rate * 1e9
                self._clock.publish(min(int(now), stamp_ns))
        return not self._stop.is_set()


def _profile(topic: Topic) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=DEPTH,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE,
    )
