"""The installed node without query masks: one click, and masks in every view."""

from __future__ import annotations

from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point, PointStamped
from lmeec.msg import CorrespondenceMaskArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image

from lmeec_core.takes import Take
from lmeec_ros.tools.demo import sample_take

CAMERAS = ("aria01", "cam01", "cam02")


def test_one_click_gives_masks_in_all_views(
    start_node: Any, rig: Any, tools: Any, logged: Any
) -> None:
    take = Take.open(sample_take())
    first, second, *_ = sorted(take.frames("aria01"))
    for name in CAMERAS:
        rig.advertise(f"/{name}/image_raw", Image)
    rig.advertise("/clicked_point", PointStamped)
    found = {name: rig.listen(f"/lmeec/{name}/masks", CorrespondenceMaskArray) for name in CAMERAS}
    reasons: list[DiagnosticStatus] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    rig.node.create_subscription(DiagnosticStatus, "/lmeec/status", reasons.append, latched)
    node = start_node({
        "camera_names": list(CAMERAS), "query_camera": "aria01",
        "target_cameras": list(CAMERAS[1:]), "query_masks.source": "prompts",
        "objects": ["4:dumbbell_1"], "model.device": "cpu", "model.engine": "eager",
        "model.warm_up_steps": 0,
    })  # fmt: skip
    logged(node, "activate: done")
    rig.wait_heard()
    start = 1_700_000_000_000_000_000

    def send(frame: int, number: int) -> None:
        for name in CAMERAS:
            stamp = start + number * int(tools.PERIOD)
            picture = take.image(name, frame)
            rig.publish(f"/{name}/image_raw", tools.image_msg(picture, "rgb8", stamp, name))
        tools.wait_until(
            lambda: all(m and tools.stamp_ns(m[-1]) >= stamp for m in found.values()),
            lambda: f"masks in all views of frame {number}; {node.tail()}",
        )

    send(first, 0)
    assert all(not messages[-1].masks for messages in found.values())
    tools.wait_until(
        lambda: any(
            "click the object: publish a click on /clicked_point" in r.message for r in reasons
        ),
        lambda: f"the status to say what to do: {[r.message for r in reasons]}",
    )
    mask = take.mask("dumbbell_1", "aria01", first, image=take.image("aria01", first).shape[:2])
    rows, columns = np.nonzero(mask)
    middle = Point(x=float(np.median(columns)), y=float(np.median(rows)))
    rig.publish("/clicked_point", tools.stamped(PointStamped(point=middle), start, "aria01"))
    logged(node, "/clicked_point: dumbbell_1 is marked in aria01")
    send(second, 1)
    for name, messages in found.items():
        (entry,) = messages[-1].masks
        assert (entry.object_id, entry.label) == ("dumbbell_1", 4), name
        assert messages[-1].query_camera == "aria01" and messages[-1].target_camera == name
    (query,) = found["aria01"][-1].masks
    assert query.visible and query.area > 0
    (exo,) = found["cam01"][-1].masks
    assert exo.visible and exo.area > 0
    assert node.stop() == 0 and "Traceback" not in node.log.read_text()
