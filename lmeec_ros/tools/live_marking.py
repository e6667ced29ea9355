"""`lmeec mark --live`: the images and masks of a running node, and prompts to it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import rclpy
from geometry_msgs.msg import Point
from lmeec.msg import CorrespondenceMaskArray
from lmeec.srv import ForgetObject, MarkObject
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from rclpy.signals import SignalHandlerOptions

from lmeec_core.errors import InputError
from lmeec_core.marking.source import Seen, View, Work
from lmeec_core.prompts import Prompt
from lmeec_core.tracker import Image
from lmeec_ros.inference.pipeline import image_readers, read_image
from lmeec_ros.io.inputs import InputStream, inputs_of
from lmeec_ros.io.messages import LabelTable, MessageError, masks_from_array
from lmeec_ros.io.synchronizer import stamp_of
from lmeec_ros.parameters.config import NodeConfig, load, topic_token, with_full_names
from lmeec_ros.tools.ros_session import spinning

HELD = 30
"""Images per camera that are kept until their masks arrive."""
FRESH = 3.0
"""Seconds for which the image of the last masks is shown although newer images have arrived."""
PATIENCE = 10.0
"""Seconds to wait for the node's parameters."""


@dataclass
class _Camera:
    """Last messages of one camera."""

    held: OrderedDict[int, Any] = field(default_factory=OrderedDict)  # stamp to message
    masked: int | None = None  # stamp of the last masks
    masked_at: float = 0.0
    seen: dict[str, Seen] = field(default_factory=dict)

    def shown(self) -> int | None:
        """Stamp of the image to show: that of the last masks, else the newest; None if no image."""
        fresh = time.monotonic() - self.masked_at < FRESH
        if fresh and self.masked is not None and self.masked in self.held:
            return self.masked
        return next(reversed(self.held), None)


class LiveSource:
    """A running node as a :class:`~lmeec_core.marking.source.MarkSource`.

    Args:
        node: this process's node, spun by another thread.
        name: name of the running node, with its namespace.
        config: parameters of the running node.
        end: called by :meth:`close`.
    """

    frames: tuple[int, ...] = ()
    tracked = 0
    prompted: tuple[int, ...] = ()
    unsaved = False

    def __init__(self, node: Node, name: str, config: NodeConfig, end: Callable[[], None]) -> None:
        self.title = name
        self.cameras = config.views
        self._node, self._config, self._end = node, config, end
        self._lock = threading.RLock()
        self._readers = image_readers(config)
        self._table = LabelTable()
        self._views = {camera: _Camera() for camera in self.cameras}
        self._query: dict[str, str] = {}  # object to its query camera, as far as known here
        self._version = 0
        self._waiting = 0  # service calls that the node has not answered
        self._notices: list[str] = []
        group = ReentrantCallbackGroup()
        self._mark = node.create_client(MarkObject, f"{name}/mark_object")
        self._forget = node.create_client(ForgetObject, f"{name}/forget_object")
        inputs = inputs_of(config)
        self._inputs = [
            InputStream(node, given, group, self._on_image, self._on_failure)
            for given in (inputs.query, *inputs.targets.values())
        ]
        for one in self._inputs:
            one.open()
        for camera in self.cameras:
            topic = f"{name}/{topic_token(camera)}/masks"
            node.create_subscription(CorrespondenceMaskArray, topic, self._on_masks, 5)
        node.create_timer(1.0, self._follow_publishers)

    # -- display ---------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """See :class:`~lmeec_core.marking.source.MarkSource`, also for the members below."""
        return self._version

    @property
    def work(self) -> Work | None:
        """What the source is waiting for; None if nothing."""
        with self._lock:
            silent = [one for one in self._inputs if not self._views[one.name].held]
        if silent:
            return Work(f"no image yet from {', '.join(f'{s.name} ({s.topic})' for s in silent)}")
        return Work("waiting for the node's response") if self._waiting else None

    @property
    def notices(self) -> tuple[str, ...]:
        """Messages to the user."""
        with self._lock:
            return tuple(self._notices)

    @property
    def objects(self) -> Mapping[str, str]:
        """Object of the node to its query camera."""
        with self._lock:
            return dict(self._query)

    def view(self, camera: str, frame: int | None) -> View:
        """Return what is currently shown of a camera."""
        with self._lock:
            one = self._views[camera]
            stamp = one.shown()
            if stamp is None:
                return View(0, "none")
            if stamp != one.masked:
                return View(stamp, f"{stamp}")
            seen = {
                name: replace(it, marked=self._query.get(name) == camera)
                for name, it in one.seen.items()
            }
            return View(stamp, f"{stamp} {sorted(seen)}", seen)

    def image(self, camera: str, frame: int | None) -> Image | None:
        """Return the pixels of the image shown; an unreadable message gives a notice and None."""
        with self._lock:
            one = self._views[camera]
            stamp = one.shown()
            message = None if stamp is None else one.held[stamp]
        if message is None:
            return None
        try:
            return read_image(self._config, camera, message, self._readers[camera])
        except InputError as error:
            self._tell(str(error))
            return None

    def prompts(self, frame: int | None) -> Mapping[tuple[str, str], Prompt]:
        """Return no prompts: prompts are sent to the node and not kept here."""
        return {}

    # -- actions ---------------------------------------------------------------------------------

    def mark(self, camera: str, key: int, prompt: Prompt) -> None:
        """Send a prompt to the node; a refusal appears as a notice.

        Raises:
            InputError: if the node does not accept prompts, or the camera has no image yet.
        """
        if not self._mark.service_is_ready():
            raise InputError(
                f"{self.title} does not offer {self._mark.srv_name}: it has to be running with the "
                "parameter query_masks.source: prompts"
            )
        if not key:
            raise InputError(f"camera {camera!r} has no image yet; wait for one, then click")
        request = MarkObject.Request()
        message = request.prompt
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(key, 1_000_000_000)
        message.camera, message.object_id = camera, prompt.object_id
        message.points = [Point(x=float(x), y=float(y)) for x, y in prompt.points]
        message.labels = list(prompt.labels)
        message.box = [float(x) for x in prompt.box or ()]

        def marked() -> None:
            self._query[prompt.object_id] = camera

        self._send(self._mark, request, f"{prompt.object_id!r} in {camera}", marked)

    def unmark(self, camera: str, key: int, object_id: str) -> None:
        """Prompts cannot be withdrawn from a running node.

        Raises:
            InputError: always.
        """
        raise InputError(
            "a running node applies prompts immediately: correct the object with further clicks, "
            "or forget it"
        )

    def forget(self, object_id: str) -> None:
        """Make the node forget an object.

        Raises:
            InputError: if the node's service is not available.
        """
        if not self._forget.service_is_ready():
            raise InputError(f"{self.title} does not offer {self._forget.srv_name}; is it running?")
        with self._lock:
            self._query.pop(object_id, None)
            for one in self._views.values():
                one.seen.pop(object_id, None)
        self._send(self._forget, ForgetObject.Request(object_id=object_id), repr(object_id))

    def track(self) -> None:
        """Do nothing: the node tracks by itself."""

    def stop(self) -> None:
        """Do nothing: the node continues."""

    def save(self) -> str:
        """Prompts to a running node cannot be saved.

        Raises:
            InputError: always.
        """
        raise InputError("prompts of a running node are not saved; mark a recording for that")

    def close(self) -> None:
        """Unsubscribe, and destroy this process's node."""
        self._end()

    # -- internal ----------------------------------------------------------------------------------

    def _send(
        self, client: Any, request: Any, what: str, done: Callable[[], None] = lambda: None
    ) -> None:
        def answered(future: Any) -> None:
            error = future.exception()
            with self._lock:
                self._waiting -= 1
                self._version += 1
                if error is None and future.result().success:
                    done()
                    return
            self._tell(f"{what}: {error or future.result().message}")

        with self._lock:
            self._waiting += 1
            self._version += 1
        client.call_async(request).add_done_callback(answered)

    def _tell(self, text: str) -> None:
        with self._lock:
            if text not in self._notices[-10:]:  # every image may cause the same notice
                self._notices.append(text)
                self._version += 1

    def _on_image(self, camera: str, message: Any) -> None:
        with self._lock:
            held = self._views[camera].held
            held[stamp_of(message)] = message
            while len(held) > HELD:
                held.popitem(last=False)
            self._version += 1

    def _on_masks(self, message: Any) -> None:
        camera = message.target_camera
        if camera not in self._views:
            return
        try:
            masks = masks_from_array(message, self._table)
        except MessageError as error:
            self._tell(f"masks of {camera}: {error}")
            return
        seen = {
            one.object_id: Seen(masks[one.object_id], float(one.presence), float(one.score))
            for one in message.masks
        }
        with self._lock:
            view = self._views[camera]
            view.masked, view.masked_at, view.seen = stamp_of(message), time.monotonic(), seen
            for name in seen:
                self._query.setdefault(name, message.query_camera)
            known = {name for one in self._views.values() for name in one.seen}
            self._query = {name: query for name, query in self._query.items() if name in known}
            self._version += 1

    def _follow_publishers(self) -> None:
        """Adapt the subscriptions to publishers that appear, disappear or change their QoS."""
        for one in self._inputs:
            if one.overdue(not self._views[one.name].held) >= 0:
                one.query_graph()
            one.refresh()

    def _on_failure(self, doing: str, error: Exception) -> None:
        self._tell(f"{doing}: {error}")


def open_live(name: str) -> LiveSource:
    """Connect to a running node.

    Args:
        name: name of the node with its namespace, such as /robot1/lmeec.

    Raises:
        InputError: if the node does not answer, or is not an lmeec node.
    """
    full = f"/{name.strip('/')}"
    with ExitStack() as stack:
        context = rclpy.Context()
        rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown, context=context)
        # Use the node's namespace, to which its topics may be relative.
        node = Node("lmeec_mark", namespace=full.rpartition("/")[0] or "/", context=context)
        stack.callback(node.destroy_node)
        stack.enter_context(spinning(node))
        config = _config_of(node, full)
        source = LiveSource(node, full, config, stack.pop_all().close)
    if not config.prompted:
        source._tell(
            f"{full} uses query masks from a topic, not prompts: set query_masks.source to prompts"
        )
    return source


def _config_of(node: Node, name: str) -> NodeConfig:
    """The configuration of a running node, from its parameters.

    Raises:
        InputError: if it does not answer, or is not an lmeec node.
    """
    client = AsyncParameterClient(node, name)
    if not client.wait_for_services(PATIENCE):
        known = sorted(f"{space.rstrip('/')}/{one}" for one, space in
                       node.get_node_names_and_namespaces() if one != node.get_name())  # fmt: skip
        raise InputError(
            f"no response from a node {name}; running nodes: {', '.join(known) or 'none'}. Start "
            "it, or choose another with --node"
        )
    names = _answer(client.list_parameters(), name).result.names
    found = _answer(client.get_parameters(names), name).values
    values = {key: parameter_value_to_python(one) for key, one in zip(names, found, strict=True)}
    if "query_camera" not in values:
        raise InputError(f"{name} is not an lmeec node: it has no parameter query_camera")
    given = {k: list(v) if hasattr(v, "tolist") else v for k, v in values.items()}
    return load(with_full_names(given, name))


def _answer(future: Any, name: str) -> Any:
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    if not done.wait(PATIENCE):
        raise InputError(f"no response from {name} within {PATIENCE:.0f} s; is it busy or stopped?")
    return future.result()
