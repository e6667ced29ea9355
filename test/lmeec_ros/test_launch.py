"""The launch files: they compile, and describe what they should where launch is installed."""

from __future__ import annotations

import importlib.util
import py_compile
from pathlib import Path
from typing import Any

import pytest

FILES = sorted((Path(__file__).resolve().parents[2] / "launch").glob("*.launch.py"))


def test_there_are_launch_files() -> None:
    assert [file.name for file in FILES] == ["lmeec.launch.py", "replay.launch.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_it_compiles_and_evaluates_no_text(file: Path, tmp_path: Path) -> None:
    py_compile.compile(str(file), cfile=str(tmp_path / "out.pyc"), doraise=True)
    text = file.read_text()
    assert "eval(" not in text and "PythonExpression" not in text


def describe(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.name.split(".")[0] + "_launch", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def test_arguments_and_node() -> None:
    # Not "launch" itself: that name finds the repository's folder of launch files.
    for name in ("launch.actions", "launch_ros.actions"):
        pytest.importorskip(name, reason=f"{name} is not installed (not on the index)")
    from launch import LaunchContext

    description = describe(FILES[0])
    arguments = {one.name for one in description.get_launch_arguments()}
    assert {
        "name",
        "namespace",
        "params_file",
        "log_level",
        "use_sim_time",
        "ego_image",
    } <= arguments
    context = LaunchContext()
    context.launch_configurations["exo_image"] = "/cam/1"
    nodes = []
    for entity in description.entities:
        nodes += [one for one in entity.visit(context) or [] if type(one).__name__ == "Node"]
    assert len(nodes) == 1
    assert nodes[0].node_package == "lmeec" and nodes[0].node_executable == "lmeec_node"
    replay = {one.name for one in describe(FILES[1]).get_launch_arguments()}
    assert {"bag", "rate", "loop", "clock"} <= replay
