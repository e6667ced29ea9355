"""The layouts for RViz, Foxglove and rqt: what they show is what the node publishes."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml
from ament_index_python.packages import get_package_share_directory
from rclpy.parameter import Parameter

from lmeec_ros.points.node import PointsNode

REPOSITORY = Path(__file__).resolve().parents[2]
POSITIONS = re.compile("/lmeec_points/(points|clouds)")
"""What the positions in a process of their own publish."""

SHOWS = {
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
}
"""Display of RViz to the type of its topic."""
WITHOUT_TOPIC = {"rviz_default_plugins/Grid", "rviz_default_plugins/TF"}


def layout(name: str) -> str:
    return (Path(get_package_share_directory("lmeec")) / "config" / name).read_text()


def texts(value: Any) -> Iterator[str]:
    """Every text in nested lists and dicts, keys included."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from (key, *texts(one))
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)
    elif isinstance(value, str):
        yield value


@pytest.fixture(scope="module")
def named() -> dict[str, set[str]]:
    """Layout to the topics that it names."""
    perspective = json.loads(layout("lmeec.perspective"))
    values = [ast.literal_eval(text) for text in texts(perspective) if re.match("['{]", text)]
    return {
        "rviz": {t for t in texts(yaml.safe_load(layout("lmeec.rviz"))) if t.startswith("/")},
        "foxglove": {
            re.split(r"[.\[]", t)[0]
            for t in texts(json.loads(layout("foxglove_layout.json")))
            if t.startswith("/")
        },
        "rqt": {t for value in values for t in texts(value) if t.startswith("/")},
    }


@pytest.fixture
def everything(tmp_path: Path, vision_msgs: Any) -> dict[str, Any]:
    """Parameters with which the node publishes all that it can."""
    lens = {"width": 80, "height": 60, "k": [70.0, 0, 40, 0, 70, 30, 0, 0, 1]}
    pose = {"position": [0.0, 0, 0], "orientation": [0.0, 0, 0, 1]}
    file = tmp_path / "calibration.yaml"
    cameras = dict.fromkeys(("ego", "exo"), {**lens, **pose})
    file.write_text(json.dumps({"frame": "map", "cameras": cameras}))
    return {"output.points": True, "geometry.calibration": str(file), "cameras.exo.depth": "depth"}


def test_every_topic_is_one_of_the_nodes(
    make_node: Any, tools: Any, everything: dict[str, Any], named: dict[str, set[str]]
) -> None:
    node = make_node(**everything)
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    known = {name: types for name, types in node.get_topic_names_and_types()}
    for tool, topics in named.items():
        assert topics and topics <= known.keys(), tool
    displays = yaml.safe_load(layout("lmeec.rviz"))["Visualization Manager"]["Displays"]
    for one in displays:
        if one["Class"] not in WITHOUT_TOPIC:
            assert known[one["Topic"]["Value"]] == [SHOWS[one["Class"]]]


def rows_of_the_table() -> dict[str, str]:
    """Topics that docs/interface.md says are published, as it writes them, to their types."""
    text = (REPOSITORY / "docs" / "interface.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \| ([\w/]+)\S* .*\| Out\b", text, re.MULTILINE)
    assert len(dict(rows)) == len(rows) > 10
    return dict(rows)


def published_in_the_table(namespace: str) -> dict[str, str]:
    """The same, of the target camera exo and with a node's name."""
    rows = rows_of_the_table().items()
    return {topic.replace("<target>", "exo").replace("~", namespace): kind for topic, kind in rows}


def topics_of(node: Any) -> dict[str, str]:
    """What a node publishes, besides what every ROS node does."""
    own = {p.topic_name: f"{p.msg_type.__module__.split('.')[0]}/{p.msg_type.__name__}"
           for p in node.publishers}  # fmt: skip
    return {name: kind for name, kind in own.items() if name != "/parameter_events"}


def test_the_table_of_topics_is_what_is_published(
    make_node: Any, context: Any, tools: Any, everything: dict[str, Any]
) -> None:
    node = make_node(**everything)
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    assert topics_of(node) == published_in_the_table("/lmeec")
    overrides = [Parameter(name, value=value) for name, value in everything.items()]
    beside = PointsNode(context=context, parameter_overrides=overrides)
    try:
        wanted = published_in_the_table("/lmeec_points").items()
        assert topics_of(beside) == {t: k for t, k in wanted if POSITIONS.match(t)}
    finally:
        beside.close()
        beside.destroy_node()


def test_every_topic_has_its_panel_in_a_picture() -> None:
    panels = runpy.run_path(str(REPOSITORY / ".ci" / "panels.py"))
    assert [*panels["IMAGES"].keys() & panels["SPACE"].keys()] == []
    assert panels["IMAGES"].keys() | panels["SPACE"].keys() == rows_of_the_table().keys()
    text = (REPOSITORY / "docs" / "interface.md").read_text(encoding="utf-8")
    assert re.findall(r"\(images/topics_(\w+)\.jpg\)", text) == ["images", "space"]


@pytest.mark.slow
def test_the_pictures_are_made(tmp_path: Path, own_domain: str) -> None:
    command = [sys.executable, str(REPOSITORY / ".ci" / "pictures.py"), "--frames", "2"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], text=True, capture_output=True,
        env={**os.environ, "ROS_DOMAIN_ID": own_domain},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, columns, rows in (("topics_images", 4, 2), ("topics_space", 3, 2)):
        picture = cv2.imread(str(tmp_path / f"{name}.jpg"))
        height, width = picture.shape[0] // rows, picture.shape[1] // columns
        for place in range(columns * rows):  # something is drawn below each title
            row, column = divmod(place, columns)
            panel = picture[row * height + 60 : (row + 1) * height, column * width :][:, :width]
            assert (panel.min(axis=2) < 128).sum() > 300, (name, place)


def test_foxgloves_panels_are_all_placed_and_configured() -> None:
    content = json.loads(layout("foxglove_layout.json"))

    def leaves(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        assert part["direction"] in ("row", "column")
        return leaves(part["first"]) + leaves(part["second"])

    assert sorted(leaves(content["layout"])) == sorted(content["configById"])
    assert all(re.fullmatch(r"\w+![a-z]+", panel) for panel in content["configById"])


def test_rqts_plugins_are_all_configured() -> None:
    manager = json.loads(layout("lmeec.perspective"))["groups"]["pluginmanager"]
    (running,) = (ast.literal_eval(one["repr"]) for one in manager["keys"].values())
    groups = {
        f"plugin__{name.replace('/', '__')}__{number}"
        for name, numbers in running.items()
        for number in numbers
    }
    assert groups == manager["groups"].keys()
