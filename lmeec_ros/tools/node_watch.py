"""Watch running nodes on /diagnostics: whether they are ready, and have processed all messages."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

SILENCE = 10.0
"""Seconds without a report (normally one per second) after which a node is given up."""
PATIENCE = 120.0
"""Seconds without progress after which unfinished sets are given up."""
ENDED = ("sets_processed", "sets_failed", "dropped_mailbox", "dropped_discarded")


@dataclass(frozen=True)
class NodeReport:
    """One node's report.

    Attributes:
        state: lifecycle state.
        error: text of the node's status, which names the error if it is not active.
        inputs: topics that the node is subscribed to.
        connected: those of them on which it is matched with a publisher.
        received: number of messages received, by input.
        sets: number of sets received, processed, failed, dropped and discarded.
        under_way: sets waiting for inference or in it.
        queued: messages waiting for the others of their set.
    """

    state: str
    error: str
    inputs: frozenset[str]
    connected: frozenset[str]
    received: tuple[int, ...]
    sets: tuple[int, ...]
    under_way: int
    queued: int

    @classmethod
    def read(cls, message: DiagnosticArray) -> tuple[str, NodeReport] | None:
        """Return the node's name (with namespace) and report; None if it is not an lmeec node."""
        parts: dict[str, Any] = {}
        for status in message.status:
            name, _, part = status.name.rpartition(": ")
            parts[part] = {one.key: one.value for one in status.values}
            if part == "node":
                parts["message"] = status.message
        if not {"node", "inference", "pairing"} <= set(parts) or not name:
            return None
        inputs = [one for one in parts.values() if isinstance(one, Mapping) and "topic" in one]
        subscribed = [one for one in inputs if one.get("reliability")]
        sets, pairing = parts["inference"], parts["pairing"]
        counts = [int(sets.get(key, 0)) for key in ENDED]
        received = int(sets.get("sets_received", 0))
        return name, cls(
            parts["node"].get("state", ""),
            parts["message"],
            frozenset(one["topic"] for one in subscribed),
            frozenset(one["topic"] for one in subscribed if one.get("publishers") != "0"),
            tuple(int(one.get("received", 0)) for one in inputs),
            (received, *counts),
            max(0, received - sum(counts)),
            int(pairing.get("queued", 0)),
        )


class NodeWatch:
    """Receives the reports of nodes. The node given must be spun by another thread.

    Args:
        node: creates the subscription.
        name: full name of the watched node; without a namespace, all nodes of that name.
    """

    def __init__(self, node: Node, name: str) -> None:
        self.name = name
        self._changed = threading.Condition()
        self._reports: dict[str, NodeReport] = {}
        self._last: dict[str, float] = {}  # time of the last report
        self._still: dict[str, int] = {}  # number of reports since the counters last changed
        self._numbers: dict[str, int] = {}  # sequence number of the last report
        self._back: Counter[str] = Counter()  # how often the sequence number did not increase

        # rclpy passes the message info if the callback has a second argument.
        def on_report(message: DiagnosticArray, info: Any) -> None:
            self._take(message, info)

        callback: Any = on_report
        node.create_subscription(DiagnosticArray, "/diagnostics", callback, 20)

    def _take(self, message: DiagnosticArray, info: Mapping[str, Any] | None = None) -> None:
        found = NodeReport.read(message)
        if found is None:
            return
        name, report = found
        if self.name.strip("/") not in (name.strip("/"), name.rpartition("/")[2]):
            return
        with self._changed:
            before = self._reports.get(name)
            moved = before is None or _counters(before) != _counters(report)
            self._still[name] = 0 if moved else self._still[name] + 1
            self._reports[name], self._last[name] = report, time.monotonic()
            number = (info or {}).get("publication_sequence_number")
            if number is not None:  # not every middleware provides it
                self._back[name] += number <= self._numbers.get(name, 0)
                self._numbers[name] = number
            self._changed.notify_all()

    def twins(self) -> str:
        """Name nodes that share a name, with a remedy; empty if there are none.

        They are recognised by sequence numbers that go back repeatedly: a node that was restarted
        also begins again, but only once.
        """
        with self._changed:
            names = [name for name, times in self._back.items() if times > 1]
        if not names:
            return ""
        return (
            f"several nodes are called {', '.join(names)}, and their reports cannot be told apart: "
            "stop all but one, or give each its own name (--ros-args -r __node:=NAME) and choose "
            "one (--node NAME)"
        )

    def wanted(self) -> dict[str, frozenset[str]]:
        """Return active node to its input topics."""
        with self._changed:
            return self._active()

    def ready(self, published: Collection[str]) -> bool:
        """Return whether there are nodes, all active and matched with publishers of these topics.

        That a publisher has discovered a subscription is not enough: the first messages are lost
        until the subscription has discovered the publisher as well.
        """
        with self._changed:
            reports = list(self._reports.values())
        return bool(reports) and all(
            one.state == "active" and one.inputs & set(published) <= one.connected
            for one in reports
        )

    def describe(self) -> str:
        """Describe the nodes that are not active; empty if all are."""
        with self._changed:
            others = {n: one for n, one in self._reports.items() if one.state != "active"}
            if not self._reports:
                return f"no report from a node called {self.name}"
        return "; ".join(f"{name} is {one.error or one.state}" for name, one in others.items())

    def wait_processed(self, published: Collection[str], stop: threading.Event) -> str:
        """Wait until the active nodes subscribed to one of the topics have processed everything.

        Args:
            published: the topics, on which nothing more will be published.
            stop: ends the wait.

        Returns:
            why the wait was given up; empty if everything was processed, or on `stop`.
        """
        started = moved = fed = time.monotonic()
        with self._changed:
            names = [name for name, topics in self._active().items() if topics & set(published)]
            self._still.update(dict.fromkeys(names, 0))
            before = {name: self._reports[name] for name in names}
            while not stop.is_set():
                if twins := self.twins():
                    return twins
                names = [name for name in names if name in self._active()]
                if all(self._at_rest(name) for name in names):
                    return ""
                now = time.monotonic()
                silent = [n for n in names if now - max(started, self._last[n]) > SILENCE]
                if silent:
                    return f"{', '.join(silent)}: no report for {SILENCE:.0f} s"
                for name in names:
                    last, report = before[name], self._reports[name]
                    moved = now if report.sets != last.sets else moved
                    fed = now if report.received != last.received else fed
                    before[name] = report
                if fed - started > SILENCE:
                    return f"{', '.join(names)}: still receives images from another publisher"
                if now - moved > PATIENCE:
                    left = sum(self._reports[name].under_way for name in names)
                    return f"{', '.join(names)}: {left} sets unfinished for {PATIENCE:.0f} s"
                self._changed.wait(0.5)
        return ""

    def _active(self) -> dict[str, frozenset[str]]:
        reports = self._reports.items()
        return {name: one.inputs for name, one in reports if one.state == "active"}

    def _at_rest(self, name: str) -> bool:
        """Whether nothing is in progress or new; checked for longer while messages are queued."""
        report = self._reports[name]
        return not report.under_way and self._still[name] >= (5 if report.queued else 2)


def _counters(report: NodeReport) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Counters that change with every message."""
    return report.received, report.sets
