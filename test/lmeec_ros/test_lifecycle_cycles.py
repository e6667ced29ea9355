"""The lifecycle again and again in one process: memory and threads stay what they were."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from lmeec.msg import CorrespondenceMaskArray
from safetensors.torch import save_file
from scipy.stats import theilslopes
from sensor_msgs.msg import Image

import lmeec_core as lm
from lmeec_ros.tools.soak.judge import sample

TOPICS = ("/ego/image_raw", "/exo/image_raw", "/ego/label_image")
ROUND = tuple(
    getattr(Transition, f"TRANSITION_{name}")
    for name in ("CONFIGURE", "ACTIVATE", "DEACTIVATE", "ACTIVATE", "DEACTIVATE", "CLEANUP")
)
WARM = 4
"""Rounds until everything has happened once and memory has been taken for it."""


def change(rig: Any, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(rig.call(ChangeState, "/lmeec/change_state", request).success)


def send(rig: Any, tools: Any, k: int) -> None:
    """Publish one set of images."""
    pictures = ((tools.scene(k % 9), "rgb8"), (tools.scene(50 + k % 9), "rgb8"))
    masks = (tools.label_frame(k), "mono8")
    for topic, (pixels, encoding) in zip(TOPICS, (*pictures, masks), strict=True):
        stamp = 1_000_000_000 + k * tools.PERIOD
        rig.publish(topic, tools.image_msg(pixels, encoding, stamp, "optical"))


@pytest.mark.parametrize(
    ("rounds", "limit"),
    [(WARM + 6, 6.0), pytest.param(WARM + 40, 0.5, marks=pytest.mark.slow)],
)
def test_rounds_cost_no_memory_and_no_threads(
    start_node: Any, rig: Any, tools: Any, tmp_path: Path, rounds: int, limit: float
) -> None:
    """Every other round begins with a checkpoint that cannot be read, which fails.

    Args:
        rounds: how many.
        limit: MB that a round may cost; the network alone takes 11.
    """
    weights = tmp_path / "weights.safetensors"
    model = lm.load_model("mini", seed=0, device="cpu")
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    assert sum(v.nbytes for v in state.values()) > 1e7
    values = {**tools.BASE, "model.checkpoint": str(weights), "autostart": False}
    for topic in TOPICS:
        rig.advertise(topic, Image)
    masks = rig.listen("/lmeec/exo/masks", CorrespondenceMaskArray)
    # With more threads than one OpenMP makes helpers, which are to end with their thread.
    several = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    node = start_node({**values, "model.warm_up_steps": 1}, environment=several)
    samples = []
    for n in range(rounds):
        if n % 2:
            weights.write_bytes(b"rubbish")
            assert not change(rig, Transition.TRANSITION_CONFIGURE)
        save_file(state, weights)
        for transition in ROUND:
            assert change(rig, transition), (n, transition, node.tail())
            if transition == Transition.TRANSITION_ACTIVATE and n % 4 == 0:
                rig.wait_heard()
                before = len(masks)
                send(rig, tools, len(masks))
                tools.wait_until(lambda b=before: len(masks) > b, "masks")
        samples.append(sample(node.process.pid, float(n), len(masks)))
    answer = rig.call(GetState, "/lmeec/get_state", GetState.Request())
    assert answer.current_state.id == State.PRIMARY_STATE_UNCONFIGURED
    judged = samples[WARM:]
    slope = theilslopes([one.resident for one in judged]).slope
    assert slope < limit, [round(one.resident) for one in samples]
    assert judged[-1].threads <= max(one.threads for one in samples[:WARM]), samples
    # A helper has the name of the thread that it helps; those of the executor live on.
    executors = {k: n for k, n in samples[-1].names.items() if k.startswith("executor")}
    assert executors == {"executor-0": 1, "executor-1": 1, "executor-2": 1}
    assert masks and "Traceback" not in node.log.read_text()


def test_error_recovery_again_and_again(make_node: Any, rig: Any, tools: Any) -> None:
    """Three failed steps end the work; configure and activate begin it anew, six times."""
    for topic in TOPICS:
        rig.advertise(topic, Image)
    node = make_node(**{"autostart": False, "model.warm_up_steps": 0})
    threads, sent = [], 0
    for _ in range(6):
        assert change(rig, Transition.TRANSITION_CONFIGURE)
        assert change(rig, Transition.TRANSITION_ACTIVATE)
        rig.wait_heard()

        def lost(*_: Any, **__: Any) -> Any:
            raise RuntimeError("CUDA error: the device is lost")

        node.processor.tracker.model.predict = lost

        def stopped() -> bool:
            nonlocal sent
            send(rig, tools, sent)
            sent += 1
            time.sleep(0.03)
            return bool(node.state == "unconfigured")

        tools.wait_until(stopped, "the node to stop")
        assert node.processor is None and node.worker is None and not node.inputs
        assert "stopped after" in node.measured.last_error
        threads.append(threading.active_count())
    assert threads[-1] <= threads[0], threads  # those of earlier tests may end meanwhile
