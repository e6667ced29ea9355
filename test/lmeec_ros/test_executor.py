"""The node's executor: which thread runs what, and that nothing is queued twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from std_msgs.msg import String

from lmeec_ros.executor import PoolExecutor


class Spinning:
    """A node in an executor of two threads, and the thread that spins."""

    def __init__(self, context: Any) -> None:
        self.node = Node("pool", context=context)
        self.executor = PoolExecutor(2, context=context)
        self.executor.add_node(self.node)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._spin, daemon=True)

    def _spin(self) -> None:
        try:
            self.executor.spin()
        except BaseException as error:
            self.error = error

    def close(self) -> None:
        self.executor.shutdown(timeout_sec=5.0)
        self.thread.join(5.0)
        self.node.destroy_node()


@pytest.fixture
def spinning(context: Any) -> Iterator[Spinning]:
    one = Spinning(context)
    yield one
    one.close()


def test_subscriptions_run_where_it_spins_and_timers_in_the_pool(
    spinning: Spinning, tools: Any
) -> None:
    node, where = spinning.node, {}
    node.create_subscription(
        String, "/a", lambda _: where.setdefault("subscription", threading.get_ident()), 5
    )
    node.create_timer(0.05, lambda: where.setdefault("timer", threading.get_ident()))
    publisher = node.create_publisher(String, "/a", 5)
    spinning.thread.start()
    tools.wait_until(publisher.get_subscription_count, "the discovery")
    publisher.publish(String(data="x"))
    tools.wait_until(lambda: len(where) == 2, "both callbacks")
    assert where["subscription"] == spinning.thread.ident != where["timer"]


def test_a_callback_that_waits_for_a_thread_is_queued_once(
    spinning: Spinning, monkeypatch: pytest.MonkeyPatch, tools: Any
) -> None:
    """Stock rclpy queues these four 14 times."""
    queued = []
    submit = spinning.executor._executor.submit
    monkeypatch.setattr(
        spinning.executor._executor, "submit", lambda task: (queued.append(task), submit(task))
    )
    begun: list[int] = []

    def slow(number: int) -> None:
        begun.append(number)
        time.sleep(0.4)

    timers = [
        spinning.node.create_timer(
            0.05, lambda n=n: slow(n), callback_group=MutuallyExclusiveCallbackGroup()
        )
        for n in range(4)
    ]
    spinning.thread.start()
    tools.wait_until(lambda: set(begun) == {0, 1, 2, 3}, "all four timers on two threads")
    for timer in timers:
        timer.cancel()
    assert len(queued) <= len(begun) + len(timers)


def test_what_a_subscription_raises_ends_the_spin(spinning: Spinning, tools: Any) -> None:
    def fail(_: String) -> None:
        raise ValueError("of the callback")

    spinning.node.create_subscription(String, "/b", fail, 5)
    publisher = spinning.node.create_publisher(String, "/b", 5)
    spinning.thread.start()
    tools.wait_until(publisher.get_subscription_count, "the discovery")
    publisher.publish(String(data="x"))
    tools.wait_until(lambda: spinning.error is not None, "the error")
    assert isinstance(spinning.error, ValueError) and "of the callback" in str(spinning.error)


def test_all_threads_are_there_from_the_start(context: Any) -> None:
    executor = PoolExecutor(3, context=context)
    assert len(executor._executor._threads) == 3
    executor.shutdown(timeout_sec=5.0)
