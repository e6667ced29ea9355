"""Why is nothing published? One reason at a time, each with a remedy."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Protocol

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import ReliabilityPolicy

from lmeec_core.sync.image_set import ImageSet
from lmeec_core.sync.pairing import PairingStats, StreamStats
from lmeec_core.sync.stream_monitor import StreamMonitor
from lmeec_ros.health.measurements import Snapshot
from lmeec_ros.io.inputs import QUERY_MASKS
from lmeec_ros.parameters.config import NodeConfig, absolute

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)

PATIENCE = 5.0
"""Seconds without output after which a reason is given, if silence_warning is 0."""
MANY_SETS = 20
"""Sets that must have been received before the share of dropped ones is judged."""
MAX_DELAY = 60.0
"""Upper limit of query_masks.max_delay, seconds; a longer lag means stamps of another clock."""
NONE_PAIRED = "messages arrive, but none can be paired"


class Source(Protocol):
    """An input whose silence is explained: a subscription, or a topic of a recording."""

    @property
    def name(self) -> str:
        """Name of the camera, or QUERY_MASKS."""

    @property
    def topic(self) -> str:
        """Topic, resolved."""

    @property
    def type_name(self) -> str:
        """Message type, such as sensor_msgs/msg/Image."""

    @property
    def reliability(self) -> ReliabilityPolicy | None:
        """Reliability of the subscription; None if there is no subscription."""

    @property
    def monitor(self) -> StreamMonitor:
        """Monitor of the stamps."""

    def publishers(self) -> list[Any]:
        """Return the topic's publishers; each has `topic_type`."""

    def describe_publishers(self) -> str:
        """Describe the publishers, and what to change if they do not fit."""


@dataclass(frozen=True)
class Reason:
    """What the node publishes, or why it publishes nothing.

    Attributes:
        kind: one word, the same for the same cause.
        level: OK, WARN, ERROR or STALE of DiagnosticStatus.
        text: the cause, with figures.
        remedy: what to do; empty if nothing needs doing.
    """

    kind: str
    level: bytes
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}" if self.remedy else self.text


def why(now: Snapshot) -> Reason:
    """Return what is published, or why nothing is."""
    if now.state != "active" or now.worker is None:
        return _not_active(now)
    patience = now.config.silence_warning or PATIENCE
    age = now.measured.output.health().age
    step = now.measured.step.get(95)[0] or 0.0
    if age is not None and age < max(patience, 3e-3 * step):
        return _publishing(now)
    inputs = list(now.inputs or ())
    for one in sorted(inputs, key=lambda one: one.name != QUERY_MASKS):
        if one.name in now.silent:
            return silent(one, now.silent[one.name])
    worker = now.worker
    if worker.failed and now.measured.last_error:
        return Reason(
            "failing",
            ERROR,
            f"sets fail ({worker.failed} of {worker.received} so far), the last with: "
            f"{now.measured.last_error}",
            "fix the cause of this error",
        )
    counted = worker.processed + worker.failed + worker.dropped + worker.discarded
    if worker.received > counted + worker.waiting:
        return Reason(
            "slow", WARN, "inference of a set has not finished yet", f"wait, or {_faster(now)}"
        )
    if now.unpaired and now.pairing is not None and now.inputs is not None:
        return unpaired(now.inputs, now.pairing, now.config)
    if now.inputs and not any(one.is_open for one in now.inputs.targets.values()):
        return Reason(
            "no_listener", WARN,
            "no target camera is subscribed: the outputs have no subscribers (output.lazy)",
            f"subscribe to an output, or ros2 param set {now.name} output.lazy false",
        )  # fmt: skip
    missing = [one.name for one in inputs if one.is_open and not one.monitor.health().received]
    text = f"waiting for the first message of {', '.join(missing)}" if missing else "no set yet"
    return Reason("waiting", WARN, text)


def _not_active(now: Snapshot) -> Reason:
    state, error = now.state, now.measured.last_error
    command = f"ros2 lifecycle set {now.name}"
    steps = {
        "unconfigured": f"{command} configure, then activate",
        "inactive": f"{command} activate",
    }
    if state not in steps:
        end = state in ("finalized", "shuttingdown")
        text = "the node is shut down" if end else f"the node is {state}"
        return Reason(state, STALE if end else WARN, text, "start it again" if end else "")
    if error:
        return Reason(
            "failed", ERROR, f"the node is {state}: {error}", f"fix that, then {steps[state]}"
        )
    return Reason(state, WARN, f"the node is {state}", steps[state])


def _publishing(now: Snapshot) -> Reason:
    config, worker, rate = now.config, now.worker, now.measured.output.health().rate
    output = config.output
    if not (output.masks or output.label_image or output.overlay or output.points):
        return Reason(
            "off", WARN, "every output is switched off",
            f"ros2 param set {now.name} output.masks true",
        )  # fmt: skip
    if not now.measured.objects:
        return _no_object(now)
    for one in now.inputs or ():
        if one.name in now.silent:
            reason = silent(one, now.silent[one.name])
            text = f"{rate:.1f} Hz, but an input is missing: {reason.text}"
            return Reason(reason.kind, WARN, text, reason.remedy)
    if idle := _idle_targets(now):
        text = f"{rate:.1f} Hz, but no results for {idle}"
        return Reason("partial", WARN, text, "fix that; the other targets continue without it")
    if worker and worker.received >= MANY_SETS and worker.dropped * 2 > worker.received:
        step = now.measured.step.get(50)[0] or 0.0
        return Reason(
            "slow",
            WARN,
            f"{rate:.1f} Hz, slower than the cameras: a step takes {step:.0f} ms, "
            f"{worker.dropped} of {worker.received} sets were dropped",
            _faster(now),
        )
    return Reason("publishing", OK, f"{rate:.1f} Hz")


def _no_object(now: Snapshot) -> Reason:
    if not now.config.prompted:
        return Reason(
            "no_object", WARN, "query masks arrive, but contain no object",
            "check their topic: a label image needs values above 0 where the objects are",
        )  # fmt: skip
    prompts, clicks = now.measured.prompts, now.config.prompts.clicks.topic
    clicks = clicks and absolute(clicks, now.name)
    click = f"publish a click on {clicks} or a Prompt" if clicks else "publish a Prompt"
    remedy = f"click the object: {click} on {now.name}/prompt, or call {now.name}/mark_object"
    if marked := now.measured.marked:
        where = ", ".join(f"{name} in {camera}" for name, camera in marked.items())
        return Reason(
            "lost", WARN, f"no marked object is visible in the camera it is tracked in ({where})",
            f"wait until one reappears, or {remedy}",
        )  # fmt: skip
    text = "images arrive, but no object is marked yet"
    if prompts.last_refusal:
        text += f"; the last prompt was refused: {prompts.last_refusal}"
    return Reason("no_object", WARN, text, remedy)


def _idle_targets(now: Snapshot) -> str:
    """The targets whose images arrive but give no results, each with the cause."""
    measured, pairing, inputs = now.measured, now.pairing, now.inputs
    patience = now.config.silence_warning or PATIENCE
    since = time.monotonic() - max(patience, 3e-3 * (measured.step.get(95)[0] or 0.0))
    texts = []
    for one in inputs.targets.values() if inputs else ():
        if not one.is_open or measured.last_published.get(one.name, measured.started) > since:
            continue
        text = f"{one.name}: no set contains an image of this camera"
        if one.name in measured.refusals:
            text = measured.refusals[one.name]
        elif pairing is not None and inputs is not None:
            stream, tolerance = pairing.streams[one.name], now.config.pairing.tolerance
            text += out_of_step(one.name, stream, inputs.query.name, tolerance)
        texts.append(text)
    return "; ".join(texts)


def _faster(now: Snapshot) -> str:
    gpu = "" if (now.device or "").startswith("cuda") else "a GPU (model.device), "
    return f"use {gpu}fewer objects or targets, or a smaller model.preset"


def silent(one: Source, quiet: float | None) -> Reason:
    """Return why an input is silent.

    Args:
        one: the input.
        quiet: seconds without a message; None for a topic without messages in a recording.
    """
    offers = one.publishers()
    time_text = "" if quiet is None else f" for {quiet:.1f} s"
    text = f"{one.name}: silent, no message on {one.topic}{time_text}; "
    text += one.describe_publishers()
    live = quiet is not None
    if not offers:
        kind = "no_publisher"
        remedy = f"{'start the publisher' if live else 'record it'}, or correct the topic name"
    elif all(offer.topic_type != one.type_name for offer in offers):
        kind, remedy = "wrong_type", "correct the topic, its type or its transport"
    elif one.reliability == ReliabilityPolicy.RELIABLE and not any(
        offer.qos_profile.reliability == ReliabilityPolicy.RELIABLE for offer in offers
    ):
        kind, remedy = "incompatible_qos", "set its qos to auto: the node follows the publishers"
    else:
        check = f"check whether anything is published: ros2 topic hz {one.topic}"
        kind = "silent"
        remedy = check if live else "record it again while its publisher is running"
    if one.name == QUERY_MASKS:
        kind = "no_query_masks" if kind in ("no_publisher", "silent") else kind
        text += f"; without query masks nothing is {'published' if live else 'tracked'}"
        if live and kind == "no_query_masks":
            remedy += ", or mark each object with a click: query_masks.source prompts"
    return Reason(kind, ERROR, text, remedy)


def out_of_step(name: str, stream: StreamStats, anchor: str, tolerance: float) -> str:
    """Return how far a stream's stamps are from the anchor's; empty within the tolerance.

    Args:
        name, stream: name and counters of the stream.
        anchor: name of the query camera.
        tolerance: pairing.tolerance, seconds.
    """
    miss = stream.last_miss_ns
    if miss is None or abs(miss) <= tolerance * 1e9:
        return ""
    return (
        f"; {name} is out of step: {miss / 1e9:+.3f} s from {anchor}, "
        f"pairing.tolerance is {tolerance:.3f} s"
    )


def of_recording(
    inputs: ImageSet[Source], stats: PairingStats, config: NodeConfig, target: str
) -> Reason | None:
    """Return why few or none of a recording's possible sets have an image of a target.

    Args:
        inputs: inputs of the recording.
        stats: pairing counters after the last message.
        config: the node's parameters.
        target: name of the target camera.

    Returns:
        None if at least half of the possible sets were formed. As many are possible as the input
        with the fewest messages has.
    """
    needed = ImageSet(
        inputs.query, inputs.masks, {target: inputs.targets[target]}, inputs.candidates
    )
    for one in sorted(needed, key=lambda one: one.name != QUERY_MASKS):
        if not stats.streams[one.name].received:
            return silent(one, None)
    possible = min(stats.streams[one.name].received for one in needed)
    paired = stats.streams[target].paired
    if paired * 2 >= possible:
        return None
    text = f"only {paired} of {possible} possible sets" if paired else NONE_PAIRED
    return unpaired(needed, stats, config, text)


def unpaired(
    inputs: ImageSet[Source],
    stats: PairingStats,
    config: NodeConfig,
    text: str = NONE_PAIRED,
) -> Reason:
    """Return why no messages can be paired although every input has some.

    Args:
        inputs: the paired inputs.
        stats: pairing counters.
        config: the node's parameters.
        text: beginning of the reason's text.
    """
    tolerance: float = config.pairing.tolerance
    unset = [one.name for one in inputs if one.monitor.newest_ns == 0]
    if not unset and (late := _late_masks(inputs, stats, config, text)):
        return late
    kind, remedy = "unpaired", "raise pairing.queue, or pairing.tolerance"
    misses = []
    for name, stream in ((one.name, stats.streams[one.name]) for one in inputs):
        if clause := out_of_step(name, stream, inputs.query.name, tolerance):
            misses.append(abs(stream.last_miss_ns or 0) / 1e9)
            text += clause
    if misses:
        kind = "out_of_step"
        remedy = "stamp all messages with the same clock (ptp, chrony, use_sim_time)"
        if max(misses) < 1:
            remedy += f", or set pairing.tolerance to {max(misses) * 1.2:.2f}"
    if unset:
        kind, remedy = "no_stamps", "make the publishers set header.stamp"
        text += f"; the stamps of {', '.join(unset)} are 0 (header.stamp is not set)"
    return Reason(kind, ERROR, text + _dropped(stats), remedy)


def _late_masks(
    inputs: ImageSet[Source], stats: PairingStats, config: NodeConfig, text: str
) -> Reason | None:
    """The reason if masks arrive after their images have left the queues, else None.

    The queues overflow in that case, so the distances between stamps mean nothing. Arguments as
    in `unpaired`.
    """
    if inputs.masks is None:
        return None
    masks = stats.streams[inputs.masks.name]
    periods = [one.monitor.health().period for one in inputs if one is not inputs.masks]
    lag, delay = (masks.lag_ns or 0) / 1e9, config.query_masks.max_delay
    kept = delay + (config.pairing.queue - 1) * min(filter(None, periods), default=math.inf)
    if not masks.dropped.get("late") or not kept < lag <= MAX_DELAY:
        return None
    text += (
        f"; {inputs.masks.name} arrive {lag:.3f} s after their image, but the queues keep images "
        f"for {kept:.3f} s{_dropped(stats)}"
    )
    remedy = (
        f"set query_masks.max_delay above {lag:.3f} (or, if {inputs.masks.name} are stamped with "
        "another clock, give them the stamp of their image)"
    )
    return Reason("late_masks", ERROR, text, remedy)


def _dropped(stats: PairingStats) -> str:
    """A clause that counts the dropped messages; empty if there are none."""
    drops = ", ".join(f"{reason} {count}" for reason, count in stats.dropped.items())
    return drops and f"; dropped so far: {drops}"
