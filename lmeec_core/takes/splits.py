"""Split files: which takes are for training, validation and test."""

from __future__ import annotations

import json
import os
from pathlib import Path

from lmeec_core.takes.errors import TakeError


def read_split(path: str | os.PathLike[str], split: str) -> tuple[str, ...]:
    """Take names of one split of ``split.json`` ({"train": [...], "val": [...], ...}).

    Raises:
        TakeError: if the file is missing, broken, or has no such split.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise TakeError(path, f"cannot be read: {error}") from error
    except ValueError as error:
        raise TakeError(path, f"is not valid JSON: {error}") from error
    if not isinstance(content, dict) or split not in content:
        names = list(content) if isinstance(content, dict) else type(content).__name__
        raise TakeError(path, f"no split {split!r}; the file has {names}")
    takes = content[split]
    if not isinstance(takes, list) or not all(isinstance(name, str) for name in takes):
        raise TakeError(path, f"split {split!r} is not a flat list of take names")
    return tuple(takes)
