"""`lmeec mark --live`: a node's images and masks on the page, and prompts to it, over DDS."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lmeec_core.errors import InputError
from lmeec_core.marking.editing import Editor

pytest.importorskip("rclpy")

MASK = np.zeros((60, 80), bool)
MASK[10:30, 20:50] = True


class StandIn:
    """What the page needs of a node: its parameters, services and masks."""

    def __init__(self, rig: Any, name: str, **values: Any) -> None:
        from lmeec.msg import CorrespondenceMaskArray
        from lmeec.srv import ForgetObject, MarkObject
        from rclpy.node import Node
        from rclpy.parameter import Parameter

        from lmeec_ros.parameters.config import declare

        overrides = [Parameter(key, value=value) for key, value in values.items()]
        self.node = Node(name, context=rig.node.context, parameter_overrides=overrides)
        self.config = declare(self.node)
        self.asked: list[Any] = []
        self.forgotten: list[str] = []
        self.node.create_service(MarkObject, "~/mark_object", self._mark)
        self.node.create_service(ForgetObject, "~/forget_object", self._forget)
        self.masks = {
            camera: self.node.create_publisher(CorrespondenceMaskArray, f"~/{camera}/masks", 5)
            for camera in ("ego", "exo")
        }
        rig.executor.add_node(self.node)

    def _mark(self, request: Any, response: Any) -> Any:
        self.asked.append(request.prompt)
        response.success = request.prompt.object_id != "ghost"
        response.message = "used" if response.success else "its image is no longer held"
        return response

    def _forget(self, request: Any, response: Any) -> Any:
        self.forgotten.append(request.object_id)
        response.success = True
        return response


@pytest.fixture
def node(rig: Any) -> Iterator[StandIn]:
    values = {"query_masks.source": "prompts", "cameras.exo.topic": "/wall/image_raw"}
    one = StandIn(rig, f"marked_{os.getpid()}", **values)
    yield one
    rig.executor.remove_node(one.node)
    one.node.destroy_node()


@pytest.fixture
def live(node: StandIn) -> Iterator[Any]:
    from lmeec_ros.tools.live_marking import open_live

    source = open_live(node.node.get_name())
    yield source
    source.close()


def masks_message(tools: Any, query: str, camera: str, stamp: int, **present: bool) -> Any:
    from lmeec_ros.io.messages import MESSAGES

    header = tools.image_msg(np.zeros((60, 80), np.uint8), "mono8", stamp).header
    entries = [
        MESSAGES.mask(name, label, MASK if there else None, header, 0.9 if there else 0.1, 0.7)
        for label, (name, there) in enumerate(present.items(), start=1)
    ]
    return MESSAGES.masks(header, header, (query, camera), (60, 80), entries)


def test_images_masks_prompts_and_refusals(node: StandIn, live: Any, rig: Any, tools: Any) -> None:
    from sensor_msgs.msg import Image

    assert live.cameras == ("ego", "exo") and live.frames == () and live.notices == ()
    assert "ego (/ego/image_raw)" in live.work.text and "exo (/wall/image_raw)" in live.work.text
    for topic in ("/ego/image_raw", "/wall/image_raw"):
        rig.advertise(topic, Image)
    rig.wait_heard()
    with pytest.raises(InputError, match="no image yet"):
        Editor(live, "cup").point("ego", live.view("ego", None).key, 30, 20, True)
    for k in (1, 2):
        for camera, topic in (("ego", "/ego/image_raw"), ("exo", "/wall/image_raw")):
            pixels = tools.scene(k + len(camera) + (camera == "exo"))
            rig.publish(topic, tools.image_msg(pixels, "rgb8", k * tools.PERIOD))
    tools.wait_until(lambda: live.view("exo", None).key == 2 * tools.PERIOD, "images")
    tools.wait_until(lambda: live.view("ego", None).key == 2 * tools.PERIOD, "images")
    assert live.work is None
    assert np.array_equal(live.image("exo", None), tools.scene(6))

    # The image of the masks is shown, not a newer one.
    sent = masks_message(tools, "ego", "exo", tools.PERIOD, cup=True, knife=False)
    node.masks["exo"].publish(sent)
    tools.wait_until(lambda: live.view("exo", None).seen, "masks")
    view = live.view("exo", None)
    assert view.key == tools.PERIOD
    assert np.array_equal(view.seen["cup"].mask, MASK) and not view.seen["cup"].marked
    assert view.seen["knife"].mask is None
    assert view.seen["knife"].presence == pytest.approx(0.1)
    assert np.array_equal(live.image("exo", None), tools.scene(5))
    node.masks["ego"].publish(masks_message(tools, "ego", "ego", tools.PERIOD, cup=True))
    tools.wait_until(lambda: live.view("ego", None).seen, "masks")
    assert live.view("ego", None).seen["cup"].marked
    assert live.objects == {"cup": "ego", "knife": "ego"}

    editor = Editor(live, "cup")
    editor.point("exo", view.key, 30.5, 20, True)
    editor.point("exo", view.key, 70, 50, False)
    editor.box("ego", view.key, (50, 40), (10, 20))
    tools.wait_until(lambda: len(node.asked) == 3 and live.work is None, "prompts")
    assert live.objects["cup"] == "ego"  # of the last prompt
    first, second, third = node.asked
    assert (first.camera, first.object_id) == ("exo", "cup")
    assert tools.stamp_ns(first) == view.key
    assert (first.points[0].x, first.points[0].y, list(first.labels)) == (30.5, 20, [1])
    assert (len(second.points), list(second.labels)) == (1, [0])
    assert list(third.box) == [10, 20, 50, 40] and not third.points
    editor.object_id = "ghost"
    editor.point("ego", view.key, 1, 2, True)
    tools.wait_until(lambda: live.notices, "the refusal")
    assert live.notices == ("'ghost' in ego: its image is no longer held",)
    with pytest.raises(InputError, match="further clicks"):
        editor.undo()
    editor.forget("cup")
    tools.wait_until(lambda: node.forgotten == ["cup"], "the node to forget")
    assert "cup" not in live.objects


def test_a_click_on_a_running_node(make_node: Any, rig: Any, tools: Any) -> None:
    """It finds the object in both views, and forgets it."""
    from sensor_msgs.msg import Image

    from lmeec_ros.tools.live_marking import open_live

    for camera in ("ego", "exo"):
        rig.advertise(f"/{camera}/image_raw", Image)
    node = make_node(namespace="robot", **{
        "query_masks.source": "prompts", "cameras.ego.topic": "/ego/image_raw",
        "cameras.exo.topic": "/exo/image_raw", "pairing.tolerance": 0.0,
    })  # fmt: skip
    live, sent = open_live("/robot/lmeec"), 0

    def send() -> None:
        nonlocal sent
        sent += 1
        time.sleep(0.1)
        for seed, camera in enumerate(live.cameras):
            message = tools.image_msg(tools.scene(seed), "rgb8", sent * tools.PERIOD)
            rig.publish(f"/{camera}/image_raw", message)

    def seen(camera: str) -> bool:
        return "cup" in live.view(camera, None).seen

    try:
        tools.wait_until(lambda: node.state == "active", "the node to be active")
        tools.wait_until(live._mark.service_is_ready, "the service")
        # An image that the node has answered: others it may have dropped.
        answered = lambda: all(one.masked for one in live._views.values())  # noqa: E731
        tools.wait_until(lambda: send() or answered(), "images and answers")
        Editor(live, "cup").point("exo", live.view("exo", None).key, 30, 20, True)
        tools.wait_until(lambda: send() or (seen("ego") and seen("exo")), "masks")
        assert live.notices == () and live.objects == {"cup": "exo"}
        assert live.view("exo", None).seen["cup"].marked
        assert not live.view("ego", None).seen["cup"].marked
        Editor(live, "cup").forget("cup")
        tools.wait_until(lambda: send() or not live.objects, "the object to be gone")
    finally:
        live.close()


def test_a_node_that_is_not_there_or_takes_no_prompts(
    rig: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmeec_ros.tools import live_marking

    other = StandIn(rig, f"masked_{os.getpid()}")
    source = live_marking.open_live(other.node.get_name())
    assert "set query_masks.source to prompts" in source.notices[0]
    source.close()
    monkeypatch.setattr(live_marking, "PATIENCE", 1.0)

    def refusal() -> str:
        with pytest.raises(
            InputError, match="no response from a node /none; running nodes"
        ) as refused:
            live_marking.open_live("none")
        return str(refused.value)

    # That this node is found takes a while.
    tools.wait_until(lambda: f"/masked_{os.getpid()}" in refusal(), "the other node's name")
    with pytest.raises(InputError, match="/rig is not an lmeec node"):
        monkeypatch.setattr(live_marking, "PATIENCE", 10.0)
        live_marking.open_live("rig")
    rig.executor.remove_node(other.node)
    other.node.destroy_node()
