"""The node as a process."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException

from lmeec_ros.node import LmeecNode
from lmeec_ros.parameters import config as parameters
from lmeec_ros.parameters import files as parameter_files
from lmeec_ros.runtime.executor import make_executor

LOG_HINT = "; set ROS_LOG_DIR to a folder that can be written (ROS's default is ~/.ros/log)"


def _destroy(node: LmeecNode) -> None:
    try:
        node.destroy_node()
    except Exception:
        if rclpy.ok():
            raise  # after a signal everything is freed already


def _check_files(node: LmeecNode, arguments: Sequence[str]) -> None:
    """Refuse a parameter file that has nothing for the node: ROS ignores it silently.

    Raises:
        ParameterError: it is for other nodes; says for which.
    """
    name = node.get_fully_qualified_name()
    for path in parameter_files.given_files(arguments):
        if not Path(path).is_file():
            continue  # a pipe, which ROS has emptied
        try:
            file = parameter_files.read(path)
        except parameters.ParameterError as error:  # though ROS has read it
            node.get_logger().warning(f"which nodes the file is for is not known: {error}")
            continue
        if file.values_for(name) is None:
            raise file.refusal(name)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is interrupted, and return the exit status."""
    try:
        rclpy.init(args=list(args) if args is not None else None)
        node = LmeecNode()
        _check_files(node, sys.argv if args is None else args)
    except KeyboardInterrupt:
        return 0
    except Exception as error:  # wrong arguments, a parameter file that cannot be read, ...
        if not isinstance(error, parameters.ParameterError):
            traceback.print_exc()
        hint = LOG_HINT if "initialize logging" in str(error) else ""
        print(f"lmeec_node: not started: {error}{hint}", file=sys.stderr, flush=True)
        rclpy.try_shutdown()
        return 2
    # Three threads beside this one, which takes the inputs: a transition that takes seconds,
    # services on the memory, parameters.
    executor = make_executor(3, node.get_logger().warning)
    executor.add_node(node)
    code = 0
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():  # else the end of the process interrupted a call
            traceback.print_exc()
            code = 1
    clean = node.close()
    if clean:
        executor.shutdown(timeout_sec=1.0)
        _destroy(node)
    rclpy.try_shutdown()
    if not clean:  # a step or the loading of a model is under way; do not wait for it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
