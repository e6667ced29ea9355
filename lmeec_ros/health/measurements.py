"""Measurements of the node's work, and a snapshot of its state."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lmeec_core.sync.image_set import ImageSet
from lmeec_core.sync.pairing import PairingStats
from lmeec_core.sync.stream_monitor import Percentiles, StreamMonitor
from lmeec_ros.inference.worker import WorkerStats
from lmeec_ros.io.inputs import InputStream
from lmeec_ros.parameters.config import NodeConfig

if TYPE_CHECKING:
    from lmeec_ros.points.points import Points

MAX_AGE_MS = 3.6e6
"""Milliseconds; a greater age means stamps of another clock (a bag played without /clock)."""


class PromptCounts:
    """Counters of prompts: received = used + refused (of all kinds) + waiting. Thread-safe.

    Attributes:
        last_refusal: why the last refused prompt was refused; empty once a later one was used.
    """

    def __init__(self) -> None:
        self.last_refusal = ""
        self._received = self._used = 0
        self._refused: Counter[str] = Counter()
        self._lock = threading.Lock()

    def receive(self) -> None:
        """Count a prompt that has arrived."""
        with self._lock:
            self._received += 1

    def use(self) -> None:
        """Count a prompt that has marked an object."""
        with self._lock:
            self._used += 1
            self.last_refusal = ""

    def refuse(self, kind: str, text: str) -> None:
        """Count a refused prompt.

        Args:
            kind: one word, the same for the same cause.
            text: why it was refused.
        """
        with self._lock:
            self._refused[kind] += 1
            self.last_refusal = text

    def values(self) -> dict[str, int]:
        """Return the counters by name."""
        with self._lock:
            refused = {f"refused_{kind}": count for kind, count in self._refused.items()}
            return {"received": self._received, "used": self._used, **refused}


@dataclass
class Measurements:
    """Measurements since the node was last activated."""

    latency: Percentiles = field(default_factory=Percentiles)
    """Milliseconds from the moment a set is complete to its publication."""
    step: Percentiles = field(default_factory=Percentiles)
    """Milliseconds that processing and publishing a set took."""
    age: Percentiles = field(default_factory=Percentiles)
    """Milliseconds from the target image's stamp to publication, by the node's clock."""
    output: StreamMonitor = field(default_factory=StreamMonitor)
    """Follows the query stamps of the sets that were published."""
    published: int = 0
    """Target images whose results were published."""
    objects: int = 0
    """Objects visible in the last set: in its query masks, or, if objects are marked by prompts,
    in the camera that each is tracked in."""
    marked: dict[str, str] = field(default_factory=dict)
    """Marked object to the camera that it is tracked in, after the last set."""
    prompts: PromptCounts = field(default_factory=PromptCounts)
    refused: int = 0
    """Target images that could not be used and were left out of their partial sets."""
    refusals: dict[str, str] = field(default_factory=dict)
    """Target camera to why its last image could not be used; absent if it could."""
    last_published: dict[str, float] = field(default_factory=dict)
    """Target camera to when its results were last published, `time.monotonic` seconds."""
    started: float = field(default_factory=time.monotonic)
    last_error: str = ""
    """Of the last set or lifecycle transition; empty if that succeeded."""
    errors: int = 0
    """Errors outside inference: in diagnostics, watchdog, inputs and publishing."""
    last_other_error: str = ""
    """The last of these errors."""
    last_other_time: float = -math.inf
    """When it occurred, `time.monotonic` seconds."""

    def add_error(self, text: str) -> None:
        """Record an error outside inference."""
        self.errors += 1
        self.last_other_error, self.last_other_time = text, time.monotonic()

    def add_refusal(self, camera: str, text: str) -> None:
        """Record that a target camera's image was left out of its set, and why."""
        self.refused += 1
        self.refusals[camera] = text

    def add_set(
        self, stamp_ns: int, started: float, arrived: float, ages: Mapping[str, float]
    ) -> None:
        """Record a set that has just been published.

        Args:
            stamp_ns: stamp of the query image.
            started: when processing of the set began, `time.monotonic` seconds.
            arrived: when the set was complete, `time.monotonic` seconds.
            ages: target camera to the age of its image, milliseconds.
        """
        now = time.monotonic()
        self.published += len(ages)
        self.output.add(stamp_ns)
        self.step.add(1e3 * (now - started))
        self.latency.add(1e3 * (now - arrived))
        for camera, age in ages.items():
            self.add_age(age)
            self.last_published[camera] = now
            self.refusals.pop(camera, None)
        self.last_error = ""

    def add_age(self, milliseconds: float) -> None:
        """Record the age of an image at publication, unless its stamp is of another clock."""
        if abs(milliseconds) < MAX_AGE_MS:
            self.age.add(milliseconds)


@dataclass(frozen=True)
class Snapshot:
    """The node's state at one moment; a part is None while the node does not have it."""

    name: str
    state: str
    config: NodeConfig
    device: str | None
    measured: Measurements
    pairing: PairingStats | None = None
    worker: WorkerStats | None = None
    inputs: ImageSet[InputStream] | None = None
    silent: Mapping[str, float] = field(default_factory=dict)
    """Silent input to the seconds since its last message."""
    unpaired: bool = False
    """Messages arrive, but none could be paired for a while."""
    points: Points | None = None
    engine: str = ""
    """The engine that last ran each stage of the network."""
    precision: str = ""
    """Of the network, once it is loaded."""
    improving: str = ""
    """State of the engines that are built in the background for engine auto."""
    prompts_waiting: int = 0
    """Prompts whose image has not arrived yet."""
