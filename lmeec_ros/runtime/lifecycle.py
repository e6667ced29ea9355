"""A lifecycle node whose transitions and callbacks never fail silently."""

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
"""Errors whose text says all that a user needs; others are logged with their traceback."""


class ManagedNode(LifecycleNode):
    """rclpy's lifecycle node, with the errors reported that it swallows or dies of.

    Args:
        name: name of the node.
        kwargs: further arguments of rclpy.node.Node.

    Attributes:
        measured: collects the errors for the diagnostics.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        # LifecycleNode's own constructor puts the lifecycle services into the default group, where
        # loading a model would block the parameter services; so its two parents' are called.
        Node.__init__(self, name, **kwargs)
        self._lifecycle_group = MutuallyExclusiveCallbackGroup()
        LifecycleNodeMixin.__init__(self, callback_group=self._lifecycle_group)
        self._answer_while_changing()
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._on_change_state
        self._transition = threading.RLock()  # one transition, or watch, at a time
        self._throttle = LogThrottle(5.0)
        self._log = RosLog(self.get_logger())  # attached once the node is complete
        self.measured = Measurements()

    def _answer_while_changing(self) -> None:
        """Let the services that only report the state answer during transitions, too."""
        group = MutuallyExclusiveCallbackGroup()
        for service in self._services:
            if service.callback_group is self._lifecycle_group and (
                service is not self._service_change_state
            ):
                service.callback_group = group
                group.add_entity(service)

    def create_service(self, srv_type: Any, srv_name: str, callback: Any, **kwargs: Any) -> Any:
        """As rclpy's; an exception in the callback refuses the call instead of ending the node."""

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
        """As rclpy's; an exception in the callback is reported instead of ending the node."""

        @wraps(callback)  # rclpy looks at its parameters
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
        """Do a transition; if it fails, log why, undo it, and return `otherwise`.

        Failure leaves the state as it was, which must be true after `undo`; Error leads to error
        processing, also where undoing fails.
        """
        # rclpy swallows exceptions of transitions silently.
        with self._transition:
            started = time.monotonic()
            try:
                action()
            except Exception as error:
                if not self.context.ok():  # shutting down: whatever failed no longer matters
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
                    self.get_logger().error(f"undoing it failed too:\n{traceback.format_exc()}")
                    return Error
                return otherwise
            self.measured.last_error = ""
            self.get_logger().info(f"{name}: done in {time.monotonic() - started:.1f} s")
            return Success

    @contextmanager
    def _between_transitions(self) -> Iterator[None]:
        """Let no transition begin during the block.

        Raises:
            NotNowError: one is under way.
        """
        if not self._transition.acquire(timeout=SHORT):
            raise NotNowError(f"the node is {self.state}; nothing was done, call again afterwards")
        try:
            yield
        finally:
            self._transition.release()

    def _on_change_state(self, request: Any, response: Any) -> Any:
        # rclpy raises on a transition that the state does not have, which would end the node.
        try:
            response = self._change_state(request, response)
            if not response.success:  # the response has no field for a reason
                wanted = request.transition.label or f"number {request.transition.id}"
                text = f"the transition {wanted} was not done; the node is {self.state}"
                self.get_logger().warning(text)
            return response
        except Exception as error:
            self.get_logger().error(f"transition refused in the state {self.state}: {error}")
            response.success = False
            return response

    def _report_error(self, what: str, error: Exception) -> None:
        """Log an error outside of the inference, and show it in the diagnostics."""
        if not self.context.ok():  # shutting down removes what callbacks still use
            return
        self.measured.add_error(f"{what}: {error}")
        text = f"{what}: {error}"
        if not isinstance(error, EXPLAINED):
            text += "\n" + "".join(traceback.format_exception(error))
        self._log_error(f"error {what} {type(error).__name__}", text)

    def _log_error(self, kind: str, text: str) -> None:
        """Log an error unless one of that kind was logged lately."""
        if line := self._throttle(kind, text):
            self.get_logger().error(line)

    def _warn(self, kind: str, text: str) -> None:
        """Log a warning unless one of that kind was logged lately."""
        if line := self._throttle(kind, text):
            self.get_logger().warning(line)

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        """Report an error of the block and go on: an exception would end the executor."""
        try:
            yield
        except Exception as error:
            self._report_error(what, error)

    def destroy_node(self) -> None:
        """Free the node's DDS entities, those of its lifecycle too.

        rclpy leaves the lifecycle services to the garbage collector: until it comes, a node that
        is gone still answers to its name, and clients of the next one get no reply.
        """
        self._log.detach()
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()


def _refusal(request: Any, response: Any, reason: str) -> Any:
    """The response to a call that failed, with the reason where its type has a field for one."""
    refused = SetParametersResult(successful=False, reason=reason)
    if hasattr(response, "results"):  # of SetParameters: those before the one that failed are there
        missing = len(request.parameters) - len(response.results)
        response.results = [*response.results, *(refused for _ in range(missing))]
    elif hasattr(response, "result"):
        response.result = refused
    return response
