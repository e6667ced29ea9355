"""The node's state as diagnostic_msgs/DiagnosticArray."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from lmeec_ros.inputs import InputStream
from lmeec_ros.monitor import Percentiles, StreamMonitor
from lmeec_ros.pairing import PairingStats
from lmeec_ros.parameters import NodeConfig
from lmeec_ros.worker import WorkerStats

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)

MAX_AGE_MS = 3.6e6
"""Stamps further from the node's clock are of another one (a bag played without /clock)."""


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
    last_error: str = ""

    def add_age(self, milliseconds: float) -> None:
        """Note the age of an image at its publication, unless its stamp is of another clock."""
        if abs(milliseconds) < MAX_AGE_MS:
            self.age.add(milliseconds)


@dataclass(frozen=True)
class Snapshot:
    """What a diagnostic message is made of; parts are None while the node does not have them."""

    name: str
    state: str
    config: NodeConfig
    device: str | None
    measured: Measurements
    pairing: PairingStats | None = None
    worker: WorkerStats | None = None
    inputs: Sequence[InputStream] = ()
    silent: frozenset[str] = frozenset()


def _status(name: str, level: bytes, text: str, values: Mapping[str, object]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=text, hardware_id="", values=pairs)


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def resident_megabytes() -> float:
    """Return the process's resident memory in MB (0 where /proc is not there)."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError):
        return 0.0


def device_megabytes(device: str | None) -> float:
    """Return the memory that tensors take on a CUDA device in MB, 0 on others."""
    if device is None or not device.startswith("cuda"):
        return 0.0
    import torch

    return float(torch.cuda.memory_allocated(device)) / 1e6


def build(stamp: Time, now: Snapshot) -> DiagnosticArray:
    """Return the diagnostics: the node, its inference, its pairing, and each input."""
    message = DiagnosticArray()
    message.header.stamp = stamp
    message.status = [_node(now), _inference(now), _pairing(now)]
    message.status += [_input(now, one) for one in now.inputs]
    return message


def _node(now: Snapshot) -> DiagnosticStatus:
    level, text = (OK, "active") if now.state == "active" else (WARN, now.state)
    if now.measured.last_error and now.state != "active":
        level, text = ERROR, f"{now.state}: {now.measured.last_error}"
    values: dict[str, object] = {
        "state": now.state,
        "preset": now.config["model.preset"],
        "checkpoint": now.config.checkpoint or "",
        "device": now.device or "",
        "engine": "eager",
        "precision": now.config["model.precision"],
        "resident_memory_mb": _number(resident_megabytes()),
        "device_memory_mb": _number(device_megabytes(now.device)),
    }
    return _status(f"{now.name}: node", level, text, values)


def _inference(now: Snapshot) -> DiagnosticStatus:
    measured, worker = now.measured, now.worker
    latency, step, age = (p.get(50, 95) for p in (measured.latency, measured.step, measured.age))
    rate = measured.output.health().rate
    values: dict[str, object] = {
        "rate_out_hz": _number(rate),
        "published": measured.published,
        "latency_p50_ms": _number(latency[0]),
        "latency_p95_ms": _number(latency[1]),
        "step_p50_ms": _number(step[0]),
        "step_p95_ms": _number(step[1]),
        "age_p50_ms": _number(age[0]),
        "age_p95_ms": _number(age[1]),
        "last_error": measured.last_error,
    }
    if worker is None:
        return _status(f"{now.name}: inference", STALE, "not running", values)
    values |= {
        "sets_received": worker.received,
        "sets_processed": worker.processed,
        "sets_failed": worker.failed,
        "dropped_mailbox": worker.dropped,
        "dropped_discarded": worker.discarded,
        "waiting": worker.waiting,
    }
    level, text = OK, f"{rate:.1f} Hz"
    if worker.received and not worker.processed and worker.failed:
        level, text = ERROR, f"every set fails: {measured.last_error}"
    elif worker.received >= 20 and worker.dropped * 2 > worker.received:
        level, text = WARN, f"{rate:.1f} Hz, slower than the cameras: most sets are dropped"
    return _status(f"{now.name}: inference", level, text, values)


def _pairing(now: Snapshot) -> DiagnosticStatus:
    name = f"{now.name}: pairing"
    if now.pairing is None:
        return _status(name, STALE, "not running", {"policy": now.config["pairing.policy"]})
    stats = now.pairing
    values: dict[str, object] = {
        "policy": now.config["pairing.policy"],
        "tolerance_s": now.config["pairing.tolerance"],
        "sets": stats.sets,
        "time_resets": stats.epoch,
        "last_skew_ms": _number(stats.last_skew_ns / 1e6, 3),
    }
    streams = stats.streams.values()
    values |= {
        "received": sum(one.received for one in streams),
        "paired": sum(one.paired for one in streams),
        "queued": sum(one.queued for one in streams),
    }
    values |= {f"dropped_{reason}": count for reason, count in stats.dropped.items()}
    for stream, one in stats.streams.items():
        values[f"{stream}_paired"] = f"{one.paired} of {one.received}"
    received = min((one.received for one in stats.streams.values()), default=0)
    if stats.sets == 0 and received > 20:
        return _status(name, WARN, "messages come, but none belong together", values)
    return _status(name, OK, f"{stats.sets} sets", values)


def _input(now: Snapshot, one: InputStream) -> DiagnosticStatus:
    health = one.monitor.health()
    values: dict[str, object] = {
        "topic": one.topic,
        "type": one.type_name,
        "reliability": one.reliability.name.lower() if one.reliability else "",
        "received": health.received,
        "rate_hz": _number(health.rate),
        "camera_rate_hz": _number(1 / health.period if health.period else None),
        "lost_percent": _number(100 * health.loss),
        "last_message_s_ago": _number(health.age, 2),
    }
    level, text = OK, f"{health.rate:.1f} Hz"
    if one.reliability is None:
        level, text = STALE, "not subscribed"
    elif one.name in now.silent:
        level, text = ERROR, f"silent: {one.describe_publishers()}"
    elif health.received == 0:
        level, text = WARN, "no message yet"
    elif health.loss > 0.1:
        level, text = WARN, f"{health.rate:.1f} Hz, {health.loss:.0%} lost on the way"
    return _status(f"{now.name}: {one.name}", level, text, values)
