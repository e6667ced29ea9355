"""Play a bag to the node over DDS: the node is a process, this process plays and records."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from lmeec_core.bags.take_bags import RecordingInfo
from lmeec_ros.tools.node_process import NodeError, NodeProcess
from lmeec_ros.tools.node_watch import NodeWatch

NODE = "lmeec"
START_SECONDS = 300.0
"""Time limit for loading a model and warming it up."""
SET_SECONDS = 120.0
"""Maximum wait for the masks of one set of images."""
PROMPT_SECONDS = 0.2
"""Time for prompts to reach the node before their image is sent."""
ERROR_LEVEL = 2
"""DiagnosticStatus.ERROR"""


@dataclass
class Played:
    """Messages sent and received.

    Attributes:
        sent: stamp (ns) to the time (monotonic s) at which its last message was published.
        arrived: (target, stamp) to the time at which its masks arrived.
        repeated: number of masks received again for the same target and stamp.
        diagnostics: last values on /diagnostics, by status name and key.
        seconds: time from the first message sent to the last mask received.
    """

    sent: dict[int, float] = field(default_factory=dict)
    arrived: dict[tuple[str, int], float] = field(default_factory=dict)
    repeated: int = 0
    diagnostics: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: float = 0.0

    def drops(self, query: str, incomplete: int) -> dict[str, int]:
        """Return the number of sets that the node reports as not processed, by reason (if > 0).

        Args:
            query: the query camera, whose images count the sets.
            incomplete: number of frames that lack an image of some camera and cannot be paired.
        """
        pairing = self._values("pairing")
        paired, _, received = pairing.get(f"{query}_paired", "0 of 0").partition(" of ")
        inference = self._values("inference")
        drops = {
            "pairing": max(0, int(received) - int(paired) - incomplete),
            "mailbox": int(inference.get("dropped_mailbox", 0)),
            "discarded": int(inference.get("dropped_discarded", 0)),
        }
        return {reason: count for reason, count in drops.items() if count}

    @property
    def failed(self) -> int:
        """Number of sets whose processing failed, as reported by the node."""
        return int(self._values("inference").get("sets_failed", 0))

    def _values(self, part: str) -> dict[str, str]:
        for name, values in self.diagnostics.items():
            if name.endswith(f": {part}"):
                return values
        return {}


def through_node(
    out: Path,
    info: RecordingInfo,
    parameters: Path,
    expected: tuple[int, ...],
    rate: float,
    console: Console,
) -> Played:
    """Start the node, play ``out/input_bag`` to it, and record its masks in ``out/masks_bag``.

    Raises:
        NodeError: if the node ends or does not become ready; includes the end of its log.
    """
    from lmeec_core.bags.bag import BagReader
    from lmeec_ros.tools.play import Player
    from lmeec_ros.tools.record import TopicRecorder
    from lmeec_ros.tools.ros_session import ros_node, spinning

    with (
        NodeProcess(parameters, out / "node.log") as process,
        ros_node("lmeec_demo") as (node, stop),
    ):
        collector = _Collector(info, expected)
        topics = {f"/{NODE}/{view}/masks": view for view in info.views}
        recorder = TopicRecorder(node, out / "masks_bag", [*topics, "/diagnostics"], overwrite=True)
        recorder.on_message = lambda topic, data: collector.take_in(topics.get(topic), data)
        watch = NodeWatch(node, NODE)
        with BagReader(out / "input_bag") as bag, spinning(node):
            try:
                player = Player(node, bag)
                with console.status("waiting for the node to load its model"):
                    _wait_ready(process, player, recorder, collector, watch, stop)
                _play(player, collector, process, rate, stop, console)
            finally:
                recorder.close()
        if stop.is_set():
            raise NodeError("stopped by a signal")
    return collector.played


class _Collector:
    """Records the arrival times of masks, and the last diagnostics."""

    def __init__(self, info: RecordingInfo, expected: tuple[int, ...]) -> None:
        self.played = Played()
        self.views = tuple(info.views)
        self.expected = frozenset(expected)
        self._query = info.query
        self._incomplete = len(info.frames) - len(expected)
        self.changed = threading.Condition()
        self.last_diagnostics = 0.0
        self.node_error = ""  # why the node is not active, as it reports

    def take_in(self, target: str | None, data: bytes) -> None:
        """Record a serialised message: masks of a target, or (target None) diagnostics."""
        from lmeec_core.bags.bag import typestore

        now = time.monotonic()
        with self.changed:
            if target is None:
                message: Any = typestore().deserialize_cdr(
                    data, "diagnostic_msgs/msg/DiagnosticArray"
                )
                for status in message.status:
                    if status.name.endswith(": node"):
                        failed = int(status.level) == ERROR_LEVEL
                        self.node_error = status.message if failed else ""
                    values = {entry.key: entry.value for entry in status.values}
                    self.played.diagnostics[status.name] = values
                self.last_diagnostics = now
            else:
                # The stamp is at the beginning of the message; nothing else has to be decoded.
                sec = int.from_bytes(data[4:8], "little", signed=True)
                key = (target, sec * 1_000_000_000 + int.from_bytes(data[8:12], "little"))
                self.played.repeated += key in self.played.arrived
                self.played.arrived.setdefault(key, now)
            self.changed.notify_all()

    def dropped(self) -> int:
        """Return the number of pairs that the node has reported as dropped so far."""
        drops = self.played.drops(self._query, self._incomplete)
        return sum(drops.values()) * len(self.views)

    def missing(self, stamp: int | None = None) -> int:
        """Return the number of masks still missing, for one stamp or for all that were sent."""
        stamps = self.played.sent if stamp is None else (stamp,)
        return sum(
            (target, s) not in self.played.arrived
            for s in stamps
            if s in self.expected
            for target in self.views
        )


def _play(
    player: Any,
    collector: _Collector,
    process: NodeProcess,
    rate: float,
    stop: threading.Event,
    console: Console,
) -> None:
    """Publish the bag, in lock-step or at a rate, and wait for the remaining masks."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("frames"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[n]}"),
    )
    sent = collector.played.sent
    pace = _LockStep(collector, process, stop) if rate == 0 else None
    begin = time.monotonic()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("play", total=len(collector.expected), n="")

        def progress(_: str, stamp: int) -> None:
            sent[stamp] = time.monotonic()
            arrived = len(collector.played.arrived)
            bar.update(
                task,
                completed=len(sent.keys() & collector.expected),
                n=f"{arrived} mask messages received",
            )

        player.play(rate=rate or 1.0, stop=stop, progress=progress, pace=pace)
        player.flush()
        _wait_quiet(collector, process, stop)
    last = max(collector.played.arrived.values(), default=time.monotonic())
    collector.played.seconds = last - begin
    done = time.monotonic()
    while process.alive and not stop.is_set() and time.monotonic() < done + 5.0:
        with collector.changed:  # the next report includes all drops
            if collector.last_diagnostics > done:
                break
            collector.changed.wait(0.2)
    player.close()


class _LockStep:
    """A pace that publishes a set of images once the masks of the previous set have arrived."""

    def __init__(self, collector: _Collector, process: NodeProcess, stop: threading.Event) -> None:
        self._collector = collector
        self._process = process
        self._stop = stop
        self._previous: int | None = None

    def __call__(self, stamp: int) -> bool:
        previous, self._previous = self._previous, stamp
        if previous is None or previous == stamp:
            return True
        if previous not in self._collector.expected:
            self._stop.wait(PROMPT_SECONDS)  # prompts, or images that form no set
            return not self._stop.is_set()
        end = time.monotonic() + SET_SECONDS
        with self._collector.changed:
            while self._collector.missing(previous) and time.monotonic() < end:
                self._process.check()
                if self._stop.is_set():
                    return False
                self._collector.changed.wait(0.5)
        return True


def _wait_quiet(collector: _Collector, process: NodeProcess, stop: threading.Event) -> None:
    """Wait until all masks have arrived, or none has for a long time."""
    gaps = sorted(collector.played.arrived.values())
    longest = max((b - a for a, b in zip(gaps, gaps[1:], strict=False)), default=0.0)
    patience = min(SET_SECONDS, max(10.0, 5 * longest))
    with collector.changed:
        last = time.monotonic()
        left = collector.missing()
        while (
            left > collector.dropped() and time.monotonic() < last + patience and not stop.is_set()
        ):
            process.check()
            collector.changed.wait(0.5)
            now = collector.missing()
            if now != left:
                left, last = now, time.monotonic()


def _wait_ready(
    process: NodeProcess,
    player: Any,
    recorder: Any,
    collector: _Collector,
    watch: NodeWatch,
    stop: threading.Event,
) -> None:
    """Wait until the node is subscribed to every topic of the bag and publishes its masks."""
    end = time.monotonic() + START_SECONDS
    masks = {f"/{NODE}/{view}/masks" for view in collector.views}
    while (
        player.unsubscribed() or not watch.ready(player.published) or masks & set(recorder.missing)
    ):
        process.check()
        if stop.is_set():
            raise NodeError("stopped by a signal")
        if collector.node_error:
            raise NodeError(
                f"the node did not start: {collector.node_error}; the end of {process.log}:\n"
                f"{process.tail()}"
            )
        if time.monotonic() > end:
            raise NodeError(
                f"the node is not ready after {START_SECONDS:.0f} s (no subscriber to "
                f"{player.unsubscribed()}, no publisher of {recorder.missing}); the end of "
                f"{process.log}:\n{process.tail()}"
            )
        stop.wait(0.1)
