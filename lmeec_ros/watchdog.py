"""Says in the log why nothing comes out: silent inputs, cameras out of step, frames lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from rclpy.impl.rcutils_logger import RcutilsLogger

from lmeec_ros.inputs import InputStream
from lmeec_ros.monitor import PatientLog
from lmeec_ros.pairing import PairingStats

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
        self._sets = 0
        self._last_set = self._started
        self._loss_told = False

    def look(self, silence: float, tolerance: float) -> None:
        """Warn of what has been wrong for `silence` seconds (0: of no silence)."""
        if silence > 0:
            for one in self._inputs:
                self._check_silence(one, silence)
            if not self._silent:
                self._check_sets(silence, tolerance)
        for one in self._inputs:
            self._check_loss(one)

    @property
    def silent(self) -> frozenset[str]:
        """Names of the inputs that are silent."""
        return frozenset(self._silent)

    def _check_silence(self, one: InputStream, silence: float) -> None:
        age = one.monitor.health().age
        quiet = self._clock() - self._started if age is None else age
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

    def _check_sets(self, silence: float, tolerance: float) -> None:
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
        anchor = self._inputs[0]
        for name, stream in stats.streams.items():
            if stream.last_miss_ns is not None and abs(stream.last_miss_ns) > tolerance * 1e9:
                text += (
                    f"; {name} is out of step: {stream.last_miss_ns / 1e9:+.3f} s from "
                    f"{anchor.name}, pairing.tolerance is {tolerance:.3f} s"
                )
        unset = [one.name for one in self._inputs if one.monitor.newest_ns == 0]
        if unset:
            text += f"; the stamps of {', '.join(unset)} are 0 (header.stamp is not set)"
        if stats.dropped:
            text += "; dropped so far: " + ", ".join(f"{k} {v}" for k, v in stats.dropped.items())
        if line := self._patient("no sets", text):
            self._logger.warning(line)

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
