"""Objects that are marked by prompts: the node with no query masks."""

from __future__ import annotations

from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point, PointStamped
from lmeec.msg import CorrespondenceMaskArray, Prompt
from lmeec.srv import ForgetObject, MarkObject, MemoryFile
from std_srvs.srv import Trigger

EGO, EXO = "/ego/image_raw", "/exo/image_raw"
START = 1_700_000_000_000_000_000
CUP = Point(x=35.0, y=20.0)


class Cameras:
    """A node with prompts, two cameras that send frame after frame, and what it publishes."""

    def __init__(self, make_node: Any, rig: Any, tools: Any, **values: Any) -> None:
        from sensor_msgs.msg import Image

        self.rig, self.tools, self.sent = rig, tools, 0
        for topic in (EGO, EXO):
            rig.advertise(topic, Image)
        self.masks = {
            name: rig.listen(f"/lmeec/{name}/masks", CorrespondenceMaskArray)
            for name in ("ego", "exo")
        }
        self.node = make_node(**{"query_masks.source": "prompts", **values})
        tools.wait_until(lambda: self.node.state == "active", "the node to be active")
        rig.wait_heard()

    def stamp(self, frame: int) -> int:
        return START + frame * int(self.tools.PERIOD)

    def send(self, frames: int = 1, patience: float = 60.0) -> None:
        """Send so many frames; wait until each is answered."""
        for _ in range(frames):
            k, self.sent = self.sent, self.sent + 1
            for topic, seed, name in ((EGO, 0, "ego_optical"), (EXO, 1, "exo_optical")):
                picture = self.tools.scene(seed)
                msg = self.tools.image_msg(picture, "rgb8", self.stamp(k), name)
                self.rig.publish(topic, msg)
            for name, masks in self.masks.items():
                self.tools.wait_until(
                    lambda masks=masks, k=k: (
                        masks and self.tools.stamp_ns(masks[-1]) == self.stamp(k)
                    ),
                    f"the masks of {name} of frame {k}",
                    patience,
                )

    def ids(self, camera: str) -> list[str]:
        return [entry.object_id for entry in self.masks[camera][-1].masks]

    def prompt(self, frame: int | None = None, **fields: Any) -> Prompt:
        fields = {"object_id": "cup", "camera": "ego", "points": [CUP], **fields}
        return self.tools.stamped(Prompt(**fields), 0 if frame is None else self.stamp(frame))

    def mark(self, frame: int | None = None, **fields: Any) -> Any:
        request = MarkObject.Request(prompt=self.prompt(frame, **fields))
        return self.rig.call(MarkObject, "/lmeec/mark_object", request)

    def answered(self, answer: Any) -> int:
        """The stamp in an answer of ~/mark_object."""
        stamp: int = answer.stamp.sec * 1_000_000_000 + answer.stamp.nanosec
        return stamp

    def counts(self) -> dict[str, int]:
        values: dict[str, int] = self.node.measured.prompts.values()
        return values


@pytest.fixture
def start(make_node: Any, rig: Any, tools: Any) -> Any:
    def start(**values: Any) -> Cameras:
        return Cameras(make_node, rig, tools, **values)

    return start


def test_an_object_is_marked_corrected_forgotten(start: Any) -> None:
    cameras = start(objects=["7:cup"])
    assert "lmeec/label_image" not in str(cameras.node.get_topic_names_and_types())
    cameras.send(2)
    assert cameras.ids("ego") == cameras.ids("exo") == []
    answer = cameras.mark()
    assert answer.success and answer.message == "cup is marked in ego", answer
    assert cameras.answered(answer) == cameras.stamp(1)
    cameras.send()
    for name in ("ego", "exo"):
        (entry,) = cameras.masks[name][-1].masks
        message = cameras.masks[name][-1]
        assert (entry.object_id, entry.label) == ("cup", 7)
        assert (message.query_camera, message.target_camera) == ("ego", name)
        assert message.header.frame_id == f"{name}_optical"
    assert cameras.node.processor.tracker.objects == {"cup": "ego"}
    assert cameras.mark(labels=[1], frame=2).success  # a correction, of the frame of that stamp
    # In another camera: that becomes its query view, and its frame_id will do for a click.
    assert cameras.mark(camera="exo").success
    assert cameras.node.processor.tracker.objects == {"cup": "exo"}
    cameras.send()
    assert cameras.ids("ego") == cameras.ids("exo") == ["cup"]
    call = cameras.rig.call
    refused = call(MemoryFile, "/lmeec/save_memory", MemoryFile.Request(name="x"))
    assert not refused.success and "marked by prompts cannot be saved" in refused.message
    assert call(ForgetObject, "/lmeec/forget_object", ForgetObject.Request(object_id="cup")).success
    cameras.send()
    assert cameras.ids("ego") == []
    assert cameras.mark(object_id="knife").success
    reset = call(Trigger, "/lmeec/reset_memory", Trigger.Request())
    assert reset.message == "memory reset, 1 objects forgotten"
    assert cameras.counts() == {"received": 4, "used": 4}


def mask(height: int, width: int, data: bytes | None = None) -> Any:
    from sensor_msgs.msg import Image

    step = width
    given = list(data if data is not None else bytes([1]) * (height * width))
    return Image(height=height, width=width, step=step, encoding="mono8", data=given)


NAN = float("nan")
BAD = {
    "unknown camera": ({"camera": "rear"}, "camera 'rear' given, one of ego, exo expected"),
    "no id": ({"object_id": ""}, "a text of 1 to 256 characters expected"),
    "long id": ({"object_id": "x" * 257}, "a text of 1 to 256 characters expected"),
    "outside": ({"points": [Point(x=81.0, y=5.0)]}, "within the image of 80 x 60"),
    "negative": ({"points": [Point(x=-1.0, y=5.0)]}, "within the image of 80 x 60"),
    "NaN": ({"points": [Point(x=NAN, y=5.0)]}, "pairs of x and y in pixels expected"),
    "empty": ({"points": []}, "points, a box or a mask expected"),
    "labels": ({"labels": [1, 0]}, "0 or 1 for each of 1 points expected"),
    "wrong label": ({"labels": [2]}, "0 or 1 for each of 1 points expected"),
    "three numbers": ({"box": [1.0, 2.0, 3.0]}, "x0, y0, x1, y1 in pixels expected"),
    "turned box": ({"box": [9.0, 2.0, 3.0, 4.0]}, "x0 < x1 and y0 < y1 expected"),
    "mask and points": ({"mask": mask(60, 80)}, "a mask must be given alone"),
    "mask of another shape": ({"points": [], "mask": mask(60, 20)}, "aspect"),
    "short mask": ({"points": [], "mask": mask(60, 80, b"1")}, "truncated buffer"),
    "many points": ({"points": [CUP] * 1001}, "at most 1000 points expected"),
}


def test_prompts_that_cannot_be_used_are_refused_with_the_reason(start: Any) -> None:
    cameras = start(**{"prompts.wait": 0.3})
    cameras.send()
    for name, (fields, reason) in BAD.items():
        answer = cameras.mark(**fields)
        assert not answer.success and reason in answer.message, (name, answer.message)
    # By the topic, too: counted, in the status, and the node goes on.
    late = cameras.mark(frame=-100)
    assert not late.success and "no image within 0.02 s of" in late.message, late.message
    assert "or raise prompts.hold" in late.message
    early = cameras.mark(frame=100)
    assert not early.success and "No later one arrived within 0.3 s" in early.message
    counts = cameras.counts()
    assert counts == {
        "received": len(BAD) + 2, "used": 0, "refused_late": 1, "refused_no_image": 1,
        "refused_unusable": len(BAD),
    }  # fmt: skip
    assert cameras.node.processor.tracker.objects == {}
    cameras.send()
    assert cameras.mark().success


def test_a_prompt_waits_for_its_image_and_finds_an_older_one(start: Any, rig: Any) -> None:
    cameras = start(**{"prompts.wait": 30.0})
    publisher = rig.advertise("/lmeec/prompt", Prompt)
    rig.wait_heard(reliable=False)
    publisher.publish(cameras.prompt(frame=2))  # before any image
    cameras.tools.wait_until(lambda: cameras.node.processor.marks.waiting, "the prompt to wait")
    cameras.send(2)
    assert cameras.ids("ego") == [] and cameras.node.processor.marks.waiting == 1
    cameras.send()
    assert cameras.ids("ego") == cameras.ids("exo") == ["cup"]  # on its own frame, at once
    answer = cameras.mark(frame=1, object_id="knife", camera="exo")
    assert answer.success and cameras.answered(answer) == cameras.stamp(1)
    cameras.send()
    assert cameras.ids("ego") == ["cup", "knife"]


def test_clicks_of_other_programs(start: Any, rig: Any, tools: Any) -> None:
    cameras = start(objects=["3:cup"])
    clicked = rig.advertise("/clicked_point", PointStamped)
    mouse = rig.advertise(f"{EXO}_mouse_left", Point)
    rig.wait_heard(reliable=False)
    cameras.send()

    def click(frame_id: str, frame: int, offset: int = 0) -> None:
        msg = PointStamped(point=CUP)
        clicked.publish(
            tools.stamped(msg, cameras.stamp(frame) + offset if frame >= 0 else 0, frame_id)
        )

    def until(what: str, key: str, count: int) -> None:
        tools.wait_until(lambda: cameras.counts().get(key, 0) == count, what)

    click("map", -1)  # of a 3D view
    until("a click in another frame to be refused", "refused_camera", 1)
    text = cameras.node.measured.prompts.last_refusal
    assert "camera or frame_id 'map' given, one of ego, ego_optical, exo, exo_optical exp" in text
    clicked.publish(tools.stamped(PointStamped(point=Point(x=1.0, z=2.0)), 0, "ego"))
    until("a point in space to be refused", "refused_unusable", 1)
    click("", -1)
    until("a click without frame", "used", 1)
    assert cameras.node.processor.tracker.objects == {"cup": "ego"}
    click("exo_optical", 0, 400_000_000)  # stamped when it was made, after the image
    cameras.send()
    until("a click by frame_id", "used", 2)
    assert cameras.node.processor.tracker.objects == {"cup": "exo"}
    click("ego", 0)
    until("a click by name", "used", 3)
    assert cameras.node.processor.tracker.objects == {"cup": "ego"}
    mouse.publish(CUP)
    until("a click of rqt_image_view", "used", 4)
    assert cameras.node.processor.tracker.objects == {"cup": "exo"}
    cameras.send()
    assert cameras.ids("ego") == ["cup"]


def test_hundreds_at_once(start: Any, rig: Any, tools: Any) -> None:
    cameras = start(max_objects=2)
    publisher = rig.advertise("/lmeec/prompt", Prompt)
    rig.wait_heard(reliable=False)
    cameras.send()
    for n in range(150):
        publisher.publish(cameras.prompt(object_id=f"o{n % 3}", frame=500 if n % 2 else None))

    def answered() -> bool:
        counts = cameras.counts()
        return counts["received"] == 150 == sum(v for k, v in counts.items() if k != "received")

    tools.wait_until(answered, lambda: f"150 to be answered: {cameras.counts()}")
    counts = cameras.counts()
    assert counts["used"] >= 2 and counts["refused_unusable"] >= 1  # the third object
    assert counts["refused_full"] + counts["refused_no_image"] >= 75
    cameras.send()
    assert len(cameras.ids("exo")) == 2


def test_lifecycle_and_time(start: Any, rig: Any, tools: Any) -> None:
    cameras = start(**{"prompts.wait": 30.0})
    diagnostics = rig.listen("/diagnostics", DiagnosticArray)
    cameras.send()
    assert cameras.mark().success
    waits = rig.ask(
        MarkObject, "/lmeec/mark_object", MarkObject.Request(prompt=cameras.prompt(frame=90))
    )
    tools.wait_until(lambda: cameras.node.processor.marks.waiting, "the prompt to wait")
    cameras.node.trigger_deactivate()
    tools.wait_until(waits.done, "the answer")
    # The second, if the node is deactivated while the prompt is on its way to the worker.
    reasons = (
        "deactivated while the prompt was waiting",
        "the node is not active; nothing is marked",
    )
    assert not waits.result().success and waits.result().message.endswith(reasons)
    assert cameras.mark().message == "the node is not active; nothing is marked"
    cameras.node.trigger_activate()
    rig.wait_heard()
    cameras.send()
    assert cameras.ids("exo") == ["cup"]

    def part() -> dict[str, str]:
        found = [s for m in diagnostics for s in m.status if s.name == "/lmeec: prompts"]
        return {v.key: v.value for v in found[-1].values} if found else {}

    tools.wait_until(lambda: part().get("objects") == "cup in ego", lambda: f"{part()}")
    assert part()["received"] == part()["waiting"] == "0"
    cameras.sent -= 100  # the clock is set back
    cameras.send(2)
    assert cameras.ids("exo") == []


def test_without_prompts_the_service_says_what_is_needed(
    make_node: Any, rig: Any, tools: Any
) -> None:
    node = make_node()
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    request = MarkObject.Request(prompt=Prompt(object_id="cup", points=[CUP]))
    answer = rig.call(MarkObject, "/lmeec/mark_object", request)
    assert not answer.success and "query_masks.source is 'topic'; 'prompts' is" in answer.message
    assert not rig.node.get_subscriptions_info_by_topic("/clicked_point")
