"""Frame keys and names in takes, annotations and result files, read the same way everywhere.

A frame key is an integer, or its decimal digits with any number of leading zeros: 30, "30" and
"000030" are frame 30. Names (of takes, cameras, objects) can be any text and are not changed; error
messages point out names that look alike.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

from lmeec_core.errors import InputError

T = TypeVar("T")
MOST = 2**63
"""Frame numbers are below this (in bags they are nanoseconds)."""
SHOWN = 60


def frame_number(key: object) -> int:
    """The frame number of a key, 0 to 2^63 - 1.

    Args:
        key: an integer, or its digits as text.

    Raises:
        InputError: the key is neither; names it.
    """
    number = -1
    if type(key) is int:
        number = key
    elif isinstance(key, str) and key.isascii() and key.isdecimal():
        digits = key.lstrip("0")
        number = int(digits or 0) if len(digits) <= len(str(MOST)) else MOST
    if not 0 <= number < MOST:
        raise InputError(
            f"{_short(key)} is not a frame number; an integer such as 30, or with leading zeros "
            "such as 000030, expected"
        )
    return number


def frame_numbers(keys: object) -> tuple[int, ...]:
    """The numbers of a list of frame keys, in its order; () for None.

    Raises:
        InputError: it is not a list, or has other entries.
    """
    if keys is None:
        return ()
    if not isinstance(keys, list | tuple):
        raise InputError(f"a list of frame numbers expected, {_short(keys)} given")
    return tuple(map(frame_number, keys))


def by_frame(entries: object) -> dict[int, object]:
    """A dictionary with frame keys replaced by frame numbers, in the same order; {} for None.

    Raises:
        InputError: it is not a dictionary, a key is not a frame number, or two keys are the same
            frame; names them.
    """
    if entries is None:
        return {}
    if not isinstance(entries, Mapping):
        raise InputError(f"a dictionary by frame expected, {_short(entries)} given")
    return unique((frame_number(key), key, value) for key, value in entries.items())


def unique(items: Iterable[tuple[int, str, T]]) -> dict[int, T]:
    """Values by frame number, from (number, key as written, value).

    Raises:
        InputError: a number occurs twice; names both keys.
    """
    found: dict[int, T] = {}
    written: dict[int, str] = {}
    for number, text, value in items:
        if number in found:
            raise InputError(
                f"{_short(written[number])} and {_short(text)} are both frame {number}; keep one"
            )
        found[number], written[number] = value, text
    return found


def look_alike(name: str, others: Iterable[str]) -> str:
    """The end of an error message, which points out a name that looks like the given one.

    Names look alike if they differ only in case, spaces at the ends, or Unicode normalisation.

    Returns:
        "; 'Cam01' exists, ..." or "" if no name looks like the given one.
    """
    alike = [other for other in others if other != name and _looks(other) == _looks(name)]
    if not alike:
        return ""
    return (
        f"; {ascii(alike[0])} exists, but not {ascii(name)}: names must match exactly, including "
        "case, spaces at the ends and Unicode form"
    )


def check_text(name: str) -> None:
    """Reject a name that cannot be written to a file.

    Raises:
        InputError: it contains half a surrogate pair (a broken escape, or bytes not in UTF-8).
    """
    if not name.isascii():
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"the name {_short(name)} is not Unicode text (a broken \\u escape, or bytes that "
                "are not UTF-8); rename it"
            ) from error


def _looks(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip().casefold())


def _short(value: object) -> str:
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
