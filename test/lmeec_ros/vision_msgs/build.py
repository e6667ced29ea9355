"""Builds the messages of this folder, for machines whose ROS does not bring vision_msgs."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
BUILD = SOURCE.parents[2] / "build"


def installed() -> Path:
    """Where the package is installed; it takes half a minute, and is kept until a file changes."""
    files = sorted(
        p for p in SOURCE.rglob("*") if p.is_file() and p.suffix in {".msg", ".txt", ".xml"}
    )
    content = b"".join(one.read_bytes() for one in files) + sys.prefix.encode()
    place = BUILD / f"vision_msgs_{hashlib.sha256(content).hexdigest()[:12]}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:  # processes that share the tests
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "done").exists():
            _build(place)
            (place / "done").touch()
    return place / "install"


def modules(install: Path) -> Path:
    """The folder of the Python package."""
    return next(install.rglob("site-packages"))


def _build(place: Path) -> None:
    build, install = place / "build", place / "install"
    options = [
        f"-DCMAKE_INSTALL_PREFIX={install}", f"-DCMAKE_INSTALL_RPATH={install}/lib",
        f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF", "-DCMAKE_CXX_FLAGS=-O0 -w",
    ]  # fmt: skip
    for command in (
        ["cmake", "-S", str(SOURCE), "-B", str(build), *options],
        ["cmake", "--build", str(build), "--target", "install", "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
