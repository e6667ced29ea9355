"""The node's executor: rclpy's MultiThreadedExecutor without its busy loops."""

from __future__ import annotations

import inspect
import threading
from typing import Any

from rclpy.context import Context
from rclpy.executors import MultiThreadedExecutor
from rclpy.subscription import Subscription


class PoolExecutor(MultiThreadedExecutor):
    """Runs subscriptions in the thread that spins, everything else once in the pool's threads.

    Stock rclpy queues a callback again and again until a thread begins it (ros2/rclpy#1452), and
    with Fast DDS a message that waits for its thread ends every wait at once. The spinning thread
    kept the interpreter to itself meanwhile: one pair of images in ten came 50 to 1,500 ms late.
    The node's subscriptions only hand over, so the spinning thread can run them.
    """

    def __init__(self, num_threads: int, *, context: Context | None = None) -> None:
        super().__init__(num_threads, context=context)
        everyone = threading.Barrier(num_threads + 1)
        for _ in range(num_threads):
            self._executor.submit(everyone.wait)
        everyone.wait()  # the pool's threads are all here from the start; their number stays

    def wait_for_ready_callbacks(self, *args: Any, **kwargs: Any) -> Any:
        """The next callback for the pool; subscriptions that are ready before it run here."""
        while True:
            found: tuple[Any, Any, Any] = super().wait_for_ready_callbacks(*args, **kwargs)
            task, entity, _ = found
            if isinstance(entity, Subscription):
                task()
                if task.done():
                    task.result()  # raises what the callback raised
            elif not (task in self._futures and _not_begun(task)):
                return found


def _not_begun(task: Any) -> bool:
    """Whether a task waits for its first run; False for one that awaits something."""
    handler = getattr(task, "_handler", None)
    return (
        inspect.iscoroutine(handler) and inspect.getcoroutinestate(handler) == inspect.CORO_CREATED
    )
