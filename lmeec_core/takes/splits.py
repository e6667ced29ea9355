"""Split files: which takes are for training, validation and test."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lmeec_core.takes.errors import TakeError


def split_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the splits in a split file.

    Raises:
        TakeError: if the file is missing or broken.
    """
    return tuple(_read(path))


def read_split(path: str | os.PathLike[str], split: str) -> tuple[str, ...]:
    """Take names of one split of ``split.json`` ({"train": [...], "val": [...], ...}).

    Raises:
        TakeError: if the file is missing, broken, or has no such split.
    """
    content = _read(path)
    if split not in content:
        raise TakeError(path, f"no split {split!r}; the file has {list(content)}")
    takes = content[split]
    if not isinstance(takes, list) or not all(isinstance(name, str) for name in takes):
        raise TakeError(path, f"split {split!r} is not a flat list of take names")
    return tuple(takes)


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise TakeError(path, f"cannot be read: {error}") from error
    except ValueError as error:
        raise TakeError(path, f"is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TakeError(path, f"expected splits by name, found {type(content).__name__}")
    return content
