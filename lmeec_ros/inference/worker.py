"""A worker thread that runs the network, behind a bounded mailbox."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rclpy.impl.rcutils_logger import RcutilsLogger

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class WorkerStats:
    """Counters; received = processed + failed + dropped + discarded + waiting + (1 if busy)."""

    received: int
    processed: int
    failed: int
    dropped: int
    """Replaced in the full mailbox by newer ones: inference is slower than the input."""
    discarded: int
    """Removed by `discard`, `call` or `stop`."""
    waiting: int


class Worker(Generic[T]):
    """Processes items one after the other in its own thread.

    When `depth` items are waiting, a new one replaces the oldest. An exception in `process` is
    passed to `on_error` and the thread continues; it is ignored if the item outlasts `stop`.

    Args:
        process: called in the worker's thread with each item and its time of arrival
            (`time.monotonic` seconds).
        on_error: called in the worker's thread with an exception of `process`.
        depth: maximum number of waiting items, at least 1.
        name: name of the thread.

    Attributes:
        thread: the worker's thread.

    Raises:
        ValueError: if depth is below 1.
    """

    def __init__(
        self,
        process: Callable[[T, float], None],
        on_error: Callable[[Exception], None],
        depth: int = 2,
        name: str = "inference",
    ) -> None:
        if depth < 1:
            raise ValueError(f"mailbox depth {depth} given, at least 1 expected")
        self._process = process
        self._on_error = on_error
        self._depth = depth
        self._items: deque[tuple[T, float]] = deque()
        self._calls: deque[tuple[Future[Any], Callable[[], object]]] = deque()
        self._condition = threading.Condition()
        self._stopping = self._abandoned = False
        self._busy = False
        self._received = self._processed = self._failed = self._dropped = self._discarded = 0
        # A daemon thread: a step that takes seconds must not delay the end of the process.
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread (once)."""
        self.thread.start()

    def put(self, item: T) -> bool:
        """Put an item into the mailbox; return False if that dropped an older one."""
        with self._condition:
            self._received += 1
            if self._stopping:
                self._discarded += 1
                return True
            full = len(self._items) >= self._depth
            if full:
                self._items.popleft()
                self._dropped += 1
            self._items.append((item, time.monotonic()))
            self._condition.notify_all()
            return not full

    def call(self, function: Callable[[], R], discard: bool = True) -> Future[R]:
        """Run a function in the worker's thread, ahead of the waiting items.

        Args:
            function: the function.
            discard: remove the waiting items.

        Returns:
            the function's result or exception; cancelled if the worker stops before calling it.
        """
        future: Future[R] = Future()
        with self._condition:
            if discard:
                self._discard()
            if self._stopping:
                future.cancel()
            else:
                self._calls.append((future, function))
                self._condition.notify_all()
        return future

    def discard(self) -> None:
        """Remove the waiting items."""
        with self._condition:
            self._discard()

    def wait_idle(self, timeout: float) -> bool:
        """Wait until no item or call is waiting or running; return False after the timeout.

        Args:
            timeout: seconds.
        """
        with self._condition:
            return self._condition.wait_for(
                lambda: not (self._items or self._calls or self._busy), timeout
            )

    def stop(self, timeout: float) -> bool:
        """Remove the waiting items and end the thread; return whether it ended in time.

        Waiting calls are cancelled immediately, not when the current item is finished.

        Args:
            timeout: seconds.
        """
        with self._condition:
            self._stopping = True
            self._discard()
            waiting = [future for future, _ in self._calls]
            self._calls.clear()
            self._condition.notify_all()
        for future in waiting:
            future.cancel()
        if self.thread.is_alive() and self.thread is not threading.current_thread():
            self.thread.join(timeout)
        with self._condition:
            self._abandoned = self.thread.is_alive()
        return not self._abandoned

    def stats(self) -> WorkerStats:
        """Return a copy of the counters."""
        with self._condition:
            return WorkerStats(
                self._received,
                self._processed,
                self._failed,
                self._dropped,
                self._discarded,
                len(self._items),
            )

    def _discard(self) -> None:
        self._discarded += len(self._items)
        self._items.clear()

    def _run(self) -> None:
        name_thread(self.thread.name)
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._items or self._calls or self._stopping)
                if self._stopping:
                    return
                self._busy = True
                call = self._calls.popleft() if self._calls else None
                item = None if call else self._items.popleft()
            failed = False
            try:
                if call is not None:
                    _answer(*call)
                elif item is not None:
                    self._process(*item)
            except Exception as error:
                failed = True
                if not self._abandoned:
                    self._on_error(error)
            finally:
                with self._condition:
                    self._busy = False
                    if item is not None:
                        self._failed += failed
                        self._processed += not failed
                    self._condition.notify_all()


def _answer(future: Future[Any], function: Callable[[], object]) -> None:
    if not future.set_running_or_notify_cancel():
        return  # the caller no longer waits
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)


class NotNowError(RuntimeError):
    """A call on the memory was not made or not finished in time; the text says which, and why."""


def result_of(future: Future[T], patience: float, logger: RcutilsLogger) -> T:
    """Return the result of a call that waits for the current step.

    Args:
        future: future of the call.
        patience: seconds to wait for it.
        logger: logs the outcome of a call that takes longer than this.

    Raises:
        NotNowError: if the node was deactivated before the call was made, or it took too long.
        Exception: the exception that the call raised.
    """
    try:
        return future.result(patience)
    except CancelledError:
        raise NotNowError(
            "the node was deactivated before the current step had ended; nothing was done"
        ) from None
    except TimeoutError:
        if future.done():
            raise  # the call itself raised it
    if future.cancel():
        raise NotNowError(f"the current step takes more than {patience:g} s; nothing was done")

    def log_end(ended: Future[T]) -> None:
        if (error := ended.exception()) is not None:
            logger.error(f"the slow call on the memory has failed: {error}")
        else:
            logger.info(f"the slow call on the memory has finished: {ended.result()}")

    future.add_done_callback(log_end)
    raise NotNowError(
        f"the call takes more than {patience:g} s and continues; its outcome will be logged"
    )


def name_thread(name: str) -> None:
    """Set the calling thread's name as shown by ps -L and top -H (its first 15 bytes)."""
    with suppress(OSError):  # no /proc
        Path("/proc/thread-self/comm").write_bytes(name.encode()[:15])


def in_a_thread(function: Callable[[], R], name: str) -> R:
    """Call a function in a temporary thread, and return its result.

    For callers with a long-lived thread: OpenMP starts helper threads (one per additional core) for
    every thread that enters a parallel region, and they live as long as that thread.

    Args:
        function: the function.
        name: name of the thread.
    """
    future: Future[R] = Future()

    def run() -> None:
        name_thread(name)
        _answer(future, function)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future.result()
