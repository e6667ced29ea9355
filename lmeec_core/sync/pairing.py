"""Pairs stamped items of several streams into sets of the same moment.

Nothing here uses ROS or the system clock: the sets depend only on the stamps and the order of
arrival, so a recording replayed offline gives the sets that the node formed.

Use it offline like this::

    core = PairingCore("ego", ["masks", "exo"], tolerance_ns=20_000_000, queue=10)
    for stream, stamp_ns, item in recording:          # in order of arrival
        for found in core.add(stream, stamp_ns, item):
            ...                                       # found.items["exo"], found.stamp_ns
    for found in core.flush():                        # the end: decide what is left
        ...
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import Generic, NamedTuple, TypeVar

from lmeec_core.sync.pairing_stream import (
    DropReason,
    MatchedSet,
    PairingStats,
    Stream,
    StreamStats,
)

__all__ = ["DropReason", "MatchedSet", "PairingCore", "PairingStats", "StreamStats"]

T = TypeVar("T")

MIN_JUMP_NS = 200_000_000
"""A stamp further back than this (or ten tolerances) means that the clock was set back."""
UNKNOWN_NS = 1_000_000_000
"""Assumed period of a target of which only one item has arrived."""


class _Candidate(NamedTuple):
    """The candidate of a stream for an anchor."""

    place: int | None  # in its queue
    final: bool  # no nearer item is expected


class PairingCore(Generic[T]):
    """Nearest-stamp pairing of an anchor stream with every other stream.

    A set holds one item of each stream. For each anchor, the nearest item of every other stream is
    used if it is within the tolerance and is not nearer to the next anchor. An anchor is decided as
    soon as no nearer item can be expected: when the stream has passed the anchor's stamp, or when
    the candidate is within half of the stream's own period. Anchors are decided in the order of
    their stamps, no item is used twice, and queues are bounded.

    Partial sets (`wait_ns` given, several targets): a set needs only one of the targets. A target
    without an item for an anchor is left out when it has passed the anchor; when its next item,
    expected 0.9 of its shortest recent interval after its last one, belongs to a later anchor; or
    when the anchor stream and a target with an item are `wait_ns` past the anchor. After such a
    timeout, and when they are two of its periods and `wait_ns` past its last item, the target is
    silent: sets do not wait for it until it sends again. Without any target, an anchor waits as if
    sets were not partial.

    A stamp far behind its stream's newest one (more than 0.2 s and ten tolerances), or a long
    run of late ones, is a jump back in time (a looped recording): everything queued is dropped and
    `epoch` increases. Items from before the jump of streams that have not jumped yet are dropped.
    With partial sets, a target that jumps alone (a camera that restarts with another clock) resets
    only itself.

    All methods may be called from any thread.

    Args:
        anchor: name of the stream whose stamps order the sets.
        others: names of the other streams, at least one.
        tolerance_ns: maximum distance from the anchor's stamp, inclusive; not negative.
        queue: items kept per stream, at least 1.
        targets: those of `others` that can be switched off; if any, a set needs one of them.
        wait_ns: maximum wait for a target while another has an item; None: a set needs all targets
            that are on.
        delay_ns: how long an anchor waits, by the anchor stream's own stamps, for the streams that
            are not targets; the queues are longer accordingly. 0: until a queue is full.

    Raises:
        ValueError: a name occurs twice, or a number is out of range.
    """

    def __init__(
        self,
        anchor: str,
        others: Sequence[str],
        tolerance_ns: int,
        queue: int = 10,
        targets: Collection[str] = (),
        wait_ns: int | None = None,
        delay_ns: int = 0,
    ) -> None:
        names = [anchor, *others]
        if len(set(names)) != len(names) or not others or not set(targets) <= set(others):
            raise ValueError(
                f"streams {names} and targets {list(targets)} given; an anchor and other streams, "
                "all with different names, and targets among the other streams expected"
            )
        if queue < 1:
            raise ValueError(f"queue {queue} given, at least 1 expected")
        self.anchor = anchor
        self.others = tuple(others)
        self.targets = tuple(name for name in others if name in targets)
        self.queue = queue
        self.tolerance_ns = tolerance_ns
        self.set_waits(wait_ns, delay_ns)
        self._streams: dict[str, Stream[T]] = {name: Stream() for name in names}
        self._lock = threading.Lock()
        self._sets = self._partial = 0
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

    def set_waits(self, wait_ns: int | None, delay_ns: int) -> None:
        """Change `wait_ns` and `delay_ns`, at any time.

        Raises:
            ValueError: if one is negative.
        """
        if delay_ns < 0 or (wait_ns is not None and wait_ns < 0):
            raise ValueError(f"wait {wait_ns}, delay {delay_ns} ns given, 0 or more expected")
        self._wait, self._delay = wait_ns, delay_ns

    @property
    def epoch(self) -> int:
        """Number of backward jumps of time (and calls of `reset`) so far."""
        return self._epoch

    @property
    def last_jump(self) -> tuple[str, int, int] | None:
        """Stream, old and new stamp (ns) of the last backward jump."""
        return self._last_jump

    def add(self, stream: str, stamp_ns: int, item: T) -> list[MatchedSet[T]]:
        """Add one item; return the sets that can be decided now, oldest first.

        Raises:
            KeyError: if there is no stream of that name.
        """
        with self._lock:
            self._admit(stream, int(stamp_ns), item)
            return self._collect(final=False)

    def flush(self) -> list[MatchedSet[T]]:
        """Decide every queued anchor with the available items, because no more will arrive."""
        with self._lock:
            found = self._collect(final=True)
            for name in self.others:
                stream = self._streams[name]
                stream.drop_first(len(stream.queue), DropReason.UNMATCHED)
            return found

    def reset(self) -> None:
        """Drop everything queued and begin a new epoch, whatever stamps follow."""
        with self._lock:
            self._epoch += 1
            for stream in self._streams.values():
                stream.clear(DropReason.TIME_RESET)
                stream.behind = False

    def switch(self, target: str, on: bool) -> list[MatchedSet[T]]:
        """Switch a target on or off; return the sets that had waited for it.

        A target that is off is part of no set. While all are off nothing is paired.

        Raises:
            ValueError: if it is not a target.
        """
        if target not in self.targets:
            raise ValueError(f"{target!r} given, one of {', '.join(self.targets)} expected")
        with self._lock:
            stream = self._streams[target]
            if stream.on == on:
                return []
            stream.on = on
            stream.clear(DropReason.NOT_WANTED)
            if not self._targets_on():
                for one in self._streams.values():
                    one.drop_first(len(one.queue), DropReason.NOT_WANTED)
            return self._collect(final=False)

    def stats(self) -> PairingStats:
        """Return a copy of the counters."""
        with self._lock:
            streams = {name: stream.stats() for name, stream in self._streams.items()}
            return PairingStats(self._sets, self._epoch, self._last_skew, streams, self._partial)

    def _targets_on(self) -> list[str]:
        return [name for name in self.targets if self._streams[name].on]

    def _is_optional(self, name: str) -> bool:
        """Whether sets may currently lack that stream."""
        return self._wait is not None and name in self.targets and len(self._targets_on()) > 1

    @property
    def _min_jump(self) -> int:
        return max(MIN_JUMP_NS, 10 * self._tolerance)

    # ---- taking in

    def _admit(self, name: str, stamp: int, item: T) -> None:
        stream, anchors = self._streams[name], self._streams[self.anchor]
        stream.received += 1
        if not stream.on or (self.targets and not self._targets_on()):
            stream.drop(DropReason.NOT_WANTED)
            return
        if stream.behind:
            if abs(stamp - self._jump_from) <= abs(stamp - self._now):
                stream.drop(DropReason.TIME_RESET)
                return
            stream.behind = False
        if stream.newest is not None and stamp <= stream.newest:
            if stream.newest - stamp > self._min_jump:
                self._jump(name, stamp)
            elif stream.is_repeated(stamp):
                stream.drop(DropReason.DUPLICATE)
                return
            elif stream.decided is not None and stamp <= stream.decided:
                stream.late_run += 1
                if stream.late_run < max(self.queue, 3):
                    stream.drop(DropReason.LATE)
                    return
                self._jump(name, stamp)  # a loop shorter than the shortest jump
        elif stream.newest is not None:
            stream.intervals.append(stamp - stream.newest)
        stream.late_run = 0
        stream.newest = stamp if stream.newest is None else max(stamp, stream.newest)
        self._now = max(stamp, self._now)
        if anchors.newest is None or stamp >= anchors.newest - self._min_jump:
            stream.astray = stream.timed_out = False
        if anchors.newest is not None:
            stream.lag = anchors.newest - stamp
        if self._is_past(stream, stamp):
            stream.drop(DropReason.LATE)
            return
        stream.insert(stamp, item)
        if name != self.anchor and len(stream.queue) > stream.capacity(self.queue, self._delay):
            stream.drop_first(1, DropReason.QUEUE_FULL)

    def _is_past(self, stream: Stream[T], stamp: int) -> bool:
        """Whether every anchor that the item could belong to has been decided."""
        anchors = self._streams[self.anchor]
        if stream is anchors or stream.astray or anchors.decided is None:
            return False
        return stamp < anchors.decided - self._tolerance

    def _jump(self, name: str, stamp: int) -> None:
        jumped = self._streams[name]
        if self._is_optional(name):
            jumped.clear(DropReason.TIME_RESET)
            jumped.astray = True
            return
        known = [s for s in self._streams.values() if s.newest is not None]
        self._jump_from = max(s.newest or 0 for s in known if not s.astray or s is jumped)
        self._last_jump = (name, jumped.newest or 0, stamp)
        self._epoch += 1
        self._now = stamp
        for stream in self._streams.values():
            newest = stream.newest
            if stream.astray and newest is not None and stream is not jumped:  # noqa: SIM102
                if abs(newest - stamp) < abs(newest - self._jump_from):
                    stream.astray = False  # it had only jumped before the others
                    continue
            stream.clear(DropReason.TIME_RESET)
            stream.behind = stream is not jumped

    # ---- deciding

    def _collect(self, final: bool) -> list[MatchedSet[T]]:
        found: list[MatchedSet[T]] = []
        anchors = self._streams[self.anchor]
        while anchors.queue:
            stamp = anchors.queue[0][0]
            streams = {n: self._nearest(n, stamp) for n in self.others if self._streams[n].on}
            reason = self._reason_against(stamp, streams)
            if reason is None and not final:
                overflow = len(anchors.queue) > anchors.capacity(self.queue, self._delay)
                if self._waits(stamp, streams) and not overflow:
                    break
                reason = DropReason.QUEUE_FULL if overflow else None
            chosen = {name: one.place for name, one in streams.items() if one.place is not None}
            lacking = [name for name in streams if name not in chosen]
            if self._suffices(chosen, lacking):
                found.append(self._take(chosen))
            else:
                anchors.drop_first(1, reason or DropReason.NO_PARTNER)
                anchors.decided = stamp
            for name in lacking:
                if streams[name].final or reason is not DropReason.NO_PARTNER:
                    self._streams[name].miss(stamp)
            self._forget_before(anchors.queue[0][0] if anchors.queue else stamp)
        return found

    def _suffices(self, chosen: Collection[str], lacking: Sequence[str]) -> bool:
        """Whether these streams make a set without those."""
        if self.targets and not any(name in chosen for name in self.targets):
            return False
        return all(self._is_optional(name) for name in lacking)

    def _reason_against(self, anchor: int, streams: dict[str, _Candidate]) -> DropReason | None:
        """Why the anchor cannot become a set; None while it still can."""
        hopeless = [name for name, one in streams.items() if one.place is None and one.final]
        chosen = [name for name in streams if name not in hopeless]
        if not self._suffices(chosen, hopeless):
            return DropReason.NO_PARTNER
        if self._delay and (self._streams[self.anchor].newest or anchor) - anchor > self._delay:
            needed = (name for name in streams if name not in self.targets)
            if any(streams[name].place is None for name in needed):
                return DropReason.TIMEOUT
        return None

    def _waits(self, anchor: int, streams: dict[str, _Candidate]) -> bool:
        """Whether to wait for items that may still arrive."""
        there = [n for n in self.targets if n in streams and streams[n].place is not None]
        for name, one in streams.items():
            if one.final:
                continue
            others = [self._streams[n].newest or 0 for n in there if n != name]
            if not others or not self._is_optional(name):
                return True
            # A target whose clock is ahead must not make the others look late.
            front = min(max(others), self._streams[self.anchor].newest or anchor)
            if not self._given_up(name, one, anchor, front):
                return True
        return False

    def _given_up(self, name: str, one: _Candidate, anchor: int, front: int) -> bool:
        """Whether a target is left out of a partial set; `front`: newest stamp of the others."""
        stream, wait = self._streams[name], self._wait or 0
        if front - anchor > wait:
            stream.timed_out = True
            return True
        if stream.newest is None:
            return stream.timed_out
        if one.place is None and stream.intervals:  # noqa: SIM102
            if stream.newest + 0.9 * min(stream.intervals) > anchor + self._tolerance:
                return True  # its next one belongs to a later anchor
        return stream.timed_out and front - stream.newest > 2 * stream.period(UNKNOWN_NS) + wait

    def _nearest(self, name: str, anchor: int) -> _Candidate:
        """The candidate of a stream for an anchor."""
        stream, anchors = self._streams[name], self._streams[self.anchor]
        following = anchors.queue[1][0] if len(anchors.queue) > 1 else None
        best = stream.nearest(anchor, following, self._tolerance)
        passed = stream.newest is not None and stream.newest >= anchor
        if best is None:
            return _Candidate(None, passed)
        ahead = stream.queue[best][0] - anchor
        if ahead > 0:
            wanted_by_next = following is None and ahead > self._half_period(self.anchor)
            return _Candidate(best, passed and not wanted_by_next)
        return _Candidate(best, passed or -ahead <= self._half_period(name))

    def _half_period(self, name: str) -> float:
        """Half of the stream's period; half of the tolerance while it is not known."""
        return self._streams[name].period(self._tolerance) / 2

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
        self._partial += any(name not in stamps for name in self._targets_on())
        self._last_skew = max(abs(other - stamp) for other in stamps.values())
        return MatchedSet(stamp, items, stamps, self._last_skew, self._epoch)

    def _forget_before(self, anchor: int) -> None:
        """Drop items that are too old for the given anchor and every later one."""
        for name in self.others:
            stream = self._streams[name]
            if not stream.astray:
                stream.drop_until(anchor - self._tolerance, DropReason.UNMATCHED)
