"""The node's state on /diagnostics and ~/status."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from lmeec_ros.health.measurements import Snapshot
from lmeec_ros.health.reasons import (
    ERROR,
    NONE_PAIRED,
    OK,
    STALE,
    WARN,
    Reason,
    why,
)
from lmeec_ros.io.inputs import InputStream

LOGGED_ELSEWHERE = (
    *("no_publisher", "wrong_type", "incompatible_qos", "silent", "no_query_masks"),
    *("unpaired", "out_of_step", "no_stamps", "failing", "failed", "slow"),
)
"""Kinds of reasons that the watchdog or the node logs already."""

RECENT = 30.0
"""Seconds for which an error outside inference raises the node's diagnostic level."""


def _status(name: str, level: bytes, text: str, values: Mapping[str, object]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=text, hardware_id="", values=pairs)


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def resident_megabytes() -> float:
    """Return the process's resident memory in MB (0 where there is no /proc)."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError):
        return 0.0


def device_megabytes(device: str | None) -> float:
    """Return the memory allocated for tensors on a CUDA device in MB; 0 for other devices."""
    if device is None or not device.startswith("cuda"):
        return 0.0
    import torch

    return float(torch.cuda.memory_allocated(device)) / 1e6


def build(stamp: Time, now: Snapshot, reason: Reason) -> DiagnosticArray:
    """Return the diagnostics: one status each for node, output, inference, pairing and inputs."""
    message = DiagnosticArray()
    message.header.stamp = stamp
    message.status = [_node(now), output_status(now, reason), _inference(now), _pairing(now)]
    if now.config.prompted:
        message.status.append(_prompts(now))
    message.status += [_input(now, one) for one in now.inputs or ()]
    return message


def _node(now: Snapshot) -> DiagnosticStatus:
    level, text = (OK, "active") if now.state == "active" else (WARN, now.state)
    if now.measured.last_error and now.state != "active":
        level, text = ERROR, f"{now.state}: {now.measured.last_error}"
    elif time.monotonic() - now.measured.last_other_time < RECENT:
        level, text = WARN, f"{now.state}; recent error: {now.measured.last_other_error}"
    values: dict[str, object] = {
        "state": now.state,
        "method": now.config.method,
        "preset": now.config.model.preset,
        "checkpoint": now.config.model.checkpoint or "",
        "device": now.device or "",
        "engine": now.engine,
        "better_engines": now.improving,
        "precision": now.precision or now.config.model.precision,
        "resident_memory_mb": _number(resident_megabytes()),
        "device_memory_mb": _number(device_megabytes(now.device)),
        "errors": now.measured.errors,
        "last_other_error": now.measured.last_other_error,
    }
    return _status(f"{now.name}: node", level, text, values)


def output_status(now: Snapshot, reason: Reason) -> DiagnosticStatus:
    """Return the status on ~/status: output rate or why there is none, latencies, drops."""
    measured, worker = now.measured, now.worker
    values: dict[str, object] = {
        "state": now.state,
        "reason": reason.kind,
        "remedy": reason.remedy,
        "rate_out_hz": _number(measured.output.health().rate),
        "published": measured.published,
        "objects": measured.objects,
    }
    for name in ("latency", "step", "age"):
        p50, p95 = getattr(measured, name).get(50, 95)
        values |= {f"{name}_p50_ms": _number(p50), f"{name}_p95_ms": _number(p95)}
    if now.pairing is not None:
        dropped = now.pairing.dropped
        values |= {f"dropped_{name}": count for name, count in dropped.items()}
    if worker is not None:
        values |= {"dropped_mailbox": worker.dropped, "sets_failed": worker.failed}
    for one in now.inputs or ():
        values[f"lost_percent_{one.name}"] = _number(100 * one.monitor.health().loss)
    shifts = {name: one.time_offset for name, one in now.config.cameras.items()}
    values |= {f"time_offset_s_{name}": shift for name, shift in shifts.items() if shift}
    if now.points is not None:
        values["points_located"] = now.points.located
        values |= {f"points_refused_{kind}": n for kind, n in now.points.refused.items()}
        if (clouds := now.points.clouds) is not None:
            values["clouds_located"] = clouds.located
            values |= {f"clouds_refused_{kind}": n for kind, n in clouds.refused.items()}
    return _status(f"{now.name}: output", reason.level, str(reason), values)


class Reporter:
    """Publishes /diagnostics and ~/status once a second, and logs reasons that persist.

    ~/status is latched: a late subscriber immediately receives the last message.

    Args:
        node: the node.
        snapshot: returns the node's current state.
        on_error: called with an exception raised while reporting.
    """

    def __init__(
        self,
        node: Node,
        snapshot: Callable[[], Snapshot],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._node = node
        self._snapshot = snapshot
        self._on_error = on_error
        self._kind, self._since, self._logged = "", 0.0, True
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._status = node.create_publisher(DiagnosticStatus, "~/status", latched)
        # Steady clock: simulated time may be paused.
        node.create_timer(1.0, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _report(self) -> None:
        try:
            now = self._snapshot()
            reason = why(now)
            message = build(self._node.get_clock().now().to_msg(), now, reason)
            self._diagnostics.publish(message)
            self._status.publish(message.status[1])
            self._log(now, reason)
        except Exception as error:  # must not end the executor
            if self._node.context.ok():
                self._on_error(error)

    def _log(self, now: Snapshot, reason: Reason) -> None:
        """Log a reason once it has lasted for silence_warning seconds."""
        if reason.kind != self._kind:
            logged = reason.kind in LOGGED_ELSEWHERE or not reason.remedy
            self._kind, self._since, self._logged = reason.kind, time.monotonic(), logged
        patience = now.config.silence_warning  # 0: never
        if patience and not self._logged and time.monotonic() - self._since >= patience:
            self._logged = True
            self._node.get_logger().warning(str(reason))


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
        "images_refused": measured.refused,
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
        return _status(name, STALE, "not running", {"policy": now.config.pairing.policy})
    stats = now.pairing
    values: dict[str, object] = {
        "policy": now.config.pairing.policy,
        "tolerance_s": now.config.pairing.tolerance,
        "sets": stats.sets,
        "partial_sets": stats.partial,
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
        values[f"{stream}_missed"] = one.missed
        values[f"{stream}_lag_ms"] = _number(one.lag_ns / 1e6 if one.lag_ns is not None else None)
    received = min((one.received for one in stats.streams.values()), default=0)
    if stats.sets == 0 and received > 20:
        return _status(name, WARN, NONE_PAIRED, values)
    text = f"{stats.sets} sets"
    if now.inputs and now.inputs.masks is not None:
        query, masks = now.inputs.query.name, now.inputs.masks.name
        images, without = stats.streams[query].received, stats.streams[masks].missed
        text += f", {stats.partial} of them partial; {without} of {images} images had no {masks}"
    elif now.inputs:
        text += f", {stats.partial} of them partial"
    return _status(name, OK, text, values)


def _prompts(now: Snapshot) -> DiagnosticStatus:
    measured = now.measured
    values: dict[str, object] = {
        **measured.prompts.values(),
        "waiting": now.prompts_waiting,
        "objects": ", ".join(f"{name} in {camera}" for name, camera in measured.marked.items()),
        "last_refusal": measured.prompts.last_refusal,
    }
    text = f"{len(measured.marked)} objects marked, {measured.objects} of them visible"
    return _status(f"{now.name}: prompts", OK, text, values)


def _input(now: Snapshot, one: InputStream) -> DiagnosticStatus:
    health = one.monitor.health()
    values: dict[str, object] = {
        "topic": one.topic,
        "type": one.type_name,
        "reliability": one.reliability.name.lower() if one.reliability else "",
        "publishers": one.matched,
        "received": health.received,
        "rate_hz": _number(health.rate),
        "camera_rate_hz": _number(1 / health.period if health.period else None),
        "lost_percent": _number(100 * health.loss),
        "last_message_s_ago": _number(health.age, 2),
    }
    camera = now.config.cameras.get(one.name)
    if camera is not None:
        values["time_offset_s"] = camera.time_offset
    level, text = OK, f"{health.rate:.1f} Hz"
    if one.reliability is None:
        level, text = STALE, "not subscribed"
        if now.state == "active":
            level, text = OK, "not subscribed: its outputs have no subscribers (output.lazy)"
    elif one.name in now.silent:
        level, text = ERROR, f"silent: {one.describe_publishers()}"
    elif health.received == 0:
        level, text = WARN, "no message yet"
    elif health.loss > 0.1:
        level, text = WARN, f"{health.rate:.1f} Hz, {health.loss:.0%} lost in transit"
    return _status(f"{now.name}: {one.name}", level, text, values)
