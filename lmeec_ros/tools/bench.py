"""`lmeec bench --node`: the time that ROS adds to the tracker's step.

The node runs in a separate process with a small network; this process publishes pairs of images and
receives the masks.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lmeec_ros.tools.demo import settle_environment, write_parameters
from lmeec_ros.tools.node_process import NodeError, NodeProcess

PERIOD = 1 / 30
"""Minimum seconds between pairs. A pair is sent only when the masks of the previous one have
arrived, so that its latency includes no other step."""
HEIGHT, WIDTH = 480, 640
WARM_UP = 20
"""Number of pairs before the measurement."""
START_SECONDS, PAIR_SECONDS = 120.0, 30.0
MASKS = "/lmeec/exo/masks"


def measure_node(console: Console, pairs: int = 300, preset: str = "mini") -> dict[str, Any]:
    """Measure the latency from publishing a pair to receiving its masks, over DDS.

    Args:
        console: shows the progress.
        pairs: number of pairs of raw 480 x 640 images, with a label image of one object.
        preset: a small network with random weights; the time that ROS adds does not depend on it.

    Returns:
        median and p95 in milliseconds of ``latency_ms``, of the tracker's ``step_ms`` and of
        ``edge_ms``, their difference for each pair; ``pairs``, and the ``rate_hz`` reached.

    Raises:
        NodeError: if the node ends or does not answer.
    """
    from lmeec_ros.tools.ros_session import ros_node

    settle_environment()
    with tempfile.TemporaryDirectory(prefix="lmeec_bench_") as folder:
        parameters = Path(folder) / "parameters.yaml"
        write_parameters(parameters, _parameters(preset))
        with (
            NodeProcess(parameters, Path(folder) / "node.log") as process,
            ros_node("lmeec_bench") as (node, stop),
        ):
            edge = _Edge(node, process, stop)
            with console.status("waiting for the node to load its model"):
                edge.wait_ready()
            with console.status(f"publishing {pairs} pairs"):
                for _ in range(WARM_UP):
                    edge.pair()
                begin = time.monotonic()
                measured = [edge.pair() for _ in range(pairs)]
            seconds = time.monotonic() - begin
    latency, step = (1e3 * np.array(column) for column in zip(*measured, strict=True))
    return {
        "preset": preset,
        "pairs": pairs,
        "rate_hz": round(pairs / seconds, 1),
        **{
            name: {
                "median": round(float(np.median(values)), 3),
                "p95": round(float(np.percentile(values, 95)), 3),
            }
            for name, values in (
                ("latency_ms", latency),
                ("step_ms", step),
                ("edge_ms", latency - step),
            )
        },
    }


def show_node(result: dict[str, Any], console: Console) -> None:
    """Print the result of :func:`measure_node`."""
    times = ", ".join(
        f"{label} {result[name]['median']:.1f} ({result[name]['p95']:.1f})"
        for label, name in (
            ("publish to mask", "latency_ms"),
            ("the tracker's step", "step_ms"),
            ("added by ROS", "edge_ms"),
        )
    )
    console.print(
        f"node, {result['preset']}, 480p pairs at {result['rate_hz']} Hz, milliseconds, median "
        f"(95th percentile): {times}",
        highlight=False,
    )


def _parameters(preset: str) -> dict[str, Any]:
    camera = {"transport": "raw", "qos": "reliable"}
    return {
        "camera_names": ["ego", "exo"],
        "cameras": {name: {"topic": f"/{name}/image_raw", **camera} for name in ("ego", "exo")},
        "query_camera": "ego",
        "target_cameras": ["exo"],
        "query_masks": {"topic": "/ego/label_image", "type": "label_image", "qos": "reliable"},
        "model": {"preset": preset, "seed": 0},
        "silence_warning": 0.0,
    }


class _Edge:
    """Publishes pairs and measures the time until their masks arrive."""

    def __init__(self, node: Any, process: NodeProcess, stop: threading.Event) -> None:
        from lmeec.msg import CorrespondenceMaskArray
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSProfile
        from sensor_msgs.msg import Image

        self.node, self.process, self.stop = node, process, stop
        topics = ("/ego/image_raw", "/exo/image_raw", "/ego/label_image")
        self.publishers = [node.create_publisher(Image, t, QoSProfile(depth=5)) for t in topics]
        self.subscription = node.create_subscription(
            CorrespondenceMaskArray, MASKS, self._take_in, QoSProfile(depth=5)
        )
        self.executor = SingleThreadedExecutor(context=node.context)
        self.executor.add_node(node)
        draw = np.random.default_rng(0)
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[100:300, 200:400] = 1
        self.messages = [
            _image(draw.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), "rgb8"),
            _image(draw.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), "rgb8"),
            _image(labels, "mono8"),
        ]
        self.number = 0
        self.arrived: tuple[float, Any] | None = None
        self.last = 0.0

    def _take_in(self, message: Any) -> None:
        if message.header.stamp == self.messages[0].header.stamp:  # ignore earlier pairs
            self.arrived = (time.monotonic(), message)

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise NodeError("stopped by a signal")

    def wait_ready(self) -> None:
        """Wait until the node is active: subscribed to all topics, and publishing masks."""
        end = time.monotonic() + START_SECONDS
        while not (
            all(p.get_subscription_count() for p in self.publishers)
            and self.node.count_publishers(MASKS)
        ):
            self.process.check()
            self._check_stop()
            if time.monotonic() > end:
                raise NodeError(
                    f"the node was not ready within {START_SECONDS:.0f} s; its log:\n"
                    f"{self.process.tail()}"
                )
            self.executor.spin_once(timeout_sec=0.1)
        time.sleep(1.0)  # the node's publisher must also discover this subscription

    def pair(self) -> tuple[float, float]:
        """Publish a pair; return the seconds until its masks arrived, and of the tracker's step."""
        time.sleep(max(0.0, self.last + PERIOD - time.monotonic()))
        self.number += 1
        sec, nanosec = divmod(self.number * 33_333_333 + 1_000_000_000, 1_000_000_000)
        for message in self.messages:
            message.header.stamp.sec, message.header.stamp.nanosec = sec, nanosec
        self.arrived = None
        self.last = begin = time.monotonic()
        for publisher, message in zip(self.publishers, self.messages, strict=True):
            publisher.publish(message)
        while self.arrived is None:
            self.executor.spin_once(timeout_sec=0.5)
            self.process.check()
            self._check_stop()
            if time.monotonic() > begin + PAIR_SECONDS:
                raise NodeError(
                    f"no masks for pair {self.number} after {time.monotonic() - begin:.0f} s; "
                    f"the node's log:\n{self.process.tail()}"
                )
        now, message = self.arrived
        return now - begin, message.processing_time.sec + 1e-9 * message.processing_time.nanosec


def _image(pixels: np.ndarray, encoding: str) -> Any:
    from std_msgs.msg import Header

    from lmeec_ros.io.messages import MESSAGES

    return MESSAGES.image(Header(frame_id="bench"), pixels, encoding)
