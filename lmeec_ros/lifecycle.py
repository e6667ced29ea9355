"""A lifecycle node whose transitions and callbacks never fail in silence."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleNodeMixin
from rclpy.node import Node

from lmeec_core.engine import EngineError
from lmeec_core.errors import InputError
from lmeec_ros.logs import RosLog
from lmeec_ros.monitor import PatientLog
from lmeec_ros.reasons import Measurements

if TYPE_CHECKING:
    from collections.abc import Iterator

Success, Failure = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
Error = TransitionCallbackReturn.ERROR
EXPLAINED = (InputError, EngineError, OSError)
"""Errors whose text says all that a user needs; others are logged with their traceback."""


class ManagedNode(LifecycleNode):
    """rclpy's lifecycle node, with the errors that it swallows or lets end the process.

    Args:
        name: name of the node.
        kwargs: further arguments of rclpy.node.Node.

    Attributes:
        measured: takes the errors, for diagnostics.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        # LifecycleNode's own constructor puts the lifecycle services into the default group, where
        # loading a model would block the parameter services; so its two parents' are called.
        Node.__init__(self, name, **kwargs)
        self._lifecycle_group = MutuallyExclusiveCallbackGroup()
        LifecycleNodeMixin.__init__(self, callback_group=self._lifecycle_group)
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._on_change_state
        self._transition = threading.RLock()  # a transition, or the watch, at a time
        self._patient = PatientLog(5.0)
        self._log = RosLog(self.get_logger())  # attached once the node is whole
        self.measured = Measurements()

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
        # rclpy swallows exceptions of transitions without a word.
        with self._transition:
            started = time.monotonic()
            try:
                action()
            except Exception as error:
                if not self.context.ok():  # interrupted: whatever failed is of no interest
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

    def _on_change_state(self, request: Any, response: Any) -> Any:
        # rclpy raises on a transition that the state does not have, which would end the node.
        try:
            response = self._change_state(request, response)
            if not response.success:  # the answer has no room for a reason
                wanted = request.transition.label or f"number {request.transition.id}"
                text = f"the transition {wanted} was not done; the node is {self.state}"
                self.get_logger().warning(text)
            return response
        except Exception as error:
            self.get_logger().error(f"transition refused in the state {self.state}: {error}")
            response.success = False
            return response

    def _tell_error(self, what: str, error: Exception) -> None:
        """Log and show in the diagnostics an error that is no step's."""
        if not self.context.ok():  # the end of the process takes away what was in use
            return
        self.measured.add_error(f"{what}: {error}")
        text = f"{what}: {error}"
        if not isinstance(error, EXPLAINED):
            text += "\n" + "".join(traceback.format_exception(error))
        if line := self._patient(f"error {what} {type(error).__name__}", text):
            self.get_logger().error(line)

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Tell an error of the block and go on: callbacks that raise end the executor."""
        try:
            yield
        except Exception as error:
            self._tell_error(what, error)

    def destroy_node(self) -> None:
        """Free the node's DDS entities, those of its lifecycle too.

        rclpy leaves the lifecycle services to the garbage collector: until it comes, a node that
        is gone still answers to its name, and clients of the next one wait in vain.
        """
        self._log.detach()
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()
