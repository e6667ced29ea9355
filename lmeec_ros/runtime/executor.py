"""The node's executor: rclpy's MultiThreadedExecutor without its busy loops.

`PoolExecutor` works around ros2/rclpy#1452 in rclpy 7.1 (ROS 2 Jazzy) by means of private members.
It is to be deleted, and `make_executor` with it, once the oldest rclpy that is supported has
ros2/rclpy#1547 and `test_executor.py` passes with MultiThreadedExecutor in its place (the second
busy loop described below is not part of that change).
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
"""Versions of rclpy whose private members are known."""
PATIENCE = 10.0
"""Seconds for the self-test, which takes milliseconds."""


class ExecutorError(RuntimeError):
    """`PoolExecutor` does not work with this rclpy."""


class PoolExecutor(MultiThreadedExecutor):
    """Runs subscriptions in the thread that spins, everything else once in the pool's threads.

    Stock rclpy queues a callback again and again until a thread begins it (ros2/rclpy#1452), and
    with Fast DDS a message that waits for its thread ends every wait at once. The spinning thread
    kept the interpreter to itself meanwhile: one pair of images in ten came 50 to 1,500 ms late.
    The node's subscriptions only pass messages on, so the spinning thread can run them.
    """

    def __init__(self, num_threads: int, *, context: Context | None = None) -> None:
        super().__init__(num_threads, context=context)
        everyone = threading.Barrier(num_threads + 1)

        def begin(number: int) -> None:
            name_thread(f"executor-{number}")
            everyone.wait()

        for number in range(num_threads):
            self._executor.submit(begin, number)
        everyone.wait()  # all threads of the pool exist from the start, and no more are added

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

    def check(self) -> None:
        """Try the private members that this class relies on, before there is a node.

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
        queued = self._count_queued(len(tasks) + 2)  # the last rounds would queue some again
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
        """How many callbacks are handed to the pool in so many rounds."""
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
    """Whether a task waits for its first run; False for one that awaits something."""
    handler = getattr(task, "_handler", None)
    return (
        inspect.iscoroutine(handler) and inspect.getcoroutinestate(handler) == inspect.CORO_CREATED
    )


def make_executor(
    num_threads: int, warn: Callable[[str], object], *, context: Context | None = None
) -> MultiThreadedExecutor:
    """The executor for a node: `PoolExecutor` where it works, else rclpy's own.

    Args:
        num_threads: of the pool, beside the thread that spins.
        warn: called with the reason if it is rclpy's own, which adds latency under load.
        context: rclpy's context; None is the default one.
    """
    try:
        here = version("rclpy")
        if not here.startswith(MADE_FOR):
            raise ExecutorError(f"rclpy {here} is here, {MADE_FOR}* expected")
        executor = PoolExecutor(num_threads, context=context)
        try:
            executor.check()
        except BaseException:
            executor.shutdown(timeout_sec=0)
            raise
    except (ExecutorError, PackageNotFoundError, AttributeError, TypeError, ValueError) as error:
        warn(
            f"lmeec's executor is not used ({type(error).__name__}: {error}) but rclpy's own; "
            "images may come some 100 ms late under load"
        )
        return MultiThreadedExecutor(num_threads, context=context)
    return executor
