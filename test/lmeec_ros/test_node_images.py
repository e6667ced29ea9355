"""What a node makes of its cameras' images is in its log, and what does not fit fails the set."""

from __future__ import annotations

from typing import Any

import numpy as np
from lmeec.msg import CorrespondenceMaskArray
from rcl_interfaces.msg import Log
from sensor_msgs.msg import Image


def test_16_bit_cameras_and_labels_of_another_aspect(make_node: Any, rig: Any, tools: Any) -> None:
    logs = rig.listen("/rosout", Log)
    masks = rig.listen("/lmeec/exo/masks", CorrespondenceMaskArray)
    for topic in ("/ego/image_raw", "/exo/image_raw", "/ego/label_image"):
        rig.advertise(topic, Image)
    node = make_node()
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    rig.wait_heard()

    def send(k: int, labels: np.ndarray, deep: bool = False) -> None:
        for camera in ("ego", "exo"):
            pixels = tools.scene(k)[:, :, 0].astype(np.uint16) * 4
            if camera == "exo" and not deep:
                pixels = tools.scene(k)
            encoding = "mono16" if pixels.dtype == np.uint16 else "rgb8"
            msg = tools.image_msg(pixels, encoding, k * tools.PERIOD)
            rig.publish(f"/{camera}/image_raw", msg)
        rig.publish("/ego/label_image", tools.image_msg(labels, "mono8", k * tools.PERIOD))

    def said(text: str) -> list[str]:
        return [log.msg for log in logs if text in log.msg and log.name == "lmeec"]

    for k in (1, 2):
        send(k, tools.label_frame(k))
        tools.wait_until(lambda k=k: len(masks) == k, f"masks of set {k}")
    send(3, np.pad(tools.label_frame(3), ((20, 20), (0, 0))))  # letterboxed
    refused = tools.wait_until(lambda: said("aspect"), "the reason in the log")
    assert "mask of 80 x 100 given for 80 x 60" in refused[0]
    send(4, tools.label_frame(4).repeat(2, 0).repeat(2, 1))  # the whole image, scaled evenly
    tools.wait_until(lambda: len(masks) == 3, "masks of the fourth set")
    (noticed,) = said("16-bit")
    assert noticed.startswith("camera 'ego' (/ego/image_raw): 16-bit image with values up to ")
    assert noticed.endswith(": read as 10-bit")
