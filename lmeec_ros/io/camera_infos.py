"""Subscriptions to the cameras' sensor_msgs/CameraInfo, while they are needed."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo

from lmeec_ros.parameters.config import NodeConfig
from lmeec_ros.parameters.qos_overrides import overriding


class CameraInfos:
    """The last CameraInfo of each subscribed camera.

    Args:
        node: creates the subscriptions.
        config: names the cameras' topics.
    """

    def __init__(self, node: Node, config: NodeConfig) -> None:
        self._node, self._config = node, config
        self._kept: frozenset[str] = frozenset()
        self._subscriptions: dict[str, Any] = {}
        self._last: dict[str, CameraInfo] = {}

    def keep(self, cameras: Collection[str]) -> None:
        """Stay subscribed to these cameras until `close`."""
        self._kept = frozenset(cameras)
        self.follow(())

    def follow(self, cameras: Collection[str]) -> None:
        """Subscribe to these cameras and to those of `keep`; unsubscribe from all others."""
        wanted = self._kept.union(cameras)
        for name in wanted - self._subscriptions.keys():
            topic = self._config.cameras[name].camera_info
            self._subscriptions[name] = self._node.create_subscription(
                CameraInfo,
                topic,
                partial(self._last.__setitem__, name),
                qos_profile_sensor_data,
                qos_overriding_options=overriding(self._node, topic, "subscription"),
            )
        for name in self._subscriptions.keys() - wanted:
            self._node.destroy_subscription(self._subscriptions.pop(name))
            self._last.pop(name, None)

    def get(self, camera: str) -> CameraInfo | None:
        """Return the camera's last CameraInfo; None if none has arrived."""
        return self._last.get(camera)

    def topic(self, camera: str) -> str:
        """Return the topic of a camera's CameraInfo."""
        return self._config.cameras[camera].camera_info

    def close(self) -> None:
        """Unsubscribe from all cameras."""
        self._kept = frozenset()
        self.follow(())
