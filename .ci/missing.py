"""Print the requirements of setup.py that this interpreter lacks, for pip, on a machine with ROS 2.

Usage: missing.py run|dev. NumPy is held at the installed version, for which the messages that come
with ROS are compiled. What is missing is taken at the version pinned beside this file; with another
NumPy than the pinned one at any version that setup.py allows, but torch, which is always pinned.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import runpy
import sys
from importlib import metadata
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
# Importable under a name that says nothing of the distribution: apt's OpenCV has no pip metadata.
MODULE = {"opencv-python-headless": "cv2"}
CPU_ENGINES = ("onnx", "openvino") if platform.machine() in ("x86_64", "aarch64") else ()  # wheels
RUN_EXTRAS = ("bags", "video", "download", "mark", *CPU_ENGINES)
DEV_EXTRAS = (
    *RUN_EXTRAS,
    "simulation",
    "training",
    "evaluation",
    "dataset",
    "tensorrt",
    "ray",
    "transformers",
    "dev",
)


def version_of(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def is_there(requirement: Requirement) -> bool:
    """Whether the distribution is installed in a version that the requirement allows."""
    if requirement.name in MODULE and importlib.util.find_spec(MODULE[requirement.name]):
        return True
    version = version_of(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def pins() -> dict[str, str]:
    """Distribution name -> pinned version, from the requirement files."""
    text = "\n".join(p.read_text(encoding="utf-8") for p in sorted(HERE.glob("requirements*.txt")))
    return dict(re.findall(r"^([\w.-]+)==([\w.+]+)", text, flags=re.MULTILINE))


def missing(level: str) -> list[str]:
    """The requirement lines to hand to pip."""
    setup = runpy.run_path(str(HERE.parent / "setup.py"))
    wanted = [Requirement(line) for line in setup["INSTALL_REQUIRES"]]
    for extra in DEV_EXTRAS if level == "dev" else RUN_EXTRAS:
        wanted += [Requirement(line) for line in setup["EXTRAS_REQUIRE"][extra]]
    pinned, numpy = pins(), version_of("numpy")
    lines = set()
    for requirement in wanted:
        name = requirement.name
        if not is_there(requirement):
            exact = name == "torch" or numpy in (None, pinned["numpy"])
            lines.add(f"{name}=={pinned[name]}" if exact and name in pinned else str(requirement))
    return sorted(lines) + ([f"numpy=={numpy}"] if numpy else [])


if __name__ == "__main__":
    print("\n".join(missing(sys.argv[1])))
