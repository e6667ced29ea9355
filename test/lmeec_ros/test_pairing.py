"""The pairing policy: by example, and by property for random streams."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmeec_core.sync.pairing import MatchedSet, PairingCore

MS = 1_000_000
Event = tuple[str, int]


def feed(core: PairingCore[Event], events: list[Event], flush: bool = True) -> list[tuple]:
    """Feed (stream, milliseconds) and return (anchor, others...) of each set, in milliseconds."""
    found: list[MatchedSet[Event]] = []
    for stream, ms in events:
        found += core.add(stream, ms * MS, (stream, ms))
    if flush:
        found += core.flush()
    names = (core.anchor, *core.others)
    for one in found:
        assert all(one.items[name] == (name, one.stamps[name] // MS) for name in names)
    return [tuple(one.stamps[name] // MS for name in names) for one in found]


def interleave(*streams: tuple[str, list[int]]) -> list[Event]:
    """Events of all streams in the order of their stamps (ties in the order given)."""
    return sorted(((n, s) for n, stamps in streams for s in stamps), key=lambda e: e[1])


def check_counts(core: PairingCore[Event]) -> None:
    for name, stream in core.stats().streams.items():
        dropped = sum(stream.dropped.values())
        assert stream.received == stream.paired + dropped + stream.queued, name
        assert stream.paired == core.stats().sets
        assert stream.queued <= core.queue


def test_equal_stamps_are_paired_at_once() -> None:
    core: PairingCore[Event] = PairingCore("ego", ["masks", "exo"], 20 * MS)
    events = [(name, k * 33) for k in range(5) for name in ("exo", "masks", "ego")]
    assert feed(core, events, flush=False) == [(k * 33,) * 3 for k in range(5)]


@pytest.mark.parametrize("offset", [-15, -3, 0, 3, 15])
def test_the_nearest_is_taken_without_waiting_a_period(offset: int) -> None:
    core: PairingCore[Event] = PairingCore("a", ["b"], 50 * MS)
    times = [1000 + 33 * k for k in range(30)]
    events = interleave(("a", times), ("b", [t + offset for t in times]))
    sets = feed(core, events, flush=False)
    assert len(sets) >= 28
    assert all(b - a == offset for a, b in sets)


@pytest.mark.parametrize("offset", [-3, 3])
def test_a_lost_frame_does_not_shift_the_pairs_after_it(offset: int) -> None:
    # With a tolerance beyond the period, greedy policies go on a frame apart from here.
    core: PairingCore[Event] = PairingCore("a", ["b"], 50 * MS)
    times = [100 + 33 * k for k in range(30)]
    without = [t + offset for t in times if t != times[10]]
    sets = feed(core, interleave(("a", times), ("b", without)))
    assert sets == [(t, t + offset) for t in times if t != times[10]]
    assert core.stats().streams["a"].dropped == {"no_partner": 1}


def test_a_set_does_not_wait_for_a_frame_that_cannot_be_nearer() -> None:
    core: PairingCore[Event] = PairingCore("a", ["b"], 50 * MS)
    for t in range(1000, 1300, 33):
        assert core.add("b", (t - 10) * MS, ("b", t)) == []
        # The next of "b" will be 23 ms ahead: this one, 10 ms behind, is the nearest already.
        assert [one.stamp_ns for one in core.add("a", t * MS, ("a", t))] == [t * MS]


def test_late_masks_are_waited_for() -> None:
    core: PairingCore[Event] = PairingCore("ego", ["masks", "exo"], 20 * MS, queue=10)
    events: list[Event] = []
    for k in range(40):
        events += [("ego", 33 * k), ("exo", 33 * k + 5)]
        if k >= 6:
            events.append(("masks", 33 * (k - 6)))
    assert feed(core, events, flush=False) == [(33 * k, 33 * k, 33 * k + 5) for k in range(34)]


def test_slower_masks_take_every_third_image() -> None:
    core: PairingCore[Event] = PairingCore("ego", ["masks"], 40 * MS)
    sets = feed(
        core, interleave(("ego", [33 * k for k in range(30)]), ("masks", range(0, 990, 99)))
    )
    assert sets == [(t, t) for t in range(0, 990, 99)]


def test_beyond_the_tolerance_nothing_is_paired() -> None:
    core: PairingCore[Event] = PairingCore("a", ["b"], 20 * MS)
    times = [100 * k for k in range(20)]
    assert feed(core, interleave(("a", times), ("b", [t + 40 for t in times]))) == []
    stats = core.stats()
    assert stats.streams["a"].dropped == {"no_partner": 20}
    assert abs(stats.streams["b"].last_miss_ns or 0) == 40 * MS
    check_counts(core)


def test_the_tolerance_is_inclusive() -> None:
    core: PairingCore[Event] = PairingCore("a", ["b"], 20 * MS)
    assert feed(core, [("a", 100), ("b", 120)]) == [(100, 120)]
    assert feed(core, [("a", 200), ("b", 221)]) == []


def test_a_silent_stream_costs_bounded_memory_and_then_goes_on() -> None:
    core: PairingCore[Event] = PairingCore("a", ["b", "c"], 10 * MS, queue=5)
    assert feed(core, [(n, 10 * k) for k in range(100) for n in "ab"], flush=False) == []
    assert core.stats().dropped["queue_full"] > 100
    check_counts(core)
    assert (2000, 2000, 2000) in feed(core, [(n, 10 * k) for k in range(198, 203) for n in "abc"])


def test_a_loop_starts_anew() -> None:
    core: PairingCore[Event] = PairingCore("a", ["b"], 10 * MS)
    loop = [(n, 33 * k) for k in range(30) for n in "ab"]
    sets = feed(core, loop * 3, flush=False)
    assert sets == [(33 * k, 33 * k) for k in range(30)] * 3
    assert core.epoch == 2
    assert core.last_jump == ("a", 29 * 33 * MS, 0)


def test_what_is_left_of_the_old_loop_is_dropped() -> None:
    core: PairingCore[Event] = PairingCore("a", ["b"], 10 * MS)
    events: list[Event] = [(n, 33 * k) for k in range(30) for n in "ab"]
    # "a" has begun again while two of the old loop's messages of "b" are still to come
    events = events[:-1] + [
        ("a", 0),
        ("b", 29 * 33),
        ("b", 30 * 33),
        ("a", 33),
        ("b", 0),
        ("b", 33),
    ]
    sets = feed(core, events, flush=False)
    assert sets[-2:] == [(0, 0), (33, 33)]
    assert core.epoch == 1
    check_counts(core)


def test_a_loop_shorter_than_the_shortest_jump_is_noticed() -> None:
    core: PairingCore[Event] = PairingCore("a", ["b"], 10 * MS, queue=5)
    sets = feed(core, [(n, 33 * k) for k in range(4) for n in "ab"] * 20, flush=False)
    assert core.epoch >= 3
    assert len(sets) > 12


def test_one_stray_stamp_does_not_stop_it() -> None:
    for stray in (0, 10**9):
        core: PairingCore[Event] = PairingCore("a", ["b"], 10 * MS)
        events: list[Event] = [(n, 10_000 + 33 * k) for k in range(20) for n in "ab"]
        events.insert(21, ("b", stray))
        sets = feed(core, events)
        assert sets[-5:] == [(10_000 + 33 * k,) * 2 for k in range(15, 20)], stray


def test_repeated_and_late_messages_are_dropped() -> None:
    core: PairingCore[Event] = PairingCore("a", ["b"], 5 * MS)
    events = [("a", 0), ("a", 0), ("b", 0), ("b", 0), ("a", 100), ("b", 100), ("a", 50)]
    assert feed(core, events) == [(0, 0), (100, 100)]
    assert core.stats().streams["a"].dropped == {"duplicate": 1, "late": 1}
    assert core.stats().streams["b"].dropped == {"duplicate": 1}


def test_reset_and_live_tolerance() -> None:
    core: PairingCore[Event] = PairingCore("a", ["b"], 5 * MS)
    core.add("a", 0, ("a", 0))
    core.reset()
    assert core.epoch == 1
    core.tolerance_ns = 50 * MS
    assert feed(core, [("b", 40), ("a", 0)]) == [(0, 40)]


@pytest.mark.parametrize(
    ("streams", "arguments"),
    [(["a"], {}), ([], {}), (["b"], {"queue": 0}), (["b"], {"tolerance_ns": -1})],
)
def test_wrong_arguments(streams: list[str], arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="given"):
        PairingCore("a", streams, **{"tolerance_ns": 1, **arguments})


@st.composite
def arrivals(draw: st.DrawFn) -> list[Event]:
    """Messages of three streams with jitter, loss, repetition, late arrival and clock jumps."""
    events: list[tuple[float, Event]] = []
    for name in ("a", "b", "c"):
        period = draw(st.sampled_from([10, 33, 50]))
        offset = draw(st.integers(-40, 40))
        for k in range(draw(st.integers(0, 40))):
            stamp = 1000 + offset + k * period + draw(st.integers(-4, 4))
            if draw(st.integers(0, 9)) == 0:
                continue
            delay = draw(st.sampled_from([0, 0, 0, 5, 80]))
            events.append((stamp + delay, (name, stamp)))
            if draw(st.integers(0, 19)) == 0:
                events.append((stamp + delay + 1, (name, stamp)))
    ordered = [event for _, event in sorted(events)]
    if draw(st.booleans()) and ordered:
        cut = draw(st.integers(0, len(ordered)))
        back = draw(st.sampled_from([300, 5000]))
        ordered = ordered[:cut] + [(n, s - back) for n, s in ordered[cut:]]
    return ordered


@settings(max_examples=300, deadline=None)
@given(arrivals(), st.integers(0, 60), st.integers(1, 12))
def test_properties(events: list[Event], tolerance: int, queue: int) -> None:
    core: PairingCore[int] = PairingCore("a", ["b", "c"], tolerance * MS, queue)
    arrived: dict[tuple[int, str], set[int]] = {}
    used: set[int] = set()
    sets: list[MatchedSet[int]] = []
    for number, (stream, ms) in enumerate(events):
        found = core.add(stream, ms * MS, number)
        arrived.setdefault((core.epoch, stream), set()).add(ms * MS)
        for one in found:
            for name, item in one.items.items():
                assert events[item] == (name, one.stamps[name] // MS)
                assert item <= number and item not in used
                used.add(item)
            assert one.skew_ns == max(abs(s - one.stamp_ns) for s in one.stamps.values())
            assert one.skew_ns <= tolerance * MS
        sets += found
        for counted in core.stats().streams.values():
            assert counted.queued <= queue
            dropped = sum(counted.dropped.values())
            assert counted.received == counted.paired + dropped + counted.queued
    for one in core.flush():
        assert not used & set(one.items.values())
        used |= set(one.items.values())
        sets.append(one)
    for first, second in pairwise(sets):
        assert second.epoch > first.epoch or all(
            second.stamps[name] > first.stamps[name] for name in first.stamps
        )
    stats = core.stats()
    assert all(s.queued == 0 for s in stats.streams.values())
    assert sum(s.received for s in stats.streams.values()) == len(events)
    assert stats.sets == len(sets)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-16, 16),
    st.lists(st.integers(-1, 1), min_size=40, max_size=40),
    st.sets(st.integers(3, 35), max_size=8),
)
def test_nearest_for_steady_cameras(offset: int, jitter: list[int], lost: set[int]) -> None:
    """Whatever is lost, a frame is paired with its own partner or with none."""
    core: PairingCore[Event] = PairingCore("a", ["b"], 17 * MS)
    times = [1000 + 36 * k for k in range(40)]
    partner = {t: t + offset + j for t, j in zip(times, jitter, strict=True)}
    other = [partner[t] for k, t in enumerate(times) if k not in lost]
    sets = feed(core, interleave(("a", times), ("b", other)))
    assert all(b == partner[a] for a, b in sets)
    assert len(sets) == len([t for t, b in partner.items() if b in other and abs(b - t) <= 17])


def test_replay_is_deterministic() -> None:
    events = interleave(*((n, [k * 33 + d for k in range(50)]) for n, d in (("a", 0), ("b", 9))))
    results = {tuple(feed(PairingCore("a", ["b"], 20 * MS), events)) for _ in range(3)}
    assert len(results) == 1
    assert len(deque(results.pop())) == 50
