"""The synchroniser: message_filters' interface around the pairing."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from lmeec_ros.io import filters
from lmeec_ros.parameters import config as parameters

MS = 1_000_000


def message(ms: int, name: str = "") -> Any:
    stamp = SimpleNamespace(sec=ms // 1000, nanosec=ms % 1000 * MS)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp), name=name, ms=ms)


def synchronizer(*names: str, **kwargs: Any) -> tuple[list[Any], Any]:
    inputs = [filters.SimpleFilter() for _ in names]
    one = filters.make_synchronizer("nearest", inputs, 10, 0.02, names, **kwargs)
    return inputs, one


def test_sets_come_in_the_order_of_the_inputs() -> None:
    inputs, one = synchronizer("ego", "masks", "exo")
    seen: list[Any] = []
    one.registerCallback(lambda *m: seen.append([x.name for x in m[:-1]] + [m[-1]]), "extra")
    for name, index in (("exo", 2), ("ego", 0), ("masks", 1)):
        inputs[index].signalMessage(message(10, name))
    assert seen == [["ego", "masks", "exo", "extra"]]
    assert one.stats().sets == 1


def test_no_lock_is_held_in_a_callback_and_an_exception_locks_nothing() -> None:
    inputs, one = synchronizer("a", "b")
    seen: list[int] = []

    def callback(first: Any, _: Any) -> None:
        if first.ms == 0:
            inputs[0].signalMessage(message(33))  # would hang if a lock were held
            inputs[1].signalMessage(message(33))
            raise RuntimeError("in a callback")
        seen.append(first.ms)

    one.registerCallback(callback)
    inputs[0].signalMessage(message(0))
    with pytest.raises(RuntimeError, match="in a callback"):
        inputs[1].signalMessage(message(0))
    for i in (0, 1):
        inputs[i].signalMessage(message(66))
    assert seen == [33, 66]


def test_order_holds_with_many_threads() -> None:
    """Two threads, at most five messages apart, so that none is dropped."""
    inputs, one = synchronizer("a", "b")
    seen: list[int] = []
    one.registerCallback(lambda a, b: seen.append(a.ms))
    together = threading.Barrier(2)

    def run(index: int) -> None:
        for k in range(500):
            if k % 5 == 0:
                together.wait(60)
            inputs[index].signalMessage(message(33 * k))

    threads = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [33 * k for k in range(500)]
    assert one.stats().sets == 500


def test_a_jump_is_told_between_the_sets() -> None:
    events: list[Any] = []
    inputs, one = synchronizer("a", "b", on_reset=lambda *jump: events.append(jump))
    one.registerCallback(lambda a, b: events.append(a.ms))
    for ms in (5000, 5033, 0, 33):
        for i in (0, 1):
            inputs[i].signalMessage(message(ms))
    assert events == [5000, 5033, ("a", 5033 * MS, 0), 0, 33]


def test_tolerance_changes_live() -> None:
    inputs, one = synchronizer("a", "b")
    seen: list[int] = []
    one.registerCallback(lambda a, b: seen.append(a.ms))
    for ms in (1000, 2000):
        inputs[0].signalMessage(message(ms))
        inputs[1].signalMessage(message(ms + 40))
        one.set_tolerance(0.05)
    assert seen == [2000]


def test_a_configuration_says_what_is_waited_for() -> None:
    values = {"camera_names": ["ego", "a", "b"], "target_cameras": ["a", "b"]}
    names = ("ego", "masks", "a", "b")
    inputs = [filters.SimpleFilter() for _ in names]
    config = parameters.load(values)
    one: Any = filters.synchronizer_for(config, inputs, names, lambda *_: None)
    seen: list[Any] = []
    one.registerCallback(lambda *m: seen.append([None if x is None else x.ms for x in m]))
    for ms in (0, 100, 200, 300):
        assert seen == []
        for index in (0, 1, 2):
            inputs[index].signalMessage(message(ms))
    assert seen == [[ms, ms, ms, None] for ms in (0, 100, 200, 300)]  # "a" is 0.3 s further
    filters.take_times(parameters.load({**values, "pairing.partial": False}), one)
    for index in (0, 1, 2):
        inputs[index].signalMessage(message(400))
    assert len(seen) == 4
    one.switch("b", False)
    assert seen[4:] == [[400, 400, 400, None]]


def test_policies() -> None:
    inputs = [filters.SimpleFilter() for _ in "ab"]
    with pytest.raises(ValueError, match="'nearset' given, one of nearest, approximate, exact"):
        filters.make_synchronizer("nearset", inputs, 10, 0.02, ["a", "b"])
    for policy in ("approximate", "exact"):
        if not filters.HAS_MESSAGE_FILTERS:
            with pytest.raises(ValueError, match="needs the ROS package message_filters"):
                filters.make_synchronizer(policy, inputs, 10, 0.02, ["a", "b"])
            continue
        resets: list[Any] = []
        seen: list[int] = []
        inputs = [filters.SimpleFilter() for _ in "ab"]
        one = filters.make_synchronizer(
            policy, inputs, 10, 0.02, ["a", "b"], lambda *jump, to=resets: to.append(jump)
        )
        one.registerCallback(lambda a, b, to=seen: to.append(a.header.stamp.nanosec // MS))
        from sensor_msgs.msg import Image

        for ms in (900, 933, 0, 33):
            for index in (0, 1):
                msg = Image()
                msg.header.stamp.nanosec = ms * MS
                inputs[index].signalMessage(msg)
        assert seen == [900, 933, 0, 33]
        assert len(resets) == one.stats().epoch == 1
