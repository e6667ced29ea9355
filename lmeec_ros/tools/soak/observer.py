"""Observe the node over ROS during a soak run: masks, diagnostics, responses of its services."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from lmeec.msg import CorrespondenceMaskArray
from lmeec.srv import ForgetObject, MemoryFile
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

NODE = "/lmeec"
SERVICE_SECONDS = 60.0
SERVICES: dict[str, Any] = {
    "change_state": ChangeState,
    "set_parameters": SetParameters,
    "save_memory": MemoryFile,
    "load_memory": MemoryFile,
    "reset_memory": Trigger,
    "forget_object": ForgetObject,
}
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
}


class Observer:
    """Subscribes to the node's outputs and calls its services.

    To be used from a thread other than the executor's.

    Args:
        node: creates the subscriptions and clients; spun by another thread.
        targets: target cameras.

    Attributes:
        masks: number of mask messages so far.
        objects: object ids in the last mask message.
        reports: number of diagnostics messages so far.
        values: last diagnostics: part ("inference", "pairing", ...) to key to value.
        discrepancies: descriptions of counters that did not add up (the first 20).
    """

    def __init__(self, node: Node, targets: tuple[str, ...]) -> None:
        self._node = node
        self._targets = targets
        self._changed = threading.Condition()
        self.masks = 0
        self.reports = 0
        self.objects: tuple[str, ...] = ()
        self.discrepancies: list[str] = []
        self.values: dict[str, dict[str, str]] = {}
        for name in targets:
            topic = f"{NODE}/{name}/masks"
            node.create_subscription(CorrespondenceMaskArray, topic, self._on_masks, 100)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._clients = {
            name: node.create_client(kind, f"{NODE}/{name}") for name, kind in SERVICES.items()
        }

    def _on_masks(self, message: CorrespondenceMaskArray) -> None:
        with self._changed:
            self.masks += 1
            self.objects = tuple(entry.object_id for entry in message.masks)
            self._changed.notify_all()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        if not any(one.name.startswith(f"{NODE}: ") for one in message.status):
            return  # another node's diagnostics
        values = {
            one.name.removeprefix(f"{NODE}: "): {v.key: v.value for v in one.values}
            for one in message.status
        }
        wrong = discrepancies(values)
        with self._changed:
            self.values = values
            self.reports += 1
            self.discrepancies += wrong[: max(0, 20 - len(self.discrepancies))]
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait up to `seconds` until the condition holds; return whether it does."""
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    def counters(self) -> dict[str, int]:
        """Return the counters of the last diagnostics: sets, messages, and drops by reason."""
        found: dict[str, int] = {}
        for part in ("inference", "pairing"):
            for key, value in self.values.get(part, {}).items():
                if value.isdigit():
                    found[f"{part} {key}"] = int(value)
        return found

    def settled(self) -> bool:
        """Return whether the last diagnostics account for every set."""
        one, pairing = self.values.get("inference", {}), self.values.get("pairing", {})
        if "sets_received" not in one or "sets" not in pairing:
            return False
        done = sum(int(one[key]) for key in _DONE)
        return int(one["sets_received"]) == int(pairing["sets"]) == done

    def view(self, seconds: float) -> None:
        """Subscribe to the overlay and label image of every target for a number of seconds."""
        topics = [
            f"{NODE}/{t}/{kind}" for t in self._targets for kind in ("overlay", "label_image")
        ]
        viewers = [
            self._node.create_subscription(Image, topic, lambda _: None, 5) for topic in topics
        ]
        time.sleep(seconds)
        for viewer in viewers:
            self._node.destroy_subscription(viewer)

    # ---- services

    def change_state(self, name: str) -> None:
        """Request a lifecycle transition.

        Raises:
            RuntimeError: if it fails.
        """
        request = ChangeState.Request(transition=Transition(id=TRANSITIONS[name]))
        if not self._call("change_state", request).success:
            raise RuntimeError(f"{name}: the node refused")

    def set_parameter(self, name: str, value: Any) -> str:
        """Set a parameter; return the reason if it was refused, else ""."""
        message = Parameter(name, value=value).to_parameter_msg()
        answer = self._call("set_parameters", SetParameters.Request(parameters=[message]))
        result = answer.results[0]
        return "" if result.successful else result.reason or "no reason"

    def memory(self, service: str, **request: str) -> str:
        """Call a memory service; return the reason if it refused, else ""."""
        answer = self._call(service, SERVICES[service].Request(**request))
        return "" if answer.success else answer.message or "no reason"

    def _call(self, service: str, request: Any) -> Any:
        client = self._clients[service]
        if not client.wait_for_service(SERVICE_SECONDS):
            raise RuntimeError(f"the service {service} is not available")
        answer: list[Any] = []
        done = threading.Event()

        def take(future: Any) -> None:
            answer.append(future.result())
            done.set()

        client.call_async(request).add_done_callback(take)
        if not done.wait(SERVICE_SECONDS):
            raise RuntimeError(f"the service {service} did not answer in {SERVICE_SECONDS:.0f} s")
        return answer[0]


_DONE = ("sets_processed", "sets_failed", "dropped_mailbox", "dropped_discarded")


def discrepancies(values: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Describe the counters of a diagnostics message that do not add up.

    Args:
        values: part of the diagnostics ("pairing", "inference", ...) to key to value.
    """
    found = []
    pairing = values.get("pairing", {})
    if "received" in pairing:
        dropped = sum(int(v) for k, v in pairing.items() if k.startswith("dropped_"))
        received, paired, queued = (int(pairing[k]) for k in ("received", "paired", "queued"))
        if received != paired + dropped + queued:
            found.append(
                f"pairing: {received} messages received, but {paired} paired + {dropped} dropped "
                f"+ {queued} queued"
            )
    one = values.get("inference", {})
    if "sets_received" in one:
        got, waiting = int(one["sets_received"]), int(one["waiting"])
        done = sum(int(one[key]) for key in _DONE)
        if got - done - waiting not in (0, 1):  # one may be in inference
            found.append(f"inference: {got} sets received, but {done} done + {waiting} waiting")
    return found
