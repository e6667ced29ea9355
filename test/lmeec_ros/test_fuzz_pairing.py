"""Pairing of generated streams: how near, how bounded, and that the synchroniser agrees."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage

from lmeec_core.sync.image_set import QUERY_MASKS
from lmeec_core.sync.pairing import DropReason, MatchedSet, PairingCore
from lmeec_core.sync.pairing_stream import MAX_QUEUE
from lmeec_ros.io.synchronizer import NearestSynchronizer, stamp_of
from lmeec_ros.parameters import config as parameters

pytestmark = pytest.mark.fuzz

MS = 1_000_000
Event = tuple[str, int]
STREAMS = ("a", "b", "c", "d")


@st.composite
def arrivals(draw: st.DrawFn, fewest: int = 2) -> tuple[tuple[str, ...], list[Event]]:
    """`fewest` to four cameras of different rates; jitter, loss, repeats, disorder, clock jumps.

    The stamps are in nanoseconds and may be anything that ROS can write.
    """
    names = STREAMS[: draw(st.integers(fewest, 4))]
    rng = draw(st.randoms(use_true_random=False))
    loss, repeat, late, jump = (draw(st.sampled_from([0.0, 0.05, 0.3])) for _ in range(4))
    jitter = draw(st.sampled_from([0, 3 * MS, 20 * MS]))
    start = draw(st.sampled_from([0, 10**9, 1_700_000_000 * 10**9, -5 * 10**9]))
    events: list[tuple[float, Event]] = []
    for name in names:
        period = rng.choice((10, 33, 40, 100)) * MS
        offset, shift, gone = rng.randint(-30, 30) * MS, 0, rng.random() < 0.1
        for k in range(0 if gone else draw(st.integers(0, 40))):
            if rng.random() < jump / 10:  # this camera's clock alone is set
                shift += rng.choice((-5000, -300, -100, 100, 300, 5000)) * MS
            if rng.random() < loss:
                continue
            seen = start + offset + k * period + rng.randint(-jitter, jitter)
            delay = rng.choice((5, 80, 400)) * MS if rng.random() < late else 0
            events.append((seen + delay, (name, seen + shift)))
            if rng.random() < repeat:
                events.append((seen + delay + 2 * MS, (name, seen + shift)))
    ordered = [event for _, event in sorted(events)]
    if ordered and rng.random() < jump:  # all of them at once: a bag that loops
        cut, back = rng.randrange(len(ordered)), rng.choice((250, 3000)) * MS
        ordered = ordered[:cut] + [(n, s - back) for n, s in ordered[cut:]]
    return names, ordered


def check_set(found: MatchedSet[int], events: list[Event], now: int, used: set[int]) -> None:
    """No item twice, none that has not come, none beyond what the set says."""
    for name, item in found.items.items():
        assert events[item] == (name, found.stamps[name]) and item <= now and item not in used
        used.add(item)
    assert found.skew_ns == max(abs(s - found.stamp_ns) for s in found.stamps.values())


@given(arrivals(), st.integers(0, 60), st.integers(1, 12), st.booleans())
def test_any_streams(
    streams: tuple[tuple[str, ...], list[Event]], tolerance: int, queue: int, change: bool
) -> None:
    names, events = streams
    core: PairingCore[int] = PairingCore(names[0], names[1:], tolerance * MS, queue)
    used: set[int] = set()
    sets: list[MatchedSet[int]] = []
    for number, (name, stamp) in enumerate(events):
        if change and number == len(events) // 2:
            core.tolerance_ns = 5 * MS  # a live change holds for every set from here on
        found = core.add(name, stamp, number)
        for one in found:
            check_set(one, events, number, used)
            assert one.skew_ns <= core.tolerance_ns
        sets += found
        for stream in core.stats().streams.values():
            assert stream.queued <= queue
            assert stream.received == stream.paired + sum(stream.dropped.values()) + stream.queued
            assert set(stream.dropped) <= {reason.value for reason in DropReason}
    for one in core.flush():
        check_set(one, events, len(events), used)
        sets.append(one)
    for first, second in pairwise(sets):
        assert first.epoch < second.epoch or first.stamp_ns < second.stamp_ns
    stats = core.stats()
    assert sum(s.received for s in stats.streams.values()) == len(events)
    assert stats.sets == len(sets) and all(s.paired == len(sets) for s in stats.streams.values())
    assert all(s.queued == 0 for s in stats.streams.values())


@st.composite
def cameras(draw: st.DrawFn) -> tuple[list[str], dict[str, list[Event]], dict[str, int]]:
    """Synchronised cameras: their names, for each its events, and its transport's delay (ms)."""
    names = ["ego", "masks", *(f"t{k}" for k in range(draw(st.integers(2, 8))))]
    period = draw(st.sampled_from([33, 40, 100]))
    frames, jitter = draw(st.integers(5, 30)), draw(st.integers(0, 2))
    rng = draw(st.randoms(use_true_random=False))
    delays = {name: rng.randint(0, 2 * period) for name in names}
    events = {
        name: [(name, 1000 + k * period + rng.randint(-jitter, jitter)) for k in range(frames)]
        for name in names
    }
    return names, events, delays


def in_order_of_arrival(events: dict[str, list[Event]], delays: dict[str, int]) -> list[Event]:
    return sorted(
        (event for name in events for event in events[name]),
        key=lambda event: (event[1] + delays[event[0]], event),
    )


@st.composite
def rough_cameras(draw: st.DrawFn) -> tuple[tuple[str, ...], list[Event]]:
    """The same with loss, repeats, disorder, a clock that jumps, a loop; stamps in nanoseconds."""
    names, events, delays = draw(cameras())
    rng = draw(st.randoms(use_true_random=False))
    loss, repeat, late = (draw(st.sampled_from([0.0, 0.05, 0.2])) for _ in range(3))
    arriving: list[tuple[int, Event]] = []
    for name in names:
        shift = 0
        for _, ms in events[name]:
            if name not in names[:2] and rng.random() < repeat / 4:
                shift += rng.choice((-100_000, -400, 400, 100_000))
            if rng.random() < loss:
                continue
            now = ms + delays[name] + (rng.choice((50, 300)) if rng.random() < late else 0)
            arriving += [(now, (name, (ms + shift) * MS))] * (1 + (rng.random() < repeat))
    ordered = [event for _, event in sorted(arriving)]
    if draw(st.booleans()):
        cut, back = rng.randrange(len(ordered) + 1), rng.choice((100, 700, 5000)) * MS
        ordered = ordered[:cut] + [(name, stamp - back) for name, stamp in ordered[cut:]]
    return tuple(names), ordered


@given(
    arrivals() | rough_cameras(),
    st.integers(0, 60),
    st.integers(1, 12),
    st.integers(0, 300),
    st.integers(0, 500),
)
def test_partial_sets_of_any_streams(
    streams: tuple[tuple[str, ...], list[Event]], tolerance: int, queue: int, wait: int, delay: int
) -> None:
    """An anchor, what every set needs, and targets, of which one is switched on and off."""
    names, events = streams
    targets = names[2:] or names[1:]
    core: PairingCore[int] = PairingCore(
        names[0], names[1:], tolerance * MS, queue, targets, wait * MS, delay * MS
    )
    used: set[int] = set()
    sets: list[MatchedSet[int]] = []
    for number, (name, stamp) in enumerate(events):
        found = core.add(name, stamp, number)
        if number % 17 == 16:
            found += core.switch(targets[-1], number % 2 == 1)
        for one in found:
            check_set(one, events, number, used)
            assert one.skew_ns <= core.tolerance_ns and any(t in one.items for t in targets)
            assert set(names) - set(targets) <= set(one.items)
        sets += found
        for stream in core.stats().streams.values():
            assert stream.queued <= queue + MAX_QUEUE * (delay > 0)
            assert stream.received == stream.paired + sum(stream.dropped.values()) + stream.queued
    for one in core.flush():
        check_set(one, events, len(events), used)
        sets.append(one)
    for first, second in pairwise(sets):
        assert first.epoch < second.epoch or first.stamp_ns < second.stamp_ns
    for target in targets:  # within an epoch a target's items are in order too
        taken = [(one.epoch, one.stamp_ns) for one in sets if target in one.items]
        assert taken == sorted(set(taken))
    stats = core.stats()
    assert stats.sets == len(sets) == stats.streams[names[0]].paired
    for name in names:
        assert stats.streams[name].paired == sum(name in one.items for one in sets)
        assert stats.streams[name].queued == 0


@given(cameras(), st.booleans())
def test_while_all_cameras_live_partial_sets_are_no_others(
    given_cameras: tuple[list[str], dict[str, list[Event]], dict[str, int]], flush: bool
) -> None:
    names, events, delays = given_cameras
    results = []
    for wait in (None, 300 * MS):
        core: PairingCore[int] = PairingCore(names[0], names[1:], 10 * MS, 30, names[2:], wait)
        sets = []
        for number, (name, ms) in enumerate(in_order_of_arrival(events, delays)):
            sets += [(number, one) for one in core.add(name, ms * MS, ms)]
        results.append((sets, core.flush() if flush else None, core.stats()))
    assert results[0] == results[1] and results[0][2].sets > 0


@given(cameras(), st.data())
def test_a_dead_camera_never_stops_the_others(
    given_cameras: tuple[list[str], dict[str, list[Event]], dict[str, int]], data: st.DataObject
) -> None:
    """Any targets but one may fall silent at any frame, return at any frame, and change clocks."""
    names, events, delays = given_cameras
    expected = [ms for _, ms in events["ego"]]
    for name in data.draw(st.lists(st.sampled_from(names[3:]), unique=True)):
        first = data.draw(st.integers(0, len(expected)))
        last = data.draw(st.integers(first, len(expected)))
        events[name] = events[name][:first] + events[name][last:]
    set_at = {
        n: data.draw(st.sampled_from(expected))
        for n in data.draw(st.sets(st.sampled_from(names[3:])))
    }
    shift = data.draw(st.sampled_from([-100_000, -500, 500, 100_000]))
    core: PairingCore[int] = PairingCore(names[0], names[1:], 10 * MS, 60, names[2:], 300 * MS)
    sets: list[MatchedSet[int]] = []
    for name, ms in in_order_of_arrival(events, delays):
        moved = shift if name in set_at and ms >= set_at[name] else 0
        sets += core.add(name, (ms + moved) * MS, ms)
    sets += core.flush()
    assert [one.items["ego"] for one in sets] == expected
    assert all("t0" in one.items and "masks" in one.items for one in sets)


@given(
    st.lists(st.integers(0, 2000), unique=True, max_size=40),
    st.lists(st.integers(0, 2000), unique=True, max_size=60),
    st.integers(0, 100),
)
def test_the_nearest_of_what_has_come(a: list[int], b: list[int], tolerance: int) -> None:
    """With all of the other stream here, and no other anchor near, it is the nearest that is taken.

    An anchor within twice the tolerance of another one may have to leave its nearest to that.
    """
    a, b = sorted(a), sorted(b)
    core: PairingCore[int] = PairingCore("a", ["b"], tolerance * MS, queue=100)
    sets = [one for ms in b for one in core.add("b", ms * MS, ms)]
    sets += [one for ms in a for one in core.add("a", ms * MS, ms)]
    sets += core.flush()
    pairs = {one.items["a"]: one.items["b"] for one in sets}
    for anchor in a:
        if any(0 < abs(other - anchor) <= 2 * tolerance for other in a):
            continue
        within = [other for other in b if abs(other - anchor) <= tolerance]
        if within:
            nearest = min(abs(other - anchor) for other in within)
            assert abs(pairs[anchor] - anchor) == nearest
        else:
            assert anchor not in pairs


@given(arrivals(fewest=3), st.integers(0, 60), st.integers(1, 12))
def test_the_synchroniser_says_the_same_with_real_messages(
    streams: tuple[tuple[str, ...], list[Event]], tolerance: int, queue: int
) -> None:
    names, events = streams
    events = [(name, abs(stamp)) for name, stamp in events]  # ROS time has no sign here
    core: PairingCore[int] = PairingCore(names[0], names[1:], tolerance * MS, queue)
    wanted = [
        tuple(one.stamps[name] for name in names)
        for number, (name, stamp) in enumerate(events)
        for one in core.add(name, stamp, number)
    ]
    cameras = [f"camera{number}" for number in range(len(names) - 1)]
    config = parameters.load(
        {
            "camera_names": cameras,
            "query_camera": cameras[0],
            "target_cameras": cameras[1:],
            "pairing.partial": False,
            "pairing.tolerance": tolerance / 1000,
            "pairing.queue": queue,
        }
    )
    named = dict(zip(names, (cameras[0], QUERY_MASKS, *cameras[1:]), strict=True))
    resets: list[Any] = []
    got: list[tuple[int, ...]] = []
    synchronizer = NearestSynchronizer(
        config,
        lambda found: got.append(tuple(map(stamp_of, found))),
        lambda *jump: resets.append(jump),
    )
    kept: dict[str, int] = defaultdict(int)
    for name, stamp in events:
        msg = CompressedImage()
        msg.header.stamp.sec, msg.header.stamp.nanosec = divmod(stamp, 10**9)
        synchronizer.add(named[name], msg)
        kept[name] += 1
    assert got == wanted
    stats = synchronizer.stats()
    assert list(stats.streams.values()) == list(core.stats().streams.values())
    assert (stats.sets, stats.partial) == (len(wanted), 0) and len(resets) == core.epoch
    assert {n: stats.streams[named[n]].received for n in kept} == kept
