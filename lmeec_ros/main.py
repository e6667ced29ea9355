"""The node as a process."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import rclpy
from rclpy.executors import ExternalShutdownException

from lmeec_ros import parameters
from lmeec_ros.executor import make_executor
from lmeec_ros.node import LmeecNode


def _destroy(node: LmeecNode) -> None:
    try:
        node.destroy_node()
    except Exception:
        if rclpy.ok():
            raise  # else the signal has taken away what was to be freed


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is interrupted; return the exit status."""
    try:
        rclpy.init(args=list(args) if args is not None else None)
        node = LmeecNode()
    except KeyboardInterrupt:
        return 0
    except Exception as error:  # wrong arguments, a parameter file that cannot be read, ...
        if not isinstance(error, parameters.ParameterError):
            traceback.print_exc()
        print(f"lmeec_node: not started: {error}", file=sys.stderr, flush=True)
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
        if rclpy.ok():  # else a call that the end of the process interrupted
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
