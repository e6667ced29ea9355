"""Services on the memory, and steps that fail again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from lmeec.msg import CorrespondenceMaskArray
from lmeec.srv import ForgetObject, MemoryFile
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from lmeec_ros.services import memory_file

TOPICS = ("/ego/image_raw", "/exo/image_raw", "/ego/label_image")


class Feed:
    """Publishes sets to a node in this process and collects its masks."""

    def __init__(self, rig: Any, tools: Any) -> None:
        self.rig, self.tools, self.sent = rig, tools, 0
        self.masks = rig.listen("/lmeec/exo/masks", CorrespondenceMaskArray)
        for topic in TOPICS:
            rig.advertise(topic, Image)

    def send(self, count: int, answered: bool = True) -> None:
        """Publish so many sets, each once the last one's masks are here."""
        for _ in range(count):
            k, before = self.sent, len(self.masks)
            self.sent += 1
            images = (
                (self.tools.scene(k), "rgb8"),
                (self.tools.scene(50 + k), "rgb8"),
                (self.tools.label_frame(k), "mono8"),
            )
            for topic, (pixels, encoding) in zip(TOPICS, images, strict=True):
                stamp = 1_000_000_000 + k * self.tools.PERIOD
                self.rig.publish(topic, self.tools.image_msg(pixels, encoding, stamp, "optical"))
            if answered:
                self.tools.wait_until(lambda n=before: len(self.masks) > n, "masks")


@pytest.fixture
def feed(rig: Any, tools: Any) -> Feed:
    return Feed(rig, tools)


def active(make_node: Any, tools: Any, **values: Any) -> Any:
    node = make_node(**{"objects": ["1:cup"], **values})
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    return node


def test_forget_and_reset(make_node: Any, rig: Any, tools: Any, feed: Feed) -> None:
    node = active(make_node, tools)
    rig.wait_heard()
    feed.send(3)
    assert node.processor.tracker.objects == ("cup", "object_2")
    request = ForgetObject.Request(object_id="object_2")
    assert rig.call(ForgetObject, "/lmeec/forget_object", request).success
    assert node.processor.tracker.objects == ("cup",)
    again = rig.call(ForgetObject, "/lmeec/forget_object", ForgetObject.Request(object_id="knife"))
    assert not again.success and "'knife' is unknown; known objects: cup" in again.message
    answer = rig.call(Trigger, "/lmeec/reset_memory", Trigger.Request())
    assert answer.success and node.processor.tracker.objects == ()
    feed.send(1)  # the node lives on, and both come back
    assert node.processor.tracker.objects == ("cup", "object_2")


def test_memory_survives_a_restart(
    make_node: Any, rig: Any, tools: Any, feed: Feed, tmp_path: Path
) -> None:
    node = active(make_node, tools, memory_folder=str(tmp_path))
    rig.wait_heard()
    feed.send(4)
    request = MemoryFile.Request(name="shift-1")
    saved = rig.call(MemoryFile, "/lmeec/save_memory", request)
    assert saved.success and "2 objects written" in saved.message, saved.message
    assert [p.name for p in tmp_path.iterdir()] == ["shift-1.safetensors"]
    feed.send(1)
    expected = feed.masks[-1]
    for transition in (
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
    ):
        change = ChangeState.Request(transition=Transition(id=transition))
        assert rig.call(ChangeState, "/lmeec/change_state", change).success
    rig.wait_heard()
    loaded = rig.call(MemoryFile, "/lmeec/load_memory", request)
    assert loaded.success and node.processor.tracker.objects == ("cup", "object_2")
    feed.sent -= 1  # the frame after the saved ones once more
    feed.send(1)
    for before, after in zip(expected.masks, feed.masks[-1].masks, strict=True):
        assert (before.object_id, before.label) == (after.object_id, after.label)
        assert before.presence == pytest.approx(after.presence, abs=1e-5)
        assert before.area == after.area and before.mask.data == after.mask.data


def test_memory_services_refuse_with_a_reason(
    make_node: Any, rig: Any, tools: Any, tmp_path: Path
) -> None:
    make_node(**{"autostart": False, "memory_folder": str(tmp_path)})
    for name, kind in (("save_memory", MemoryFile), ("reset_memory", Trigger)):
        request = kind.Request(name="x") if kind is MemoryFile else kind.Request()
        answer = rig.call(kind, f"/lmeec/{name}", request)
        assert not answer.success and "not configured" in answer.message
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        change = ChangeState.Request(transition=Transition(id=transition))
        assert rig.call(ChangeState, "/lmeec/change_state", change).success
    for name, text in (
        ("../x", "beginning with a letter"),
        ("", "beginning with a letter"),
        ("/etc/x", "beginning with a letter"),
        ("absent", "no such file"),
    ):
        answer = rig.call(MemoryFile, "/lmeec/load_memory", MemoryFile.Request(name=name))
        assert not answer.success and text in answer.message, answer.message
    assert list(tmp_path.iterdir()) == []


def test_a_memory_folder_that_cannot_be_written_is_named(
    make_node: Any, rig: Any, tools: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "taken"
    active(make_node, tools, memory_folder=str(folder))
    folder.write_text("")  # a file where the folder should be
    answer = rig.call(MemoryFile, "/lmeec/save_memory", MemoryFile.Request(name="x"))
    assert not answer.success
    assert answer.message.startswith(f"memory folder {folder}: "), answer.message
    assert "File exists" in answer.message and "set the parameter memory_folder" in answer.message


def test_memory_files_lie_in_their_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROS_HOME", str(tmp_path))
    assert memory_file("", "a.b-c_1") == tmp_path / "lmeec" / "a.b-c_1.safetensors"
    assert memory_file("/data", "a") == Path("/data/a.safetensors")
    for name in ("", ".", "..", "a/b", "../a", ".hidden", "a\n", "a" * 101, "é"):
        with pytest.raises(ValueError, match="beginning with a letter"):
            memory_file("", name)


def test_three_failed_steps_in_a_row_stop_the_node(
    make_node: Any, rig: Any, tools: Any, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = active(make_node, tools)
    rig.wait_heard()
    feed.send(2)
    memory = node.processor.tracker.memory_state()
    model = node.processor.tracker.model
    predict, calls = model.predict, []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls))
        if calls[-1] != 2:  # two failures, one step that works, then failures again
            raise RuntimeError("CUDA error: the device is lost")
        return predict(*args, **kwargs)

    monkeypatch.setattr(model, "predict", failing)
    for n in (1, 2):
        feed.send(1, answered=False)
        tools.wait_until(lambda n=n: len(calls) == n, "the step to fail")
    after = node.processor.tracker.memory_state()
    assert all((after[o][k] == memory[o][k]).all() for o in memory for k in memory[o])
    feed.send(1)
    assert node.state == "active"
    for n in (4, 5, 6):
        feed.send(1, answered=False)
        tools.wait_until(lambda n=n: len(calls) == n, "the step to fail")
    tools.wait_until(lambda: node.state == "unconfigured", "the node to stop")
    assert "stopped after 3 failed steps: CUDA error" in node.measured.last_error
    assert node.processor is None and node.worker is None and not node.inputs
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        change = ChangeState.Request(transition=Transition(id=transition))
        assert rig.call(ChangeState, "/lmeec/change_state", change).success
    rig.wait_heard()
    feed.send(1)
