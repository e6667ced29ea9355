"""Decoder of LZString's "encoded URI component" text, in which EgoExo4D stores its masks.

Format: pieroxy's lz-string (https://github.com/pieroxy/lz-string), an LZ78 variant. Every
character of the text carries six bits, the highest first; numbers in that stream have their lowest
bit first. Codes 0 and 1 introduce a new character of 8 or 16 bits, 2 is the end, and all others are
entries of the dictionary, which encoder and decoder build in the same way.
"""

from __future__ import annotations

from lmeec_core.errors import InputError

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-$"
_LITERALS = {0: 8, 1: 16}
_END = 2
# The six bits of every character in the order of the stream, so that numbers can be masked off.
_BITS = {char: int(f"{value:06b}"[::-1], 2) for value, char in enumerate(ALPHABET[:64])}


def decompress(text: str) -> str:
    """Decompress a text; "" for "".

    Args:
        text: the result of lz-string's ``compressToEncodedURIComponent``.

    Raises:
        InputError: the text has another format, or is truncated.
    """
    if not text:
        return ""
    bits = _Bits(text)
    entries: list[str] = ["", "", ""]  # codes 0, 1 and 2 are not entries
    width, room = 2, 1  # bits of a code; entries to add until codes are one bit longer
    parts: list[str] = []
    previous = ""
    while True:
        code = bits.read(width)
        if code == _END:
            return "".join(parts)
        if code in _LITERALS:
            entries.append(chr(bits.read(_LITERALS[code])))
            code = len(entries) - 1
            width, room = _grow(width, room)
        if code < len(entries):
            entry = entries[code]
        elif code == len(entries) and previous:
            entry = previous + previous[0]
        else:
            raise InputError(f"not LZString text: code {code} of {len(entries)} entries")
        parts.append(entry)
        if previous:
            entries.append(previous + entry[0])
            width, room = _grow(width, room)
        previous = entry


def _grow(width: int, room: int) -> tuple[int, int]:
    """Width of the next code and room left, after one more entry."""
    return (width + 1, 1 << width) if room == 1 else (width, room - 1)


class _Bits:
    """Reads numbers from the text's bits."""

    def __init__(self, text: str) -> None:
        self._text = iter(text.replace(" ", "+"))  # in URLs, "+" may have become a space
        self._buffer = self._count = 0

    def read(self, width: int) -> int:
        """The next number of ``width`` bits.

        Raises:
            InputError: on a character of another alphabet, or at the end of the text.
        """
        while self._count < width:
            char = next(self._text, None)
            if char is None:
                raise InputError("not LZString text: it is cut off")
            bits = 0 if char == "$" else _BITS.get(char)
            if bits is None:
                raise InputError(f"not LZString text: character {char!r}")
            self._buffer |= bits << self._count
            self._count += 6
        number = self._buffer & ((1 << width) - 1)
        self._buffer >>= width
        self._count -= width
        return number
