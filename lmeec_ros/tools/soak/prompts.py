"""The fault "prompts": send prompts of every kind to a second node, without query masks."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point, PointStamped
from lmeec.msg import CorrespondenceMaskArray, Prompt
from lmeec.srv import MarkObject
from rclpy.node import Node
from sensor_msgs.msg import Image

from lmeec_ros.tools.node_process import NodeProcess

NAME = "lmeec_prompts"
PARAMETERS = "prompts.yaml"
CLICKS = f"/{NAME}/clicked_point"
START_SECONDS = 120.0
ANSWER_SECONDS = 60.0
BURST = 300
"""Number of prompts sent at once."""
OBJECTS = 3
SHIFT = 3600
"""Seconds by which the stamps of late and early prompts differ from now."""
NAN = float("nan")


def parameters(main: dict[str, Any]) -> dict[str, Any]:
    """Return the second node's parameters, derived from those of the first."""
    return {
        **main,
        "query_masks": {**main["query_masks"], "source": "prompts"},
        "prompts": {"wait": 0.5, "clicks": {"topic": CLICKS}},
        "max_objects": OBJECTS,
        "objects": [""],
    }


class PromptedNode:
    """Starts the second node, sends it prompts, and receives its masks and diagnostics.

    Args:
        node: creates the subscriptions; spun by another thread.
        out: folder with the parameter file, for the log.
        cameras: the query camera, then the target cameras.

    Raises:
        RuntimeError: if the process ended, or a timeout expired (from all methods).
    """

    def __init__(self, node: Node, out: Path, cameras: tuple[str, ...]) -> None:
        self.cameras = cameras
        self._node, self._changed = node, threading.Condition()
        self._masks: dict[str, CorrespondenceMaskArray] = {}
        self._counts: dict[str, int] = {}
        self.process = NodeProcess(out / PARAMETERS, out / "prompts.log", remap={"__node": NAME})
        self._subscriptions = [
            node.create_subscription(
                CorrespondenceMaskArray, f"/{NAME}/{name}/masks", self._taking(name), 10
            )
            for name in cameras
        ]
        self._subscriptions.append(
            node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        )
        self._prompts = node.create_publisher(Prompt, f"/{NAME}/prompt", BURST)
        self._clicks = node.create_publisher(PointStamped, CLICKS, 10)
        self._mark = node.create_client(MarkObject, f"/{NAME}/mark_object")

    def close(self) -> None:
        """End the process, and destroy the subscriptions, publishers and client."""
        self.process.stop()
        for one in self._subscriptions:
            self._node.destroy_subscription(one)
        self._node.destroy_publisher(self._prompts)
        self._node.destroy_publisher(self._clicks)
        self._node.destroy_client(self._mark)

    def _taking(self, name: str) -> Callable[[CorrespondenceMaskArray], None]:
        def take(message: CorrespondenceMaskArray) -> None:
            with self._changed:
                self._masks[name] = message
                self._changed.notify_all()

        return take

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for one in message.status:
            if one.name == f"/{NAME}: prompts":
                with self._changed:
                    self._counts = {v.key: int(v.value) for v in one.values if v.value.isdigit()}
                    self._changed.notify_all()

    def _until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            with self._changed:
                if self._changed.wait_for(condition, 0.5):
                    return
            self.process.check()
            if time.monotonic() > end:
                raise RuntimeError(f"no {what} within {seconds:.0f} s: {self._counts}")

    def wait_masks(self, names: set[str], seconds: float) -> None:
        """Wait until new messages of all views contain these objects."""
        with self._changed:
            self._masks.clear()

        def complete() -> bool:
            shown = [{m.object_id for m in one.masks} for one in self._masks.values()]
            return len(shown) == len(self.cameras) and all(one >= names for one in shown)

        self._until(complete, f"masks of {sorted(names)} in {', '.join(self.cameras)}", seconds)

    def mark(self, prompt: Prompt) -> None:
        """Call ~/mark_object, which must succeed."""
        if not self._mark.wait_for_service(START_SECONDS):
            raise RuntimeError("the service mark_object is not available")
        future = self._mark.call_async(MarkObject.Request(prompt=prompt))
        self._until(future.done, "response of mark_object", ANSWER_SECONDS)
        answer = future.result()
        if answer is None or not answer.success:
            raise RuntimeError(f"mark_object was refused: {answer and answer.message}")

    def send(self, prompt: Prompt) -> None:
        """Publish a prompt."""
        self._prompts.publish(prompt)

    def click(self, x: float, y: float) -> None:
        """Publish a click into the query camera's image."""
        click = PointStamped(point=Point(x=x, y=y))
        click.header.frame_id = self.cameras[0]
        self._clicks.publish(click)

    def wait_settled(self, kinds: set[str]) -> None:
        """Wait until every prompt received was used or refused, with refusals of these kinds.

        Raises:
            RuntimeError: after a timeout, or if the counters do not add up.
        """

        def settled() -> bool:
            counts = self._counts
            return counts.get("waiting") == 0 and kinds <= counts.keys() and counts["used"] > 0

        self._until(settled, f"used prompts and {sorted(kinds)}", ANSWER_SECONDS)
        counts = dict(self._counts)
        received, waiting = counts.pop("received"), counts.pop("waiting")
        if received != sum(counts.values()) + waiting:
            raise RuntimeError(f"prompts: {received} received, but {counts} and {waiting} waiting")


def spoilt(chance: random.Random, camera: str) -> list[Prompt]:
    """Return a prompt of every kind, valid and invalid, in random order."""

    def prompt(**fields: Any) -> Prompt:
        x, y = chance.uniform(20, 60), chance.uniform(20, 60)
        name = f"object_{chance.randrange(OBJECTS) + 1}"
        return Prompt(
            **{"camera": camera, "object_id": name, "points": [Point(x=x, y=y)], **fields}
        )

    late, early = prompt(), prompt()
    late.header.stamp.sec = int(time.time()) - SHIFT
    early.header.stamp.sec = int(time.time()) + SHIFT
    small = Image(width=3, height=50, step=3, encoding="mono8", data=[1] * 150)
    cut = Image(width=300, height=50, step=300, encoding="mono8", data=[1] * 150)
    found = [
        prompt(),
        prompt(points=[], box=[10.0, 10.0, 60.0, 60.0]),
        late,
        early,
        prompt(camera="nowhere"),
        prompt(object_id=""),
        prompt(object_id="one_too_many"),
        prompt(points=[]),
        prompt(points=[Point(x=1e6, y=5.0)]),
        prompt(points=[Point(x=-1.0, y=5.0)]),
        prompt(points=[Point(x=NAN, y=NAN)]),
        prompt(labels=[7]),
        prompt(points=[], box=[60.0, 60.0, 10.0, 10.0]),
        prompt(points=[], mask=small),
        prompt(points=[], mask=cut),
    ]
    chance.shuffle(found)
    return found


def run(node: Node, out: Path, cameras: tuple[str, ...], chance: random.Random) -> None:
    """Send prompts of every kind, singly and hundreds at once; each must be used or refused.

    Raises:
        RuntimeError: if the node ended, logged a traceback, or did not respond.
    """
    with ExitStack() as cleanup:
        one = PromptedNode(node, out, cameras)
        cleanup.callback(one.close)
        one.wait_masks(set(), START_SECONDS)
        names = {f"object_{number + 1}" for number in range(OBJECTS)}
        for name in sorted(names):
            middle = Point(x=50.0, y=50.0)
            one.mark(Prompt(camera=cameras[0], object_id=name, points=[middle]))
        one.wait_masks(names, ANSWER_SECONDS)
        for prompt in spoilt(chance, cameras[0]):
            one.send(prompt)
            time.sleep(0.05)
        one.click(40.0, 40.0)
        one.wait_settled({"refused_late", "refused_no_image", "refused_unusable"})
        burst = [p for _ in range(BURST // 10) for p in spoilt(chance, chance.choice(cameras))]
        for prompt in burst[:BURST]:
            one.send(prompt)
        one.wait_settled({"refused_full"})
        one.wait_masks(names, ANSWER_SECONDS)
        code = one.process.stop()
        log = one.process.log.read_text(encoding="utf-8", errors="replace")
        if code != 0 or "Traceback" in log:
            raise RuntimeError(f"exit code {code} or a traceback; see {one.process.log}")
