"""Sets without a silent target, targets that are switched off, query masks that come late."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from lmeec_core.sync.pairing import MatchedSet, PairingCore
from lmeec_core.sync.pairing_stream import MAX_QUEUE

MS = 1_000_000
Event = tuple[float, str, int]  # time of arrival and stamp, milliseconds


def core_of(*targets: str, wait: int | None = 200, **more: Any) -> PairingCore[int]:
    wait_ns = None if wait is None else wait * MS
    return PairingCore("ego", ["masks", *targets], 20 * MS, 10, targets, wait_ns, **more)


def camera(
    name: str, rate: float, until: int = 3000, begin: int = 0, delay: float = 0.0
) -> list[Event]:
    """A camera's images in [begin, until) ms, each arriving `delay` ms after its stamp."""
    stamps = [round(1000 * k / rate) for k in range(int(until * rate / 1000))]
    return [(stamp + delay, name, stamp) for stamp in stamps if stamp >= begin]


def feed(core: PairingCore[int], *streams: list[Event]) -> list[tuple[float, MatchedSet[int]]]:
    """Feed the events in order of arrival; the time of each set's emission (ms), and the set."""
    found: list[tuple[float, MatchedSet[int]]] = []
    for now, name, stamp in sorted(event for stream in streams for event in stream):
        found += [(now, one) for one in core.add(name, stamp * MS, stamp)]
        for stream in core.stats().streams.values():
            assert stream.received == stream.paired + sum(stream.dropped.values()) + stream.queued
    return found


def stamps(found: list[tuple[float, MatchedSet[int]]]) -> list[int]:
    return [one.stamp_ns // MS for _, one in found]


def test_a_camera_that_dies_and_returns_does_not_stop_the_others() -> None:
    core = core_of("left", "right")
    ego, masks, left = camera("ego", 30), camera("masks", 30, delay=5), camera("left", 30, delay=10)
    right = camera("right", 30, until=1000) + camera("right", 30, begin=2000)
    found = feed(core, ego, masks, left, right)
    assert stamps(found) == [stamp for _, _, stamp in ego], "every image is in a set"
    without = [one.stamp_ns // MS for _, one in found if "right" not in one.items]
    assert without == [stamp for _, _, stamp in ego if 1000 <= stamp < 2000]
    latency = {one.stamp_ns // MS: now - one.stamp_ns / MS for now, one in found}
    assert max(latency.values()) < 300, "one wait when it dies"
    assert max(v for stamp, v in latency.items() if stamp >= 1300) <= 10, "none after that"
    stats = core.stats()
    assert stats.partial == stats.streams["right"].missed == len(without) and stats.epoch == 0


def test_without_partial_sets_a_dead_camera_stops_all() -> None:
    core = core_of("left", "right", wait=None)
    found = feed(core, *(camera(name, 30) for name in ("ego", "masks", "left")))
    assert not found and core.stats().partial == 0


def test_a_camera_that_was_never_there_is_waited_for_once() -> None:
    core = core_of("left", "right")
    found = feed(core, *(camera(name, 30) for name in ("ego", "masks", "left")))
    assert len(found) == 90 and core.stats().streams["right"].missed == 90
    assert sum(now - one.stamp_ns / MS > 10 for now, one in found) <= 8


def test_one_target_is_waited_for_as_ever() -> None:
    events = [camera("ego", 30), camera("masks", 30), camera("left", 30, delay=250)]
    alone = feed(core_of("left", wait=0), *events)
    assert [(n, s.items) for n, s in alone] == [
        (n, s.items) for n, s in feed(core_of("left", wait=None), *events)
    ]
    assert len(alone) == 90
    dead = core_of("left")
    assert not feed(dead, *events[:2]) and dead.stats().dropped["queue_full"] > 50


def test_different_rates_hold_nobody_up() -> None:
    """30 Hz ego, 30, 15 and 10 Hz targets: each takes part at its own rate, at once."""
    rates = {"a": 30, "b": 15, "c": 10}
    core = core_of(*rates)
    events = [camera("ego", 30), camera("masks", 30, delay=3)]
    events += [camera(name, rate, delay=8) for name, rate in rates.items()]
    found = feed(core, *events)
    assert stamps(found) == [stamp for _, _, stamp in events[0]]
    for name, rate in rates.items():
        assert sum(name in one.items for _, one in found) == 3 * rate
        assert all(
            abs(one.stamps[name] - one.stamp_ns) <= MS for _, one in found if name in one.items
        )
    # Before a rhythm is known there is some waiting, and none later.
    assert all(now - one.stamp_ns / MS <= 9 for now, one in found if one.stamp_ns > 300 * MS)


def test_a_slow_camera_is_not_taken_for_dead() -> None:
    core = core_of("fast", "slow")
    events = [camera("ego", 10, 9000), camera("masks", 10, 9000), camera("fast", 10, 9000, delay=5)]
    found = feed(core, *events, camera("slow", 1, 9000, delay=60))
    assert [s.items["slow"] for _, s in found if "slow" in s.items] == list(range(0, 9000, 1000))
    assert len(found) >= 89, "the last one still waits"


def test_a_pause_of_all_cameras_loses_nothing() -> None:
    core = core_of("left", "right")
    names = ("ego", "masks", "left", "right")
    events = [camera(name, 30, 1000) + camera(name, 30, 9000, 8000) for name in names]
    found = feed(core, *events)
    assert len(found) == 60 and core.stats().partial == 0


def test_a_camera_that_returns_with_another_clock_stops_nobody() -> None:
    core = core_of("left", "right")
    rest = [camera(name, 30, 4000) for name in ("ego", "masks", "left")]
    right = camera("right", 30, until=1000)
    wrong = [(now, "right", stamp - 100_000) for now, _, stamp in camera("right", 30, 3000, 2000)]
    found = feed(core, *rest, right, wrong, camera("right", 30, 4000, 3000))
    assert len(found) == 120 and core.epoch == 0
    # All but the first after the break, which the others did not wait for.
    assert sum("right" in one.items for _, one in found) == 59
    assert core.stats().streams["right"].queued <= core.queue
    assert sum(now - one.stamp_ns / MS > 5 for now, one in found) <= 16, "two waits"


def test_a_camera_whose_clock_is_behind_from_the_start_is_waited_for_once() -> None:
    core = core_of("left", "right")
    wrong = [(now, "right", stamp - 100_000) for now, _, stamp in camera("right", 30)]
    found = feed(core, *(camera(name, 30) for name in ("ego", "masks", "left")), wrong)
    assert len(found) == 90 and core.epoch == 0
    assert sum(now - one.stamp_ns / MS > 5 for now, one in found) <= 10


@pytest.mark.parametrize("first", ["right", "ego", "masks"])
def test_a_loop_is_one_epoch_whoever_begins_it(first: str) -> None:
    core = core_of("left", "right")
    names = ("ego", "masks", "left", "right")
    rounds = [
        [(now + turn * 3000 - (name == first and turn) * 0.5, name, stamp) for now, _, stamp in one]
        for turn in range(2)
        for name in names
        for one in [camera(name, 30)]
    ]
    found = feed(core, *rounds)
    assert core.epoch == 1 and len(found) == 180
    assert all(len(one.items) == 4 for _, one in found)


def test_masks_late_by_a_second_are_matched_with_a_longer_queue() -> None:
    late = [camera("ego", 30), camera("masks", 30, delay=1000), camera("left", 30)]
    # The queue of ten holds a third of a second: only the last images are still there.
    assert all(one.stamp_ns >= 2667 * MS for _, one in feed(core_of("left"), *late))
    core = core_of("left", delay_ns=1200 * MS)
    found = feed(core, late[0], late[1][:60], late[2])
    assert len(found) == 60
    assert core.stats().streams["masks"].lag_ns == pytest.approx(1000 * MS, abs=40 * MS)


def test_masks_later_than_their_delay_are_not_waited_for() -> None:
    core = core_of("left", delay_ns=300 * MS)
    events = [camera("ego", 30), camera("masks", 10, until=1000), camera("left", 30)]
    found = feed(core, *events)
    assert len(found) == 10
    stats = core.stats()
    assert stats.streams["ego"].dropped["timeout"] >= 50
    assert stats.streams["ego"].queued <= 11, "300 ms of images wait"


def test_a_long_delay_and_a_short_period_cost_bounded_memory() -> None:
    core = core_of("left", delay_ns=60_000 * MS)
    for k in range(3 * MAX_QUEUE):
        core.add("ego", k, k)
        core.add("left", k, k)
    queued = [stream.queued for stream in core.stats().streams.values()]
    assert max(queued) <= MAX_QUEUE


def test_masks_at_a_lower_rate_choose_the_images() -> None:
    core = core_of("left", "right")
    events = [camera(name, 30) for name in ("ego", "left", "right")]
    masks = camera("masks", 5, delay=150)
    found = feed(core, *events, masks)
    assert stamps(found) == [stamp for _, _, stamp in masks]
    streams = core.stats().streams
    assert streams["masks"].missed == streams["ego"].dropped["no_partner"] >= 70
    assert core.stats().partial == 0


def test_targets_are_switched_off_and_on() -> None:
    for wait in (200, None):
        core = core_of("left", "right", wait=wait)
        found = feed(core, *(camera(name, 30, 1000) for name in ("ego", "masks", "left")))
        held = 0 if wait is None else 30
        assert len(found) == held
        more = core.switch("right", False)  # what waits in the queue goes out without it
        assert all("right" not in one.items for one in more)
        rest = [camera(name, 30, 2000, 1000) for name in ("ego", "masks", "left", "right")]
        found = feed(core, *rest)
        assert len(found) == 30 and all("right" not in one.items for _, one in found)
        assert core.stats().streams["right"].dropped == {"not_wanted": 30}
        core.switch("right", True)
        rest = [camera(name, 30, 3000, 2000) for name in ("ego", "masks", "left", "right")]
        assert all("right" in one.items for _, one in feed(core, *rest))
        for name in ("left", "right"):
            core.switch(name, False)
        assert not feed(core, *(camera(name, 30, 4000, 3000) for name in ("ego", "masks", "left")))
        assert all(stream.queued == 0 for stream in core.stats().streams.values())
        assert core.stats().streams["ego"].dropped["not_wanted"] == 30
    with pytest.raises(ValueError, match="'masks' given, one of left, right expected"):
        core.switch("masks", False)


def test_sets_are_in_order_and_no_image_is_used_twice() -> None:
    core = core_of("left", "right")
    right = [(now + (stamp % 7) * 30, n, stamp) for now, n, stamp in camera("right", 30)]
    found = feed(core, camera("ego", 30), camera("masks", 30), camera("left", 25), right)
    assert all(a.stamp_ns < b.stamp_ns for (_, a), (_, b) in pairwise(found))
    for name in ("left", "right"):
        used = [one.items[name] for _, one in found if name in one.items]
        assert used == sorted(set(used))
