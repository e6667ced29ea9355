"""A bag played to the node: what is waited for, and that every set is answered before the end."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from lmeec.msg import CorrespondenceMaskArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from lmeec_core.bags.bag import BagWriter, typestore
from lmeec_core.bags.mask_messages import BAG
from lmeec_ros.tools import node_watch
from lmeec_ros.tools.node_watch import NodeReport, NodeWatch

PLAY = [sys.executable, "-P", "-m", "lmeec_core.cli", "play"]
SETS = 4
TOPICS = ("/ego/image_raw", "/exo/image_raw", "/ego/label_image")


def make_bag(path: Path, tools: Any, topics: tuple[str, ...] = TOPICS) -> Path:
    """Sets with many objects, which take the node long; and a topic that it does not take."""
    labels = np.zeros((60, 80), np.uint8)
    for label in range(1, 13):
        labels[5 * (label // 5) : 5 * (label // 5) + 5, 15 * (label % 5) : 15 * (label % 5) + 9] = (
            label
        )
    string = typestore().types["std_msgs/msg/String"]
    with BagWriter(path) as bag:
        bag.add_topic("/imu", "std_msgs/msg/String")
        for topic in topics:
            bag.add_topic(topic, "sensor_msgs/msg/Image")
        for k in range(1, SETS + 1):
            stamp = k * tools.PERIOD
            bag.write("/imu", stamp, string(data="turning"))
            for topic in topics:
                picture = (labels, "mono8") if "label" in topic else (tools.scene(k), "rgb8")
                bag.write(topic, stamp, BAG.image(BAG.header(stamp, ""), *picture))
    return path


def test_the_last_set_is_answered(start_node: Any, rig: Any, tools: Any, tmp_path: Path) -> None:
    masks = rig.listen("/lmeec/exo/masks", CorrespondenceMaskArray)
    bag = make_bag(tmp_path / "bag", tools)
    node = start_node({**tools.BASE, "mailbox.depth": 100})
    # Ten minutes, if the subscriber of /imu were waited for; the node is still loading.
    command = [*PLAY, str(bag), "--wait", "600"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    node.process.kill()  # what is not answered now never is
    node.process.wait()
    threading.Event().wait(0.3)  # the rig takes in what has arrived
    assert [tools.stamp_ns(m) for m in masks] == [k * tools.PERIOD for k in range(1, SETS + 1)]
    assert f"{4 * SETS} messages" in done.stderr
    assert "no subscriber" not in done.stderr and "not in the bag" not in done.stderr


def test_what_the_bag_lacks_is_named(make_node: Any, tools: Any, tmp_path: Path) -> None:
    node = make_node()
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    bag = make_bag(tmp_path / "bag", tools, TOPICS[:2])
    done = subprocess.run(
        [*PLAY, str(bag), "--wait", "60", "--rate", "0"], capture_output=True, text=True, timeout=90
    )
    text = " ".join(done.stderr.split())
    assert "not in the bag: /ego/label_image, an input of the node" in text
    assert done.returncode == 0 and "no subscriber" not in text


def report(
    name: str, state: str = "active", received: int = 0, sets: int = 0, done: int = 0, **more: Any
) -> DiagnosticArray:
    """A report as the node's: an input, sets received and processed."""

    def status(part: str, text: str = "", **values: Any) -> DiagnosticStatus:
        pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        return DiagnosticStatus(name=f"{name}: {part}", message=text, values=pairs)

    message = DiagnosticArray()
    message.status = [
        status("node", state, state=state),
        status("inference", sets_received=sets, sets_processed=done),
        status("pairing", queued=more.get("queued", 0)),
        status(
            "ego",
            topic="/ego",
            reliability="reliable",
            publishers=more.get("publishers", 1),
            received=received,
        ),
        status("exo", topic="/exo", reliability="", publishers=0, received=0),
    ]
    return message


@pytest.fixture
def listener(context: Any) -> Any:
    node = Node("watcher", context=context, enable_rosout=False)
    yield node
    node.destroy_node()


@pytest.fixture
def watch(listener: Node) -> NodeWatch:
    return NodeWatch(listener, "lmeec")


def test_reports() -> None:
    name, found = NodeReport.read(report("/a/lmeec", received=9, sets=5, done=3)) or ("", None)
    assert name == "/a/lmeec" and found is not None
    assert (found.state, found.inputs, found.under_way) == ("active", frozenset({"/ego"}), 2)
    assert NodeReport.read(DiagnosticArray()) is None
    assert NodeReport.read(DiagnosticArray(status=[DiagnosticStatus(name="lidar: node")])) is None


def test_which_nodes_are_waited_for(watch: NodeWatch, context: Any) -> None:
    assert not watch.ready([]) and watch.describe() == "no report from a node called lmeec"
    watch._take(report("/other"))
    assert not watch.ready([])
    watch._take(report("/a/lmeec"))
    assert watch.ready(["/imu", "/exo"]) and watch.ready(["/ego"])
    watch._take(report("/a/lmeec", publishers=0))  # it has not found the publisher yet
    assert watch.ready(["/imu", "/exo"]) and not watch.ready(["/ego"])
    watch._take(report("/b/lmeec", state="inactive"))
    assert not watch.ready([]) and watch.describe() == "/b/lmeec is inactive"
    assert watch.wanted() == {"/a/lmeec": frozenset({"/ego"})}
    watch.name = "/a/lmeec"
    watch._take(report("/b/lmeec"))
    assert set(watch.wanted()) == {"/a/lmeec"}


def test_two_nodes_of_one_name_are_told(
    watch: NodeWatch, listener: Node, context: Any, tools: Any
) -> None:
    """Their reports would pass for one node's; real publishers, whose messages are numbered."""
    stop = threading.Event()
    nodes = [Node("lmeec", context=context, enable_rosout=False) for _ in range(2)]
    hear = [node.create_publisher(DiagnosticArray, "/diagnostics", 10) for node in nodes]

    def send(which: int, sets: int) -> None:
        before = watch._reports.get("/lmeec")
        hear[which].publish(report("/lmeec", received=9, sets=sets, done=sets))
        while watch._reports.get("/lmeec") is before:
            rclpy.spin_once(listener, executor=executor, timeout_sec=1.0)

    executor = SingleThreadedExecutor(context=context)
    tools.wait_until(
        lambda: all(one.get_subscription_count() for one in hear), "the subscription to be found"
    )
    for _ in range(4):
        send(0, sets=5)
    send(1, sets=1)  # a node that was started anew
    send(1, sets=1)
    assert watch.twins() == ""
    send(0, sets=6)
    send(1, sets=2)
    assert "several nodes are called /lmeec" in watch.twins()
    assert watch.wait_processed(["/ego"], stop) == watch.twins()
    for node in nodes:
        node.destroy_node()


def test_waiting_for_the_answers(watch: NodeWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    watch._take(report("/lmeec", received=9, sets=5, done=3))
    ended: list[str] = []
    waiter = threading.Thread(
        target=lambda: ended.append(watch.wait_processed(["/ego"], stop)), daemon=True
    )
    waiter.start()
    for _ in range(8):  # two sets are under way: however long nothing happens
        watch._take(report("/lmeec", received=9, sets=5, done=3))
    waiter.join(0.2)
    assert not ended
    for done in (4, 5, 5, 5):
        watch._take(report("/lmeec", received=9, sets=5, done=done))
    waiter.join(5)
    assert ended == [""]
    assert watch.wait_processed(["/elsewhere"], stop) == ""  # a node that takes nothing of it
    monkeypatch.setattr(node_watch, "SILENCE", 0.1)
    assert "no report for" in watch.wait_processed(["/ego"], stop)
    monkeypatch.setattr(node_watch, "SILENCE", 60.0)
    monkeypatch.setattr(node_watch, "PATIENCE", 0.1)
    watch._take(report("/lmeec", received=9, sets=7, done=5))
    assert "2 sets" in watch.wait_processed(["/ego"], stop)
    stop.set()
    assert watch.wait_processed(["/ego"], stop) == ""
