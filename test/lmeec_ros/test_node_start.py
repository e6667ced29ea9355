"""The installed node as a process: how it starts, why it does not, and how it ends."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState

import lmeec_core as lm


def test_a_bad_checkpoint_leaves_it_unconfigured(
    start_node: Any, rig: Any, tools: Any, logged: Any, tmp_path: Any
) -> None:
    from safetensors.torch import save_file

    def change(transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(rig.call(ChangeState, "/lmeec/change_state", request).success)

    path = tmp_path / "weights.safetensors"
    node = start_node({**tools.BASE, "model.checkpoint": str(path)})
    logged(node, f"configure failed: checkpoint {path}: no such file")
    logged(node, "the node stays unconfigured. To try again: ros2 lifecycle set")
    path.write_bytes(b"not a checkpoint")
    assert not change(Transition.TRANSITION_CONFIGURE)
    logged(node, f"configure failed: checkpoint {path}", 2)
    request = GetState.Request()
    assert rig.call(GetState, "/lmeec/get_state", request).current_state.label == "unconfigured"
    assert node.alive and "Traceback" not in node.log.read_text()
    model = lm.load_model("mini", seed=tools.SEED, device="cpu")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    assert change(Transition.TRANSITION_CONFIGURE) and change(Transition.TRANSITION_ACTIVATE)


def test_a_misspelt_parameter_ends_with_a_suggestion(
    start_node: Any, tools: Any, logged: Any
) -> None:
    node = start_node({**tools.BASE, "presence_treshold": 0.4})
    logged(node, "not started: presence_treshold: unknown parameter; did you mean")
    assert node.process.wait(30) == 2
    assert "Traceback" not in node.log.read_text()


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "loading preset"), (signal.SIGTERM, "activate: done")],
)
def test_signals_end_it_quickly_and_quietly(
    start_node: Any, tools: Any, logged: Any, number: signal.Signals, moment: str
) -> None:
    node = start_node(tools.BASE)
    logged(node, moment)
    node.process.send_signal(number)
    assert node.process.wait(20) == 0
    assert "Traceback" not in node.log.read_text()


def test_without_a_folder_for_logs_it_says_what_to_do(
    start_node: Any, tools: Any, tmp_path: Any
) -> None:
    (tmp_path / "file").write_text("no folder")
    node = start_node(tools.BASE, environment={"ROS_LOG_DIR": str(tmp_path / "file" / "log")})
    tools.wait_until(lambda: not node.alive, "the end of the process")
    assert node.process.returncode == 2
    assert "set ROS_LOG_DIR to a writable folder" in node.tail(1)


@pytest.mark.parametrize("module", ["lmeec_ros.runtime.arena", "rclpy", "torch"])
def test_an_interrupt_during_imports_ends_the_node_quietly(module: str) -> None:
    script = shutil.which("lmeec_node")
    assert script is not None
    code = f"""
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
runpy.run_path({script!r}, run_name="__main__")
"""
    command = [sys.executable, "-P", "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
