"""One thread that infers, behind a bounded mailbox: callbacks only hand over."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class WorkerStats:
    """Counters: received = processed + failed + dropped + discarded + waiting + (1 if busy)."""

    received: int
    processed: int
    failed: int
    dropped: int
    """Pushed out of the mailbox by newer ones: inference is slower than the input."""
    discarded: int
    """Thrown away with `discard`, `call` or `stop`."""
    waiting: int


class Worker(Generic[T]):
    """Processes items one after the other in its own thread.

    When `depth` items wait, a new one pushes out the oldest. An exception in `process` is handed
    to `on_error`; the thread lives on.

    Args:
        process: called in the worker's thread with each item and its time of arrival
            (`time.monotonic` seconds).
        on_error: called in the worker's thread with an exception of `process`.
        depth: items that may wait, at least 1.
        name: name of the thread.

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
        self._calls: deque[Callable[[], object]] = deque()
        self._condition = threading.Condition()
        self._stopping = False
        self._busy = False
        self._received = self._processed = self._failed = self._dropped = self._discarded = 0
        # A daemon: a step that takes seconds must not hold up the end of the process.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread (once)."""
        self._thread.start()

    def put(self, item: T) -> bool:
        """Leave an item in the mailbox; return False if an older one was pushed out for it."""
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

    def call(self, function: Callable[[], object], discard: bool = True) -> None:
        """Run `function` in the worker's thread before what waits, or in its place (`discard`)."""
        with self._condition:
            if discard:
                self._discard()
            self._calls.append(function)
            self._condition.notify_all()

    def discard(self) -> None:
        """Throw away what waits."""
        with self._condition:
            self._discard()

    def wait_idle(self, timeout: float) -> bool:
        """Wait until nothing waits and nothing runs; return whether that came about in time."""
        with self._condition:
            return self._condition.wait_for(
                lambda: not (self._items or self._calls or self._busy), timeout
            )

    def stop(self, timeout: float) -> bool:
        """Throw away what waits and end the thread; return whether it ended within `timeout` s."""
        with self._condition:
            self._stopping = True
            self._discard()
            self._calls.clear()
            self._condition.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

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
                    call()
                elif item is not None:
                    self._process(*item)
            except Exception as error:
                failed = True
                self._on_error(error)
            finally:
                with self._condition:
                    self._busy = False
                    if item is not None:
                        self._failed += failed
                        self._processed += not failed
                    self._condition.notify_all()
