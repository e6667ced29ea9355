"""Cameras far faster than the network: latency and memory stay bounded, drops are counted."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from lmeec_core.bags.take_bags import bag_from_take, node_parameters
from lmeec_core.takes import Take
from lmeec_ros.tools.demo import sample_take
from lmeec_ros.tools.ros_session import spinning
from lmeec_ros.tools.soak import judge
from lmeec_ros.tools.soak.feeder import Feeder
from lmeec_ros.tools.soak.judge import Sample
from lmeec_ros.tools.soak.observer import Observer

RATE = 60.0
DEPTH = 2  # of the mailbox
ROOM = 150.0
"""MB by which memory may change in a short run; four seconds of input that is kept take more."""


@pytest.mark.parametrize(
    "seconds",
    [8, pytest.param(600, marks=[pytest.mark.slow, pytest.mark.timeout(1000)])],
)
def test_60_hz_into_a_slow_network(
    start_node: Any, context: Any, tools: Any, tmp_path: Path, seconds: int
) -> None:
    """`nano` with three objects does a few sets per second; 43 MB of raw images come in each."""
    import rclpy.node

    bag = tmp_path / "bag"
    take = Take.open(sample_take())
    info = bag_from_take(take, bag, objects=take.objects[:3], targets=["cam01"], raw=True)
    nano = {"model.preset": "nano", "model.device": "cpu", "mailbox.depth": DEPTH}
    process = start_node({**node_parameters(info), **nano})
    node = rclpy.node.Node("overload", context=context, enable_rosout=False)
    observer = Observer(node, tuple(info.targets))
    feeder = Feeder(bag, RATE, 0, tmp_path / "feeder.log")
    samples: list[Sample] = []
    ages: list[float] = []
    with spinning(node):
        try:
            feeder.start()
            tools.wait_until(lambda: observer.masks >= 6, process.tail)
            begin = time.monotonic()
            while (now := time.monotonic() - begin) < seconds:
                time.sleep(0.5)
                # A leak would be of every set that comes, so those count as the frames.
                sets = int(observer.values["inference"]["sets_received"])
                samples.append(judge.sample(process.process.pid, now, sets))
                waiting = int(observer.values["inference"]["waiting"])
                assert waiting <= DEPTH
                ages.append(float(observer.values["inference"]["age_p50_ms"]))
            one, pairing = dict(observer.values["inference"]), dict(observer.values["pairing"])
        finally:
            feeder.kill()
    node.destroy_node()

    received, processed = int(one["sets_received"]), int(one["sets_processed"])
    assert processed > seconds / 10 and received > 4 * processed, one
    assert int(one["dropped_mailbox"]) > 2 * processed and one["sets_failed"] == "0"
    step, latency, age = (float(one[f"{key}_p95_ms"]) for key in ("step", "latency", "age"))
    # A set waits for the step under way and for those before it in the mailbox.
    assert latency < 1.3 * (DEPTH + 1) * step + 300, one
    # From the camera to the masks: what piles up elsewhere (DDS, executor) would show here.
    assert age < latency + step + 1000, one
    quarter = len(ages) // 4
    assert median(ages[-quarter:]) < 2 * median(ages[quarter : 2 * quarter]) + 500, ages
    assert int(pairing["queued"]) <= 10 * len(info.cameras) + 10
    assert observer.discrepancies == []
    judged = samples[len(samples) // 3 :]
    quarter = len(judged) // 4
    first, last = (
        median(s.resident for s in part) for part in (judged[:quarter], judged[-quarter:])
    )
    assert last < first + ROOM, [round(one.resident) for one in samples]
    if seconds > 100:
        assert judged[-1].frames - judged[0].frames > judge.SHORT
        assert judge.slope(judged) < judge.SLOPE_LIMIT
    assert samples[-1].threads <= samples[0].threads
    print(f"{seconds} s: {received} sets in, {processed} done, step {step:.0f} ms, latency "
          f"{latency:.0f} ms, age {age:.0f} ms (p95), {first:.0f} to {last:.0f} MB")  # fmt: skip
