"""The faults of a soak run, each from its beginning to its end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rclpy.node import Node

from lmeec_ros.tools.node_process import NodeProcess
from lmeec_ros.tools.soak import prompts, spoil
from lmeec_ros.tools.soak.feeder import CLOCK_BACK, Feeder
from lmeec_ros.tools.soak.observer import Observer

SECONDS = (1.5, 4.0)
"""How long a fault lasts, shortest and longest."""


class FaultError(RuntimeError):
    """The node did not behave as it should under a fault."""


@dataclass
class Bench:
    """The processes and objects that faults act on.

    Attributes:
        process: the node's process.
        feeder: the process that plays the recording.
        observer: observes the node over ROS.
        random: source of all random choices.
        node: this process's node, spun by another thread, for subscriptions and publishers.
        out: folder of the run.
        cameras: the query camera, then the target cameras.
    """

    process: NodeProcess
    feeder: Feeder
    observer: Observer
    random: random.Random
    node: Node
    out: Path
    cameras: tuple[str, ...]

    def pause(self) -> None:
        """Wait for the random duration of a fault."""
        time.sleep(self.random.uniform(*SECONDS))


Fault = Callable[[Bench], None]
"""Runs a fault from beginning to end; after it, masks must be published again."""


def _spoilt(name: str) -> Fault:
    def run(bench: Bench) -> None:
        bench.feeder.play(name)
        bench.pause()
        bench.feeder.play("")

    return run


def _new_objects(bench: Bench) -> None:
    """Send new labels for a while; then forget these objects, since each one takes memory."""
    _spoilt("new_objects")(bench)
    time.sleep(0.5)  # the last messages are still being processed
    new = {f"object_{spoil.NEW_LABEL + n}" for n in range(spoil.NEW_LABELS)}
    for name in sorted(new & set(bench.observer.objects)):
        _must("forget_object", bench.observer.memory("forget_object", object_id=name))


def _clock_back(bench: Bench) -> None:
    bench.feeder.play(CLOCK_BACK)


def _kill_feeder(bench: Bench) -> None:
    """Kill the feeder (SIGKILL) during a burst, which often interrupts the sending of a message."""
    bench.feeder.play("burst")
    time.sleep(bench.random.uniform(0.2, 0.5))
    bench.feeder.kill()
    bench.pause()
    bench.feeder.start()


def _stop_node(bench: Bench) -> None:
    """Suspend the node's process for a while (SIGSTOP, SIGCONT)."""
    os.kill(bench.process.process.pid, signal.SIGSTOP)
    bench.pause()
    os.kill(bench.process.process.pid, signal.SIGCONT)


def _deactivate(bench: Bench) -> None:
    bench.observer.change_state("deactivate")
    bench.pause()
    bench.observer.change_state("activate")


def _cleanup(bench: Bench) -> None:
    for name in ("deactivate", "cleanup", "configure", "activate"):
        bench.observer.change_state(name)


def _parameters(bench: Bench) -> None:
    """Set parameters that can be changed at run time; try others, which must be refused."""
    changes: tuple[tuple[str, object, object], ...] = (
        ("presence_threshold", bench.random.uniform(0.1, 0.9), 0.5),
        ("pairing.tolerance", bench.random.uniform(0.005, 0.05), 0.02),
        ("output.exclusive", True, False),
    )
    for name, value, _ in changes:
        _must(f"set {name}", bench.observer.set_parameter(name, value))
    for name, value in (("model.device", "cuda"), ("presence_threshold", 7.0), ("nonsense", 1)):
        if not bench.observer.set_parameter(name, value):
            raise FaultError(f"the parameter {name} = {value} was accepted")
    bench.pause()
    for name, _, before in changes:
        _must(f"set {name}", bench.observer.set_parameter(name, before))


def _memory(bench: Bench) -> None:
    """Save, continue, reset and load the memory; wrong names must be refused."""
    _must("save_memory", bench.observer.memory("save_memory", name="soak"))
    bench.pause()
    _must("reset_memory", bench.observer.memory("reset_memory"))
    _must("load_memory", bench.observer.memory("load_memory", name="soak"))
    for name in ("../soak", "absent"):
        if not bench.observer.memory("load_memory", name=name):
            raise FaultError(f"the memory file {name!r} was loaded")


def _viewers(bench: Bench) -> None:
    """Subscribe to overlay and label image for a while."""
    bench.observer.view(bench.random.uniform(*SECONDS))


def _prompts(bench: Bench) -> None:
    """Send prompts to a second node: late, outside the image, unknown camera, hundreds at once."""
    prompts.run(bench.node, bench.out, bench.cameras, bench.random)


def _must(what: str, refused: str) -> None:
    if refused:
        raise FaultError(f"{what} was refused: {refused}")


FAULTS: dict[str, Fault] = {
    **{name: _spoilt(name) for name in spoil.FAULTS},
    "new_objects": _new_objects,
    CLOCK_BACK: _clock_back,
    "kill_feeder": _kill_feeder,
    "stop_node": _stop_node,
    "deactivate": _deactivate,
    "cleanup": _cleanup,
    "parameters": _parameters,
    "memory": _memory,
    "viewers": _viewers,
    "prompts": _prompts,
}
"""All faults by name."""
