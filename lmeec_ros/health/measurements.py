"""What the node measures of its work, and what is known of it at a moment."""

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
"""Stamps further from the node's clock follow another clock (a bag played without /clock)."""


class PromptCounts:
    """Counters of prompts: received = used + all refused + waiting. May be used by any thread.

    Attributes:
        last_refusal: why the last one was refused that was; empty after one that was used.
    """

    def __init__(self) -> None:
        self.last_refusal = ""
        self._received = self._used = 0
        self._refused: Counter[str] = Counter()
        self._lock = threading.Lock()

    def receive(self) -> None:
        """Count one that has come."""
        with self._lock:
            self._received += 1

    def use(self) -> None:
        """Count one that has marked an object."""
        with self._lock:
            self._used += 1
            self.last_refusal = ""

    def refuse(self, kind: str, text: str) -> None:
        """Count one that was refused."""
        with self._lock:
            self._refused[kind] += 1
            self.last_refusal = text

    def values(self) -> dict[str, int]:
        """The counters by name."""
        with self._lock:
            refused = {f"refused_{kind}": count for kind, count in self._refused.items()}
            return {"received": self._received, "used": self._used, **refused}


@dataclass
class Measurements:
    """What the node measures of its own work."""

    latency: Percentiles = field(default_factory=Percentiles)
    """Milliseconds from the moment a set is complete to its publication."""
    step: Percentiles = field(default_factory=Percentiles)
    """Milliseconds that a set's processing took."""
    age: Percentiles = field(default_factory=Percentiles)
    """Milliseconds from the target image's stamp to the publication, by the node's clock."""
    output: StreamMonitor = field(default_factory=StreamMonitor)
    published: int = 0
    objects: int = 0
    """Objects in the last set's query masks; marked ones that are seen in their query view."""
    marked: dict[str, str] = field(default_factory=dict)
    """Marked object to its query camera, after the last set."""
    prompts: PromptCounts = field(default_factory=PromptCounts)
    refused: int = 0
    """Target images that could not be used and were left out of their partial sets."""
    refusals: dict[str, str] = field(default_factory=dict)
    """Target camera to why its last image could not be used; not if it could."""
    answered: dict[str, float] = field(default_factory=dict)
    """Target camera to when something of it was published last, `time.monotonic` seconds."""
    started: float = field(default_factory=time.monotonic)
    last_error: str = ""
    errors: int = 0
    """Errors outside of the inference: of diagnostics, watchdog, inputs and publishing."""
    last_other_error: str = ""
    last_other_time: float = -math.inf
    """When that was, `time.monotonic` seconds."""

    def add_error(self, text: str) -> None:
        """Note an error outside of the inference."""
        self.errors += 1
        self.last_other_error, self.last_other_time = text, time.monotonic()

    def add_refusal(self, camera: str, text: str) -> None:
        """Note that a target camera's image was left out of its set, and why."""
        self.refused += 1
        self.refusals[camera] = text

    def add_set(
        self, stamp_ns: int, started: float, arrived: float, ages: Mapping[str, float]
    ) -> None:
        """Note a set that was processed and published just now.

        Args:
            stamp_ns: stamp of the query image.
            started: when its processing began (`time.monotonic` seconds).
            arrived: when it was complete, likewise.
            ages: of each target camera's image, milliseconds.
        """
        now = time.monotonic()
        self.published += len(ages)
        self.output.add(stamp_ns)
        self.step.add(1e3 * (now - started))
        self.latency.add(1e3 * (now - arrived))
        for camera, age in ages.items():
            self.add_age(age)
            self.answered[camera] = now
            self.refusals.pop(camera, None)
        self.last_error = ""

    def add_age(self, milliseconds: float) -> None:
        """Note the age of an image at its publication, unless its stamp is of another clock."""
        if abs(milliseconds) < MAX_AGE_MS:
            self.age.add(milliseconds)


@dataclass(frozen=True)
class Snapshot:
    """What is known of the node at a moment; parts are None while it does not have them."""

    name: str
    state: str
    config: NodeConfig
    device: str | None
    measured: Measurements
    pairing: PairingStats | None = None
    worker: WorkerStats | None = None
    inputs: ImageSet[InputStream] | None = None
    silent: Mapping[str, float] = field(default_factory=dict)
    """Names of the inputs that are silent, and for how many seconds."""
    unpaired: bool = False
    """Messages come, but none have belonged together for a while."""
    points: Points | None = None
    engine: str = ""
    """The engine of each stage of the network, as it was computed last."""
    precision: str = ""
    """Of the network, once it is loaded."""
    improving: str = ""
    """What is made in the background for engine auto."""
    prompts_waiting: int = 0
    """Prompts whose image has not come yet."""
