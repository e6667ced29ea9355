"""Repair the CMake files of the ROS 2 wheels, which name directories of their build machine.

The wheels' exported targets list the Python and NumPy include directories of the build container
(`/opt/python/cp311-cp311/...`); CMake refuses to generate while those do not exist here.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path

PYTHON_INCLUDE = re.compile(r"/opt/python/cp\d+-cp\d+/include/python3\.\d+")
NUMPY_INCLUDE = re.compile(
    r"/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages/numpy/_?core/include"
)


def repair(share: Path, python_include: str, numpy_include: str) -> list[Path]:
    """Rewrite both directories in `share/*/cmake/*.cmake`; running it again changes nothing.

    Returns the files that were changed.
    """
    changed = []
    for path in sorted(share.glob("*/cmake/*.cmake")):
        text = path.read_text(encoding="utf-8")
        # A function as replacement: a directory name must not be read as a regex template.
        repaired = PYTHON_INCLUDE.sub(lambda _: python_include, text)
        repaired = NUMPY_INCLUDE.sub(lambda _: numpy_include, repaired)
        if repaired != text:
            temporary = path.with_name(path.name + ".repair")
            temporary.write_text(repaired, encoding="utf-8")
            os.replace(temporary, path)
            changed.append(path)
    return changed


def main() -> None:
    """Repair the virtual environment whose interpreter runs this."""
    import numpy

    share = Path(sys.prefix) / "share"
    changed = repair(share, sysconfig.get_path("include"), numpy.get_include())
    print(f"wheel repair: {len(changed)} files changed under {share}")


if __name__ == "__main__":
    main()
