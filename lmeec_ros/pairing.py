"""Finds, among several streams of stamped items, the sets that belong to one moment.

Nothing here knows of ROS or of the clock on the wall: the sets depend on the stamps and on the
order of arrival alone, so a recording replayed offline gives the sets that the node saw.

Use it offline like this::

    core = PairingCore("ego", ["masks", "exo"], tolerance_ns=20_000_000, queue=10)
    for stream, stamp_ns, item in recording:          # in order of arrival
        for found in core.add(stream, stamp_ns, item):
            ...                                       # found.items["exo"], found.stamp_ns
    for found in core.flush():                        # the end: decide on what is left
        ...
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import Generic, TypeVar

T = TypeVar("T")

MIN_JUMP_NS = 200_000_000
"""A stamp further back than this (or ten tolerances) is a clock that was set back."""


class DropReason(StrEnum):
    """Why an item never became part of a set."""

    NO_PARTNER = "no_partner"  # anchor: some stream has nothing within the tolerance
    UNMATCHED = "unmatched"  # other stream: no anchor wanted it
    QUEUE_FULL = "queue_full"  # waited until its queue overflowed
    LATE = "late"  # older than what has been decided already
    DUPLICATE = "duplicate"  # a second item with the same stamp
    TIME_RESET = "time_reset"  # from before a backward jump of time


@dataclass(frozen=True)
class MatchedSet(Generic[T]):
    """One item of every stream, all close to the anchor's stamp.

    Attributes:
        stamp_ns: the anchor's stamp; strictly increasing within an epoch.
        items: stream name to item.
        stamps: stream name to stamp, nanoseconds.
        skew_ns: largest distance of a stamp from the anchor's.
        epoch: number of backward jumps of time so far; forget what was learnt when it changes.
    """

    stamp_ns: int
    items: dict[str, T]
    stamps: dict[str, int]
    skew_ns: int
    epoch: int


@dataclass(frozen=True)
class StreamStats:
    """Counters of one stream: received = paired + sum(dropped.values()) + queued."""

    received: int
    paired: int
    queued: int
    dropped: dict[str, int]
    last_miss_ns: int | None
    """Signed distance to the nearest item when the stream last had no partner for an anchor."""


@dataclass(frozen=True)
class PairingStats:
    """Counters of a :class:`PairingCore`."""

    sets: int
    epoch: int
    last_skew_ns: int
    streams: dict[str, StreamStats]

    @property
    def dropped(self) -> dict[str, int]:
        """Drops by reason, all streams together."""
        total: Counter[str] = Counter()
        for stream in self.streams.values():
            total.update(stream.dropped)
        return dict(total)


@dataclass
class _Stream(Generic[T]):
    queue: list[tuple[int, T]] = field(default_factory=list)  # by stamp
    newest: int | None = None  # newest stamp since the last jump of time
    decided: int | None = None  # no item up to this stamp is wanted any more
    intervals: deque[int] = field(default_factory=lambda: deque(maxlen=9))
    behind: bool = False  # other streams jumped back, this one has not followed yet
    late_run: int = 0
    last_miss: int | None = None
    received: int = 0
    paired: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def drop_first(self, count: int, reason: DropReason) -> None:
        if count > 0:
            del self.queue[:count]
            self.dropped[reason.value] += count

    def drop_until(self, stamp: int, reason: DropReason) -> None:
        """Drop every queued item with a stamp below `stamp`."""
        self.drop_first(bisect_left(self.queue, stamp, key=_stamp_of), reason)


def _stamp_of(entry: tuple[int, object]) -> int:
    return entry[0]


class PairingCore(Generic[T]):
    """Nearest-stamp pairing of an anchor stream with every other stream.

    A set holds one item of each stream. For each anchor the nearest item of every other stream is
    taken, if it lies within the tolerance and is not nearer to the next anchor. An anchor is
    decided as soon as no nearer item is to be expected: when the stream has passed the anchor's
    stamp, or when the candidate lies within half of the stream's own period. Anchors are decided
    in the order of their stamps, no item is used twice, and queues are bounded.

    A stamp far behind its stream's newest one (more than 0.2 s and ten tolerances), or a long
    run of late ones, is a jump of time (a looped recording): everything queued is dropped and
    `epoch` increases. Streams that have not jumped yet are waited for: their items from before
    the jump are dropped.

    All methods may be called from any thread.

    Args:
        anchor: name of the stream whose stamps order the sets.
        others: names of the other streams, at least one.
        tolerance_ns: largest distance from the anchor's stamp, inclusive; not negative.
        queue: items kept per stream, at least 1.

    Raises:
        ValueError: if a name occurs twice, or a number is out of range.
    """

    def __init__(
        self, anchor: str, others: Sequence[str], tolerance_ns: int, queue: int = 10
    ) -> None:
        names = [anchor, *others]
        if len(set(names)) != len(names) or not others:
            raise ValueError(f"streams {names} given, an anchor and other names, each once, needed")
        if queue < 1:
            raise ValueError(f"queue {queue} given, at least 1 expected")
        self.anchor = anchor
        self.others = tuple(others)
        self.queue = queue
        self.tolerance_ns = tolerance_ns
        self._streams: dict[str, _Stream[T]] = {name: _Stream() for name in names}
        self._lock = threading.Lock()
        self._sets = 0
        self._epoch = 0
        self._last_skew = 0
        self._now = 0  # newest stamp since the last jump
        self._jump_from = 0
        self._last_jump: tuple[str, int, int] | None = None

    @property
    def tolerance_ns(self) -> int:
        """Largest distance from the anchor's stamp, inclusive; may be changed at any time."""
        return self._tolerance

    @tolerance_ns.setter
    def tolerance_ns(self, value: int) -> None:
        if value < 0:
            raise ValueError(f"tolerance {value} ns given, 0 or more expected")
        self._tolerance = int(value)

    @property
    def epoch(self) -> int:
        """Number of backward jumps of time (and calls of `reset`) so far."""
        return self._epoch

    @property
    def last_jump(self) -> tuple[str, int, int] | None:
        """Stream, old and new stamp (ns) of the last backward jump."""
        return self._last_jump

    def add(self, stream: str, stamp_ns: int, item: T) -> list[MatchedSet[T]]:
        """Take in one item; return the sets that can be decided now, oldest first.

        Raises:
            KeyError: if there is no stream of that name.
        """
        with self._lock:
            self._admit(stream, int(stamp_ns), item)
            return self._collect(final=False)

    def flush(self) -> list[MatchedSet[T]]:
        """Decide every queued anchor with what is there (nothing more will come)."""
        with self._lock:
            found = self._collect(final=True)
            for name in self.others:
                stream = self._streams[name]
                stream.drop_first(len(stream.queue), DropReason.UNMATCHED)
            return found

    def reset(self) -> None:
        """Drop everything queued and begin a new epoch, whatever the stamps that follow."""
        with self._lock:
            self._clear()
            for stream in self._streams.values():
                stream.behind = False

    def stats(self) -> PairingStats:
        """Return a copy of the counters."""
        with self._lock:
            streams = {
                name: StreamStats(s.received, s.paired, len(s.queue), dict(s.dropped), s.last_miss)
                for name, s in self._streams.items()
            }
            return PairingStats(self._sets, self._epoch, self._last_skew, streams)

    # ---- taking in

    def _admit(self, name: str, stamp: int, item: T) -> None:
        stream = self._streams[name]
        stream.received += 1
        if stream.behind:
            if abs(stamp - self._jump_from) <= abs(stamp - self._now):
                stream.dropped[DropReason.TIME_RESET.value] += 1
                return
            stream.behind = False
        if stream.newest is not None and stamp <= stream.newest:
            if stream.newest - stamp > max(MIN_JUMP_NS, 10 * self._tolerance):
                self._jump(name, stamp)
            elif self._is_repeated(stream, stamp):
                stream.dropped[DropReason.DUPLICATE.value] += 1
                return
            elif stream.decided is not None and stamp <= stream.decided:
                stream.late_run += 1
                if stream.late_run < max(self.queue, 3):
                    stream.dropped[DropReason.LATE.value] += 1
                    return
                self._jump(name, stamp)  # a loop shorter than the shortest jump
        elif stream.newest is not None:
            stream.intervals.append(stamp - stream.newest)
        stream.late_run = 0
        stream.newest = stamp if stream.newest is None else max(stamp, stream.newest)
        self._now = max(stamp, self._now)
        insort(stream.queue, (stamp, item), key=_stamp_of)
        if name != self.anchor and len(stream.queue) > self.queue:
            stream.drop_first(1, DropReason.QUEUE_FULL)

    @staticmethod
    def _is_repeated(stream: _Stream[T], stamp: int) -> bool:
        if stamp in (stream.newest, stream.decided):
            return True
        index = bisect_left(stream.queue, stamp, key=_stamp_of)
        return index < len(stream.queue) and stream.queue[index][0] == stamp

    def _jump(self, name: str, stamp: int) -> None:
        old = self._streams[name].newest or 0
        self._jump_from = max(s.newest for s in self._streams.values() if s.newest is not None)
        self._last_jump = (name, old, stamp)
        self._clear()
        for other, stream in self._streams.items():
            stream.behind = other != name
        self._now = stamp

    def _clear(self) -> None:
        self._epoch += 1
        for stream in self._streams.values():
            stream.drop_first(len(stream.queue), DropReason.TIME_RESET)
            stream.newest = stream.decided = None
            stream.late_run = 0

    # ---- deciding

    def _collect(self, final: bool) -> list[MatchedSet[T]]:
        found: list[MatchedSet[T]] = []
        anchors = self._streams[self.anchor]
        while anchors.queue:
            stamp = anchors.queue[0][0]
            overflow = len(anchors.queue) > self.queue
            chosen: dict[str, int | None] = {}
            waiting = False
            hopeless: list[str] = []
            for name in self.others:
                chosen[name], known = self._nearest(name, stamp)
                if known and chosen[name] is None:
                    hopeless.append(name)
                waiting = waiting or not known
            if hopeless:
                self._give_up(stamp, hopeless, DropReason.NO_PARTNER)
            elif waiting and not overflow and not final:
                break
            elif None in chosen.values():
                lacking = [name for name, index in chosen.items() if index is None]
                reason = DropReason.QUEUE_FULL if overflow else DropReason.NO_PARTNER
                self._give_up(stamp, lacking, reason)
            else:
                found.append(self._take({k: v for k, v in chosen.items() if v is not None}))
            self._forget_before(anchors.queue[0][0] if anchors.queue else stamp)
        return found

    def _nearest(self, name: str, anchor: int) -> tuple[int | None, bool]:
        """Return the index of the item nearest to the anchor, and whether that is final."""
        stream = self._streams[name]
        queue = self._streams[self.anchor].queue
        following = queue[1][0] if len(queue) > 1 else None
        best: int | None = None
        start = bisect_left(stream.queue, anchor - self._tolerance, key=_stamp_of)
        for index in range(start, len(stream.queue)):
            stamp = stream.queue[index][0]
            distance = abs(stamp - anchor)
            if stamp > anchor + self._tolerance:
                break
            if following is not None and abs(stamp - following) < distance:
                break  # it and all later ones are nearer to the next anchor
            if best is None or distance < abs(stream.queue[best][0] - anchor):
                best = index
        passed = stream.newest is not None and stream.newest >= anchor
        if best is None:
            return None, passed
        ahead = stream.queue[best][0] - anchor
        if ahead > 0:
            wanted_by_next = following is None and ahead > self._half_period(self.anchor)
            return best, passed and not wanted_by_next
        return best, passed or -ahead <= self._half_period(name)

    def _half_period(self, name: str) -> float:
        """Half of the stream's period; half of the tolerance while it is not known."""
        intervals = self._streams[name].intervals
        return (median(intervals) if intervals else self._tolerance) / 2

    def _take(self, chosen: dict[str, int]) -> MatchedSet[T]:
        anchors = self._streams[self.anchor]
        stamp, item = anchors.queue.pop(0)
        items, stamps = {self.anchor: item}, {self.anchor: stamp}
        for name, index in chosen.items():
            stream = self._streams[name]
            stream.drop_first(index, DropReason.UNMATCHED)
            stamps[name], items[name] = stream.queue.pop(0)
        for name in stamps:
            self._streams[name].paired += 1
            self._streams[name].decided = stamps[name]
        self._sets += 1
        self._last_skew = max(abs(other - stamp) for other in stamps.values())
        return MatchedSet(stamp, items, stamps, self._last_skew, self._epoch)

    def _give_up(self, anchor: int, lacking: list[str], reason: DropReason) -> None:
        anchors = self._streams[self.anchor]
        anchors.drop_first(1, reason)
        anchors.decided = anchor
        for name in lacking:
            stream = self._streams[name]
            near = [s for s, _ in stream.queue]
            near += [s for s in (stream.newest, stream.decided) if s is not None]
            stream.last_miss = min((s - anchor for s in near), key=abs, default=None)

    def _forget_before(self, anchor: int) -> None:
        """Drop what is too old for the given anchor and for every later one."""
        for name in self.others:
            self._streams[name].drop_until(anchor - self._tolerance, DropReason.UNMATCHED)
