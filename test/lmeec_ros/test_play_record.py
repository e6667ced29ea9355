"""Playing and recording over DDS, each in a process of its own."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from lmeec_core.bags.bag import (
    BagError,
    BagReader,
    BagWriter,
    typestore,
)
from lmeec_core.files import NewFolder
from lmeec_ros.tools.play import Player
from lmeec_ros.tools.record import TopicRecorder

COMMAND = [sys.executable, "-m", "lmeec_core.cli"]
COUNT = 20
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


def words_bag(path: Path, seconds: float = 1.0) -> Path:
    """COUNT messages on /words over that time, one latched on /title, one of an unknown type."""
    string = typestore().types["std_msgs/msg/String"]
    with BagWriter(path) as bag:
        bag.add_topic("/title", "std_msgs/msg/String", latched=True)
        bag.write("/title", 5_000_000_000, string(data="title"))
        bag.add_topic("/words", "std_msgs/msg/String")
        for index in range(COUNT):
            stamp = 5_000_000_000 + int(index * seconds * 1e9 / (COUNT - 1))
            bag.write("/words", stamp, string(data=f"word {index}"))
        # nav_msgs is known to rosbags but not installed here.
        bag.add_topic("/goal", "geometry_msgs/msg/Point")
        bag.add_topic("/map", "nav_msgs/msg/MapMetaData")
        bag.write("/map", 5_100_000_000, b"\0\1\0\0" + bytes(80))
    return path


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, own_domain: str) -> Iterator[Node]:
    monkeypatch.setenv("ROS_DOMAIN_ID", own_domain)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init()
    made = rclpy.create_node("tester")
    yield made
    made.destroy_node()
    rclpy.shutdown()


class Spinning:
    """Spins a node in a thread while the block runs."""

    def __init__(self, node: Node) -> None:
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.executor.shutdown()
        self.thread.join(5)


def wait_for(condition: object, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def hear(node: Node, topic: str, profile: QoSProfile = RELIABLE) -> list[tuple[float, str]]:
    heard: list[tuple[float, str]] = []
    node.create_subscription(
        String, topic, lambda m: heard.append((time.monotonic(), m.data)), profile
    )
    return heard


WORDS = [f"word {index}" for index in range(COUNT)]


def test_plays_everything_in_order_at_its_pace_and_says_what_it_skips(
    node: Node, tmp_path: Path
) -> None:
    words_bag(tmp_path / "bag")
    heard = hear(node, "/words")
    clocks: list[int] = []
    node.create_subscription(
        Clock, "/clock", lambda m: clocks.append(m.clock.sec * 10**9 + m.clock.nanosec), 100
    )
    with Spinning(node):
        done = subprocess.run(
            [*COMMAND, "play", str(tmp_path / "bag"), "--wait", "20", "--topic", "/words"]
            + ["--clock", "--rate", "0.5"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert wait_for(lambda: len(heard) >= COUNT)
    assert [word for _, word in heard] == WORDS
    assert 1.7 < heard[-1][0] - heard[0][0] < 4.0  # one second of recording at half the pace
    assert clocks == sorted(clocks) and len(clocks) > 3 * COUNT
    assert clocks[0] >= 5_000_000_000 and clocks[-1] <= 6_000_000_000
    assert f"{COUNT} messages" in done.stderr


def test_types_that_are_not_installed_are_skipped_by_name(node: Node, tmp_path: Path) -> None:
    words_bag(tmp_path / "bag")
    with BagReader(tmp_path / "bag") as bag:
        player = Player(node, bag)
        assert set(player.topics) == {"/title", "/words", "/goal"}
        assert "nav_msgs/msg/MapMetaData" in player.skipped["/map"]
        assert player.count == COUNT + 1
        with pytest.raises(BagError, match="nav_msgs"):
            Player(node, bag, topics=["/map"])
        with pytest.raises(BagError, match=r"'/nothing'.*'/words'"):
            Player(node, bag, remap={"/nothing": "/x"})


def test_remaps_loops_and_stops_on_a_signal(node: Node, tmp_path: Path) -> None:
    words_bag(tmp_path / "bag", seconds=0.2)
    heard = hear(node, "/other")
    with Spinning(node):
        process = subprocess.Popen(
            [*COMMAND, "play", str(tmp_path / "bag"), "--loop", "--wait", "20"]
            + ["--topic", "/words", "--remap", "/words:=/other"],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert wait_for(lambda: len(heard) > 2 * COUNT + 3)
            process.send_signal(signal.SIGINT)
            _, text = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "stopped" in text and "Traceback" not in text
    words = [word for _, word in heard]
    assert words[: 2 * COUNT] == WORDS * 2


def test_latched_topics_reach_late_subscribers(node: Node, tmp_path: Path) -> None:
    words_bag(tmp_path / "bag")
    with BagReader(tmp_path / "bag") as bag:
        player = Player(node, bag, topics=["/title"])
        assert not player.wait(0.2)
        assert player.unsubscribed() == ("/title",)
        assert player.play(rate=0) == 1
        profile = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        heard = hear(node, "/title", profile)
        with Spinning(node):
            assert wait_for(lambda: len(heard) == 1)
            assert player.wait(5)
        player.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_recording_stopped_by_a_signal_holds_everything(
    node: Node, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "recorded"
    killed = NewFolder(out).content  # what a recording leaves that was killed
    killed.mkdir()
    process = subprocess.Popen(
        [*COMMAND, "record", str(out), "/early", "/late", "/never"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        early = node.create_publisher(String, "/early", RELIABLE)
        assert wait_for(lambda: early.get_subscription_count() == 1)
        best_effort = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
        late = node.create_publisher(String, "/late", best_effort)  # appears while recording
        assert wait_for(lambda: late.get_subscription_count() == 1)
        for word in WORDS:
            early.publish(String(data=word))
        late.publish(String(data="late"))
        time.sleep(0.3)
        assert not out.exists()  # the bag appears when it is complete
        process.send_signal(number)
        _, text = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, text
    assert "/never" in text and "Traceback" not in text
    assert f"unfinished {killed}" in text
    assert sorted(tmp_path.iterdir()) == [killed.parent, out]
    with BagReader(out) as bag:
        found = [(topic, bag.decode(topic, data).data) for topic, _, data in bag.messages()]
        stamps = [stamp for _, stamp, _ in bag.messages()]
    assert [word for topic, word in found if topic == "/early"] == WORDS
    assert [word for topic, word in found if topic == "/late"] == ["late"]
    assert abs(stamps[0] / 1e9 - time.time()) < 60


def test_a_recording_played_back_is_the_same(node: Node, tmp_path: Path) -> None:
    """play and record as two processes: what the one publishes, the other writes."""
    words_bag(tmp_path / "bag", seconds=0.3)
    out = tmp_path / "recorded"
    recorder = subprocess.Popen(
        [*COMMAND, "record", str(out), "/words", "/title", "--duration", "60"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # The publishers vanish with the player, so the recorder must know the topics before.
        holders = [node.create_publisher(String, topic, RELIABLE) for topic in ("/words", "/title")]
        assert wait_for(lambda: all(h.get_subscription_count() == 1 for h in holders))
        played = subprocess.run(
            [*COMMAND, "play", str(tmp_path / "bag"), "--rate", "0", "--wait", "20"]
            + ["--topic", "/words", "--topic", "/title"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert played.returncode == 0, played.stderr
        time.sleep(0.3)
        recorder.send_signal(signal.SIGTERM)
        recorder.communicate(timeout=30)
    finally:
        recorder.kill()
    with BagReader(out) as bag:
        found = [(topic, bag.decode(topic, data).data) for topic, _, data in bag.messages()]
    assert [word for topic, word in found if topic == "/words"] == WORDS
    assert [word for topic, word in found if topic == "/title"] == ["title"]


def test_default_topics_are_the_nodes_masks(node: Node, tmp_path: Path) -> None:
    from lmeec.msg import CorrespondenceMaskArray

    masks = node.create_publisher(CorrespondenceMaskArray, "/robot/lmeec/exo/masks", 5)
    node.create_publisher(CorrespondenceMaskArray, "/ego/masks", 5)
    node.create_publisher(String, "/lmeec/words", 5)
    recorder = TopicRecorder(node, tmp_path / "out")
    with Spinning(node):
        assert wait_for(lambda: masks.get_subscription_count() == 1)
        masks.publish(CorrespondenceMaskArray(target_camera="exo"))
        assert wait_for(lambda: recorder.counts == {"/robot/lmeec/exo/masks": 1})
    recorder.close()
    recorder.close()
    with BagReader(tmp_path / "out") as bag:
        [(topic, _, data)] = list(bag.messages())
        assert bag.decode(topic, data).target_camera == "exo"


def test_a_type_that_is_not_installed_is_a_problem_not_an_end(node: Node, tmp_path: Path) -> None:
    recorder = TopicRecorder(node, tmp_path / "out", ["/words"])
    recorder._wanted.append("/odd")

    class Info:
        topic_type = "nowhere_msgs/msg/Odd"

    node.get_topic_names_and_types = lambda: [("/odd", [Info.topic_type])]  # type: ignore[method-assign]
    node.get_publishers_info_by_topic = lambda topic: [Info()]  # type: ignore[method-assign]
    recorder.discover()
    assert "nowhere_msgs" in recorder.problems["/odd"]
    recorder.abort()
    assert list(tmp_path.iterdir()) == []
