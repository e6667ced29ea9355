"""The rate and loss of a stream, percentiles of latencies, a throttle for log lines."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StreamHealth:
    """Statistics of a stream of stamped messages.

    Attributes:
        received: messages so far.
        age: seconds since the last message arrived; None before the first.
        rate: messages per second over the last few seconds, by arrival; 0 if silent.
        period: the camera's period by its stamps, seconds; None while unknown.
        lost: messages missing in the window, judged by gaps in the stamps.
        loss: lost / (lost + received), both in the window, 0 to 1.
        window: messages in the window.
    """

    received: int
    age: float | None
    rate: float
    period: float | None
    lost: int
    loss: float
    window: int


class StreamMonitor:
    """Monitors the stamps and arrival times of one stream; may be used from any thread.

    Args:
        window: number of most recent messages that are considered.
        clock: seconds, monotonic.
    """

    def __init__(self, window: int = 150, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._arrivals: deque[float] = deque(maxlen=window)
        self._gaps: deque[int] = deque(maxlen=window)
        self._newest: int | None = None
        self._received = 0

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the last message, nanoseconds."""
        return self._newest

    def add(self, stamp_ns: int) -> None:
        """Note the arrival of a message with that stamp (nanoseconds)."""
        with self._lock:
            self._received += 1
            self._arrivals.append(self._clock())
            if self._newest is not None and stamp_ns > self._newest:
                self._gaps.append(stamp_ns - self._newest)
            self._newest = stamp_ns

    def health(self, rate_window: float = 5.0) -> StreamHealth:
        """Return the current statistics; the rate is over the last `rate_window` seconds."""
        with self._lock:
            now = self._clock()
            age = now - self._arrivals[-1] if self._arrivals else None
            recent = [t for t in self._arrivals if now - t <= rate_window]
            span = now - recent[0] if recent else 0.0
            rate = (len(recent) - 1) / span if len(recent) > 1 and span > 0 else 0.0
            gaps = sorted(self._gaps)
        if len(gaps) < 3:
            return StreamHealth(self._received, age, rate, None, 0, 0.0, len(gaps))
        # A low percentile, not the median: the period must come out right when most frames are
        # lost, and one short gap must not.
        period = gaps[len(gaps) // 10]
        lost = sum(max(0, round(gap / period) - 1) for gap in gaps if gap < 60 * period)
        return StreamHealth(
            self._received, age, rate, period / 1e9, lost, lost / (lost + len(gaps)), len(gaps)
        )


class Percentiles:
    """The last values of a quantity, for percentiles; may be used from any thread."""

    def __init__(self, window: int = 200) -> None:
        self._values: deque[float] = deque(maxlen=window)
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Note a value."""
        with self._lock:
            self._values.append(value)

    def get(self, *percents: float) -> list[float | None]:
        """Return the nearest-rank percentiles (0 to 100); None where there is no value yet."""
        with self._lock:
            ordered = sorted(self._values)
        if not ordered:
            return [None for _ in percents]
        last = len(ordered) - 1
        return [ordered[min(last, int(len(ordered) * p / 100))] for p in percents]


class LogThrottle:
    """Lets one log line of each kind through per interval, and counts those suppressed.

    It only returns the text: rclpy identifies log calls by their place in the code, and refuses
    two severities in one place.

    Args:
        interval: seconds between two lines of the same kind.
        clock: seconds, monotonic.
        count: say how many lines were suppressed (for events, not for a state that lasts).
    """

    MAX_KINDS = 500

    def __init__(
        self,
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        count: bool = True,
    ) -> None:
        self._interval = interval
        self._count = count
        self._clock = clock
        self._last: dict[str, float] = {}
        self._suppressed: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, kind: str, text: str) -> str | None:
        """Return the text to log now, or None if that kind was logged within the interval."""
        with self._lock:
            now = self._clock()
            if kind in self._last and now - self._last[kind] < self._interval:
                self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
                return None
            suppressed = self._suppressed.pop(kind, 0) if self._count else 0
            if len(self._last) >= self.MAX_KINDS:  # kinds may come from outside
                self._last.clear()
                self._suppressed.clear()
            self._last[kind] = now
        return text + (f" (and {suppressed} more of this kind)" if suppressed else "")

    def forget(self, prefix: str = "") -> None:
        """Let the next event of the kinds that begin with `prefix` be logged at once."""
        with self._lock:
            for kind in [one for one in self._last if one.startswith(prefix)]:
                del self._last[kind]


def kind_of(error: Exception) -> str:
    """A kind for :class:`LogThrottle`: the same for errors that differ in their numbers only."""
    return re.sub(r"\d+", "#", str(error))[:200]
