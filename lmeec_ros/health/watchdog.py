"""Logs why nothing is published: silent inputs, cameras out of step, lost frames."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from rclpy.impl.rcutils_logger import RcutilsLogger

from lmeec_core.sync.image_set import ImageSet
from lmeec_core.sync.pairing import PairingStats
from lmeec_core.sync.stream_monitor import LogThrottle
from lmeec_ros.health import reasons
from lmeec_ros.io.inputs import InputStream
from lmeec_ros.parameters.config import NodeConfig

REPEAT = 30.0
"""Seconds after which the same warning may be logged again."""
LOSS_LOGGED_FROM = 0.1
"""Share of lost messages above which a warning is logged."""
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


class Watchdog:
    """Watches the inputs of an active node.

    Args:
        inputs: inputs of the node.
        stats: returns the pairing counters.
        logger: the node's logger.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        inputs: ImageSet[InputStream],
        stats: Callable[[], PairingStats],
        logger: RcutilsLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inputs = inputs
        self._stats = stats
        self._logger = logger
        self._clock = clock
        self._throttle = LogThrottle(REPEAT, clock, count=False)
        self._started = clock()
        self._silent: dict[str, float] = {}  # input to seconds of silence
        self._last_closed: dict[str, float] = {}  # input to when it was last seen closed
        self._unpaired = False
        self._mute = False
        self._sets = 0
        self._last_set = self._started
        # Target to the number of its images in sets, and since when it has not changed.
        self._paired: dict[str, tuple[int, float]] = {}
        self._loss_logged = False

    def check(self, config: NodeConfig) -> None:
        """Check all inputs; warn of faults that have lasted for silence_warning seconds.

        With silence_warning 0 nothing is logged, but `silent` and `unpaired` are still updated.
        """
        self._mute = config.silence_warning <= 0
        silence: float = config.silence_warning or reasons.PATIENCE
        opened = [one for one in self._inputs if one.is_open]
        for one in self._inputs:
            if not one.is_open:
                self._last_closed[one.name] = self._clock()
                self._silent.pop(one.name, None)
        for one in opened:
            self._check_silence(one, silence)
        targets = [one for one in self._inputs.targets.values() if one.is_open]
        alive = [one for one in targets if one.name not in self._silent]
        needed = [one for one in self._inputs if one.name not in self._inputs.targets]
        needed = needed if config.pairing.partial else opened
        if alive and not any(one.name in self._silent for one in needed):
            self._check_sets(silence, config)
            self._check_targets(alive, silence, config.pairing.tolerance)
        else:
            self._last_set = self._clock()
            self._unpaired = False
            self._paired.clear()
        for one in opened:
            self._check_loss(one)

    @property
    def silent(self) -> dict[str, float]:
        """Silent input to the seconds since its last message."""
        return dict(self._silent)

    @property
    def unpaired(self) -> bool:
        """Whether messages arrive, but none could be paired for a while."""
        return self._unpaired

    def _check_silence(self, one: InputStream, silence: float) -> None:
        age = one.monitor.health().age
        since = self._last_closed.get(one.name, self._started)
        quiet = self._clock() - since if age is None else age
        if quiet < silence:
            if one.name in self._silent:
                del self._silent[one.name]
                self._last_set = self._clock()
                self._throttle.forget(f"silent {one.name}:")
                if not self._mute:
                    self._logger.info(f"{one.name}: messages arrive again on {one.topic}")
            return
        self._silent[one.name] = quiet
        # The publishers are part of the key: a change of them is logged immediately.
        kind = f"silent {one.name}: {one.describe_publishers()}"
        self._warn(kind, str(reasons.silent(one, quiet)))

    def _check_sets(self, silence: float, config: NodeConfig) -> None:
        stats = self._stats()
        if stats.sets != self._sets:
            self._sets = stats.sets
            self._last_set = self._clock()
            self._unpaired = False
            self._throttle.forget("no sets")
            return
        quiet = self._clock() - self._last_set
        if quiet < silence:
            return
        self._unpaired = True
        reason = reasons.unpaired(self._inputs, stats, config)
        self._warn("no sets", f"no set for {quiet:.1f} s: {reason}")

    def _warn(self, kind: str, text: str) -> None:
        if not self._mute and (line := self._throttle(kind, text)):
            self._logger.warning(line)

    def _check_targets(self, alive: list[InputStream], silence: float, tolerance: float) -> None:
        """Warn of targets whose images arrive but are in none of the sets that are formed."""
        streams = self._stats().streams
        for one in alive:
            stream = streams[one.name]
            paired, since = self._paired.get(one.name, (-1, 0.0))
            if paired != stream.paired:
                self._paired[one.name] = (stream.paired, self._clock())
                continue
            quiet = self._clock() - since
            if quiet < silence or self._clock() - self._last_set > silence:
                continue
            late = stream.dropped.get("late", 0)
            text = f"{one.name}: images arrive, but none was in a set for {quiet:.1f} s"
            text += reasons.out_of_step(one.name, stream, self._inputs.query.name, tolerance)
            if late:
                text += f"; {late} arrived too late: pairing.partial_wait is too short"
            self._warn(f"unused {one.name}", text)

    def _check_loss(self, one: InputStream) -> None:
        health = one.monitor.health()
        if self._loss_logged or health.window < 50 or health.loss < LOSS_LOGGED_FROM:
            return
        self._loss_logged = True
        profile = next((os.environ[v] for v in PROFILE_VARIABLES if os.environ.get(v)), None)
        remedy = (
            f"this node uses the Fast DDS profile {profile}; the publisher needs it too"
            if profile
            else "with Fast DDS, start this node and the publisher with "
            "FASTRTPS_DEFAULT_PROFILES_FILE=<share of lmeec>/config/fastdds.xml (after Jazzy: "
            "FASTDDS_DEFAULT_PROFILES_FILE)"
        )
        self._logger.warning(
            f"{one.name}: {health.loss:.0%} of the messages on {one.topic} were lost in transit "
            f"(gaps in their stamps); {remedy}, or use the compressed transport"
        )
