"""Two nodes in two namespaces: no topic, file or diagnostic name belongs to both."""

from __future__ import annotations

from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lmeec.srv import MemoryFile

from lmeec_ros.services import memory_file

VALUES = {"cameras.ego.topic": "ego/image_raw", "cameras.exo.topic": "/wall/image_raw"}
VALUES["query_masks.topic"] = "ego/label_image"


@pytest.fixture
def robots(make_node: Any, tools: Any) -> Any:
    """A node for each of two robots, of the same parameters."""
    nodes = [make_node(namespace=name, **VALUES) for name in ("robot1", "robot2")]
    for node in nodes:
        tools.wait_until(lambda node=node: node.state == "active", "both nodes to be active")
    return nodes


def test_topics_and_diagnostics(robots: Any, rig: Any, tools: Any) -> None:
    heard = rig.listen("/diagnostics", DiagnosticArray)

    def names() -> list[set[str]]:
        every = {frozenset(status.name for status in one.status) for one in heard}
        return [set(one) for one in every]

    tools.wait_until(lambda: len(names()) == 2, "the diagnostics of both")
    one, other = names()
    assert not one & other and all(
        name.startswith(("/robot1/", "/robot2/")) for name in one | other
    )
    published, subscribed = (
        [{t.topic_name for t in getattr(node, kind)} for node in robots]
        for kind in ("publishers", "subscriptions")
    )
    shared = {"/diagnostics", "/rosout", "/parameter_events"}
    assert published[0] & published[1] <= shared
    assert "/robot1/lmeec/exo/masks" in published[0]
    assert "/robot2/ego/label_image" in subscribed[1]
    assert subscribed[0] & subscribed[1] <= {"/wall/image_raw", *shared}


def test_memory_files(robots: Any, rig: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("ROS_HOME", str(tmp_path))
    for name in ("robot1", "robot2"):
        request = MemoryFile.Request(name="shift_1")
        response = rig.call(MemoryFile, f"/{name}/lmeec/save_memory", request)
        assert response.success and f"{name}/shift_1.safetensors" in response.message
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.safetensors")}
    assert found == {f"lmeec/{name}/shift_1.safetensors" for name in ("robot1", "robot2")}
    assert memory_file("", "a") == tmp_path / "lmeec" / "a.safetensors"
    assert memory_file("/m", "a", "/x/y").as_posix() == "/m/x/y/a.safetensors"
