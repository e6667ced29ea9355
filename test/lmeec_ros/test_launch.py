"""The launch files: they compile, and describe what they should where launch is installed."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from lmeec.msg import CorrespondenceMaskArray

from lmeec_core.bags.bag import BagWriter
from lmeec_core.bags.mask_messages import BAG
from lmeec_ros.parameters import config as parameters

FILES = sorted((Path(__file__).resolve().parents[2] / "launch").glob("*.launch.py"))


def test_there_are_launch_files() -> None:
    assert [file.name for file in FILES] == [
        "lmeec.launch.py",
        "replay.launch.py",
        "robots.launch.py",
    ]


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


def need_launch() -> None:
    # Not "launch" itself: that name finds the repository's folder of launch files.
    for name in ("launch.actions", "launch_ros.actions"):
        pytest.importorskip(name, reason=f"{name} is not installed (not on the index)")


def started(file: Path, **arguments: str) -> tuple[list[Any], Any]:
    """The processes that a launch file would start with these arguments, and its context."""
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(arguments)
    waiting, found = [describe(file)], []
    while waiting:
        entity = waiting.pop(0)
        if type(entity).__name__ in ("Node", "ExecuteProcess"):
            found.append(entity)
        else:
            waiting = [*(entity.visit(context) or []), *waiting]
    return found, context


def texts(context: Any, substitutions: Any) -> str:
    from launch.utilities import perform_substitutions

    return perform_substitutions(context, substitutions)


def environment(process: Any, context: Any) -> dict[str, str]:
    """What a process gets besides the environment of the launch."""
    pairs = process.additional_env or []
    return {texts(context, name): texts(context, value) for name, value in pairs}


def command(process: Any, context: Any) -> list[str]:
    return [texts(context, word) for word in process.cmd]


def parameter_files_of(node: Any, context: Any, folder: Path) -> dict[str, Any]:
    """The values that a node's action passes on, by its files."""
    node._perform_substitutions(context)
    words = command(node, context)
    paths = [words[i + 1] for i, word in enumerate(words) if word == "--params-file"]
    values: dict[str, Any] = {}
    for path in paths:
        values |= parameters.read_file(path, "/lmeec")
    return values


PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def test_arguments() -> None:
    need_launch()
    arguments = {one.name for one in describe(FILES[0]).get_launch_arguments()}
    assert {
        "name",
        "namespace",
        "params_file",
        "log_level",
        "use_sim_time",
        "ego_image",
    } <= arguments
    replay = {one.name for one in describe(FILES[1]).get_launch_arguments()}
    assert {"bag", "rate", "loop", "clock"} <= replay


def test_arguments_that_are_not_given_change_nothing(tmp_path: Path) -> None:
    need_launch()
    (node,), context = started(FILES[0])
    assert node.node_package == "lmeec" and node.node_executable == "lmeec_node"
    assert parameter_files_of(node, context, tmp_path) == {}
    words = command(node, context)[1:]
    assert words in (["--ros-args"], [])

    file = tmp_path / "my.yaml"
    file.write_text("/**:\n  ros__parameters: {autostart: false, use_sim_time: true}\n")
    (node,), context = started(FILES[0], params_file=str(file))
    values = parameter_files_of(node, context, tmp_path)
    assert values == {"autostart": False, "use_sim_time": True}

    given = {"autostart": "true", "use_sim_time": "False", "exo_image": "/cam/1", "masks": "/m"}
    (node,), context = started(FILES[0], params_file=str(file), **given)
    values = parameter_files_of(node, context, tmp_path)
    topic = {"cameras.exo.topic": "/cam/1"}
    assert values == {"autostart": True, "use_sim_time": False} | topic
    assert "~/exo/masks:=/m" in command(node, context)
    with pytest.raises(ValueError, match="autostart: 'maybe' given, true or false expected"):
        started(FILES[0], autostart="maybe")


@pytest.mark.parametrize("own", [*PROFILES, ""])
def test_the_profile_of_the_robot_stays(monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    need_launch()
    for name in PROFILES:
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv(own, "/robot/own.xml")
    before = dict(os.environ)
    for file in FILES[:2]:
        arguments = {"bag": "b"} if file is FILES[1] else {}
        for given in ("", "true", "false"):
            processes, context = started(file, **arguments, dds_profile=given)
            assert len(processes) == 1 + len(arguments)
            expected = set(PROFILES) if given == "true" or (not given and not own) else set()
            for process in processes:
                found = environment(process, context)
                assert set(found) == expected
                assert all(path.endswith("config/fastdds.xml") for path in found.values())
            assert dict(os.environ) == before  # what is started later gets nothing of it


def test_replay_tells_the_player_of_the_node() -> None:
    need_launch()
    (node, player), context = started(FILES[1], bag="b", namespace="arm", name="eye")
    words = command(player, context)
    assert words[-2:] == ["--node", "/arm/eye"] and "--clock" not in words
    assert "use_sim_time" not in context.launch_configurations or (
        context.launch_configurations["use_sim_time"] == ""
    )
    (node, player), context = started(FILES[1], bag="b", clock="true")
    assert "--clock" in command(player, context)
    assert context.launch_configurations["use_sim_time"] == "true"


LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

source = PythonLaunchDescriptionSource(sys.argv[1])
arguments = [tuple(one.split(":=", 1)) for one in sys.argv[2:]]
service = LaunchService()
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)])
)
sys.exit(service.run())
"""
"""What `ros2 launch` does, without ros2cli."""


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Run an installed launch file as a process: launch("lmeec.launch.py", "name:=x")."""
    need_launch()
    running: list[Any] = []

    def start(file: str, *arguments: str) -> Any:
        from ament_index_python.packages import get_package_share_directory

        path = os.path.join(get_package_share_directory("lmeec"), "launch", file)
        command = [sys.executable, "-P", "-c", LAUNCH, path, *arguments]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "ROS_LOG_DIR": str(tmp_path / "log")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def stop(process: Any) -> str:
    """End a launch as Ctrl-C does; returns what it and its nodes wrote."""
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    return str(text)


def params_file(folder: Path, tools: Any, **values: Any) -> Path:
    file = folder / "params.yaml"
    content = {"/**": {"ros__parameters": {**tools.BASE, **values}}}
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_node_by_launch(launch: Any, rig: Any, tools: Any, tmp_path: Path) -> None:
    statuses = rig.listen("/arm/eye/status", DiagnosticStatus)
    file = params_file(tmp_path, tools)
    process = launch(
        "lmeec.launch.py",
        f"params_file:={file}",
        "namespace:=arm",
        "name:=eye",
        "exo_image:=/wall/image_raw",
        "masks:=/found",
    )

    def waiting() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return any(s.message.startswith("waiting for the first") for s in statuses)

    tools.wait_until(waiting, "the launched node to be active")
    topics = dict(rig.node.get_topic_names_and_types())
    assert "lmeec/msg/CorrespondenceMaskArray" in topics["/found"]
    assert rig.node.get_subscriptions_info_by_topic("/wall/image_raw")
    assert "process has finished cleanly" in stop(process)


def test_two_robots_by_launch(launch: Any, rig: Any, tools: Any, tmp_path: Path) -> None:
    topics = {"cameras.ego.topic": "ego/image_raw", "cameras.exo.topic": "/wall/image_raw"}
    nested = {"cameras": {"ego": {"topic": topics["cameras.ego.topic"]}}}
    nested["cameras"]["exo"] = {"topic": topics["cameras.exo.topic"]}
    file = params_file(tmp_path, tools, **nested)
    statuses = {name: rig.listen(f"/{name}/lmeec/status", DiagnosticStatus) for name in ("a", "b")}
    process = launch("robots.launch.py", "robots:=a, b", f"params_file:={file}")

    def both() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return all(any(s.level == s.WARN for s in one) for one in statuses.values())

    tools.wait_until(both, "both robots' nodes")
    for name in ("a", "b"):
        tools.wait_until(
            lambda name=name: rig.node.get_subscriptions_info_by_topic(f"/{name}/ego/image_raw"),
            f"the subscription of {name}",
        )
        assert statuses[name][-1].name == f"/{name}/lmeec: output"
    assert len(rig.node.get_subscriptions_info_by_topic("/wall/image_raw")) == 2
    assert "a subscribes to /wall/image_raw, which is outside its namespace" in stop(process)


def test_a_bag_and_the_node_by_launch(launch: Any, rig: Any, tools: Any, tmp_path: Path) -> None:
    masks = rig.listen("/lmeec/exo/masks", CorrespondenceMaskArray)
    bag = tmp_path / "bag"
    with BagWriter(bag) as writer:
        writer.add_topic("/imu", "sensor_msgs/msg/Imu")  # which nobody listens to
        for topic in ("/ego/image_raw", "/exo/image_raw", "/ego/label_image"):
            writer.add_topic(topic, "sensor_msgs/msg/Image")
        for k in range(1, 9):
            header = BAG.header(k * tools.PERIOD, "")
            for topic in ("/ego/image_raw", "/exo/image_raw"):
                image = BAG.image(header, tools.scene(k), "rgb8")
                writer.write(topic, k * tools.PERIOD, image)
            labels = BAG.image(header, tools.label_frame(k), "mono8")
            writer.write("/ego/label_image", k * tools.PERIOD, labels)
    file = params_file(tmp_path, tools, **{"mailbox": {"depth": 8}})  # so that none is dropped
    process = launch("replay.launch.py", f"bag:={bag}", f"params_file:={file}")
    text, _ = process.communicate(timeout=90)  # it ends with the bag
    assert process.returncode == 0, text
    tools.wait_until(lambda: len(masks) == 8, lambda: f"all masks: {len(masks)} came: {text}", 5)
    assert [tools.stamp_ns(one) for one in masks] == [k * tools.PERIOD for k in range(1, 9)], text
    assert "no subscriber" not in text
