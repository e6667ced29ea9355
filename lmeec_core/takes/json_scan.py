"""Finds values in a JSON file without parsing all of it.

Annotation files can be larger than the memory. One pass over the file's bytes finds brackets and
keys; a value is parsed only when needed.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Container, Generator
from contextlib import closing, suppress

from lmeec_core.takes.keys import check_text

_TOKEN = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")(\s*+:)?+|[{}\[\]]', re.DOTALL)


def top_level(path: str | os.PathLike[str], names: Container[str]) -> str | None:
    """The first of the given names at the top level of a JSON file; None if there is none.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        if not file.seek(0, os.SEEK_END):
            return None
        with (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            closing(second_level(data)) as values,
            suppress(ValueError),
        ):
            for keys, _, _ in values:
                if keys[0] in names:
                    return keys[0]
    return None


def second_level(data: mmap.mmap) -> Generator[tuple[tuple[str, str], int, int | None], None, None]:
    """Positions of the values at the second level: (keys, start, end).

    The end is None if the file is truncated there, and 0 for values that are not dictionaries.
    """
    depth = start = 0
    keys, waiting = ["", ""], False
    for match in _TOKEN.finditer(data):
        if match[1]:
            if match[2] and depth in (1, 2):  # a key
                if waiting:
                    yield (keys[0], keys[1]), 0, 0
                keys[depth - 1] = json.loads(match[1].decode())  # its escapes undone
                check_text(keys[depth - 1])
                waiting = depth == 2
        elif match[0] in b"{[":
            depth += 1
            if depth == 2 and match[0] == b"[":
                keys[0] = ""  # entries of a list have no names
            elif depth == 3:
                start, waiting = match.start(), False
        else:
            depth -= 1
            if depth == 2:
                yield (keys[0], keys[1]), start, match.end()
            elif depth == 1 and waiting:
                yield (keys[0], keys[1]), 0, 0
                waiting = False
    if depth:
        yield (keys[0], keys[1]), start, None
