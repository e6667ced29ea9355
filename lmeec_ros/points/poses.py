"""Poses of cameras from tf."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from lmeec_core.geometry import GeometryError, Pose
from lmeec_ros.parameters.config import ParameterError

try:
    import tf2_ros
except ImportError:
    tf2_ros = None

TRANSFORM_PATIENCE = 0.2
"""Seconds that a set waits for the transform at its stamp, in the thread of the points."""


class Poses:
    """Looks up the poses of cameras in tf.

    Args:
        node: the node.
        frame: the common frame of the poses.

    Raises:
        ParameterError: if tf2_ros is not installed.
    """

    def __init__(self, node: Node, frame: str) -> None:
        if tf2_ros is None:
            raise ParameterError(
                "geometry.calibration: the pose of at least one camera is missing, and the ROS "
                "package tf2_ros, which could provide it, is not installed; add position and "
                "orientation of every camera to the calibration file"
            )
        self._frame = frame
        # The buffer waits by the system's clock, since simulated time may be paused.
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def at(self, header: Header) -> Pose:
        """Return the pose of a header's frame at its stamp.

        Raises:
            GeometryError: if tf has no such transform; includes tf's message.
        """
        try:
            found = self._buffer.lookup_transform(
                self._frame,
                header.frame_id,
                Time.from_msg(header.stamp),
                Duration(seconds=TRANSFORM_PATIENCE),
            ).transform
        except (tf2_ros.TransformException, ValueError) as error:
            raise GeometryError(
                "transform", f"no transform from {header.frame_id!r} to {self._frame!r}: {error}"
            ) from error
        place, turn = found.translation, found.rotation
        return Pose.from_quaternion((place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w))

    def forget(self) -> None:
        """Clear transforms that are not static: after a jump back, tf would reject older ones."""
        self._buffer.clear()

    def close(self) -> None:
        """Unsubscribe."""
        self._listener.unregister()
