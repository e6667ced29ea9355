"""The parts of the pairing: a stream with its queue and counters, and a matched set."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from operator import itemgetter
from statistics import median
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_QUEUE = 1000
"""Maximum number of items kept per stream, however short its period and long the delay."""


class DropReason(StrEnum):
    """Why an item never became part of a set."""

    NO_PARTNER = "no_partner"  # anchor: a required stream has no item within the tolerance
    TIMEOUT = "timeout"  # anchor: a required item did not arrive within the maximum delay
    UNMATCHED = "unmatched"  # other stream: no anchor used it
    QUEUE_FULL = "queue_full"  # waited until its queue overflowed
    LATE = "late"  # older than an anchor that is already decided
    DUPLICATE = "duplicate"  # a second item with the same stamp
    TIME_RESET = "time_reset"  # from before a backward jump of time
    NOT_WANTED = "not_wanted"  # the stream, or every target, is switched off


@dataclass(frozen=True)
class StreamStats:
    """Counters of one stream: received = paired + sum(dropped.values()) + queued."""

    received: int
    paired: int
    queued: int
    dropped: dict[str, int]
    last_miss_ns: int | None
    """Signed distance to the nearest item when the stream last had no partner for an anchor."""
    missed: int = 0
    """Anchors decided without an item of this stream: dropped for it, or in a set without it."""
    lag_ns: int | None = None
    """How far its last item's stamp was behind the anchor stream's newest when it arrived."""


@dataclass(frozen=True)
class MatchedSet(Generic[T]):
    """One item of every stream (but at least one target), all close to the anchor's stamp.

    Attributes:
        stamp_ns: the anchor's stamp; strictly increasing within an epoch.
        items: items by stream name; targets without an item are left out.
        stamps: stamps by stream name, nanoseconds.
        skew_ns: maximum distance of a stamp from the anchor's.
        epoch: number of backward jumps of time so far; reset any state when it changes.
    """

    stamp_ns: int
    items: dict[str, T]
    stamps: dict[str, int]
    skew_ns: int
    epoch: int


@dataclass(frozen=True)
class PairingStats:
    """Counters of a :class:`PairingCore`."""

    sets: int
    epoch: int
    last_skew_ns: int
    streams: dict[str, StreamStats]
    partial: int = 0
    """Sets without one of the targets."""

    @property
    def dropped(self) -> dict[str, int]:
        """Drops by reason, all streams together."""
        total: Counter[str] = Counter()
        for stream in self.streams.values():
            total.update(stream.dropped)
        return dict(total)


by_stamp = itemgetter(0)
"""The stamp of a queue's entry."""


@dataclass
class Stream(Generic[T]):
    """The state of one stream; all stamps in nanoseconds."""

    queue: list[tuple[int, T]] = field(default_factory=list)  # by stamp
    newest: int | None = None  # newest stamp since the last jump of time
    decided: int | None = None  # items up to this stamp are no longer needed
    intervals: deque[int] = field(default_factory=lambda: deque(maxlen=9))
    behind: bool = False  # other streams jumped back, this one has not followed yet
    astray: bool = False  # it alone jumped back
    on: bool = True
    timed_out: bool = False  # an anchor has waited for it too long since its last item
    late_run: int = 0
    last_miss: int | None = None
    lag: int | None = None
    received: int = 0
    paired: int = 0
    missed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def insert(self, stamp: int, item: T) -> None:
        """Queue an item, in order of the stamps."""
        insort(self.queue, (stamp, item), key=by_stamp)

    def drop(self, reason: DropReason) -> None:
        """Count an item that is dropped without being queued."""
        self.dropped[reason.value] += 1

    def drop_first(self, count: int, reason: DropReason) -> None:
        """Drop the oldest items of the queue."""
        if count > 0:
            del self.queue[:count]
            self.dropped[reason.value] += count

    def drop_until(self, stamp: int, reason: DropReason) -> None:
        """Drop every queued item with a stamp below `stamp`."""
        self.drop_first(bisect_left(self.queue, stamp, key=by_stamp), reason)

    def clear(self, reason: DropReason) -> None:
        """Drop all queued items and forget the newest stamp; the estimated period is kept."""
        self.drop_first(len(self.queue), reason)
        self.newest = self.decided = None
        self.late_run = 0
        self.astray = self.timed_out = False

    def is_repeated(self, stamp: int) -> bool:
        """Whether an item with that stamp is queued, the newest, or the last that was used."""
        if stamp in (self.newest, self.decided):
            return True
        index = bisect_left(self.queue, stamp, key=by_stamp)
        return index < len(self.queue) and self.queue[index][0] == stamp

    def nearest(self, anchor: int, following: int | None, tolerance: int) -> int | None:
        """Index of the item nearest to an anchor and not nearer to the following one, or None."""
        best: int | None = None
        start = bisect_left(self.queue, anchor - tolerance, key=by_stamp)
        for index in range(start, len(self.queue)):
            stamp = self.queue[index][0]
            distance = abs(stamp - anchor)
            if stamp > anchor + tolerance:
                break
            if following is not None and abs(stamp - following) < distance:
                break  # it and all later ones are nearer to the next anchor
            if best is None or distance < abs(self.queue[best][0] - anchor):
                best = index
        return best

    def period(self, unknown: int) -> float:
        """The stream's period by its stamps, or `unknown`."""
        return median(self.intervals) if self.intervals else unknown

    def capacity(self, queue: int, delay: int) -> int:
        """Number of items to keep: `queue`, and those that arrive in `delay` ns at its own rate."""
        if not delay or not self.intervals:
            return queue
        return min(queue + -int(-delay // max(self.period(delay), 1)), max(queue, MAX_QUEUE))

    def miss(self, anchor: int) -> None:
        """Record that the stream had no item for an anchor."""
        self.missed += 1
        near = [stamp for stamp, _ in self.queue]
        near += [stamp for stamp in (self.newest, self.decided) if stamp is not None]
        self.last_miss = min((stamp - anchor for stamp in near), key=abs, default=None)

    def stats(self) -> StreamStats:
        """A copy of the counters."""
        return StreamStats(
            self.received, self.paired, len(self.queue), dict(self.dropped), self.last_miss,
            self.missed, self.lag,
        )  # fmt: skip
