"""Says in the log why nothing comes out: silent inputs, cameras out of step, frames lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from rclpy.impl.rcutils_logger import RcutilsLogger

from lmeec_ros.inputs import InputStream
from lmeec_ros.monitor import PatientLog
from lmeec_ros.pairing import PairingStats, StreamStats
from lmeec_ros.parameters import NodeConfig

MAX_DELAY = "query_masks.max_delay"
REPEAT = 30.0
LOSS_WORTH_TELLING = 0.1
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


class Watchdog:
    """Looks at the inputs of an active node now and then.

    Args:
        inputs: the query camera's first, the query masks' second, then the targets'.
        stats: returns the counters of the pairing.
        logger: where to say it.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        inputs: Sequence[InputStream],
        stats: Callable[[], PairingStats],
        logger: RcutilsLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inputs = list(inputs)
        self._stats = stats
        self._logger = logger
        self._clock = clock
        self._patient = PatientLog(REPEAT, clock, count=False)
        self._started = clock()
        self._silent: set[str] = set()
        self._since: dict[str, float] = {}  # when a closed input was last seen closed
        self._sets = 0
        self._last_set = self._started
        self._paired: dict[str, tuple[int, float]] = {}  # items of a target in sets, since when
        self._loss_told = False

    def look(self, config: NodeConfig) -> None:
        """Warn of what has been wrong for silence_warning seconds (0: of no silence)."""
        silence: float = config["silence_warning"]
        opened = [one for one in self._inputs if one.is_open]
        for one in self._inputs:
            if not one.is_open:
                self._since[one.name] = self._clock()
                self._silent.discard(one.name)
        if silence > 0:
            for one in opened:
                self._check_silence(one, silence)
            targets = [one for one in opened if one in self._inputs[2:]]
            heard = [one for one in targets if one.name not in self._silent]
            needed = self._inputs[:2] if config["pairing.partial"] else opened
            if heard and not any(one.name in self._silent for one in needed):
                self._check_sets(silence, config)
                self._check_targets(heard, silence, config["pairing.tolerance"])
            else:
                self._last_set = self._clock()
                self._paired.clear()
        for one in opened:
            self._check_loss(one)

    @property
    def silent(self) -> frozenset[str]:
        """Names of the inputs that are silent."""
        return frozenset(self._silent)

    def _check_silence(self, one: InputStream, silence: float) -> None:
        age = one.monitor.health().age
        since = self._since.get(one.name, self._started)
        quiet = self._clock() - since if age is None else age
        if quiet < silence:
            if one.name in self._silent:
                self._silent.discard(one.name)
                self._last_set = self._clock()
                self._patient.forget(f"silent {one.name}:")
                self._logger.info(f"{one.name}: messages come again on {one.topic}")
            return
        self._silent.add(one.name)
        text = f"{one.name}: silent, no message on {one.topic} for {quiet:.1f} s; "
        publishers = one.describe_publishers()
        text += publishers
        if one is self._inputs[1]:
            text += "; without query masks nothing is published"
        # Said again at once when something about the publishers has changed.
        if line := self._patient(f"silent {one.name}: {publishers}", text):
            self._logger.warning(line)

    def _check_sets(self, silence: float, config: NodeConfig) -> None:
        tolerance: float = config["pairing.tolerance"]
        stats = self._stats()
        if stats.sets != self._sets:
            self._sets = stats.sets
            self._last_set = self._clock()
            self._patient.forget("no sets")
            return
        quiet = self._clock() - self._last_set
        if quiet < silence:
            return
        text = f"messages come, but none belong together for {quiet:.1f} s"
        for name, stream in stats.streams.items():
            text += self._out_of_step(name, stream, tolerance)
            lag = (stream.lag_ns or 0) / 1e9
            if name == self._inputs[1].name and lag > max(tolerance, config[MAX_DELAY]):
                text += f" or comes {lag:.3f} s after its image; then set {MAX_DELAY} above that"
        unset = [one.name for one in self._inputs if one.monitor.newest_ns == 0]
        if unset:
            text += f"; the stamps of {', '.join(unset)} are 0 (header.stamp is not set)"
        if stats.dropped:
            text += "; dropped so far: " + ", ".join(f"{k} {v}" for k, v in stats.dropped.items())
        if line := self._patient("no sets", text):
            self._logger.warning(line)

    def _check_targets(self, heard: list[InputStream], silence: float, tolerance: float) -> None:
        """Warn of targets that send, but whose images are in no set while others are."""
        streams = self._stats().streams
        for one in heard:
            stream = streams[one.name]
            paired, since = self._paired.get(one.name, (-1, 0.0))
            if paired != stream.paired:
                self._paired[one.name] = (stream.paired, self._clock())
                continue
            quiet = self._clock() - since
            if quiet < silence or self._clock() - self._last_set > silence:
                continue
            late = stream.dropped.get("late", 0)
            text = f"{one.name}: images come, but the sets go on without them for {quiet:.1f} s"
            text += self._out_of_step(one.name, stream, tolerance)
            if late:
                text += f"; {late} came too late: pairing.partial_wait is too short"
            if line := self._patient(f"unused {one.name}", text):
                self._logger.warning(line)

    def _out_of_step(self, name: str, stream: StreamStats, tolerance: float) -> str:
        miss = stream.last_miss_ns
        if miss is None or abs(miss) <= tolerance * 1e9:
            return ""
        return (
            f"; {name} is out of step: {miss / 1e9:+.3f} s from {self._inputs[0].name}, "
            f"pairing.tolerance is {tolerance:.3f} s"
        )

    def _check_loss(self, one: InputStream) -> None:
        health = one.monitor.health()
        if self._loss_told or health.window < 50 or health.loss < LOSS_WORTH_TELLING:
            return
        self._loss_told = True
        profile = next((os.environ[v] for v in PROFILE_VARIABLES if os.environ.get(v)), None)
        remedy = (
            f"the Fast DDS profile {profile} is set here; the publisher needs it too"
            if profile
            else "with Fast DDS start this node and the publisher with "
            "FASTRTPS_DEFAULT_PROFILES_FILE=<share of lmeec>/config/fastdds.xml (after Jazzy: "
            "FASTDDS_DEFAULT_PROFILES_FILE)"
        )
        self._logger.warning(
            f"{one.name}: {health.loss:.0%} of the messages on {one.topic} got lost on the way "
            f"(gaps in their stamps); {remedy}, or use the compressed transport"
        )
