"""What the watchdog says, with inputs and a clock set by hand."""

from __future__ import annotations

from typing import Any

import pytest

from lmeec_core.sync.image_set import QUERY_MASKS, ImageSet
from lmeec_core.sync.pairing import PairingCore
from lmeec_core.sync.stream_monitor import StreamMonitor
from lmeec_ros.health.watchdog import PROFILE_VARIABLES, Watchdog
from lmeec_ros.parameters import config as parameters

CONFIG = parameters.load({"silence_warning": 2.0})


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


class Lines(list[str]):
    """A logger."""

    def warning(self, text: str) -> None:
        self.append(text)

    info = warning


class Input:
    """What the watchdog reads of an input."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name, self.topic = name, f"/{name}"
        self.monitor = StreamMonitor(clock=clock)
        self.offers: list[Any] = []
        self.described = "the topic has no publisher"
        self.is_open = True

    def publishers(self) -> list[Any]:
        return self.offers

    def describe_publishers(self) -> str:
        return self.described


class Bench:
    def __init__(self) -> None:
        self.clock, self.lines = Clock(), Lines()
        self.inputs = ImageSet("ego", QUERY_MASKS, {"exo": "exo"}).map(self.input)
        self.core: PairingCore[int] = PairingCore("ego", [QUERY_MASKS, "exo"], 20_000_000)
        logger: Any = self.lines
        inputs: Any = self.inputs
        self.dog = Watchdog(inputs, self.core.stats, logger, self.clock)

    def input(self, name: str) -> Input:
        return Input(name, self.clock)

    def run(self, frames: int, rate: float = 30.0, offset: float = 0.0, **lost: int) -> None:
        for _ in range(frames):
            self.clock.now += 1 / rate
            for one in self.inputs:
                stamp = round((self.clock.now + offset * (one.name == "exo")) * 1e9)
                every = lost.get(one.name)
                if every is None or (every and round(self.clock.now * rate) % every):
                    one.monitor.add(stamp)
                    self.core.add(one.name, stamp, 0)
            self.dog.check(CONFIG)


def test_all_is_well() -> None:
    bench = Bench()
    bench.run(200)
    assert bench.lines == []


def test_silence_is_told_once_in_a_while_and_its_end_too() -> None:
    bench = Bench()
    bench.run(30)
    bench.run(30 * 20, exo=0)
    assert len(bench.lines) == 1 and bench.lines[0].startswith("exo: silent, no message on /exo")
    assert set(bench.dog.silent) == {"exo"} and bench.dog.silent["exo"] > 15
    bench.inputs.targets["exo"].described = "/cam offers"
    bench.run(10, exo=0)
    assert len(bench.lines) == 2 and "; /cam offers; " in bench.lines[1]
    bench.run(30 * 40, exo=0)
    assert len(bench.lines) == 3
    bench.run(3)
    assert bench.lines[3:] == ["exo: messages arrive again on /exo"] and not bench.dog.silent


def test_without_warnings_it_is_noticed_all_the_same() -> None:
    bench = Bench()
    bench.clock.now += 6
    bench.dog.check(parameters.load({"silence_warning": 0.0}))
    assert bench.lines == [] and set(bench.dog.silent) == {"ego", QUERY_MASKS, "exo"}


def test_no_query_masks_from_the_start() -> None:
    bench = Bench()
    bench.run(90, **{QUERY_MASKS: 0})
    assert len(bench.lines) == 1 and "without query masks nothing is published" in bench.lines[0]


def test_out_of_step() -> None:
    bench = Bench()
    bench.run(90, rate=5.0, offset=0.06)
    assert "exo is out of step: +0.060 s from ego, pairing.tolerance is 0.020 s" in bench.lines[0]
    assert len(bench.lines) == 1


def test_stamps_that_are_never_set() -> None:
    bench = Bench()
    for _ in range(100):
        bench.clock.now += 0.1
        for one in bench.inputs:
            one.monitor.add(0)
            bench.core.add(one.name, 0, 0)
        bench.dog.check(CONFIG)
    assert "the stamps of ego, query masks, exo are 0" in bench.lines[0]


@pytest.mark.parametrize("profile", ["", "/p.xml"])
def test_loss_and_its_remedy_are_told_once(monkeypatch: Any, profile: str) -> None:
    for name in PROFILE_VARIABLES:
        monkeypatch.setenv(name, profile)
    bench = Bench()
    bench.run(400, ego=3, exo=2)
    assert len(bench.lines) == 1
    assert "of the messages on /ego were lost in transit" in bench.lines[0]
    remedy = "profile /p.xml; the publisher needs it too" if profile else "fastdds.xml"
    assert remedy in bench.lines[0]


class ManyCameras(Bench):
    """An ego and two exo cameras, partial sets."""

    def __init__(self) -> None:
        super().__init__()
        names = ("ego", QUERY_MASKS, "exo", "exo2")
        self.inputs = ImageSet(*names[:2], {name: name for name in names[2:]}).map(self.input)
        self.core = PairingCore("ego", names[1:], 20_000_000, 10, names[2:], 200_000_000)
        inputs: Any = self.inputs
        logger: Any = self.lines
        self.dog = Watchdog(inputs, self.core.stats, logger, self.clock)


def test_a_silent_target_is_all_that_is_told_while_the_others_go_on() -> None:
    bench = ManyCameras()
    bench.run(30 * 10, exo2=0)
    assert len(bench.lines) == 1 and bench.lines[0].startswith("exo2: silent")
    assert bench.core.stats().sets > 250


def test_a_closed_input_is_not_silent_and_gets_its_time_when_it_opens() -> None:
    bench = ManyCameras()
    bench.inputs.targets["exo2"].is_open = False
    bench.core.switch("exo2", False)
    bench.run(30 * 10, exo2=0)
    bench.inputs.targets["exo2"].is_open = True
    bench.run(30, exo2=0)
    assert bench.lines == []
    bench.run(60, exo2=0)
    assert len(bench.lines) == 1 and bench.lines[0].startswith("exo2: silent")


def test_a_target_that_is_in_no_set_is_told() -> None:
    bench = ManyCameras()
    bench.run(90, rate=5.0, offset=0.06)
    assert len(bench.lines) == 1
    assert "exo: images arrive, but none was in a set for" in bench.lines[0]
    assert "exo is out of step: +0.060 s from ego" in bench.lines[0]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("frames_late", [12, 15, 75])
def test_masks_that_come_later_than_the_queue_holds(
    frames_late: int, order: tuple[int, ...]
) -> None:
    """The masks are named, and no other input; the first remedy is one that helps."""
    bench, late = Bench(), frames_late / 30

    def run(frames: int) -> None:
        for k in range(frames):
            bench.clock.now += 1 / 30
            for one in (list(bench.inputs)[i] for i in order):
                behind = late if one.name == QUERY_MASKS else 0.0
                stamp = round((bench.clock.now - behind) * 1e9)
                one.monitor.add(stamp)
                bench.core.add(one.name, stamp, k)
            bench.dog.check(CONFIG)

    run(200)
    text, _, remedy = bench.lines[0].partition("; set ")
    lag = text.partition(f"{QUERY_MASKS} arrive ")[2].partition(" s after their image")[0]
    assert late - 0.04 < float(lag) < late + 0.01 and "queues keep images for 0.3" in text
    assert remedy.startswith(f"query_masks.max_delay above {lag} (")
    assert "exo" not in bench.lines[0] and "pairing.tolerance" not in bench.lines[0]
    bench.core.set_waits(None, round((float(lag) + 0.05) * 1e9))
    sets = bench.core.stats().sets
    run(300)
    assert bench.core.stats().sets - sets > 150


def test_few_query_masks_are_no_fault() -> None:
    bench = Bench()
    for k in range(300):
        bench.clock.now += 1 / 30
        for one in bench.inputs:
            if one.name != QUERY_MASKS or k % 6 == 0:
                one.monitor.add(round(bench.clock.now * 1e9))
                bench.core.add(one.name, round(bench.clock.now * 1e9), k)
        bench.dog.check(CONFIG)
    assert bench.lines == [] and bench.core.stats().sets == 50
