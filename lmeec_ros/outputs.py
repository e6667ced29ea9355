"""The node's publishers: what is found in each target camera, and points."""

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
"""Those that need a package which not everybody has."""
REPEAT = 30.0


class PublishError(RuntimeError):
    """Nothing of a set could be published."""


class Outputs:
    """Lifecycle publishers `~/<target>/masks`, `.../label_image`, `.../overlay`, and others.

    `.../detections` and `.../label_info` are of vision_msgs, where that is installed;
    `.../camera_info` is the camera's own with stamp and frame of the masks. Where objects are
    marked by prompts, the query camera has all of them, too.

    Args:
        node: the node; its activation lets them publish.
        config: target cameras, depth and geometry.

    Raises:
        ValueError: if the points cannot be set up; see :class:`lmeec_ros.points.points.Points`.
    """

    def __init__(self, node: LifecycleNode, config: NodeConfig) -> None:
        self._node = node
        self._publishers: dict[tuple[str, str], Any] = {}
        self._told: dict[str, tuple[object, ...]] = {}  # what was last published as label_info
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
            there = standard.installed(types, self._node.get_logger().info)
            kinds |= {names[topic]: kind for topic, kind in there.items()}
            kinds["camera_info"] = CameraInfo
        for target in config.published:
            for kind, msg_type in kinds.items():
                topic, latched = f"~/{topic_token(target)}/{kind}", kind == "label_info"
                depth = 1 if latched else config.output.qos_depth
                self._publishers[target, kind] = make_publisher(
                    self._node, msg_type, topic, depth, latched
                )

    def follow(self) -> None:
        """Subscribe to the CameraInfo that somebody wants; to be called now and then."""
        self._infos.follow([t for (t, kind) in self._publishers if self._relayed(t, kind)])

    def _relayed(self, target: str, kind: str) -> bool:
        return kind == "camera_info" and self._heard(target, kind)

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
        """Whether anybody subscribes to an output of the target, or to the points it gives."""
        if self.points is not None and self.points.has_listeners():
            return True
        publishers = (one for (name, _), one in self._publishers.items() if name == target)
        return any(one.get_subscription_count() for one in publishers)

    def _wanted(self, target: str, kind: str, config: NodeConfig) -> bool:
        if (target, kind) not in self._publishers:
            return False
        if kind == "masks":
            return config.output.masks
        if kind == "label_info":  # latched: it is for those who come later
            return True
        off = {"label_image": not config.output.label_image, "overlay": not config.output.overlay}
        return not off.get(kind, False) and self._heard(target, kind)

    def _heard(self, target: str, kind: str) -> bool:
        return bool(self._publishers[target, kind].get_subscription_count())

    def _label_info(
        self, target: str, header: Header, table: LabelTable, threshold: float
    ) -> Any | None:
        """The names of the labels; None if they are still those that were published."""
        told = (table.labels, threshold)
        if self._told.get(target) == told:
            return None
        self._told[target] = told
        return standard.label_info(header, table.labels, threshold)

    def _camera_info(self, target: str, header: Header) -> CameraInfo | None:
        """The camera's CameraInfo with another header; None if none came."""
        known = self._infos.get(target)
        if known is None:
            text = f"~/{topic_token(target)}/camera_info: nothing came on "
            if line := self._throttle(target, text + self._infos.topic(target)):
                self._node.get_logger().warning(line)
            return None
        fields = {name: getattr(known, name) for name in known.get_fields_and_field_types()}
        return CameraInfo(**{**fields, "header": header})

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
            cleanup.callback(self._infos.close)
            for publisher in publishers:
                cleanup.callback(destroy_publisher, self._node, publisher)
