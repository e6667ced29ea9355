"""The message_filters interface around the pairing: filters in, one callback per set out.

Where ROS brings message_filters, its Subscriber carries the messages and its stock policies can be
chosen; without it the small classes here serve, with the same interface.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

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

    SimpleFilter: Any = message_filters.SimpleFilter
    Subscriber: Any = message_filters.Subscriber
    HAS_MESSAGE_FILTERS = True
except ImportError:
    HAS_MESSAGE_FILTERS = False

    class _SimpleFilter:
        """What message_filters.SimpleFilter is: a list of callbacks."""

        def __init__(self) -> None:
            self.callbacks: dict[int, tuple[Callable[..., object], tuple[Any, ...]]] = {}

        def registerCallback(self, cb: Callable[..., object], *args: Any) -> int:
            """Call `cb(*messages, *args)` for each output; return the connection's number."""
            connection = len(self.callbacks)
            self.callbacks[connection] = (cb, args)
            return connection

        def signalMessage(self, *msg: Any) -> None:
            """Hand an output to every callback."""
            for callback, args in list(self.callbacks.values()):
                callback(*msg, *args)

    class _Subscriber(_SimpleFilter):
        """What message_filters.Subscriber is: a subscription that feeds a filter.

        The arguments are those of rclpy's create_subscription, the node first, no callback.
        """

        def __init__(self, node: Any, msg_type: Any, topic: str, **kwargs: Any) -> None:
            super().__init__()
            self.topic = topic
            kwargs.setdefault("qos_profile", 10)
            self.sub = node.create_subscription(msg_type, topic, self.signalMessage, **kwargs)

        def getTopic(self) -> str:
            """Return the topic's name as it was given."""
            return self.topic

    SimpleFilter = _SimpleFilter
    Subscriber = _Subscriber

OnReset = Callable[[str, int, int], None]
"""Called with the input that jumped back in time, its old and its new stamp in nanoseconds."""


def stamp_of(msg: Any) -> int:
    """Return a message's header stamp in nanoseconds."""
    stamp = msg.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


class NearestTimeSynchronizer(SimpleFilter):  # type: ignore[misc]
    """Pairs messages by the nearest stamp, with :class:`~lmeec_core.sync.pairing.PairingCore`.

    Callbacks get one message of each input, in the order of the inputs; None for a target that
    has none in a partial set. They run one at a time, in increasing order of stamps, and without
    any lock held: an exception in a callback, or a slow one, blocks no input.

    Args:
        fs: the inputs (anything with registerCallback); the first is the anchor.
        queue_size: messages kept per input.
        tolerance: largest distance in time from the anchor, seconds, inclusive.
        names: names of the inputs for counters and logs; their numbers if not given.
        on_reset: called, in order with the sets, after a backward jump of time.
        targets: how many of the inputs, the last ones, are targets (may be switched off, and may
            be missing in partial sets, see :meth:`set_waits`).
    """

    def __init__(
        self,
        fs: Sequence[Any],
        queue_size: int,
        tolerance: float,
        names: Sequence[str] | None = None,
        on_reset: OnReset | None = None,
        targets: int = 0,
    ) -> None:
        super().__init__()
        self.names = [str(n) for n in (names or range(len(fs)))]
        self.core: PairingCore[Any] = PairingCore(
            self.names[0],
            self.names[1:],
            round(tolerance * 1e9),
            queue_size,
            self.names[len(self.names) - targets :],
        )
        self._on_reset = on_reset
        self._lock = threading.Lock()
        self._outbox: deque[Callable[[], object]] = deque()
        self._delivering = False
        self.connectInput(fs)

    def connectInput(self, fs: Sequence[Any]) -> None:
        """Connect the inputs, as many as there are names."""
        self.input_connections = [f.registerCallback(self.add, i) for i, f in enumerate(fs)]

    def add(self, msg: Any, index: int) -> None:
        """Take in a message of the input with that number."""
        with self._lock:
            epoch = self.core.epoch
            found = self.core.add(self.names[index], stamp_of(msg), msg)
            jump = self.core.last_jump
            if self.core.epoch != epoch and jump is not None and self._on_reset is not None:
                self._outbox.append(partial(self._on_reset, *jump))
            self._post(found)
        self._deliver()

    def flush(self) -> None:
        """Deliver what is left at the end of a recording: nothing more will come."""
        with self._lock:
            self._post(self.core.flush())
        self._deliver()

    def switch(self, name: str, on: bool) -> None:
        """Switch a target on or off: one that is off is in no set."""
        with self._lock:
            self._post(self.core.switch(name, on))
        self._deliver()

    def _post(self, found: Sequence[MatchedSet[Any]]) -> None:
        for one in found:
            messages = [one.items.get(name) for name in self.names]
            self._outbox.append(partial(self.signalMessage, *messages))

    def _deliver(self) -> None:
        # Whoever finds nobody delivering does it for all, so that the order holds although no
        # lock is held during a callback.
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

    def set_tolerance(self, tolerance: float) -> None:
        """Change the largest distance in time, seconds."""
        self.core.tolerance_ns = round(tolerance * 1e9)

    def set_waits(self, wait: float | None, delay: float) -> None:
        """Change how long sets wait, seconds.

        Args:
            wait: for a target while another one is there; None: every set has all targets.
            delay: for what is no target, the query masks; 0: until a queue is full.
        """
        self.core.set_waits(None if wait is None else round(wait * 1e9), round(delay * 1e9))

    def stats(self) -> PairingStats:
        """Return the counters."""
        return self.core.stats()


class StockSynchronizer(SimpleFilter):  # type: ignore[misc]
    """A stock policy of message_filters behind the interface of NearestTimeSynchronizer.

    Backward jumps of time, on which the stock policies stall, empty its queues. It counts sets
    and received messages; the stock policies do not tell what they drop.

    Raises:
        ParameterError: if message_filters is not installed.
    """

    def __init__(
        self,
        policy: str,
        fs: Sequence[Any],
        queue_size: int,
        tolerance: float,
        names: Sequence[str],
        on_reset: OnReset | None = None,
    ) -> None:
        if not HAS_MESSAGE_FILTERS:
            raise ParameterError(
                f"pairing.policy: {policy!r} given, which needs the ROS package message_filters "
                "(not installed); 'nearest' needs nothing"
            )
        super().__init__()
        from rclpy.duration import Duration

        self._duration = Duration
        self._on_reset = on_reset
        self._newest: dict[str, int] = {}
        self._received = dict.fromkeys(names, 0)
        self._sets = self._epoch = self._skew = 0
        for name, one in zip(names, fs, strict=True):
            one.registerCallback(self._watch, name)  # before the stock policy's own connection
        if policy == "exact":
            self._stock = message_filters.TimeSynchronizer(fs, queue_size)
        else:
            self._stock = message_filters.ApproximateTimeSynchronizer(fs, queue_size, tolerance)
        self._stock.registerCallback(self._pass_on)

    def flush(self) -> None:
        """Nothing: the stock policies keep what they have not paired."""

    def switch(self, name: str, on: bool) -> None:
        """Nothing: their sets are complete or none."""

    def set_waits(self, wait: float | None, delay: float) -> None:
        """Nothing: they wait for all inputs until a queue is full."""

    def _watch(self, msg: Any, name: str) -> None:
        stamp = stamp_of(msg)
        newest = self._newest.get(name, stamp)
        self._received[name] += 1
        self._newest[name] = max(stamp, newest)
        if newest - stamp > MIN_JUMP_NS:
            self._epoch += 1
            self._newest = {name: stamp}
            for queue in self._stock.queues:
                queue.clear()
            if self._on_reset is not None:
                self._on_reset(name, newest, stamp)

    def _pass_on(self, *messages: Any) -> None:
        self._sets += 1
        stamps = [stamp_of(msg) for msg in messages]
        self._skew = max(abs(stamp - stamps[0]) for stamp in stamps)
        self.signalMessage(*messages)

    def set_tolerance(self, tolerance: float) -> None:
        """Change the slop, seconds (it has no effect on the policy `exact`)."""
        self._stock.slop = self._duration(seconds=tolerance)

    def stats(self) -> PairingStats:
        """Return the counters (without drops)."""
        streams = {n: StreamStats(r, self._sets, 0, {}, None) for n, r in self._received.items()}
        return PairingStats(self._sets, self._epoch, self._skew, streams)


Synchronizer = NearestTimeSynchronizer | StockSynchronizer


def make_synchronizer(
    policy: str,
    fs: Sequence[Any],
    queue_size: int,
    tolerance: float,
    names: Sequence[str],
    on_reset: OnReset | None = None,
    targets: int = 0,
) -> Synchronizer:
    """Return the synchroniser of that policy: nearest, approximate or exact.

    Raises:
        ParameterError: if the policy is not known, or not installed.
    """
    if policy == "nearest":
        return NearestTimeSynchronizer(fs, queue_size, tolerance, names, on_reset, targets)
    if policy in ("approximate", "exact"):
        return StockSynchronizer(policy, fs, queue_size, tolerance, names, on_reset)
    raise ParameterError(
        f"pairing.policy: {policy!r} given, one of nearest, approximate, exact expected"
    )


def synchronizer_for(
    config: NodeConfig, fs: Sequence[Any], names: Sequence[str], on_reset: OnReset
) -> Synchronizer:
    """Return the synchroniser that a configuration asks for.

    Args:
        config: the node's.
        fs: the inputs: query camera, query masks, target cameras in their order.
        names: their names.
        on_reset: see :class:`NearestTimeSynchronizer`.

    Raises:
        ParameterError: if the policy is not installed.
    """
    pairing = config["pairing.policy"], fs, config["pairing.queue"], config["pairing.tolerance"]
    one = make_synchronizer(*pairing, names, on_reset, len(config.target_cameras))
    take_times(config, one)
    return one


def take_times(config: NodeConfig, synchronizer: Synchronizer) -> None:
    """Give a synchroniser the tolerance and the waits of a configuration."""
    synchronizer.set_tolerance(config["pairing.tolerance"])
    wait = config["pairing.partial_wait"] if config["pairing.partial"] else None
    synchronizer.set_waits(wait, config["query_masks.max_delay"])
