"""The node's executor: which thread runs what, and that nothing is queued twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from lmeec_ros.runtime import executor as module
from lmeec_ros.runtime.executor import PoolExecutor, make_executor


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


def closed(executor: Any) -> Any:
    executor.shutdown(timeout_sec=5.0)
    executor._executor.shutdown(wait=False)
    return executor


def test_it_tests_itself_and_is_taken(context: Any) -> None:
    told: list[str] = []
    assert isinstance(closed(make_executor(3, told.append, context=context)), PoolExecutor)
    assert told == []


def without_futures(patch: pytest.MonkeyPatch) -> None:
    """As if rclpy had renamed the list of what is under way."""
    made = MultiThreadedExecutor.__init__

    def renamed(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self._under_way = self.__dict__.pop("_futures")

    patch.setattr(MultiThreadedExecutor, "__init__", renamed)


CHANGES: dict[str, tuple[Any, str]] = {
    "another version": (
        lambda patch: patch.setattr(module, "version", lambda _: "9.4.1"),
        "rclpy 9.4.1 is installed, 7.1.",
    ),
    "no more _futures": (without_futures, "_futures"),
    "another task": (
        lambda patch: patch.setattr(module, "_not_begun", lambda _: False),
        "6 callbacks were queued 8 times",
    ),
    "tasks that never go on": (
        lambda patch: patch.setattr(module, "_not_begun", lambda _: True),
        "6 callbacks were queued 6 times, and 0 ended",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_gives_way_to_the_stock_one_where_it_does_not_work(
    context: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    told: list[str] = []
    apply, text = CHANGES[change]
    monkeypatch.setattr(module, "PATIENCE", 1.0)
    with monkeypatch.context() as patch:
        apply(patch)
        executor = closed(make_executor(3, told.append, context=context))
    assert not isinstance(executor, PoolExecutor)
    (line,) = told
    assert text in line and "using rclpy's executor" in line


def test_the_node_works_with_the_stock_one(
    context: Any, rig: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmeec.msg import CorrespondenceMaskArray
    from rclpy.parameter import Parameter
    from sensor_msgs.msg import Image

    from lmeec_ros.node import LmeecNode

    monkeypatch.setattr(module, "version", lambda _: "9.4.1")
    masks = rig.listen("/lmeec/exo/masks", CorrespondenceMaskArray)
    pictures = {
        "/ego/image_raw": (tools.scene(1), "rgb8"),
        "/exo/image_raw": (tools.scene(2), "rgb8"),
        "/ego/label_image": (tools.label_frame(1), "mono8"),
    }
    for topic in pictures:
        rig.advertise(topic, Image)
    overrides = [Parameter(name, value=value) for name, value in tools.BASE.items()]
    node = LmeecNode(context=context, parameter_overrides=overrides)
    executor = make_executor(3, node.get_logger().warning, context=context)
    assert type(executor) is MultiThreadedExecutor
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        rig.wait_heard()
        for k in range(1, 4):
            for topic, (pixels, encoding) in pictures.items():
                rig.publish(topic, tools.image_msg(pixels, encoding, k * tools.PERIOD))
            tools.wait_until(lambda k=k: len(masks) == k, f"masks {k}")
    finally:
        assert node.close(30)
        executor.shutdown(timeout_sec=5.0)
        thread.join(10.0)
        node.destroy_node()
