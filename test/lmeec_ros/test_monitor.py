"""Rates, losses, percentiles, and the patient log."""

from __future__ import annotations

import random

import pytest

from lmeec_core.sync.stream_monitor import LogThrottle, Percentiles, StreamMonitor


class FakeClock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def stream(lost: float, jitter_ms: float = 1.0, count: int = 140) -> StreamMonitor:
    clock, draw = FakeClock(), random.Random(3)
    monitor = StreamMonitor(clock=clock)
    for k in range(count):
        if draw.random() < lost:
            continue
        clock.now = 100 + k / 30
        monitor.add(int((5 + k / 30) * 1e9 + draw.uniform(-1, 1) * jitter_ms * 1e6))
    return monitor


@pytest.mark.parametrize("lost", [0.0, 0.1, 0.3, 0.55])
def test_loss_is_measured_from_gaps(lost: float) -> None:
    health = stream(lost).health()
    assert health.loss == pytest.approx(lost, abs=0.08)
    assert health.period == pytest.approx(1 / 30, rel=0.1)
    assert health.rate == pytest.approx(30 * (1 - lost), rel=0.2)


def test_before_and_after() -> None:
    clock = FakeClock()
    monitor = StreamMonitor(clock=clock)
    assert (monitor.health().age, monitor.health().rate, monitor.health().loss) == (None, 0, 0)
    monitor.add(7)
    clock.now += 60
    assert monitor.health().age == 60
    assert monitor.health().rate == 0
    assert monitor.newest_ns == 7


def test_a_loop_is_no_loss() -> None:
    monitor = StreamMonitor()
    for k in list(range(40)) * 3:
        monitor.add(k * 33_000_000)
    assert monitor.health().lost == 0


def test_percentiles() -> None:
    values = Percentiles(100)
    assert values.get(50, 95) == [None, None]
    for k in range(200):
        values.add(k)
    assert values.get(0, 50, 95, 100) == [100, 150, 195, 199]


def test_the_log_is_throttled() -> None:
    clock = FakeClock()
    lines: list[str] = []
    log = LogThrottle(5.0, clock)

    def say(kind: str, text: str) -> None:
        if line := log(kind, text):
            lines.append(line)

    for _ in range(4):
        say("a", "text a")
    say("b", "text b")
    clock.now += 6
    say("a", "text a")
    log.forget("a")
    say("a", "again")
    assert lines == ["text a", "text b", "text a (and 3 more of this kind)", "again"]
