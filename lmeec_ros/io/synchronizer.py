"""Pair messages into synchronised sets, by the configured policy."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from lmeec_core.sync.image_set import QUERY_MASKS, ImageSet, candidates_of
from lmeec_core.sync.pairing import (
    MIN_JUMP_NS,
    MatchedSet,
    PairingCore,
    PairingStats,
    StreamStats,
)
from lmeec_ros.parameters.config import NodeConfig, ParameterError

try:
    import message_filters
except ImportError:
    message_filters = None

OnSet = Callable[[ImageSet[Any]], object]
OnJump = Callable[[str, int, int], object]
"""Called with the stream that jumped back in time, its old and its new stamp in nanoseconds."""


def stamp_of(msg: Any) -> int:
    """Return a message's header stamp in nanoseconds."""
    return nanoseconds(msg.header.stamp)


def nanoseconds(stamp: Any) -> int:
    """Return a builtin_interfaces/Time in nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def streams_of(config: NodeConfig) -> tuple[str, ...]:
    """Return the streams that are paired: the query camera, the query masks (unless objects are
    marked by prompts), the target cameras, and their candidates if those come on topics."""
    masks = () if config.prompted else (QUERY_MASKS,)
    candidates = tuple(candidates_of(name) for name in config.candidate_masks)
    return (config.query_camera, *masks, *config.target_cameras, *candidates)


def set_of(items: Mapping[str, Any], config: NodeConfig) -> ImageSet[Any]:
    """Return the set made of one item per stream (targets may be missing)."""
    targets = {name: items[name] for name in config.target_cameras if name in items}
    candidates = {name: items[own] for name in config.candidate_masks
                  if (own := candidates_of(name)) in items}  # fmt: skip
    return ImageSet(items[config.query_camera], items.get(QUERY_MASKS), targets, candidates)


def offset_of(config: NodeConfig, name: str) -> int:
    """Return the offset that is added to a stream's stamps for pairing, nanoseconds.

    The offset of masks is that of their camera, since they carry the stamps of its images.
    """
    own = {candidates_of(camera): camera for camera in config.candidate_masks}
    camera = config.query_camera if name == QUERY_MASKS else own.get(name, name)
    return round(config.cameras[camera].time_offset * 1e9)


class Synchronizer(Protocol):
    """Pairs the messages of the streams that a configuration names."""

    def add(self, name: str, msg: Any) -> None:
        """Add a message of the named stream (a camera, its candidates, or QUERY_MASKS)."""

    def flush(self) -> None:
        """Deliver the remaining sets at the end of a recording."""

    def switch(self, target: str, on: bool) -> None:
        """Switch a target camera on or off; sets do not wait for one that is off."""

    def take_parameters(self, config: NodeConfig) -> None:
        """Apply the tolerance and waiting times of a configuration."""

    def stats(self) -> PairingStats:
        """Return the counters."""


class NearestSynchronizer:
    """Pairs messages by the nearest stamp, with :class:`~lmeec_core.sync.pairing.PairingCore`.

    `on_set` is called with one set at a time, in increasing order of stamps. No lock is held during
    the call, so a slow or failing callback does not block the inputs. See :class:`Synchronizer` for
    the methods.

    Args:
        config: the cameras and the pairing parameters.
        on_set: called with each set of messages.
        on_jump: called after a backward jump of time, in order with the sets.
    """

    def __init__(self, config: NodeConfig, on_set: OnSet, on_jump: OnJump) -> None:
        self.core: PairingCore[Any] = PairingCore(
            config.query_camera,
            streams_of(config)[1:],
            0,
            config.pairing.queue,
            config.target_cameras,
        )
        self._config = config
        self.take_parameters(config)
        self._offsets = {name: offset_of(config, name) for name in streams_of(config)}
        self._on_set, self._on_jump = on_set, on_jump
        self._lock = threading.Lock()
        self._outbox: deque[Callable[[], object]] = deque()
        self._delivering = False

    def add(self, name: str, msg: Any) -> None:
        with self._lock:
            epoch = self.core.epoch
            found = self.core.add(name, stamp_of(msg) + self._offsets[name], msg)
            jump = self.core.last_jump
            if self.core.epoch != epoch and jump is not None:
                self._outbox.append(partial(self._on_jump, *jump))
            self._post(found)
        self._deliver()

    def flush(self) -> None:
        with self._lock:
            self._post(self.core.flush())
        self._deliver()

    def switch(self, target: str, on: bool) -> None:
        with self._lock:
            self._post(self.core.switch(target, on))
        self._deliver()

    def take_parameters(self, config: NodeConfig) -> None:
        self.core.tolerance_ns = round(config.pairing.tolerance * 1e9)
        wait = config.pairing.partial_wait if config.pairing.partial else None
        delay = round(config.query_masks.max_delay * 1e9)
        self.core.set_waits(None if wait is None else round(wait * 1e9), delay)

    def stats(self) -> PairingStats:
        return self.core.stats()

    def _post(self, found: Sequence[MatchedSet[Any]]) -> None:
        for one in found:
            self._outbox.append(partial(self._on_set, set_of(one.items, self._config)))

    def _deliver(self) -> None:
        # Only one thread at a time delivers, including what other threads post meanwhile. That
        # keeps the order although no lock is held during a callback.
        with self._lock:
            if self._delivering:
                return
            self._delivering = True
        try:
            while True:
                with self._lock:
                    if not self._outbox:
                        self._delivering = False
                        return
                    output = self._outbox.popleft()
                output()
        except BaseException:
            with self._lock:
                self._delivering = False
            raise


class StockSynchronizer:
    """A pairing policy of message_filters; the arguments are those of NearestSynchronizer.

    A backward jump of time clears the queues, because the policies would stall. Only sets and
    received messages are counted: the policies do not report dropped messages.

    Raises:
        ParameterError: if message_filters is not installed.
    """

    def __init__(self, config: NodeConfig, on_set: OnSet, on_jump: OnJump) -> None:
        policy, queue = config.pairing.policy, config.pairing.queue
        if message_filters is None:
            raise ParameterError(
                f"pairing.policy: {policy!r} given, which needs the ROS package message_filters "
                "(not installed); 'nearest' works without it"
            )
        self._on_set, self._on_jump, self._config = on_set, on_jump, config
        self._names = names = streams_of(config)
        self._filters = {name: message_filters.SimpleFilter() for name in names}
        self._newest: dict[str, int] = {}
        self._received = dict.fromkeys(names, 0)
        self._sets = self._epoch = self._skew = 0
        filters = list(self._filters.values())
        if policy == "exact":
            self._stock = message_filters.TimeSynchronizer(filters, queue)
        else:
            tolerance = config.pairing.tolerance
            self._stock = message_filters.ApproximateTimeSynchronizer(filters, queue, tolerance)
        self._stock.registerCallback(self._pass_on)

    def add(self, name: str, msg: Any) -> None:
        stamp = stamp_of(msg)
        newest = self._newest.get(name, stamp)
        self._received[name] += 1
        self._newest[name] = max(stamp, newest)
        if newest - stamp > MIN_JUMP_NS:
            self._epoch += 1
            self._newest = {name: stamp}
            for queue in self._stock.queues:
                queue.clear()
            self._on_jump(name, newest, stamp)
        self._filters[name].signalMessage(msg)

    def flush(self) -> None:
        """Do nothing: message_filters cannot deliver incomplete sets."""

    def switch(self, target: str, on: bool) -> None:
        """Do nothing: message_filters always waits for every input."""

    def take_parameters(self, config: NodeConfig) -> None:
        """Apply the tolerance (no effect on `exact`); waiting times do not apply."""
        from rclpy.duration import Duration

        self._stock.slop = Duration(seconds=config.pairing.tolerance)

    def stats(self) -> PairingStats:
        """Return the counters, without drops."""
        streams = {n: StreamStats(r, self._sets, 0, {}, None) for n, r in self._received.items()}
        return PairingStats(self._sets, self._epoch, self._skew, streams)

    def _pass_on(self, *messages: Any) -> None:
        self._sets += 1
        stamps = [stamp_of(msg) for msg in messages]
        self._skew = max(abs(stamp - stamps[0]) for stamp in stamps)
        found = dict(zip(self._names, messages, strict=True))
        self._on_set(set_of(found, self._config))


def make_synchronizer(config: NodeConfig, on_set: OnSet, on_jump: OnJump) -> Synchronizer:
    """Create the synchroniser of the configured pairing policy.

    Raises:
        ParameterError: if the policy needs message_filters and that is not installed.
    """
    nearest = config.pairing.policy == "nearest"
    return (NearestSynchronizer if nearest else StockSynchronizer)(config, on_set, on_jump)


def subscribe(node: Any, kind: Any, topic: str, take: Callable[[Any], None], **options: Any) -> Any:
    """Subscribe to a topic, with message_filters' Subscriber if that is installed.

    Args:
        node, kind, topic, options: as for rclpy's create_subscription.
        take: called with each message.

    Returns:
        rclpy's subscription.
    """
    if message_filters is None:
        return node.create_subscription(kind, topic, take, **options)
    subscriber = message_filters.Subscriber(node, kind, topic, **options)
    subscriber.registerCallback(take)
    return subscriber.sub
