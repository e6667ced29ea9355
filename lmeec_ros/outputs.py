"""The node's publishers: masks, label image and overlay of each target camera, and points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from lmeec.msg import CorrespondenceMaskArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lmeec_ros.inference.pipeline import SetProcessor, TargetOutput
from lmeec_ros.parameters.config import NodeConfig, topic_token
from lmeec_ros.points.points import Points

KINDS: tuple[tuple[str, Any], ...] = (
    ("masks", CorrespondenceMaskArray),
    ("label_image", Image),
    ("overlay", Image),
)


class PublishError(RuntimeError):
    """Nothing of a set could be published."""


class Outputs:
    """Lifecycle publishers `~/<target>/masks`, `~/<target>/label_image`, `~/<target>/overlay`.

    Where objects are marked by prompts, the query camera has them, too.

    Args:
        node: the node; its activation lets them publish.
        config: target cameras, depth and geometry.

    Raises:
        ValueError: if the points cannot be set up; see :class:`lmeec_ros.points.points.Points`.
    """

    def __init__(self, node: LifecycleNode, config: NodeConfig) -> None:
        self._node = node
        self.points = Points(node, config) if config.output.points else None
        self._publishers: dict[tuple[str, str], Any] = {}
        # Reliable publishers are heard by reliable and by best-effort subscriptions.
        qos = QoSProfile(depth=config.output.qos_depth, reliability=ReliabilityPolicy.RELIABLE)
        try:
            for target in config.published:
                for kind, msg_type in KINDS:
                    topic = f"~/{topic_token(target)}/{kind}"
                    publisher = node.create_lifecycle_publisher(msg_type, topic, qos)
                    self._publishers[target, kind] = publisher
        except BaseException:
            self.destroy()
            raise

    def publish(
        self,
        query_header: Header,
        found: Mapping[str, TargetOutput],
        processor: SetProcessor,
        failed: Callable[[str, Exception], object],
    ) -> list[str]:
        """Publish a set: each target camera's outputs, and the objects' points in space.

        One that fails does not stop the others.

        Args:
            query_header, found, processor: the set, and what is found in it.
            failed: called with what could not be published, and why.

        Returns:
            the target cameras of which everything that is switched on was published.

        Raises:
            PublishError: if there are none, although something was found.
        """
        done = [name for name in found if self._publish(name, found[name], processor, failed)]
        if self.points is not None:
            try:
                self.points.publish(query_header, found, processor)
            except Exception as error:
                failed("publishing the points", error)
        if found and not done:
            raise PublishError("nothing of the set could be published; the log says why")
        return done

    def _publish(
        self,
        target: str,
        output: TargetOutput,
        processor: SetProcessor,
        failed: Callable[[str, Exception], object],
    ) -> bool:
        """Publish what is switched on; label image and overlay only if someone listens."""
        config, table = processor.config, processor.table
        threshold = config.presence_threshold
        make: dict[str, Callable[[], Any]] = {
            "masks": lambda: output.message,
            "label_image": lambda: output.label_image(table, threshold),
            "overlay": lambda: output.overlay(table, threshold),
        }
        complete = True
        for kind, message in make.items():
            try:
                if self._wanted(target, kind, config):
                    self._publishers[target, kind].publish(message())
            except Exception as error:
                complete = False
                failed(f"publishing the {kind} of {target}", error)
        return complete

    def has_listeners(self, target: str) -> bool:
        """Whether anybody subscribes to an output of the target, or to the points it gives."""
        if self.points is not None and self.points.has_listeners():
            return True
        publishers = (one for (name, _), one in self._publishers.items() if name == target)
        return any(one.get_subscription_count() for one in publishers)

    def _wanted(self, target: str, kind: str, config: NodeConfig) -> bool:
        if kind == "masks":
            return config.output.masks
        wanted = config.output.label_image if kind == "label_image" else config.output.overlay
        return wanted and self._publishers[target, kind].get_subscription_count() > 0

    def forget(self) -> None:
        """Forget everything from before a backward jump of time."""
        if self.points is not None:
            self.points.forget()

    def destroy(self) -> None:
        """Destroy the publishers, and what belongs to the points."""
        publishers, points = list(self._publishers.values()), self.points
        self._publishers.clear()
        self.points = None
        with ExitStack() as cleanup:
            if points is not None:
                cleanup.callback(points.destroy)
            for publisher in publishers:
                cleanup.callback(self._node.destroy_lifecycle_publisher, publisher)
