"""The node's publishers: the results for each target camera, and the points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from lmeec.msg import CorrespondenceMaskArray
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from lmeec_core.sync.stream_monitor import LogThrottle
from lmeec_ros.inference.pipeline import SetProcessor, TargetOutput
from lmeec_ros.io import standard
from lmeec_ros.io.camera_infos import CameraInfos
from lmeec_ros.io.messages import LabelTable
from lmeec_ros.io.publishers import destroy_publisher, make_publisher
from lmeec_ros.parameters.config import NodeConfig, topic_token
from lmeec_ros.points.points import Points

KINDS: dict[str, Any] = {
    "masks": CorrespondenceMaskArray,
    "label_image": Image,
    "overlay": Image,
}
STANDARD = {
    "detections": "vision_msgs/Detection2DArray",
    "label_info": "vision_msgs/LabelInfo",
}
"""Outputs whose message type is in an optional package."""
REPEAT = 30.0
"""Seconds after which the same warning may be logged again."""


class PublishError(RuntimeError):
    """None of the results of a set could be published."""


class Outputs:
    """Lifecycle publishers `~/<target>/masks`, `.../label_image`, `.../overlay`, and others.

    `.../detections` and `.../label_info` are vision_msgs, if that package is installed;
    `.../camera_info` is the CameraInfo of the camera with the header of the masks. If objects are
    marked by prompts, the query camera has the same topics.

    Args:
        node: the node, which publishes only while it is active.
        config: target cameras, queue depth and geometry.

    Raises:
        ValueError: if the points cannot be set up; see :class:`lmeec_ros.points.points.Points`.
    """

    def __init__(self, node: LifecycleNode, config: NodeConfig) -> None:
        self._node = node
        self._publishers: dict[tuple[str, str], Any] = {}
        self._last_labels: dict[str, tuple[object, ...]] = {}  # content of the last label_info
        self._throttle = LogThrottle(REPEAT, count=False)
        self._infos = CameraInfos(node, config)
        self.points: Points | None = None
        try:
            self.points = Points(node, config, self._infos) if config.output.points else None
            self._open(config)
        except BaseException:
            self.destroy()
            raise

    def _open(self, config: NodeConfig) -> None:
        kinds = dict(KINDS)
        if config.output.standard:
            names = {f"~/<target>/{kind}": kind for kind in STANDARD}
            types = {topic: STANDARD[kind] for topic, kind in names.items()}
            available = standard.installed(types, self._node.get_logger().info)
            kinds |= {names[topic]: kind for topic, kind in available.items()}
            kinds["camera_info"] = CameraInfo
        for target in config.published:
            for kind, msg_type in kinds.items():
                topic, latched = f"~/{topic_token(target)}/{kind}", kind == "label_info"
                depth = 1 if latched else config.output.qos_depth
                self._publishers[target, kind] = make_publisher(
                    self._node, msg_type, topic, depth, latched
                )

    def follow(self) -> None:
        """Subscribe to CameraInfo where it has to be republished. To be called regularly."""
        self._infos.follow([t for (t, kind) in self._publishers if self._relayed(t, kind)])

    def _relayed(self, target: str, kind: str) -> bool:
        return kind == "camera_info" and self._has_subscribers(target, kind)

    def publish(
        self,
        query_header: Header,
        found: Mapping[str, TargetOutput],
        processor: SetProcessor,
        failed: Callable[[str, Exception], object],
    ) -> list[str]:
        """Publish the results of a set: each target camera's outputs, and the points.

        A failed output does not stop the others.

        Args:
            query_header: header of the query image.
            found: target camera to its result.
            processor: configuration, labels and query masks of the set.
            failed: called with the output that could not be published, and the exception.

        Returns:
            the target cameras whose enabled outputs were all published.

        Raises:
            PublishError: if there is no such camera although there are results.
        """
        done = [name for name in found if self._publish(name, found[name], processor, failed)]
        if self.points is not None:
            try:
                self.points.publish(query_header, found, processor)
            except Exception as error:
                failed("publishing the points", error)
        if found and not done:
            raise PublishError("no result of the set could be published; the log says why")
        return done

    def _publish(
        self,
        target: str,
        output: TargetOutput,
        processor: SetProcessor,
        failed: Callable[[str, Exception], object],
    ) -> bool:
        """Publish the enabled outputs of a target; return whether all succeeded."""
        config, table = processor.config, processor.table
        threshold = config.presence_threshold
        make: dict[str, Callable[[], Any]] = {
            "masks": lambda: output.message,
            "label_image": lambda: output.label_image(table, threshold),
            "overlay": lambda: output.overlay(table, threshold),
            "detections": lambda: standard.detections(output.message),
            "label_info": lambda: self._label_info(target, output.header, table, threshold),
            "camera_info": lambda: self._camera_info(target, output.header),
        }
        complete = True
        for kind, made in make.items():
            try:
                if self._wanted(target, kind, config) and (message := made()) is not None:
                    self._publishers[target, kind].publish(message)
            except Exception as error:
                complete = False
                failed(f"publishing the {kind} of {target}", error)
        return complete

    def has_listeners(self, target: str) -> bool:
        """Return whether an output of the target, or the points, have subscribers."""
        if self.points is not None and self.points.has_listeners():
            return True
        publishers = (one for (name, _), one in self._publishers.items() if name == target)
        return any(one.get_subscription_count() for one in publishers)

    def _wanted(self, target: str, kind: str, config: NodeConfig) -> bool:
        if (target, kind) not in self._publishers:
            return False
        if kind == "masks":
            return config.output.masks
        if kind == "label_info":  # latched, for later subscribers
            return True
        off = {"label_image": not config.output.label_image, "overlay": not config.output.overlay}
        return not off.get(kind, False) and self._has_subscribers(target, kind)

    def _has_subscribers(self, target: str, kind: str) -> bool:
        return bool(self._publishers[target, kind].get_subscription_count())

    def _label_info(
        self, target: str, header: Header, table: LabelTable, threshold: float
    ) -> Any | None:
        """The names of the labels; None if they have not changed since the last message."""
        current = (table.labels, threshold)
        if self._last_labels.get(target) == current:
            return None
        self._last_labels[target] = current
        return standard.label_info(header, table.labels, threshold)

    def _camera_info(self, target: str, header: Header) -> CameraInfo | None:
        """The camera's CameraInfo with the header of the masks; None if none has arrived."""
        known = self._infos.get(target)
        if known is None:
            text = f"~/{topic_token(target)}/camera_info: no message has arrived on "
            if line := self._throttle(target, text + self._infos.topic(target)):
                self._node.get_logger().warning(line)
            return None
        fields = {name: getattr(known, name) for name in known.get_fields_and_field_types()}
        return CameraInfo(**{**fields, "header": header})

    def forget(self) -> None:
        """Drop what the points keep from before a backward jump of time."""
        if self.points is not None:
            self.points.forget()

    def destroy(self) -> None:
        """Destroy all publishers, the points and the CameraInfo subscriptions."""
        publishers, points = list(self._publishers.values()), self.points
        self._publishers.clear()
        self.points = None
        with ExitStack() as cleanup:
            if points is not None:
                cleanup.callback(points.destroy)
            cleanup.callback(self._infos.close)
            for publisher in publishers:
                cleanup.callback(destroy_publisher, self._node, publisher)
