"""A DDS domain for the tests, a rig of publishers and subscriptions, and the installed node."""

from __future__ import annotations

import ctypes
import importlib.util
import runpy
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 90.0
SEED = 0  # random weights of the preset "mini" that find the test's objects visible
PERIOD = 100_000_000  # nanoseconds between the test's frames


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Return the condition's value once it is true; fail with `what` after `patience` seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    pytest.fail(f"waited {patience:.0f} s in vain for {what() if callable(what) else what}")


def scene(number: int, height: int = 60, width: int = 80) -> np.ndarray:
    """An image of coloured clouds, the same for the same number."""
    coarse = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def label_frame(k: int, knife: bool = True, height: int = 60, width: int = 80) -> np.ndarray:
    """Labels of frame k: 1 (cup) always, 2 (knife) where asked for."""
    labels = np.zeros((height, width), np.uint8)
    labels[10 + 2 * k % 20 : 30 + 2 * k % 20, 20:50] = 1
    if knife:
        labels[40:55, 5 * k % 40 : 20 + 5 * k % 40] = 2
    return labels


def image_msg(pixels: np.ndarray, encoding: str, stamp_ns: int, frame: str = "") -> Any:
    """A sensor_msgs/Image, made without the code under test."""
    from sensor_msgs.msg import Image

    msg = Image(encoding=encoding, height=pixels.shape[0], width=pixels.shape[1])
    msg.step = pixels.strides[0]
    msg.data = array("B", pixels.tobytes())
    return stamped(msg, stamp_ns, frame)


def stamped(msg: Any, stamp_ns: int, frame: str = "") -> Any:
    """The message with stamp and frame id set."""
    msg.header.stamp.sec, msg.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    msg.header.frame_id = frame
    return msg


def stamp_ns(msg: Any) -> int:
    """The message's stamp in nanoseconds."""
    return msg.header.stamp.sec * 1_000_000_000 + msg.header.stamp.nanosec


class Rig:
    """A second ROS process's worth of publishers and subscriptions, spun in a thread."""

    def __init__(self, context: Any, name: str = "rig") -> None:
        import rclpy.executors
        import rclpy.node

        self.node = rclpy.node.Node(name, context=context, enable_rosout=False)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.received: dict[str, list[Any]] = {}
        self.publishers: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}
        self._spinning = True
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while self._spinning:
            self.executor.spin_once(timeout_sec=0.05)

    def advertise(self, topic: str, kind: Any, reliable: bool = True) -> Any:
        from rclpy.qos import QoSProfile, ReliabilityPolicy

        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=50, reliability=policy)
        self.publishers[topic] = self.node.create_publisher(kind, topic, qos)
        return self.publishers[topic]

    def listen(self, topic: str, kind: Any, latched: bool = False) -> list[Any]:
        from rclpy.qos import DurabilityPolicy, QoSProfile

        messages: list[Any] = []
        self.received[topic] = messages
        qos = QoSProfile(depth=200)
        if latched:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def publish(self, topic: str, msg: Any) -> None:
        self.publishers[topic].publish(msg)

    def wait_heard(self, reliable: bool = True) -> None:
        """Wait until each publisher has its one subscription, reliable where it can be."""

        def settled() -> bool:
            for topic, publisher in self.publishers.items():
                infos = self.node.get_subscriptions_info_by_topic(topic)
                if publisher.get_subscription_count() != 1 or len(infos) != 1:
                    return False
                if reliable and infos[0].qos_profile.reliability.name != "RELIABLE":
                    return False
            return True

        wait_until(settled, "subscriptions to the rig's topics")
        # A subscription that is found does not yet hear: it has to find the publisher, too.
        time.sleep(0.25)

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """Call a service once and return its response."""
        future = self.ask(kind, service, request)
        return wait_until(lambda: future.done() and future, f"the answer of {service}").result()

    def ask(self, kind: Any, service: str, request: Any) -> Any:
        """Call a service once; gives the future of its response."""
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, service)
            self._wait_known(service)
        return self._clients[service].call_async(request)

    def _wait_known(self, service: str) -> None:
        """Wait until the client has found its service, and the service this client.

        Before, an answer is lost. That the service knows the client shows in the answer to one
        that was made later: a participant's endpoints are announced in order.
        """
        from rcl_interfaces.srv import GetParameterTypes

        wait_until(self._clients[service].service_is_ready, f"service {service}")
        name = f"{service.rpartition('/')[0]}/get_parameter_types"
        probe = self.node.create_client(GetParameterTypes, name)
        wait_until(probe.service_is_ready, f"service {name}")
        futures, asked = [probe.call_async(GetParameterTypes.Request())], time.monotonic()

        def answered() -> bool:
            nonlocal asked
            if time.monotonic() - asked > 1:
                asked = time.monotonic()
                futures.append(probe.call_async(GetParameterTypes.Request()))
            return any(future.done() for future in futures)

        wait_until(answered, f"any answer of {name}")
        self.node.destroy_client(probe)

    def close(self) -> None:
        self._spinning = False
        self._thread.join(5.0)
        self.executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()


@pytest.fixture
def context() -> Iterator[Any]:
    """An rclpy context of its own."""
    import rclpy

    one = rclpy.Context()
    rclpy.init(context=one)
    yield one
    rclpy.try_shutdown(context=one)


@pytest.fixture
def rig(context: Any) -> Iterator[Rig]:
    """Publishers and subscriptions in this process."""
    one = Rig(context)
    yield one
    one.close()


BASE: dict[str, Any] = {
    "model.preset": "mini",
    "model.seed": 0,
    "model.device": "cpu",
    "model.warm_up_steps": 1,
}


@pytest.fixture
def make_node(context: Any) -> Iterator[Callable[..., Any]]:
    """Start nodes in this process: make_node(autostart=False, **{"pairing.tolerance": 0.1})."""
    from rclpy.parameter import Parameter

    from lmeec_ros.node import LmeecNode
    from lmeec_ros.runtime.executor import PoolExecutor

    nodes: list[tuple[Any, Any, threading.Thread]] = []

    def make(namespace: str = "", **values: Any) -> Any:
        overrides = [Parameter(k, value=v) for k, v in {**BASE, **values}.items()]
        node = LmeecNode(context=context, namespace=namespace, parameter_overrides=overrides)
        executor = PoolExecutor(3, context=context)
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin, daemon=True)
        thread.start()
        nodes.append((node, executor, thread))
        return node

    yield make
    for node, executor, thread in nodes:
        assert node.close(30)
        executor.shutdown(timeout_sec=5.0)
        thread.join(10.0)
        node.destroy_node()


@pytest.fixture
def tools() -> Any:
    """The helpers of this file, for test modules (which cannot import it)."""
    from types import SimpleNamespace

    return SimpleNamespace(
        wait_until=wait_until,
        scene=scene,
        label_frame=label_frame,
        image_msg=image_msg,
        stamped=stamped,
        stamp_ns=stamp_ns,
        SEED=SEED,
        BASE=BASE,
        PERIOD=PERIOD,
        REPOSITORY=REPOSITORY,
    )


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start the installed node as a process: start_node({"model.preset": "mini", ...})."""
    from lmeec_ros.tools.node_process import NodeProcess

    running: list[Any] = []

    def start(values: dict[str, Any], **kwargs: Any) -> Any:
        number = len(running)
        file = tmp_path / f"node_{number}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
        process = NodeProcess(file, tmp_path / f"node_{number}.log", **kwargs)
        running.append(process)
        return process

    yield start
    for process in running:
        process.stop()


@pytest.fixture
def logged(tools: Any) -> Callable[..., str]:
    """Wait for a text in a node's log: logged(process, "silent")."""

    def wait(process: Any, text: str, count: int = 1) -> str:
        def found() -> bool:
            return str(process.log.read_text(errors="replace")).count(text) >= count

        wait_until(found, lambda: f"{text!r} in the log:\n{process.tail(40)}")
        return str(process.log.read_text(errors="replace"))

    return wait


@pytest.fixture(scope="session")
def vision_msgs() -> Any:
    """The package's messages. If ROS does not bring it, one with the same fields is built.

    That takes about half a minute, once: it stays in build/ until its definitions change.
    """
    if importlib.util.find_spec("vision_msgs") is None:
        build = runpy.run_path(str(Path(__file__).parent / "vision_msgs" / "build.py"))
        install = build["installed"]()
        sys.path.append(str(build["modules"](install)))
        # The loader's search path is fixed by now.
        left = sorted((install / "lib").glob("lib*.so"))
        for _ in range(len(left)):
            left = [one for one in left if not _loaded(one)]
        assert not left
    import vision_msgs.msg

    return vision_msgs.msg


def _loaded(library: Path) -> bool:
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError:  # needs one that is not loaded yet
        return False
    return True
