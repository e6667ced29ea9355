"""Context managers for the commands: a plain ROS node, and spinning it in a thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ros_node(name: str) -> Iterator[tuple[Node, threading.Event]]:
    """Create a plain node, and an event that SIGINT or SIGTERM sets instead of exiting."""
    stop = threading.Event()

    def on_signal(*_: Any) -> None:
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(name)
    try:
        yield node, stop
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def spinning(node: Any) -> Iterator[None]:
    """Spin a node in a background thread."""
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown(timeout_sec=5.0)
        thread.join(5.0)
        executor.remove_node(node)
