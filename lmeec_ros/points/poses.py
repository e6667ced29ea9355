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
"""Seconds that a set waits for the transform of its stamp, in a thread of its own."""


class Poses:
    """Poses of cameras in a frame at a time, from tf.

    Args:
        node: the node.
        frame: the common frame.

    Raises:
        ParameterError: if tf2_ros is not installed.
    """

    def __init__(self, node: Node, frame: str) -> None:
        if tf2_ros is None:
            raise ParameterError(
                "geometry.calibration: without the pose of every camera, which takes the ROS "
                "package tf2_ros (not installed); put position and orientation of each camera "
                "into a calibration file"
            )
        self._frame = frame
        # It waits by the system's clock: simulated time may stand still.
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def at(self, header: Header) -> Pose:
        """The pose of the frame in a header, at its stamp.

        Raises:
            GeometryError: if tf does not know it; says what tf says.
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
        """Forget the transforms that are not static; else tf refuses older ones after a jump."""
        self._buffer.clear()

    def close(self) -> None:
        """Unsubscribe."""
        self._listener.unregister()
