"""Split files: the takes for training, validation and test."""

from __future__ import annotations

import os

from lmeec_core.takes.errors import TakeError
from lmeec_core.takes.json_file import read_json


def split_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the splits in a split file.

    Raises:
        TakeError: if the file is missing or broken.
    """
    return tuple(read_json(path))


def read_split(path: str | os.PathLike[str], split: str) -> tuple[str, ...]:
    """Take names of one split of ``split.json`` ({"train": [...], "val": [...], ...}).

    Raises:
        TakeError: the file is missing or broken, has no such split, or has a name that cannot be a
            folder name.
    """
    content = read_json(path)
    if split not in content:
        raise TakeError(path, f"no split {split!r}; the file has {list(content)[:12]}")
    takes = content[split]
    if not isinstance(takes, list) or not all(isinstance(name, str) for name in takes):
        raise TakeError(path, f"split {split!r} is not a flat list of take names")
    for name in takes:  # a name becomes part of a path
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise TakeError(path, f"split {split!r}: {name!r} is not the name of a take's folder")
    return tuple(takes)
