"""A lifecycle node that reports every failed transition and callback."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleNodeMixin
from rclpy.node import Node

from lmeec_core.engine import EngineError
from lmeec_core.errors import InputError
from lmeec_core.sync.stream_monitor import LogThrottle
from lmeec_ros.health.measurements import Measurements
from lmeec_ros.inference.worker import NotNowError
from lmeec_ros.runtime.logs import RosLog

if TYPE_CHECKING:
    from collections.abc import Iterator

Success, Failure = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
Error = TransitionCallbackReturn.ERROR
SHORT = 1.0
"""Seconds that a service waits for a transition to end."""
EXPLAINED = (InputError, EngineError, OSError)
"""Errors whose text is sufficient for a user; others are logged with a traceback."""


class ManagedNode(LifecycleNode):
    """rclpy's lifecycle node, plus reports of errors that rclpy swallows or that would end it.

    Args:
        name: name of the node.
        kwargs: further arguments of rclpy.node.Node.

    Attributes:
        measured: measurements and errors, for the diagnostics.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        # LifecycleNode's constructor adds the lifecycle services to the default callback group,
        # where loading a model would block the parameter services. So the constructors of its two
        # base classes are called instead.
        Node.__init__(self, name, **kwargs)
        self._lifecycle_group = MutuallyExclusiveCallbackGroup()
        LifecycleNodeMixin.__init__(self, callback_group=self._lifecycle_group)
        self._answer_while_changing()
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._on_change_state
        self._transition = threading.RLock()  # held by a transition or by the watch timer
        self._throttle = LogThrottle(5.0)
        self._log = RosLog(self.get_logger())  # attached once the node is complete
        self.measured = Measurements()

    def _answer_while_changing(self) -> None:
        """Move the services that only report the state to a group that transitions do not block."""
        group = MutuallyExclusiveCallbackGroup()
        for service in self._services:
            if service.callback_group is self._lifecycle_group and (
                service is not self._service_change_state
            ):
                service.callback_group = group
                group.add_entity(service)

    def create_service(self, srv_type: Any, srv_name: str, callback: Any, **kwargs: Any) -> Any:
        """As in rclpy, but an exception in the callback only fails the call."""

        @wraps(callback)
        def answer(request: Any, response: Any) -> Any:
            try:
                return callback(request, response)
            except Exception as error:
                self._report_error(f"service {srv_name}", error)
                return _refusal(request, response, f"{type(error).__name__}: {error}")

        return super().create_service(srv_type, srv_name, answer, **kwargs)

    def create_subscription(
        self, msg_type: Any, topic: str, callback: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As in rclpy, but an exception in the callback is only reported."""

        @wraps(callback)  # rclpy inspects its signature
        def take(*given: Any) -> None:
            with self._reporting(f"subscription of {topic}"):
                callback(*given)

        return super().create_subscription(msg_type, topic, take, *args, **kwargs)

    @property
    def state(self) -> str:
        """Label of the lifecycle state."""
        return str(self._state_machine.current_state[1])

    def _guarded(
        self,
        name: str,
        action: Callable[[], None],
        undo: Callable[[], None] | None = None,
        otherwise: TransitionCallbackReturn = Failure,
    ) -> TransitionCallbackReturn:
        """Perform a transition; if it fails, log the cause, undo it, and return `otherwise`.

        Failure keeps the previous state, which `undo` must have restored. Error leads to error
        processing; it is also returned if `undo` fails.
        """
        # rclpy swallows exceptions in transitions.
        with self._transition:
            started = time.monotonic()
            try:
                action()
            except Exception as error:
                if not self.context.ok():  # shutting down: the failure no longer matters
                    return Failure
                self.measured.last_error = f"{name} failed: {error}"
                self.get_logger().error(self.measured.last_error)
                if not isinstance(error, EXPLAINED):
                    self.get_logger().error(traceback.format_exc())
                if undo is None:
                    return otherwise
                try:
                    undo()
                except Exception:
                    self.get_logger().error(f"undoing {name} failed:\n{traceback.format_exc()}")
                    return Error
                return otherwise
            self.measured.last_error = ""
            self.get_logger().info(f"{name}: done in {time.monotonic() - started:.1f} s")
            return Success

    @contextmanager
    def _between_transitions(self) -> Iterator[None]:
        """Block transitions while the body runs.

        Raises:
            NotNowError: if a transition is in progress.
        """
        if not self._transition.acquire(timeout=SHORT):
            raise NotNowError(f"the node is {self.state}; nothing was done, call again later")
        try:
            yield
        finally:
            self._transition.release()

    def _on_change_state(self, request: Any, response: Any) -> Any:
        # rclpy raises an exception for a transition that is invalid in this state; it would end
        # the node.
        try:
            response = self._change_state(request, response)
            if not response.success:  # the response has no field for a reason
                wanted = request.transition.label or f"number {request.transition.id}"
                text = f"the transition {wanted} was not performed; the node is {self.state}"
                self.get_logger().warning(text)
            return response
        except Exception as error:
            self.get_logger().error(f"transition refused in the state {self.state}: {error}")
            response.success = False
            return response

    def _report_error(self, what: str, error: Exception) -> None:
        """Log an error outside inference, and record it for the diagnostics."""
        if not self.context.ok():  # shutting down destroys entities that callbacks still use
            return
        self.measured.add_error(f"{what}: {error}")
        text = f"{what}: {error}"
        if not isinstance(error, EXPLAINED):
            text += "\n" + "".join(traceback.format_exception(error))
        self._log_error(f"error {what} {type(error).__name__}", text)

    def _log_error(self, kind: str, text: str) -> None:
        """Log an error unless one of this kind was logged recently."""
        if line := self._throttle(kind, text):
            self.get_logger().error(line)

    def _warn(self, kind: str, text: str) -> None:
        """Log a warning unless one of this kind was logged recently."""
        if line := self._throttle(kind, text):
            self.get_logger().warning(line)

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        """Report an exception in the body instead of raising it, which would end the executor."""
        try:
            yield
        except Exception as error:
            self._report_error(what, error)

    def destroy_node(self) -> None:
        """Destroy the node's DDS entities, including those of its lifecycle services.

        rclpy leaves the lifecycle services to the garbage collector. Until it runs, the services of
        a destroyed node still take requests, and clients of a new node of that name get no reply.
        """
        self._log.detach()
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()


def _refusal(request: Any, response: Any, reason: str) -> Any:
    """The response to a failed call, with the reason if its type has a field for one."""
    refused = SetParametersResult(successful=False, reason=reason)
    if hasattr(response, "results"):  # SetParameters: has the results before the failed parameter
        missing = len(request.parameters) - len(response.results)
        response.results = [*response.results, *(refused for _ in range(missing))]
    elif hasattr(response, "result"):
        response.result = refused
    return response
