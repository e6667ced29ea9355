"""`lmeec soak`: a short run of the real thing, and what its judge finds in made-up figures."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from rclpy.serialization import deserialize_message
from rich.console import Console
from sensor_msgs.msg import CompressedImage, Image

from lmeec_core.bags.bag import BagReader
from lmeec_core.bags.take_bags import bag_from_take
from lmeec_core.takes import Take
from lmeec_ros.tools.demo import sample_take
from lmeec_ros.tools.soak import judge
from lmeec_ros.tools.soak.faults import FAULTS
from lmeec_ros.tools.soak.judge import Event, Record, Sample
from lmeec_ros.tools.soak.observer import discrepancies
from lmeec_ros.tools.soak.run import SoakOptions, run
from lmeec_ros.tools.soak.spoil import NEW_LABEL, OUT_OF_STEP_NS, SoakBag

FRAMES = 4  # of the recording that is spoilt below


def test_a_short_soak(tmp_path: Path) -> None:
    faults = ("corrupt_images", "kill_feeder", "memory")
    command = ["lmeec", "soak", "--minutes", "0.2", "--patience", "90", "--out", str(tmp_path)]
    command += [word for fault in faults for word in ("--fault", fault)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] and len(report["checks"]) == 8
    assert set(report["faults"]) == set(faults)
    assert any("sets_failed" in key for key in report["faults"]["corrupt_images"]["effect"])
    assert all(event["recovered"] is not None for event in report["events"])
    assert report["samples"][-1]["frames"] > 10
    assert report["samples"][-1]["names"]["inference"] >= 1
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_longer_soak_with_all_faults(tmp_path: Path) -> None:
    command = ["lmeec", "soak", "--minutes", "6", "--patience", "90", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["faults"]) == set(FAULTS)
    effects = {name: "".join(one["effect"]) for name, one in report["faults"].items()}
    for fault, counter in {
        "corrupt_images": "sets_failed",
        "wrong_encodings": "sets_failed",
        "burst": "dropped_mailbox",
        "duplicates": "dropped_duplicate",
        "out_of_step": "dropped_no_partner",
    }.items():
        assert counter in effects[fault], f"{fault} had no effect"


def test_an_unknown_fault_is_refused(tmp_path: Path) -> None:
    options = SoakOptions(faults=("burst", "earthquake"), out=tmp_path / "out")
    with pytest.raises(ValueError, match="fault 'earthquake' given, one of"):
        run(options, Console())
    assert not options.out.exists()


def record(**changes: Any) -> Record:
    """A run of a node whose memory goes up and down but is flat."""
    samples = [Sample(n, 10 * n, 500 + 12 * (n % 3 == 0), 19) for n in range(600)]
    good = {
        "samples": samples,
        "events": [Event("burst", 1.0, 2.0, 0.5)],
        "warm": 100.0,
        "reports": 9,
        "settled": True,
        "exit_code": 0,
    }
    return Record(**{**good, **changes})


def failed(one: Record) -> list[str]:
    return [check.name for check in judge.checks(one) if not check.passed]


def leak(slope: float, count: int) -> list[Sample]:
    """Samples whose memory grows by so many MB per 1,000 frames, with steps, after a warm-up."""
    return [
        Sample(n, 10 * n, 500 + max(0, 50 - n) + slope * n / 100 + 8 * (n % 4 == 0), 19)
        for n in range(count)
    ]


def test_the_judge() -> None:
    assert failed(record()) == []
    assert judge.slope(leak(3.0, 600)[100:]) == pytest.approx(3.0, abs=0.1)
    assert failed(record(samples=leak(0.8, 600))) == []
    assert failed(record(samples=leak(1.2, 600))) == ["resident memory is flat"]
    assert failed(record(samples=leak(5, 150))) == []  # too short to tell
    assert failed(record(samples=leak(80, 150))) == ["resident memory is flat"]
    more = [
        Sample(n, 10 * n, 500, 19 + n // 300, names={"python3": 18, "configure": 1 + n // 300})
        for n in range(600)
    ]
    assert failed(record(samples=more)) == ["no thread growth"]
    (growth,) = [c.text for c in judge.checks(record(samples=more)) if not c.passed]
    assert growth == "19 at the beginning, 20 at the end, maximum 20; more of configure 1 to 2"
    assert failed(record(untried=("burst",))) == ["every fault was tried"]
    assert "every fault recovered" in failed(record(events=[Event("burst", 1.0, 2.0)]))
    wrong = Event("memory", 1.0, 2.0, 0.5, error="save_memory was refused")
    assert failed(record(events=[wrong])) == ["every fault recovered"]
    assert "every fault recovered" in failed(record(events=[]))
    assert failed(record(discrepancies=["x"])) == ["counters add up"]
    assert failed(record(log="Traceback (most recent")) == ["no traceback in the node's log"]
    assert len(failed(record(exit_code=None, settled=False))) == 2
    assert len(failed(record(samples=[]))) == 2  # nothing was measured: nothing is proved


def test_counters_that_do_not_add_up() -> None:
    pairing = {"received": "9", "paired": "6", "queued": "1", "dropped_late": "2"}
    sets = {"sets_received": "5", "sets_processed": "2", "sets_failed": "1", "waiting": "1"}
    inference = {**sets, "dropped_mailbox": "0", "dropped_discarded": "0"}
    assert discrepancies({"pairing": pairing, "inference": inference}) == []
    (text,) = discrepancies({"pairing": {**pairing, "dropped_late": "1"}})
    assert text.startswith("pairing: 9 messages received, but 6 paired + 1 dropped + 1 queued")
    (text,) = discrepancies({"inference": {**inference, "sets_received": "7"}})
    assert text.startswith("inference: 7 sets received, but 3 done + 1 waiting")
    assert discrepancies({"inference": {}, "pairing": {"policy": "exact"}}) == []


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bag of the sample take, and what it holds."""
    path = tmp_path_factory.mktemp("soak") / "bag"
    take = Take.open(sample_take())
    return path, bag_from_take(take, path, objects=take.objects[:2], targets=["cam01"])


def played(recording: Any, fault: str, frames: int = FRAMES) -> list[tuple[str, int, Any]]:
    """Topic, stamp and message of so many frames under a fault."""
    path, info = recording
    with BagReader(path) as reader:
        bag = SoakBag(reader, info, seed=3)
        bag.fault = fault
        found: list[tuple[str, int, Any]] = []
        for topic, stamp, data in islice(bag.messages(), 3 * frames):
            kind = Image if topic == info.mask_topic else CompressedImage
            found.append((topic, stamp, deserialize_message(data, kind)))
    return found


def ns(message: Any) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def test_spoilt_messages(recording: Any) -> None:
    _, info = recording
    ego, exo = info.image_topics["aria01"], info.image_topics["cam01"]
    clean = played(recording, "")
    assert Counter(topic for topic, _, _ in clean) == {ego: 4, exo: 4, info.mask_topic: 4}
    assert all(ns(message) == stamp for _, stamp, message in clean)
    stamps = [stamp for _, stamp, _ in clean]
    assert stamps == sorted(stamps) and len(set(stamps)) == FRAMES
    images = {bytes(m.data) for topic, _, m in clean if topic != info.mask_topic}
    for topic, stamp, message in played(recording, "out_of_step"):
        assert ns(message) - stamp == (OUT_OF_STEP_NS if topic == exo else 0)
    assert all(topic != info.mask_topic for topic, _, _ in played(recording, "no_masks"))
    assert all(topic != exo for topic, _, _ in played(recording, "no_target"))
    doubled = Counter((topic, stamp) for topic, stamp, _ in played(recording, "duplicates"))
    assert set(doubled.values()) == {2}
    late = [
        (m, stamp) for t, stamp, m in played(recording, "late_masks", 8) if t == info.mask_topic
    ]
    assert late and all(ns(message) < stamp for message, stamp in late)
    spoilt = played(recording, "corrupt_images")
    assert any(bytes(m.data) not in images for t, _, m in spoilt if t != info.mask_topic)
    new = [m for topic, _, m in played(recording, "new_objects", 9) if topic == info.mask_topic]
    labels = {value for message in new for value in bytes(message.data)}
    assert labels > {0} and min(labels - {0}) >= NEW_LABEL
    reordered = [ns(message) for _, _, message in played(recording, "reordered", 8)]
    assert reordered != sorted(reordered)


def test_a_clock_set_back(recording: Any) -> None:
    path, info = recording
    with BagReader(path) as reader:
        bag = SoakBag(reader, info, seed=0)
        messages = bag.messages()
        first = [next(messages)[1] for _ in range(3)][0]
        bag.jump()
        assert next(messages)[1] < first - 3_000_000_000_000
