"""Inputs for prompts: ~/prompt, ~/mark_object, and clicks and boxes of other programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

from geometry_msgs.msg import Point, PointStamped
from lmeec.msg import Prompt
from lmeec.srv import MarkObject
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node

from lmeec_core.errors import InputError
from lmeec_core.sync.image_set import ImageSet
from lmeec_core.sync.stream_monitor import LogThrottle
from lmeec_ros.health.measurements import Measurements, PromptCounts
from lmeec_ros.inference.marks import PromptRefused, Used
from lmeec_ros.inference.pipeline import SetProcessor
from lmeec_ros.inference.worker import Worker
from lmeec_ros.io import prompts
from lmeec_ros.io.prompts import Marking
from lmeec_ros.parameters.config import NodeConfig

DEPTH = 200
"""Queue depth of the subscriptions: prompts that may arrive at once without loss."""
PATIENCE = 60.0
"""Seconds beyond prompts.wait that ~/mark_object waits for the current step."""
QUIET = ("seen",)
"""Kinds of refusals that are not logged, because a detector sends boxes continuously."""


class Host(Protocol):
    """The parts of the node used here. The processor is None while the node is unconfigured, the
    worker while it is not active."""

    config: NodeConfig
    processor: SetProcessor | None
    worker: Worker[ImageSet[Any]] | None
    measured: Measurements


class PromptInputs:
    """The subscriptions and the service with which objects are marked.

    The service always exists; the subscriptions only with query_masks.source prompts.

    Args:
        node: creates the subscriptions and the service.
        host: the same node.
    """

    def __init__(self, node: Node, host: Host) -> None:
        self._node, self._host = node, host
        self._throttle = LogThrottle(5.0)
        node.create_service(
            MarkObject, "~/mark_object", self._mark, callback_group=MutuallyExclusiveCallbackGroup()
        )
        config = host.config
        if not config.prompted:
            return
        self._group = MutuallyExclusiveCallbackGroup()
        self._listen(Prompt, "~/prompt", lambda now, msg: [prompts.read_prompt(now, msg)])
        clicks = config.prompts.clicks
        if clicks.topic:

            def read(now: NodeConfig, msg: Any) -> list[Marking]:
                return [prompts.read_click(now, msg.point, msg.header)]

            self._listen(PointStamped, clicks.topic, read)
        if clicks.mouse:
            for name in config.views:

                def read_mouse(now: NodeConfig, msg: Any, camera: str = name) -> list[Marking]:
                    return [prompts.read_click(now, msg, camera=camera)]

                self._listen(Point, f"{config.cameras[name].address}_mouse_left", read_mouse)
        if config.prompts.detections.topic:
            self._listen_to_detections(config.prompts.detections.topic)

    @property
    def _counts(self) -> PromptCounts:
        return self._host.measured.prompts

    def settle(self) -> None:
        """Refuse prompts that have waited too long. To be called regularly."""
        processor = self._host.processor
        if processor is not None and processor.marks is not None and processor.marks.waiting:
            self._post(processor, self._host.worker)

    @property
    def waiting(self) -> int:
        """Number of prompts whose image has not arrived yet."""
        processor = self._host.processor
        return 0 if processor is None or processor.marks is None else processor.marks.waiting

    def end(self) -> None:
        """Refuse all waiting prompts when the node is deactivated."""
        processor = self._host.processor
        if processor is not None and processor.marks is not None:
            text = "the node was deactivated while the prompt was waiting"
            processor.marks.refuse_all("inactive", text)

    def _listen(
        self, kind: Any, topic: str, read: Callable[[NodeConfig, Any], Sequence[Marking]]
    ) -> None:
        shown = topic if topic.startswith("~") else self._node.resolve_topic_name(topic)
        take = partial(self._take, shown, read)
        self._node.create_subscription(
            kind, topic, lambda msg: take(msg), DEPTH, callback_group=self._group
        )

    def _listen_to_detections(self, topic: str) -> None:
        try:
            from vision_msgs.msg import Detection2DArray
        except ImportError:
            self._node.get_logger().error(
                f"prompts.detections.topic: not subscribed to {topic}, because the ROS package "
                "vision_msgs is not installed (apt install ros-jazzy-vision-msgs)"
            )
            return

        def read(now: NodeConfig, msg: Any) -> list[Marking]:
            found, errors = prompts.read_detections(now, msg)
            for error in errors:
                self._counts.receive()
                self._answer(topic, _refused(error))
            return found

        self._listen(Detection2DArray, topic, read)

    def _take(
        self, topic: str, read: Callable[[NodeConfig, Any], Sequence[Marking]], msg: Any
    ) -> None:
        try:
            markings = read(self._host.config, msg)
        except InputError as error:
            self._counts.receive()
            self._answer(topic, _refused(error))
            return
        for marking in markings:
            self._submit(topic, marking)

    def _submit(self, source: str, marking: Marking) -> Future[Used]:
        config, processor, worker = self._host.config, self._host.processor, self._host.worker
        self._counts.receive()
        if processor is None or processor.marks is None or worker is None:
            text = "the node is not active; nothing is marked"
            if processor is not None and processor.marks is None:
                text = "query_masks.source is 'topic'; 'prompts' is needed to mark objects"
            future = _refused(PromptRefused("inactive", text))
        else:
            future = processor.marks.submit(marking, config)
            self._post(processor, worker)
        future.add_done_callback(partial(self._answer, source, marking=marking))
        return future

    def _post(self, processor: SetProcessor, worker: Worker[ImageSet[Any]] | None) -> None:
        """Have the worker settle the prompts, even while no images arrive."""
        marks = processor.marks
        if worker is not None and marks is not None and marks.request_settle():
            worker.call(lambda: marks.settle(self._host.config), discard=False)

    def _answer(self, source: str, future: Future[Used], marking: Marking | None = None) -> None:
        """Count and log the outcome of a prompt (called in any thread)."""
        counts, error = self._counts, future.exception()
        if error is None:
            counts.use()
            name = marking.prompt.object_id if marking else ""
            text = f"{source}: {name} is marked in {future.result().camera}"
            if line := self._throttle(f"used {source} {name}", text):
                self._node.get_logger().info(line)
            return
        kind = error.kind if isinstance(error, PromptRefused) else "unusable"
        counts.refuse(kind, str(error))
        if kind not in QUIET and (
            line := self._throttle(f"refused {kind}", f"{source} refused: {error}")
        ):
            self._node.get_logger().warning(line)

    def _mark(self, request: Any, response: Any) -> Any:
        config = self._host.config
        try:
            future = self._submit("~/mark_object", prompts.read_prompt(config, request.prompt))
        except InputError as error:
            self._counts.receive()
            future = _refused(error)
            self._answer("~/mark_object", future)
        try:
            used = future.result(config.prompts.wait + PATIENCE)
        except InputError as error:
            response.success, response.message = False, str(error)
            return response
        except TimeoutError:
            response.success, response.message = False, "the current step takes too long"
            return response
        response.success = True
        response.message = f"{request.prompt.object_id} is marked in {used.camera}"
        response.stamp.sec, response.stamp.nanosec = divmod(used.stamp_ns, 1_000_000_000)
        return response


def _refused(error: InputError) -> Future[Used]:
    future: Future[Used] = Future()
    future.set_exception(error)
    return future
