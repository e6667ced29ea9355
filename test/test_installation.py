"""The package where ROS is not, as a wheel, and where only colcon's set-up script was sourced."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from lmeec_core.cli import missing_packages as lacking

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "test" / "data" / "sample_take"
SETUP = runpy.run_path(str(ROOT / "setup.py"))
ANSI = re.compile(r"\x1b\[[0-9;]*m")

IN_ONE = """
import json, sys
from typer.testing import CliRunner
from lmeec_core.cli.app import app
results = [CliRunner().invoke(app, arguments) for arguments in json.loads(sys.argv[1])]
print(json.dumps([(result.exit_code, result.output) for result in results]))
"""

Command = Callable[..., subprocess.CompletedProcess[str]]


def requirements(*extras: str) -> list[str]:
    lines = list(SETUP["INSTALL_REQUIRES"])
    return lines + [line for extra in extras for line in SETUP["EXTRAS_REQUIRE"][extra]]


def top_levels(lines: list[str]) -> set[Path]:
    """What these requirements, and theirs in turn, have installed in this environment."""
    parse = pytest.importorskip("packaging.requirements").Requirement
    waiting, seen, paths = [parse(line) for line in lines], set(), set()
    while waiting:
        wanted = waiting.pop()
        if (wanted.name, *sorted(wanted.extras)) in seen:
            continue
        seen.add((wanted.name, *sorted(wanted.extras)))
        try:
            one = metadata.distribution(wanted.name)
        except metadata.PackageNotFoundError:  # apt's OpenCV says nothing of itself
            spec = importlib.util.find_spec({"opencv-python-headless": "cv2"}[wanted.name])
            assert spec is not None and spec.origin is not None
            paths.add(Path(spec.origin).parent)
            continue
        names = {path.parts[0] for path in one.files or ()} or {one.metadata["Name"]}
        paths |= {Path(str(one.locate_file(name))) for name in names - {"..", "__pycache__"}}
        for line in one.requires or ():
            further = parse(line)
            extras = wanted.extras or {""}
            if further.marker is None or any(further.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(further)
    return {path for path in paths if path.exists()}


def link(site: Path, *extras: str) -> None:
    for path in top_levels(requirements(*extras)):
        if not (site / path.name).exists():
            (site / path.name).symlink_to(path)


def plain() -> dict[str, str]:
    """This environment without what leads to ROS, or to the package that colcon installed."""
    ours = ("PYTHON", "AMENT", "VIRTUAL")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "package.xml", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("lmeec_core", "lmeec_ros", "msg"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--wheel-dir", str(source / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=source)
    assert done.returncode == 0, done.stderr
    (made,) = (source / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """site-packages of a new environment with the wheel and what it requires; no extras, no ROS.

    The requirements are links into this environment, as none is to be downloaded.
    """
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True)
    (found,) = folder.glob("lib/python*/site-packages")
    link(found)
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install"]
    command += ["--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=plain())
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture
def lmeec(site: Path, tmp_path: Path) -> Command:
    """Run the wheel's `lmeec` in a folder of its own."""
    kept = plain() | {"OMP_NUM_THREADS": "1", "COLUMNS": "150", "NO_COLOR": "1"}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        program = site.parents[2] / "bin" / "lmeec"
        return subprocess.run(
            [str(program), *map(str, arguments)],
            capture_output=True, text=True, timeout=240, cwd=tmp_path, env=kept,
        )  # fmt: skip

    return run


def test_a_wheel_works_on_takes_without_extras_and_without_ros(
    lmeec: Command, tmp_path: Path
) -> None:
    shown = lmeec("info", SAMPLE)
    assert shown.returncode == 0, shown.stderr
    assert "3 cameras, 9 objects, 40 frames" in shown.stdout
    found = tmp_path / "found.json"
    options = ("--preset", "mini", "--seed", "0", "--device", "cpu", "--workers", "1")
    tracked = lmeec(
        "track", SAMPLE, "--object", "pail_1", "--direction", "ego-exo", "--out", found, *options
    )
    assert tracked.returncode == 0, tracked.stderr
    masks = json.loads(found.read_text())
    assert masks and "pail_1" in json.dumps(masks)
    viewed = lmeec("view", SAMPLE, found, "--out", "video.mp4", "--height", 96)
    assert viewed.returncode == 0, viewed.stderr
    assert (tmp_path / "video.gif").stat().st_size > 10_000  # MP4 needs the extra [video]
    scored = lmeec("evaluate", found, SAMPLE, "--allow-missing", "--out", "report")
    assert scored.returncode == 0, scored.stderr
    assert "393 frames of 1 takes scored" in scored.stdout
    assert "313 predictions are missing" in scored.stdout  # 9 objects, 1 of them asked for
    assert (tmp_path / "report" / "report.html").is_file()
    refused = lmeec("bag", SAMPLE, "x")
    assert refused.returncode == 1 and "pip install 'lmeec[bags]'" in refused.stderr


def test_a_wheel_reads_and_writes_bags_and_says_where_ros_is_needed(
    lmeec: Command, site: Path, tmp_path: Path
) -> None:
    link(site, "bags")
    made = lmeec("bag", SAMPLE, "bag", "--object", "pail_1", "--masks", "array")
    assert made.returncode == 0, made.stderr
    shown = lmeec("info", "bag")
    assert shown.returncode == 0, shown.stderr
    assert "lmeec/msg/CorrespondenceMaskArray" in shown.stdout and "1:pail_1" in shown.stdout
    names = ["track", "view", "play", "record", "demo"]
    arguments = [[name, *(["bag"] if name != "demo" else [])] for name in names]
    done = subprocess.run(
        [str(site.parents[2] / "bin" / "python"), "-P", "-c", IN_ONE, json.dumps(arguments)],
        capture_output=True, text=True, timeout=240, cwd=tmp_path, env=plain(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, (code, said) in zip(names, json.loads(done.stdout), strict=True):
        assert code == 1 and "needs ROS 2" in said, (name, said)


def test_a_wheel_has_every_file_that_the_code_reads(wheel: Path) -> None:
    import zipfile

    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("lmeec_core", "lmeec_ros"):
        for path in (ROOT / folder).rglob("*"):
            name = str(path.relative_to(ROOT))
            ours = path.is_file() and "__pycache__" not in path.parts and path.suffix != ".cfg"
            if ours and path.parent.name != "scripts" and not path.name.startswith("."):
                assert name in inside, f"{name} is not in the wheel"
    assert {Path(n).name for n in inside if n.endswith(".msg")} == set(os.listdir(ROOT / "msg"))


def test_every_package_that_may_be_missing_has_a_remedy() -> None:
    imports = runpy.run_path(str(ROOT / "test" / "test_build.py"))["imports"]
    names = imports(ROOT / "lmeec_core") | imports(ROOT / "lmeec_ros")
    always = {"PIL", "cv2", "jinja2", "markupsafe", "numpy", "pycocotools", "pydantic", "rich"}
    always |= {"platformdirs", "safetensors", "scipy", "simplejpeg", "torch", "typer", "yaml"}
    guarded = {"tensorrt", "tensorrt_rtx"}  # found or not when engines are listed
    told = set(lacking.ROS) | set(lacking.EXTRAS)
    assert names - always - guarded - {"lmeec_core", "lmeec_ros"} <= told
    for module, extra in lacking.EXTRAS.items():
        assert f"lmeec[{extra}]" in lacking.remedy(ImportError("x", name=f"{module}.part"))
        assert SETUP["EXTRAS_REQUIRE"][extra]
    assert "needs ROS 2" in lacking.remedy(ModuleNotFoundError("x", name="lmeec.msg"))
    assert lacking.remedy(ImportError("what", name="json")) == "what"


# -- colcon ------------------------------------------------------------------------------------


def prefix() -> Path:
    from ament_index_python.packages import get_package_prefix

    return Path(get_package_prefix("lmeec"))


def test_the_node_runs_where_only_colcons_script_was_sourced() -> None:
    """A new terminal, no virtual environment active; ROS is sourced first, if it is installed."""
    ros = os.environ["AMENT_PREFIX_PATH"].split(":")
    ros = [path for path in ros if not Path(path).is_relative_to(ROOT)]
    sources = [f". {path}/setup.bash" for path in ros if Path(path, "setup.bash").is_file()]
    node = prefix() / "lib" / "lmeec" / "lmeec_node"
    line = "; ".join(["set -e", *sources, f". {prefix().parent}/setup.bash", f"exec {node}"])
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/tmp"),
        "ROS_DOMAIN_ID": os.environ.get("ROS_DOMAIN_ID", "0"), "PYTHONUNBUFFERED": "1",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }  # fmt: skip
    process = subprocess.Popen(
        ["bash", "-c", f"{line} --ros-args -p autostart:=false -r __node:=plain"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        said = []
        for text in process.stdout:
            said.append(text)
            if "unconfigured" in text:
                break
        assert any("unconfigured" in text for text in said), "".join(said)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_sample_take_is_installed() -> None:
    installed = prefix() / "share" / "lmeec" / "sample_take"
    files = {p.relative_to(SAMPLE) for p in SAMPLE.rglob("*") if p.is_file()}
    assert files and all((installed / file).is_file() for file in files)


def test_demo_and_soak_find_it_without_the_source_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmeec_ros.tools import demo, node_process

    monkeypatch.setattr(
        node_process, "__file__", str(tmp_path / "site" / "lmeec_ros" / "tools" / "x.py")
    )
    assert demo.sample_take().samefile(prefix() / "share" / "lmeec" / "sample_take")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "robot"))
    with pytest.raises(node_process.NodeError, match="robot/share/lmeec/sample_take.*--take"):
        demo.sample_take()


def test_colcon_test_runs_the_tests() -> None:
    """CTest knows both parts; what they run are the folders of tests."""
    build = ROOT / "build" / "lmeec"
    done = subprocess.run(
        ["ctest", "--show-only=json-v1"], cwd=build, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    tests = {test["name"]: test for test in json.loads(done.stdout)["tests"]}
    assert {"core", "ros"} <= tests.keys()
    for name in ("core", "ros"):
        assert str(ROOT / "test" / f"lmeec_{name}") in tests[name]["command"]
        timeout = [p["value"] for p in tests[name]["properties"] if p["name"] == "TIMEOUT"]
        assert timeout and float(timeout[0]) >= 1200
