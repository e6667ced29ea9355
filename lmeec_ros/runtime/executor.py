"""The node's executor: rclpy's MultiThreadedExecutor without its busy loops.

`PoolExecutor` works around ros2/rclpy#1452 in rclpy 7.1 (ROS 2 Jazzy), using private members.
Delete it and `make_executor` once the oldest supported rclpy contains ros2/rclpy#1547 and
`test_executor.py` passes with MultiThreadedExecutor in its place (that change does not remove the
second busy loop described below).
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rclpy.context import Context
from rclpy.executors import MultiThreadedExecutor
from rclpy.subscription import Subscription
from rclpy.task import Future

from lmeec_ros.inference.worker import name_thread

MADE_FOR = "7.1."
"""Version prefix of the rclpy whose private members this module uses."""
PATIENCE = 10.0
"""Time limit of the self-test in seconds; it normally takes milliseconds."""


class ExecutorError(RuntimeError):
    """`PoolExecutor` does not work with this rclpy."""


class PoolExecutor(MultiThreadedExecutor):
    """Runs subscription callbacks in the spinning thread, and all others once in the thread pool.

    rclpy's own executor submits a callback again and again until a pool thread starts it
    (ros2/rclpy#1452), and with Fast DDS every wait returns immediately while a message is waiting
    for its thread. The spinning thread then monopolised the interpreter: one pair of images in ten
    arrived 50 to 1,500 ms late. The node's subscriptions only pass messages on, so the spinning
    thread can run them itself.
    """

    def __init__(self, num_threads: int, *, context: Context | None = None) -> None:
        super().__init__(num_threads, context=context)
        everyone = threading.Barrier(num_threads + 1)

        def begin(number: int) -> None:
            name_thread(f"executor-{number}")
            everyone.wait()

        for number in range(num_threads):
            self._executor.submit(begin, number)
        everyone.wait()  # so that the pool has all its threads from the start

    def wait_for_ready_callbacks(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next callback for the pool; run subscription callbacks before it here."""
        while True:
            found: tuple[Any, Any, Any] = super().wait_for_ready_callbacks(*args, **kwargs)
            task, entity, _ = found
            if isinstance(entity, Subscription):
                task()
                if task.done():
                    task.result()  # re-raises an exception of the callback
            elif not (task in self._futures and _not_begun(task)):
                return found

    def check(self) -> None:
        """Test the private members that this class relies on, before a node exists.

        Raises:
            ExecutorError: if they do not work as in the supported rclpy.
        """
        here, gate = threading.get_ident(), threading.Event()
        awaited: Future = Future(executor=self)
        waiting: list[int] = []

        async def wait() -> int:
            gate.wait(PATIENCE)
            waiting.append(threading.get_ident())
            await awaited
            return threading.get_ident()

        tasks = [self.create_task(wait) for _ in range(2 * len(self._executor._threads))]
        queued = self._count_queued(len(tasks) + 2)  # 2 more rounds, which must queue nothing
        gate.set()
        end = time.monotonic() + PATIENCE
        while len(waiting) < len(tasks) and time.monotonic() < end:
            time.sleep(0.001)
        awaited.set_result(None)
        while not all(task.done() for task in tasks) and time.monotonic() < end:
            self.spin_once(timeout_sec=0.05)
        ended = [task.result() for task in tasks if task.done()]
        if queued != len(tasks) or len(ended) != len(tasks) or here in ended:
            raise ExecutorError(
                f"{len(tasks)} callbacks were queued {queued} times, and {len(ended)} ended"
            )

    def _count_queued(self, rounds: int) -> int:
        """Number of callbacks submitted to the pool in a number of rounds of spinning."""
        queued, submit = 0, self._executor.submit

        def count(task: Callable[[], Any]) -> Any:
            nonlocal queued
            queued += 1
            return submit(task)

        self._executor.submit = count  # type: ignore[method-assign,assignment]
        try:
            for _ in range(rounds):
                self.spin_once(timeout_sec=0.05)
        finally:
            self._executor.submit = submit  # type: ignore[method-assign]
        return queued


def _not_begun(task: Any) -> bool:
    """Whether a task has never run; False for a task suspended at an await."""
    handler = getattr(task, "_handler", None)
    return (
        inspect.iscoroutine(handler) and inspect.getcoroutinestate(handler) == inspect.CORO_CREATED
    )


def make_executor(
    num_threads: int, warn: Callable[[str], object], *, context: Context | None = None
) -> MultiThreadedExecutor:
    """Create the executor for a node: `PoolExecutor` if it works, else rclpy's own.

    Args:
        num_threads: threads of the pool, in addition to the spinning thread.
        warn: called with the reason if rclpy's own executor is used (more latency under load).
        context: rclpy's context; None for the default one.
    """
    try:
        here = version("rclpy")
        if not here.startswith(MADE_FOR):
            raise ExecutorError(f"rclpy {here} is installed, {MADE_FOR}* expected")
        executor = PoolExecutor(num_threads, context=context)
        try:
            executor.check()
        except BaseException:
            executor.shutdown(timeout_sec=0)
            raise
    except (ExecutorError, PackageNotFoundError, AttributeError, TypeError, ValueError) as error:
        warn(
            f"using rclpy's executor instead of lmeec's ({type(error).__name__}: {error}); images "
            "may be delayed by some 100 ms under load"
        )
        return MultiThreadedExecutor(num_threads, context=context)
    return executor
