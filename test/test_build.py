"""The build itself: what it declares, pins, repairs and installs."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import lmeec_core

ROOT = Path(__file__).resolve().parent.parent
VENV_SHARE = Path(sys.prefix) / "share"

# What the packages may import without package.xml naming it.
OWN = {"lmeec", "lmeec_core", "lmeec_ros"}
# Python packages that rosdep cannot give; package.xml says so in a comment that names each.
BY_PIP = {"torch", "pydantic", "typer", "safetensors", "pycocotools", "rosbags", "lz4", "av"}
BY_PIP |= {"simplejpeg"}
MODULE_TO_KEY = {"cv2": "python3-opencv", "PIL": "python3-pil", "tf2_ros": "tf2_ros_py"}


def load(path: Path) -> ModuleType:
    """Import a module of .ci, which is no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def declared() -> set[str]:
    """All packages that package.xml depends on, in whatever role."""
    return {tag.text or "" for tag in package_xml() if tag.tag.endswith("depend")}


def imports(folder: Path) -> set[str]:
    """Top-level names of all absolute imports in the Python files below a folder."""
    names: set[str] = set()
    for path in [p for p in folder.rglob("*") if p.suffix == ".py" or p.parent.name == "scripts"]:
        if path.is_dir() or path.suffix == ".pyc":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"__future__"}


def missing_from_package_xml(names: set[str], keys: set[str]) -> set[str]:
    """Imported names that neither a ROS package nor a python3-* key of package.xml covers."""
    return {
        name
        for name in names - OWN - BY_PIP
        if name not in keys and MODULE_TO_KEY.get(name, f"python3-{name}") not in keys
    }


def tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("folder", ["lmeec_ros", "launch"])
def test_package_xml_names_every_import(folder: str) -> None:
    names = imports(ROOT / folder)
    assert missing_from_package_xml(names, declared()) == set()


def test_missing_dependency_is_noticed() -> None:
    keys = declared() - {"rclpy", "python3-opencv"}
    assert missing_from_package_xml({"rclpy", "cv2", "numpy"}, keys) == {"rclpy", "cv2"}


def test_package_xml_names_what_messages_and_node_need() -> None:
    fields = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "msg").glob("*.msg"))
    of_messages = set(re.findall(r"^(\w+)/\w+", fields, flags=re.MULTILINE))
    assert of_messages == {"std_msgs", "sensor_msgs", "builtin_interfaces", "geometry_msgs"}
    assert of_messages | {"rclpy", "message_filters", "cv_bridge", "launch_ros"} <= declared()
    assert package_xml().findtext("member_of_group") == "rosidl_interface_packages"
    comments = (ROOT / "package.xml").read_text(encoding="utf-8")
    assert all(name in comments for name in BY_PIP)


def test_core_is_importable_without_ros() -> None:
    """Every module of the core, with the ROS packages out of reach; also none of them heavy."""
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "lmeec_core").rglob("*.py")
        if path.name != "__main__.py"
    )
    code = f"""
import importlib, sys
ros = ["rclpy", "lmeec", "lmeec_ros", "launch", "cv_bridge", "message_filters", "sensor_msgs"]
sys.modules.update(dict.fromkeys(ros))  # None: importing it raises ImportError
modules = {modules}
bags = [name for name in modules if name.startswith("lmeec_core.bags.")]
for name in modules:
    if name not in bags:
        importlib.import_module(name)
print(*(name for name in ("mujoco", "rosbags", "matplotlib", "av") if name in sys.modules))
for name in bags:
    importlib.import_module(name)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], "to be imported where it is used"


def test_versions_agree() -> None:
    """package.xml has it; what is installed takes it from there."""
    command = [sys.executable, "setup.py", "--version"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    in_xml = package_xml().findtext("version")
    assert said.stdout.split()[-1] == in_xml == importlib.metadata.version("lmeec")
    assert lmeec_core.__version__ == in_xml


@pytest.mark.parametrize("path", sorted((ROOT / ".ci").glob("*.txt")), ids=lambda p: p.name)
def test_requirements_are_pinned(path: Path) -> None:
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    wanted = [line for line in lines if line]
    assert wanted
    assert [line for line in wanted if not re.fullmatch(r"[\w.\[\]-]+==[\w.+]+", line)] == []


def test_pins_lie_within_what_setup_py_allows() -> None:
    requirement = pytest.importorskip("packaging.requirements").Requirement
    setup = runpy.run_path(str(ROOT / "setup.py"))
    pins = dict(
        re.sub(r"\[.*\]", "", line).split("==")
        for path in (ROOT / ".ci").glob("*.txt")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    for line in setup["INSTALL_REQUIRES"]:
        wanted = requirement(line)
        assert wanted.specifier.contains(pins[wanted.name]), line


def test_wheel_repair_rewrites_both_directories(tmp_path: Path) -> None:
    cmake = tmp_path / "std_msgs" / "cmake"
    cmake.mkdir(parents=True)
    exported = cmake / "export.cmake"
    exported.write_text(
        'set_target_properties(x PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "'
        "/opt/python/cp312-cp312/include/python3.12;${_IMPORT_PREFIX}/include;"
        '/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include")\n'
    )
    repair = load(ROOT / ".ci" / "wheel_repair.py").repair
    assert repair(tmp_path, "/usr/include/python3.12", r"/home/a \1 user/numpy") == [exported]
    text = exported.read_text()
    assert '"/usr/include/python3.12;${_IMPORT_PREFIX}/include;/home/a \\1 user/numpy"' in text
    assert "/opt/python" not in text
    assert repair(tmp_path, "/usr/include/python3.12", r"/home/a \1 user/numpy") == []


@pytest.mark.skipif(
    not (VENV_SHARE / "rclpy").is_dir(), reason="ROS is an installation here, not wheels"
)
def test_wheel_repair_of_the_real_wheels_is_complete_and_idempotent(tmp_path: Path) -> None:
    module = load(ROOT / ".ci" / "wheel_repair.py")
    share = tmp_path / "share"
    shutil.copytree(VENV_SHARE, share, ignore=shutil.ignore_patterns("man", "doc"))
    before = tree_hash(share)
    include = sysconfig.get_path("include")
    assert module.repair(share, include, np.get_include()) == [], "make left a file unrepaired"
    assert tree_hash(share) == before
    targets = [p for p in share.glob("*/cmake/*.cmake") if include in p.read_text(encoding="utf-8")]
    assert len(targets) >= 10
    assert not [p for p in share.glob("*/cmake/*.cmake") if "/opt/python" in p.read_text()]


@pytest.fixture(scope="module")
def prefix() -> Path:
    """Where colcon installed the package that this environment uses."""
    from ament_index_python.packages import get_package_prefix

    return Path(get_package_prefix("lmeec"))


def test_scripts_are_installed_with_the_environments_python(prefix: Path) -> None:
    for name in ("lmeec", "lmeec_node", "lmeec_points"):
        script = prefix / "lib" / "lmeec" / name
        assert os.access(script, os.X_OK)
        interpreter = script.read_text(encoding="utf-8").splitlines()[0].removeprefix("#!")
        if interpreter != "/usr/bin/env python3":  # of a path that a shebang line cannot hold
            assert Path(interpreter).parent.samefile(Path(sys.executable).parent)


def test_installed_command_runs(prefix: Path) -> None:
    done = subprocess.run(
        [prefix / "lib" / "lmeec" / "lmeec", "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


def differences(source: Path, installed: Path) -> list[str]:
    """What of a source folder is missing, stale, left over or linked from elsewhere."""

    def files(folder: Path) -> set[Path]:
        return {
            path.relative_to(folder)
            for path in folder.rglob("*")
            if (path.is_file() or path.is_symlink())
            and path.suffix != ".pyc"
            and not path.name.startswith(".")
        }

    found = []
    for name in sorted(files(source) | files(installed)):
        copy, original = installed / name, source / name
        if not original.is_file():
            found.append(f"{name} is left over")
        elif not copy.is_file():
            found.append(f"{name} is missing")
        elif copy.is_symlink() and not copy.samefile(original):
            found.append(f"{name} is a link to {copy.resolve()}")
        elif copy.read_bytes() != original.read_bytes():
            found.append(f"{name} is stale")
    return found


def test_every_source_file_is_installed_and_current(prefix: Path) -> None:
    site = prefix / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    pairs = [(ROOT / name, site / name) for name in ("lmeec_core", "lmeec_ros")]
    pairs += [(ROOT / name, prefix / "share" / "lmeec" / name) for name in ("launch", "config")]
    for source, installed in pairs:
        assert differences(source, installed) == [], f"in {installed}: make build"
    import lmeec_core

    assert Path(lmeec_core.__file__).parent == site / "lmeec_core", "the tests use another one"


def test_differences_between_sources_and_installation_are_found(tmp_path: Path) -> None:
    source, installed = tmp_path / "source", tmp_path / "installed"
    for folder in (source, installed):
        (folder / "sub").mkdir(parents=True)
        for name in ("same.py", "stale.py", "sub/other.yaml"):
            (folder / name).write_text("1")
    (source / "linked.py").write_text("1")
    (installed / "linked.py").symlink_to(source / "linked.py")
    assert differences(source, installed) == []
    (installed / "stale.py").write_text("2")
    (installed / "old.py").write_text("1")
    (source / "new.py").write_text("1")
    (installed / "linked.py").unlink()
    (installed / "linked.py").symlink_to(source / "same.py")  # the same bytes
    (installed / "sub" / "gone.py").symlink_to(source / "gone.py")
    assert differences(source, installed) == [
        f"linked.py is a link to {source / 'same.py'}",
        "new.py is missing",
        "old.py is left over",
        "stale.py is stale",
        "sub/gone.py is left over",
    ]


def test_messages_have_the_documented_fields() -> None:
    from lmeec.msg import CorrespondenceMask, CorrespondenceMaskArray

    assert CorrespondenceMask.get_fields_and_field_types() == {
        "object_id": "string",
        "label": "uint16",
        "visible": "boolean",
        "presence": "float",
        "score": "float",
        "roi": "sensor_msgs/RegionOfInterest",
        "mask": "sensor_msgs/Image",
        "area": "uint32",
        "centroid_x": "float",
        "centroid_y": "float",
    }
    assert CorrespondenceMaskArray.get_fields_and_field_types() == {
        "header": "std_msgs/Header",
        "query_header": "std_msgs/Header",
        "query_camera": "string",
        "target_camera": "string",
        "width": "uint32",
        "height": "uint32",
        "processing_time": "builtin_interfaces/Duration",
        "masks": "sequence<lmeec/CorrespondenceMask>",
    }


def test_dds_profile_is_read_and_valid() -> None:
    profile = ROOT / "config" / "fastdds.xml"
    namespace = {"dds": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
    root = ElementTree.parse(profile).getroot()
    segment = root.findtext(".//dds:segment_size", namespaces=namespace)
    assert segment is not None and int(segment) >= 64 * 2**20
    chosen = os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE", "")
    assert Path(chosen).is_file() and Path(chosen).samefile(profile), "make test sets it"


def test_set_up_again_does_nothing() -> None:
    command = [ROOT / ".ci" / "setup.sh", "dev"]
    for _ in range(2):  # the first catches up with files that came since `make`
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_set_up_says_what_is_missing_in_one_line(tmp_path: Path) -> None:
    """A user who is not root, on a machine without compiler and make."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "mkdir", "touch", "flock", "cat", "tr", "grep", "sha256sum"):
        (tools / name).symlink_to(shutil.which(name) or "/bin/false")
    (tools / "python3").symlink_to(sys.executable)
    fake_id = tools / "id"
    fake_id.write_text("#!/bin/sh\necho 1000\n")
    fake_id.chmod(0o755)
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / ".ci", clone / ".ci")
    done = subprocess.run(
        [clone / ".ci" / "setup.sh", "run"],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": str(tools), "HOME": str(tmp_path)},
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("Missing on this system: g++ make")
    assert "sudo apt-get install g++ make" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (clone / ".venv").exists()
