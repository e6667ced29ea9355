"""The SROS 2 policy allows what the node uses, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

POLICY = "config/sros2_policy.xml"


def allowed(policy: Path) -> dict[str, set[str]]:
    """Full names by what may be done with them: publish, subscribe, reply, request."""
    (enclave,) = ElementTree.parse(policy).getroot().iterfind("enclaves/enclave")
    assert enclave.get("path") == "/lmeec"
    (profile,) = enclave.iterfind("profiles/profile")
    assert (profile.get("ns"), profile.get("node")) == ("/", "lmeec")
    found: dict[str, set[str]] = {}
    for group in profile:
        ((what, rule),) = group.attrib.items()
        assert rule == "ALLOW"
        for entry in group:
            name = (entry.text or "").strip()
            assert name and "*" not in name
            full = f"/lmeec{name[1:]}" if name.startswith("~/") else f"/{name}"
            assert full not in found.setdefault(what, set()), f"{name} stands twice"
            found[what].add(full)
    return found


def test_the_policy_is_what_the_node_uses(
    make_node: Any, rig: Any, tools: Any, vision_msgs: Any
) -> None:
    node = make_node()
    tools.wait_until(lambda: node.state == "active", "the node to be active")
    look = rig.node
    used = {
        "publish": look.get_publisher_names_and_types_by_node,
        "subscribe": look.get_subscriber_names_and_types_by_node,
        "reply": look.get_service_names_and_types_by_node,
        "request": look.get_client_names_and_types_by_node,
    }
    policy = allowed(tools.REPOSITORY / POLICY)

    def differences() -> dict[str, set[str]]:
        names = {what: {name for name, _ in get("lmeec", "/")} for what, get in used.items()}
        return {what: names[what] ^ policy.get(what, set()) for what in used}

    tools.wait_until(  # discovery takes a moment
        lambda: not any(differences().values()),
        lambda: f"the node's graph to be the policy's; only in one of them: {differences()}",
        patience=20,
    )


def test_the_node_runs_with_it(start_node: Any, logged: Any, tools: Any, tmp_path: Path) -> None:
    ros2 = shutil.which("ros2")
    if ros2 is None or subprocess.run([ros2, "security", "-h"], capture_output=True).returncode:
        pytest.skip("sros2 (`ros2 security`) is not installed")
    keys = tmp_path / "keystore"
    subprocess.run([ros2, "security", "create_keystore", str(keys)], check=True)
    make = [ros2, "security", "generate_artifacts", "-k", str(keys), "-p"]
    subprocess.run([*make, str(tools.REPOSITORY / POLICY)], check=True)
    security = {
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
        "ROS_SECURITY_KEYSTORE": str(keys),
    }
    node = start_node(tools.BASE, environment=security, arguments=("--enclave", "/lmeec"))
    logged(node, "activate: done")
    assert node.alive and "Traceback" not in node.log.read_text()
