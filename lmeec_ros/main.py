"""Entry point of the node's process."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import rclpy
from rclpy.executors import ExternalShutdownException

from lmeec_ros.node import LmeecNode
from lmeec_ros.parameters import config as parameters
from lmeec_ros.parameters import files as parameter_files
from lmeec_ros.runtime.executor import make_executor

LOG_HINT = "; set ROS_LOG_DIR to a writable folder (ROS's default is ~/.ros/log)"


def _destroy(node: LmeecNode) -> None:
    try:
        node.destroy_node()
    except Exception:
        if rclpy.ok():
            raise  # after a signal, rclpy has freed everything already


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is interrupted, and return the exit status."""
    try:
        rclpy.init(args=list(args) if args is not None else None)
        node = LmeecNode()
        parameter_files.refuse_other_nodes(
            node.get_fully_qualified_name(),
            sys.argv if args is None else args,
            node.get_logger().warning,
        )
    except KeyboardInterrupt:
        return 0
    except Exception as error:  # wrong arguments, an unreadable parameter file, ...
        if not isinstance(error, parameters.ParameterError):
            traceback.print_exc()
        hint = LOG_HINT if "initialize logging" in str(error) else ""
        print(f"lmeec_node: not started: {error}{hint}", file=sys.stderr, flush=True)
        rclpy.try_shutdown()
        return 2
    # This thread runs the subscriptions. Three more: for a transition that takes seconds, for the
    # memory services, and for the parameter services.
    executor = make_executor(3, node.get_logger().warning)
    executor.add_node(node)
    code = 0
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():  # else the shutdown interrupted a call
            traceback.print_exc()
            code = 1
    clean = node.close()
    if clean:
        executor.shutdown(timeout_sec=1.0)
        _destroy(node)
    rclpy.try_shutdown()
    if not clean:  # do not wait for a running step or for a model that is being loaded
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
