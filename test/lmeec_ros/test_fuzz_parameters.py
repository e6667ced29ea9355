"""Generated parameters, as values and as files read by ROS: taken, or refused by name."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import rclpy
from hypothesis import example, given
from hypothesis import strategies as st
from rclpy.node import Node

from lmeec_ros.parameters import config as parameters
from lmeec_ros.parameters.config import NodeConfig, ParameterError

pytestmark = pytest.mark.fuzz
Bounded = Callable[..., Any]

NAMES = sorted(parameters.table_for(["ego", "exo", "left-1"]))
CHOICES = sorted({choice for spec in parameters.TABLE for choice in spec.choices})
TEXTS = st.sampled_from(
    ["", "ego", "exo", "left-1", "left_1", "1:cup", "2:cup", "0:a", "1" * 5000 + ":a", "²:a", ":",
     "..", "/x y", "ego\n", "cuda:99", *CHOICES]
) | st.text(max_size=5)  # fmt: skip
# What rclpy can hand over: the types of rcl_interfaces/ParameterValue.
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-1, 12)
    | st.floats()
    | TEXTS
    | st.lists(TEXTS, max_size=4)
    | st.lists(st.booleans(), max_size=2)
    | st.lists(st.floats(width=32), max_size=2).map(lambda v: array("d", v))
    | st.lists(st.integers(-5, 5), max_size=2).map(lambda v: array("q", v))
    | st.binary(max_size=3)
    | st.lists(st.binary(min_size=1, max_size=1), max_size=2)
)
KEYS = st.sampled_from([*NAMES, "use_sim_time", "cameras.x.topic", "cameras..", "."]) | st.text(
    max_size=6
)


def check(config: NodeConfig) -> None:
    """What every configuration that was taken keeps to."""
    table = parameters.table_for(list(config.cameras), config.text)
    assert set(config.values) == set(table)
    assert config.query_camera not in config.target_cameras
    assert {config.query_camera, *config.target_cameras} <= set(config.cameras)
    assert len(set(config.objects.values())) == len(config.objects)
    for name, spec in table.items():
        assert type(config.values[name]) is type(spec.default)
        if name.split(".")[0] in ("pairing", "output", "geometry", "mailbox", "memory"):
            assert reduce(getattr, name.split("."), config) == config.values[name], name
        if spec.minimum is not None and spec.maximum is not None:
            value = config.values[name]
            for number in value if isinstance(value, list) else [value]:
                assert spec.minimum <= number <= spec.maximum


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_values(bounded: Bounded, values: dict[str, Any]) -> None:
    with bounded():
        try:
            config = parameters.load(values)
        except ParameterError as error:
            text = str(error)
            assert any(name in text for name in [*values, *NAMES]) and len(text) < 20_000
        else:
            check(config)


@pytest.fixture(scope="module")
def context() -> Any:
    one = rclpy.Context()
    rclpy.init(context=one)
    yield one
    rclpy.try_shutdown(context=one)


TEXT = (Path(__file__).resolve().parents[2] / "config" / "lmeec.yaml").read_bytes()
WORDS = st.sampled_from(
    [b"&a [*a]", b"!!python/object/apply:os.getpid []", b"- ", b": ", b"\n", b"[", b"{", b"0x",
     b"1e999", b"\xff", b"\0", b"<<: *a", b"/**:\n", b"null",
     b"\t", b"9" * 400, b".nan", b"'", b'"']
)  # fmt: skip


@given(
    st.lists(
        st.tuples(st.integers(0, len(TEXT)), st.integers(0, 40), WORDS | st.binary(max_size=4)),
        min_size=1,
        max_size=3,
    )
)
@example([(TEXT.index(b"ego/image_raw") + 1, 0, b"&a [*a]")])
def test_files_through_ros(
    bounded: Bounded, context: Any, tmp_path_factory: pytest.TempPathFactory, edits: Any
) -> None:
    """ROS's own reader takes the file apart; what it lets through is checked."""
    data = bytearray(TEXT)
    for place, length, content in edits:
        data[place : place + length] = content
    path = tmp_path_factory.getbasetemp() / "parameters.yaml"
    path.write_bytes(data)
    with bounded(10.0):
        try:
            node = Node(
                "lmeec",
                context=context,
                cli_args=["--ros-args", "--params-file", str(path)],
                enable_rosout=False,
                start_parameter_services=False,
            )
        except Exception as error:  # ROS's: of several classes
            assert "param" in str(error).lower() or str(path) in str(error), repr(error)
            return
        try:
            check(parameters.declare(node))
        except ParameterError as error:
            assert len(str(error)) < 20_000
        finally:
            node.destroy_node()
