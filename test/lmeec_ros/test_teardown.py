"""What becomes of calls, steps and states when the node stops in the middle of its work."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from lmeec.srv import MemoryFile
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from lmeec_ros import node as node_module

TOPICS = ("/ego/image_raw", "/exo/image_raw", "/ego/label_image")


class Held:
    """A node whose next step does not end before it is let go."""

    def __init__(self, node: Any, rig: Any, tools: Any) -> None:
        self.node, self.rig, self.tools, self.k = node, rig, tools, 0
        self.begun, self.go = threading.Event(), threading.Event()
        for topic in TOPICS:
            rig.advertise(topic, Image)

    def start(self) -> None:
        """Configure, activate, and let a set in, whose step begins."""
        assert self.change("CONFIGURE")
        assert self.change("ACTIVATE")
        self.rig.wait_heard()
        tracker = self.node.processor.tracker
        step = tracker.step

        def slow(*args: Any) -> Any:
            self.begun.set()
            assert self.go.wait(60)
            return step(*args)

        tracker.step = slow
        self.send()
        assert self.begun.wait(30)

    def send(self) -> None:
        self.k += 1
        stamp = 1_000_000_000 + self.k * self.tools.PERIOD
        images = (self.tools.scene(1), self.tools.scene(2), self.tools.label_frame(0))
        for topic, pixels in zip(TOPICS, images, strict=True):
            encoding = "mono8" if pixels.ndim == 2 else "rgb8"
            self.rig.publish(topic, self.tools.image_msg(pixels, encoding, stamp))

    def change(self, name: str) -> bool:
        request = ChangeState.Request(
            transition=Transition(id=getattr(Transition, f"TRANSITION_{name}"))
        )
        return bool(self.rig.call(ChangeState, "/lmeec/change_state", request).success)

    def ask(self, kind: Any, name: str, request: Any) -> Callable[[], Any]:
        """Call a service on the memory while the step is under way; gives the waiting answer."""
        queued = len(self.node.worker._calls)
        answer = self.rig.ask(kind, f"/lmeec/{name}", request)
        self.tools.wait_until(lambda: len(self.node.worker._calls) > queued, "the call to wait")
        return lambda: answer.result() if answer.done() else None


@pytest.fixture
def held(make_node: Any, rig: Any, tools: Any, tmp_path: Path) -> Iterator[Held]:
    values = {"autostart": False, "model.warm_up_steps": 0, "memory_folder": str(tmp_path)}
    one = Held(make_node(**values), rig, tools)
    yield one
    one.go.set()


def test_a_call_that_waits_is_answered_when_the_node_is_deactivated(
    held: Held, tools: Any, tmp_path: Path
) -> None:
    held.start()
    answer = held.ask(MemoryFile, "save_memory", MemoryFile.Request(name="x"))
    done = threading.Thread(target=lambda: held.change("DEACTIVATE"), daemon=True)
    done.start()
    found = tools.wait_until(answer, "the answer, while the step is still under way", patience=10)
    assert not held.go.is_set() and held.node.state == "deactivating"
    assert not found.success and "was deactivated before" in found.message
    assert "nothing was done" in found.message and not list(tmp_path.iterdir())
    held.go.set()
    done.join(30)
    assert held.node.state == "inactive"
    again = held.rig.call(MemoryFile, "/lmeec/save_memory", MemoryFile.Request(name="x"))
    assert again.success and [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_call_that_waited_too_long_is_not_done_later(
    held: Held, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "STEP_PATIENCE", 0.3)
    held.start()
    tracker = held.node.processor.tracker
    resets: list[int] = []
    monkeypatch.setattr(tracker, "reset", lambda: resets.append(1))
    answer = held.ask(Trigger, "reset_memory", Trigger.Request())
    found = tools.wait_until(answer, "the answer")
    assert not found.success and "takes more than 0.3 s; nothing was done" in found.message
    held.go.set()
    assert held.node.worker.wait_idle(30)
    assert resets == []
    assert held.rig.call(Trigger, "/lmeec/reset_memory", Trigger.Request()).success
    assert resets == [1]


def test_a_step_that_does_not_end_is_left_to_itself(
    held: Held, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "STEP_PATIENCE", 0.3)
    held.start()
    old = held.node.worker
    assert not held.change("DEACTIVATE")
    assert held.node.state == "unconfigured"
    assert held.node.worker is None and held.node.processor is None and not held.node.inputs
    assert "the current step did not end within 0.3 s" in held.node.measured.last_error
    assert not [p for p in held.node.publishers if "/exo/" in p.topic_name]
    assert not held.node.close(0.01), "the end of the process must not wait for it"
    assert held.change("CONFIGURE")
    assert held.change("ACTIVATE")
    held.go.set()
    tools.wait_until(lambda: not old.thread.is_alive(), "the old step's end")
    assert held.node.measured.published == 0 and held.node.measured.errors == 0
    held.rig.wait_heard()
    held.send()
    tools.wait_until(lambda: held.node.measured.published == 1, "the new network's masks")
    assert held.node.worker.stats().failed == 0


def test_a_service_that_fails_for_another_reason_is_answered_and_the_node_lives(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert held.change("CONFIGURE")
    for active in (False, True):
        if active:
            assert held.change("ACTIVATE")

        def broken() -> None:
            raise KeyError("a bug")

        monkeypatch.setattr(held.node.processor.tracker, "reset", broken)
        answer = held.rig.call(Trigger, "/lmeec/reset_memory", Trigger.Request())
        assert not answer.success
        assert answer.message == "reset_memory failed: KeyError: 'a bug'"
    assert held.node.state == "active"


HALF_WAY: dict[str, tuple[str, Callable[[Any], tuple[Any, str]]]] = {
    "a publisher": (
        "DEACTIVATE",
        lambda node: (node._outputs._publishers["exo", "masks"], "on_deactivate"),
    ),
    "an input": ("DEACTIVATE", lambda node: (node.inputs.query, "close")),
    "the publishers": ("CLEANUP", lambda node: (node._outputs, "destroy")),
    "the memory": ("CLEANUP", lambda node: (node_module.arena, "give_back")),
}


@pytest.mark.parametrize("what", HALF_WAY)
def test_a_transition_that_fails_half_way_leaves_a_state_that_is_true(
    held: Held, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whatever was taken away, the node is unconfigured then, and configure works."""
    node = held.node
    transition, where = HALF_WAY[what]
    assert held.change("CONFIGURE")
    if transition == "DEACTIVATE":
        assert held.change("ACTIVATE")
    inputs, worker = node.inputs, node.worker

    def broken(*_: Any) -> Any:
        raise RuntimeError("broken on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(*where(node), broken)
        assert not held.change(transition)
    assert node.measured.last_error == f"{transition.lower()} failed: broken on purpose"
    assert node.state == "unconfigured"
    assert node.processor is None and node._outputs is None and node.worker is None
    assert worker is None or not worker.thread.is_alive()
    assert not any(one.is_open for one in list(inputs or ())[1:]), "the others"
    assert held.change("CONFIGURE")
    assert held.change("ACTIVATE")
    assert node.state == "active"


SLOW_NODE = """
import sys, time
import lmeec_core as lm
from lmeec_ros.main import main

step = lm.CorrespondenceTracker.step

def slow(*args):
    print("the step begins", flush=True)
    time.sleep({seconds})
    return step(*args)

lm.CorrespondenceTracker.step = slow
sys.exit(main(sys.argv))
"""


@pytest.mark.parametrize("seconds", [1.8, 60.0])
def test_ctrl_c_with_a_call_pending_ends_it_at_once(
    rig: Any, tools: Any, tmp_path: Path, seconds: float
) -> None:
    """The node waits for a step of 1.8 s, but not for one of a minute."""
    values = {**tools.BASE, "model.warm_up_steps": 0, "memory_folder": str(tmp_path / "memory")}
    file, log = tmp_path / "node.yaml", tmp_path / "node.log"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
    feed = Held(None, rig, tools)
    code = SLOW_NODE.format(seconds=seconds)
    command = [sys.executable, "-P", "-c", code, "--ros-args", "--params-file", str(file)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        rig.wait_heard()
        service = "/lmeec/save_memory"
        assert rig.call(MemoryFile, service, MemoryFile.Request(name="..")).success is False
        feed.send()
        tools.wait_until(lambda: "the step begins" in log.read_text(), "the step")
        answer = rig.ask(MemoryFile, service, MemoryFile.Request(name="x"))
        time.sleep(0.5)
        assert not answer.done()
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, log.read_text()
        assert time.monotonic() - begun < 10
        assert "Traceback" not in log.read_text()
        assert not (tmp_path / "memory").exists()
    finally:
        process.kill()
