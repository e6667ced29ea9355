"""What running nodes say of themselves on /diagnostics: are they ready, have they answered all."""

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
"""Seconds without a report (one a second is usual) after which a node is given up."""
PATIENCE = 120.0
"""Seconds without progress after which sets under way are given up."""
ENDED = ("sets_processed", "sets_failed", "dropped_mailbox", "dropped_discarded")


@dataclass(frozen=True)
class NodeReport:
    """One node's report.

    Attributes:
        state: of its lifecycle.
        error: why it is not active, if it says so.
        inputs: the topics that it is subscribed to.
        connected: those of them that it hears a publisher on.
        received: messages that have come in, by topic.
        sets: what became of the sets so far.
        under_way: sets that wait for the inference, or are in it.
        queued: messages that wait for others of their set.
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
        """A node's name (with namespace) and report; None for the diagnostics of others."""
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
    """Hears the reports of the nodes of a name. Something has to spin the node given.

    Args:
        node: makes the subscription.
        name: with its namespace, or without: every node of that name.
    """

    def __init__(self, node: Node, name: str) -> None:
        self.name = name
        self._changed = threading.Condition()
        self._reports: dict[str, NodeReport] = {}
        self._last: dict[str, float] = {}  # time of the last report
        self._still: dict[str, int] = {}  # reports since something happened
        self._numbers: dict[str, int] = {}  # the last report's, as its publisher counts
        self._back: Counter[str] = Counter()  # times that the number did not rise

        def hear(message: DiagnosticArray, info: Any) -> None:  # rclpy looks for a second argument
            self._take(message, info)

        callback: Any = hear
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
            if number is not None:  # not every middleware tells it
                self._back[name] += number <= self._numbers.get(name, 0)
                self._numbers[name] = number
            self._changed.notify_all()

    def twins(self) -> str:
        """Which nodes have the same name, and what to do; empty if none.

        A node that was restarted counts from the beginning, too, but only once.
        """
        with self._changed:
            names = [name for name, times in self._back.items() if times > 1]
        if not names:
            return ""
        return (
            f"several nodes called {', '.join(names)} answer, and their reports cannot be told "
            "apart: end all but one, or give each its own name (--ros-args -r __node:=NAME) and "
            "say which is meant (--node NAME)"
        )

    def wanted(self) -> dict[str, frozenset[str]]:
        """Node to the topics that it takes; only nodes that are active."""
        with self._changed:
            return self._active()

    def ready(self, published: Collection[str]) -> bool:
        """Whether there are nodes, all active and connected to the publishers of these topics.

        A publisher that has found a subscription does not yet reach it: the subscription has to
        find the publisher, too, or the first messages are lost.
        """
        with self._changed:
            reports = list(self._reports.values())
        return bool(reports) and all(
            one.state == "active" and one.inputs & set(published) <= one.connected
            for one in reports
        )

    def describe(self) -> str:
        """How the nodes are that are not active."""
        with self._changed:
            others = {n: one for n, one in self._reports.items() if one.state != "active"}
            if not self._reports:
                return f"no node called {self.name} is heard"
        return "; ".join(f"{name} is {one.error or one.state}" for name, one in others.items())

    def wait_answered(self, published: Collection[str], stop: threading.Event) -> str:
        """Wait until the active nodes that take a topic have nothing under way any more.

        Args:
            published: the topics; all has been sent.
            stop: ends the wait.

        Returns:
            why it was given up; empty if all is answered, or on `stop`.
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
                    return f"{', '.join(silent)}: no sign of life for {SILENCE:.0f} s"
                for name in names:
                    last, report = before[name], self._reports[name]
                    moved = now if report.sets != last.sets else moved
                    fed = now if report.received != last.received else fed
                    before[name] = report
                if fed - started > SILENCE:
                    return f"{', '.join(names)}: gets images from others, too"
                if now - moved > PATIENCE:
                    left = sum(self._reports[name].under_way for name in names)
                    return f"{', '.join(names)}: {left} sets for {PATIENCE:.0f} s"
                self._changed.wait(0.5)
        return ""

    def _active(self) -> dict[str, frozenset[str]]:
        reports = self._reports.items()
        return {name: one.inputs for name, one in reports if one.state == "active"}

    def _at_rest(self, name: str) -> bool:
        """Nothing under way, nothing new: for a while longer if messages wait for others."""
        report = self._reports[name]
        return not report.under_way and self._still[name] >= (5 if report.queued else 2)


def _counters(report: NodeReport) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What only stays equal if nothing happens."""
    return report.received, report.sets
