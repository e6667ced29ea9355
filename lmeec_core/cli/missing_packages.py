"""What to do about a package that is not installed."""

from __future__ import annotations

EXTRAS = {
    "av": "video",
    "h5py": "dataset",
    "lz4": "bags",
    "matplotlib": "evaluation",
    "mujoco": "simulation",
    "fastapi": "mark",
    "nicegui": "mark",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "openvino": "openvino",
    "pooch": "download",
    "ray": "ray",
    "requests": "download",
    "pyarrow": "dataset",
    "rerun": "rerun",
    "rosbags": "bags",
    "sklearn": "evaluation",
    "starlette": "mark",
    "tensorboard": "training",
    "transformers": "transformers",
    "uvicorn": "mark",
}
"""Module -> the extra of setup.py that installs it."""

ROS = (
    "ament_index_python", "builtin_interfaces", "cv_bridge", "diagnostic_msgs", "geometry_msgs",
    "launch", "launch_ros", "lifecycle_msgs", "lmeec", "message_filters", "rcl_interfaces", "rclpy",
    "rosgraph_msgs", "rpyutils", "sensor_msgs", "std_msgs", "std_srvs", "tf2_ros",
    "vision_msgs", "visualization_msgs",
)  # fmt: skip
"""Modules that a sourced ROS workspace provides; lmeec has this package's own messages."""


def remedy(error: Exception) -> str:
    """An error's text; for a failed import, also what to install or to source."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if package in ROS:
        return (
            f"{error}; this command needs ROS 2 (rclpy, and this package built with colcon): "
            "source your ROS workspace, or in a checkout after `make build`: source .ci/env.sh"
        )
    if package in EXTRAS:
        return f"{error}; this command needs it: pip install 'lmeec[{EXTRAS[package]}]'"
    return str(error)
