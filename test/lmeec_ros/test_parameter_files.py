"""Parameter files: what the tools read is what rcl, ROS's own reader, gives the node."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from hypothesis import given
from hypothesis import strategies as st
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.parameter import Parameter

from lmeec_ros.offline import bag_units
from lmeec_ros.parameters import config as parameters
from lmeec_ros.parameters import files as parameter_files
from lmeec_ros.parameters.files import ParameterError

HEAD = "/**:\n  ros__parameters:\n"
Values = dict[str, str] | None


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    one = rclpy.Context()
    rclpy.init(context=one)
    yield one
    rclpy.try_shutdown(context=one)


def by_rcl(context: Any, path: Path, node: str) -> Values:
    """The values that a real node gets, as texts with their types; None: rcl refuses the file."""
    space, _, name = node.rpartition("/")
    arguments = ["--ros-args", "--params-file", str(path)]
    try:
        with context.handle:
            made = rclpy_implementation.Node(name, space, context.handle, arguments, False, False)
    except Exception as error:  # of several classes
        assert "param" in str(error) and "pars" in str(error), repr(error)
        return None
    given = made.get_parameters(Parameter)
    made.destroy_when_not_in_use()
    return {key: exact(one.value) for key, one in given.items()}


def by_us(path: Path, node: str) -> Values:
    try:
        values = parameter_files.read(path).values_for(node)
    except ParameterError as error:
        assert str(path) in str(error) and "line" in str(error)
        return None
    return {key: exact(one) for key, one in (values or {}).items()}


def exact(value: Any) -> str:
    is_list = hasattr(value, "__len__") and not isinstance(value, str)
    return repr(list(value) if is_list else value)


PLAIN = (  # noqa: SIM905
    "1 -1 +5 0 00 012 08 0777777777777777777777777 0x1F 0X1f -0x10 0x 0b1 0o7 1_000 1:30 -0 "
    "9223372036854775807 9223372036854775808 -9223372036854775808 1e3 5e-2 5e 1. 1.5 .5 -.5 1e+5 "
    "1e999 1e-999 0e-999 1e-310 4.9406564584124654e-324 0x1p3 0x1.8 1d5 1f .inf -.inf +.INF .nan "
    "-.nan nan inf Infinity nan(12) yes Yes y N off On OFF True tRue null ~ Null = << "
    "2024-01-01 + ١٢ é"
).split()
SCALARS = [
    *PLAIN, "'1'", '"yes"', "''", '""', "'a\\0b'", '"a\\0b"', "!!str 5", "!!str yes", "!!int '5'",
    "!!float 3", "! 5",
    "a b", "  7", "\t1", "&a 5", "|\n      x\n", "|-\n      5\n", ">-\n      yes\n",
]  # fmt: skip
LISTS = ["[1, 2]", "[0x1, 010]", "[a, '', 'yes']", "[yes, No]", "[1e3, .5]", "[]", "[[1, 2]]"]
REFUSED = ["*a", "[1, 2.5]", "[1, a]", "[a, yes]", "[[1], [2]]", "", "{'': 1}", "@", "[1", "-"]


def test_every_form_of_value(context: Any, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    given = [*SCALARS, *LISTS]
    path.write_text(HEAD + "".join(f"    a{i}: {text}\n" for i, text in enumerate(given)))
    found = by_rcl(context, path, "/lmeec")
    assert found is not None and len(found) == len(given)
    assert by_us(path, "/lmeec") == found
    kinds = {type(parameter_files.scalar(text)).__name__ for text in PLAIN}
    assert kinds == {"bool", "int", "float", "str"}


@pytest.mark.parametrize("text", REFUSED)
def test_what_rcl_refuses(context: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(f"{HEAD}    b: 1\n    a: {text}\n    c: 1\n")
    assert by_rcl(context, path, "/lmeec") is None
    assert by_us(path, "/lmeec") is None


NAMES = st.sampled_from(["a", "b", "pairing", "c.d", "'1'", "é", "ros__parametersx", "<<"])
SECTIONS = st.sampled_from(
    ["/**", "/*", "*", "**", "lmeec", "/lmeec", "/robot1/lmeec", "/*/lmeec", "/**/lmeec", "other",
     "robot1/lmeec", "/robot1/**", "/robot1/*", "/**/*/lmeec"]
)  # fmt: skip
ODD = st.sampled_from(["/a-b", "9a", "//lmeec", "a/b/", "/r*", "/", "robot1//x"])
VALUES = st.sampled_from([*PLAIN, *LISTS, "'1'", "{x: 1}", "{x: {y: 1}, z: no}", "{a.b: {c: 1}}"])


@st.composite
def groups(draw: st.DrawFn, indent: int) -> str:
    """Lines of parameters, in groups or not; names may occur twice."""
    text = ""
    for _ in range(draw(st.integers(1, 3))):
        name = draw(NAMES)
        deeper = indent < 10 and draw(st.integers(0, 2)) == 0
        value = "\n" + draw(groups(indent + 2)) if deeper else f" {draw(VALUES)}\n"
        text += f"{' ' * indent}{name}:{value}"
    return text


@st.composite
def files(draw: st.DrawFn) -> str:
    """Files of some sections, in namespaces or not; few have what rcl refuses."""
    text = ""
    for _ in range(draw(st.integers(1, 4))):
        sections = ODD if draw(st.integers(0, 30)) == 0 else SECTIONS
        if draw(st.integers(0, 3)) == 0:
            text += f"{draw(st.sampled_from(['robot1', '/robot1', 'ns', '/**']))}:\n"
            for _ in range(draw(st.integers(1, 2))):
                inner = draw(sections)
                inner = inner if draw(st.integers(0, 9)) == 0 else inner.strip("/")
                text += f'  "{inner}":\n    ros__parameters:\n{draw(groups(6))}'
        else:
            text += f'"{draw(sections)}":\n  ros__parameters:\n{draw(groups(4))}'
        stray = ["stray: 1\n", "---\n", "    a: 1\n", "a:\n"]
        text += draw(st.sampled_from(stray)) if draw(st.integers(0, 30)) == 0 else ""
    return text


@pytest.mark.fuzz
@given(files(), st.sampled_from(["/lmeec", "/robot1/lmeec", "/ns/robot1/lmeec"]))
def test_generated_files(
    context: Any, tmp_path_factory: pytest.TempPathFactory, text: str, node: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "generated.yaml"
    path.write_text(text, encoding="utf-8")
    X = by_rcl(context, path, node)
    print("REF" if X is None else len(X))
    assert by_us(path, node) == X, text


def section(name: str, value: float) -> str:
    return f"{name}:\n  ros__parameters: {{pairing: {{tolerance: {value}}}}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (section("/robot1/lmeec", 0.1), 0.1),
        (section("/*/lmeec", 0.1), 0.1),
        (section("/robot1/*", 0.1), 0.1),
        (section("robot1/lmeec", 0.1) + section("/camera", 0.3), 0.1),
        ("robot1:\n  lmeec:\n    ros__parameters: {pairing.tolerance: 5e-2}\n", 0.05),
        (section("/robot1/lmeec", 0.1) + section("/**", 0.3), 0.3),
        (section("/**", 0.3) + section("/robot1/lmeec", 0.1), 0.1),
        (section("lmeec", 0.1) + section("/**", 0.3) + section("lmeec", 0.2), 0.3),
    ],
)
def test_the_node_that_a_file_is_for(tmp_path: Path, text: str, expected: float) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    assert parameters.load(parameters.read_file(path)).pairing.tolerance == expected


def test_files_for_others_and_for_several(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(section("/robot1/lmeec", 0.1) + section("/robot2/lmeec", 0.2))
    with pytest.raises(ParameterError, match=r"/robot1/lmeec, /robot2/lmeec.*--node /robot1/lmeec"):
        parameters.read_file(path)
    for name in ("/robot2/lmeec", "robot2/lmeec"):
        assert parameters.read_file(path, name) == {"pairing.tolerance": 0.2}
    bag = tmp_path / "no_bag_is_opened"
    assert bag_units.read_config(bag, path, {}, "/robot2/lmeec").pairing.tolerance == 0.2
    with pytest.raises(ParameterError, match=r"for the node /x/lmeec, only for /robot1/lmeec, /r"):
        bag_units.read_config(bag, path, {}, "/x/lmeec")
    with pytest.raises(ParameterError, match="--node /lmeec given without a parameter file"):
        bag_units.read_config(bag, None, {}, "/lmeec")
    path.write_text(section("camera", 1) + section("/**/driver", 1))
    with pytest.raises(ParameterError, match="the node /lmeec, only for camera, /.*/driver"):
        parameters.read_file(path)
    path.write_text("# nothing\n")
    with pytest.raises(ParameterError, match='no parameters; "/..:"'):
        parameters.read_file(path)
    with pytest.raises(ParameterError, match="No such file"):
        parameters.read_file(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["model.checkpoint", "memory_folder", "geometry.calibration"])
def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parameters.load({name: "~/a/w"}).values[name] == "/home/somebody/a/w"
    assert parameters.load({name: "a~/w"}).values[name] == "a~/w"
    assert parameters.load({name: "~root/w"}).values[name] == os.path.expanduser("~root/w")
    with pytest.raises(
        ParameterError, match=f"{name}: '~no-such-user/w' given, but its home folder is unknown"
    ):
        parameters.load({name: "~no-such-user/w"})


def test_every_parameter_that_is_a_path_is_marked() -> None:
    marked = {spec.name for spec in parameters.TABLE if spec.path}
    path = re.compile(r"(\w+ )?[Ff]ile\b|Folder of")
    said = {spec.name for spec in parameters.TABLE if path.match(spec.description)}
    expected = {"model.checkpoint", "memory_folder", "geometry.calibration", "prompts.checkpoint"}
    expected |= {f"omama.{name}" for name in ("weights", "text_weights", "text_encoder")}
    assert marked == said == expected


def test_the_files_among_the_arguments() -> None:
    command = "node --params-file no --ros-args --params-file a -r x:=y --params-file b -- "
    arguments = [*command.split(), "--params-file", "no", "--ros-args", "--params-file"]
    assert parameter_files.given_files(arguments) == ["a", "b"]


def test_the_node_refuses_a_file_for_others(tmp_path: Path) -> None:
    from lmeec_ros.tools.node_process import executable

    mine, other = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    mine.write_text(f"{HEAD}    autostart: false\n")
    other.write_text(section("/robot1/lmeec", 0.1))
    arguments = ["--ros-args", "--params-file", str(mine), "--params-file", str(other)]
    done = subprocess.run(
        [str(executable()), *arguments], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 2
    assert f"{other}: no parameters for the node /lmeec, only for /robot1/lmeec" in done.stderr
    assert "Traceback" not in done.stderr


def test_files_are_read_without_ros(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"{HEAD}    pairing: {{tolerance: 5e-2}}\n")
    code = (
        "import sys\n"
        "for name in ('rclpy', 'rcl_interfaces', 'lmeec'): sys.modules[name] = None\n"
        "from lmeec_ros.parameters import config as parameters\n"
        "print(parameters.load(parameters.read_file(sys.argv[1])).pairing.tolerance)"
    )
    command = [sys.executable, "-P", "-c", code, str(path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0.05\n"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("    pairing: {tolerance: 0.1}\n    pairing: {queue: 7}\n", []),
        ("    pairing: {tolerance: 0.1}\n    pairing: {tolerance: 0.2}\n", [4]),
        ("    autostart: false\n    autostart: 'no'\n", [4]),
        ('    objects: ["1:cup"]\n    objects: ["2:pail", "3:teapot"]\n', [4]),
        ("    autostart: false\n" + HEAD + "    autostart: true\n", [6]),
    ],
)
def test_a_parameter_that_is_set_twice_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, lines: list[int]
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(HEAD + text)
    parameter_files.read(path)
    said = [message for message in caplog.messages if "is set again" in message]
    assert len(said) == len(lines)
    assert all(f"{path}: line {n}: " in one for n, one in zip(lines, said, strict=True))
