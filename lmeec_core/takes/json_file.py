"""JSON files that others may have written: read whole, or refused with the file's name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lmeec_core.takes.errors import TakeError


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        TakeError: if the file cannot be read, is no JSON, or holds something else.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise TakeError(path, f"cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # the latter for thousands of nested brackets
        raise TakeError(path, f"is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TakeError(path, f"a JSON object was expected, it holds a {type(content).__name__}")
    return content


def is_frame(text: object) -> bool:
    """Whether a key names a frame: a whole number from 0 to 2^63 - 1 (of bags: nanoseconds)."""
    if not (isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= 19):
        return False
    return int(text) < 2**63


def frame_numbers(path: str | os.PathLike[str], listed: object) -> tuple[int, ...]:
    """The frame numbers of ``subsample_idx``, () for null.

    Raises:
        TakeError: if they are no list of numbers; names the file.
    """
    if listed is None:
        return ()
    if not isinstance(listed, list) or not all(type(n) is int or is_frame(n) for n in listed):
        raise TakeError(path, "'subsample_idx' is no list of frame numbers")
    return tuple(int(n) for n in listed)
