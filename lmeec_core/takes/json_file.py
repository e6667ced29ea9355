"""Reads JSON files from other programs; errors name the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lmeec_core.errors import InputError
from lmeec_core.takes.errors import TakeError
from lmeec_core.takes.keys import check_text

GZIP = b"\x1f\x8b"


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        TakeError: the file cannot be read, is not JSON, is not an object, or has a duplicate name.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise TakeError(path, f"cannot be read: {error}") from error
    refuse_gzip(path, data)
    try:
        return parse_json(data)
    except InputError as error:
        raise TakeError(path, str(error)) from error


def parse_json(data: bytes) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        InputError: as for :func:`read_json`, without a file's name.
    """
    try:
        content = json.loads(data, object_pairs_hook=_object)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # the latter for thousands of nested brackets
        raise InputError(f"is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"a JSON object was expected, but it is a {type(content).__name__}")
    return content


def refuse_gzip(path: str | os.PathLike[str], head: bytes) -> None:
    """Reject a gzip file, with advice.

    Raises:
        TakeError: the file begins like a gzip file.
    """
    if head.startswith(GZIP):
        raise TakeError(path, "is compressed with gzip; decompress it first (gunzip)")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as the json module makes it; raises for duplicate or broken names."""
    content = dict(pairs)
    for name in content:
        check_text(name)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in content if names.count(name) > 1)
        raise InputError(f"the name {ascii(twice)[:80]} occurs twice in one object; keep one")
    return content
