"""kill -9 under load: of the node, and of whoever publishes, with large messages on their way."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmeec_core.bags.take_bags import bag_from_take, node_parameters
from lmeec_core.takes import Take
from lmeec_ros.tools.demo import sample_take
from lmeec_ros.tools.ros_session import spinning
from lmeec_ros.tools.soak.feeder import Feeder
from lmeec_ros.tools.soak.observer import Observer

FLOWING = 5
PATIENCE = 90.0


@pytest.fixture
def load(context: Any, tmp_path: Path) -> Iterator[tuple[Feeder, Observer, dict[str, Any]]]:
    """A process that plays raw images without pause, an observer, and the node's parameters."""
    import rclpy.node

    take = Take.open(sample_take())
    info = bag_from_take(
        take, tmp_path / "bag", objects=take.objects[:1], targets=["cam01"], raw=True
    )
    node = rclpy.node.Node("observer", context=context, enable_rosout=False)
    feeder = Feeder(tmp_path / "bag", 30.0, 0, tmp_path / "feeder.log")
    parameters = {**node_parameters(info), "model.preset": "mini", "model.seed": 0}
    parameters["memory_folder"] = str(tmp_path / "memory")
    with spinning(node):
        feeder.start()
        yield feeder, Observer(node, ("cam01",)), parameters
        feeder.kill()
    node.destroy_node()


def flows(observer: Observer) -> bool:
    before = observer.masks
    return observer.wait(lambda: observer.masks >= before + FLOWING, PATIENCE)


def test_a_killed_node_is_started_again(load: Any, start_node: Any) -> None:
    """Under load, and with the memory that it had saved."""
    feeder, observer, parameters = load
    node = start_node(parameters)
    assert flows(observer), node.tail()
    assert observer.memory("save_memory", name="before") == ""
    for _ in range(2):
        node.process.send_signal(signal.SIGKILL)
        assert node.process.wait(10) == -signal.SIGKILL
        node = start_node(parameters)
        assert flows(observer), node.tail()
        assert "Traceback" not in node.log.read_text()
    assert observer.memory("load_memory", name="before") == ""
    assert flows(observer) and feeder.alive
    assert observer.discrepancies == []


def test_publishers_that_die_in_a_message(load: Any, start_node: Any) -> None:
    """300 kB images leave one after the other when SIGKILL comes, at another moment each time."""
    feeder, observer, parameters = load
    node = start_node(parameters)
    assert flows(observer), node.tail()
    chance = random.Random(0)
    for _ in range(4):
        feeder.play("burst")
        time.sleep(chance.uniform(0.05, 0.3))
        feeder.kill()
        feeder.start()
        assert flows(observer), node.tail()
    assert node.alive and "Traceback" not in node.log.read_text()
    assert observer.discrepancies == []
    assert int(observer.values["inference"]["sets_failed"]) == 0, "a half message was processed"
