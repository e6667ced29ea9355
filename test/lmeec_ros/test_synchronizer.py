"""The synchroniser: messages in, sets out, around the pairing."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from lmeec_core.sync.image_set import QUERY_MASKS, ImageSet
from lmeec_ros.io.synchronizer import make_synchronizer, message_filters
from lmeec_ros.parameters import config as parameters

MS = 1_000_000
STREAMS = ("ego", QUERY_MASKS, "exo")


def message(ms: int, name: str = "") -> Any:
    stamp = SimpleNamespace(sec=ms // 1000, nanosec=ms % 1000 * MS)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), name=name, ms=ms)


def synchronizer(on_set: Any, on_jump: Any = lambda *_: None, **values: Any) -> Any:
    return make_synchronizer(parameters.load(values), on_set, on_jump)


def test_a_set_has_its_parts_by_name() -> None:
    seen: list[Any] = []
    one = synchronizer(lambda found: seen.append(found.map(lambda m: m.name)))
    for name in ("exo", "ego", QUERY_MASKS):
        one.add(name, message(10, name))
    assert seen == [ImageSet("ego", QUERY_MASKS, {"exo": "exo"})]
    assert list(seen[0]) == list(STREAMS)
    assert one.stats().sets == 1


def test_no_lock_is_held_in_a_callback_and_an_exception_locks_nothing() -> None:
    seen: list[int] = []

    def callback(found: ImageSet[Any]) -> None:
        if found.query.ms == 0:
            for name in STREAMS:
                one.add(name, message(33))  # would hang if a lock were held
            raise RuntimeError("in a callback")
        seen.append(found.query.ms)

    one = synchronizer(callback)
    for name in STREAMS[:2]:
        one.add(name, message(0))
    with pytest.raises(RuntimeError, match="in a callback"):
        one.add("exo", message(0))
    for name in STREAMS:
        one.add(name, message(66))
    assert seen == [33, 66]


def test_order_holds_with_many_threads() -> None:
    """Three threads, at most five messages apart, so that none is dropped."""
    seen: list[int] = []
    one = synchronizer(lambda found: seen.append(found.query.ms))
    together = threading.Barrier(3)

    def run(name: str) -> None:
        for k in range(500):
            if k % 5 == 0:
                together.wait(60)
            one.add(name, message(33 * k))

    threads = [threading.Thread(target=run, args=(name,)) for name in STREAMS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [33 * k for k in range(500)]
    assert one.stats().sets == 500


def test_a_jump_is_told_between_the_sets() -> None:
    events: list[Any] = []
    one = synchronizer(
        lambda found: events.append(found.query.ms), lambda *jump: events.append(jump)
    )
    for ms in (5000, 5033, 0, 33):
        for name in STREAMS:
            one.add(name, message(ms))
    assert events == [5000, 5033, ("ego", 5033 * MS, 0), 0, 33]


def test_the_tolerance_can_be_changed_at_run_time() -> None:
    seen: list[int] = []
    one = synchronizer(lambda found: seen.append(found.query.ms))
    for ms in (1000, 2000):
        for name, late in zip(STREAMS, (0, 0, 40), strict=True):
            one.add(name, message(ms + late))
        one.take_parameters(parameters.load({"pairing.tolerance": 0.05}))
    assert seen == [2000]


def test_a_configuration_says_what_is_waited_for() -> None:
    values = {"camera_names": ["ego", "a", "b"], "target_cameras": ["a", "b"]}
    names = ("ego", QUERY_MASKS, "a")
    seen: list[Any] = []
    one = synchronizer(lambda found: seen.append(found.map(lambda m: m.ms)), **values)
    for ms in (0, 100, 200, 300):
        assert seen == []
        for name in names:
            one.add(name, message(ms))
    assert seen == [ImageSet(ms, ms, {"a": ms}) for ms in (0, 100, 200, 300)]  # "a" is 0.3 s on
    one.take_parameters(parameters.load({**values, "pairing.partial": False}))
    for name in names:
        one.add(name, message(400))
    assert len(seen) == 4
    one.switch("b", False)
    assert seen[4:] == [ImageSet(400, 400, {"a": 400})]


@pytest.mark.parametrize("policy", ["approximate", "exact"])
def test_stock_policies(policy: str) -> None:
    from sensor_msgs.msg import Image

    resets: list[Any] = []
    seen: list[int] = []

    def make() -> Any:
        values = {"pairing.policy": policy}
        return synchronizer(
            lambda found: seen.append(found.query.header.stamp.nanosec // MS),
            lambda *jump: resets.append(jump),
            **values,
        )

    if message_filters is None:
        with pytest.raises(ValueError, match="needs the ROS package message_filters"):
            make()
        return
    one = make()
    for ms in (900, 933, 0, 33):
        for name in STREAMS:
            msg = Image()
            msg.header.stamp.nanosec = ms * MS
            one.add(name, msg)
    assert seen == [900, 933, 0, 33]
    assert len(resets) == one.stats().epoch == 1
