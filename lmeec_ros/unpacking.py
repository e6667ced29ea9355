"""Compressed recordings are unpacked up to a limit: a few kilobytes can hold gigabytes.

The rosbags library unpacks whatever comes. `install` puts the functions of this module into the
places where it looks for its own (those of the pinned version; a test notices if they move).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal

import lz4.frame
from rosbags.rosbag2 import reader, storage_mcap

zstd = storage_mcap.zstd  # Python's own, or its backport

MOST_BYTES = 256 * 2**20
"""Size up to which a chunk, message or file is always unpacked; larger ones up to MOST_RATIO."""
MOST_RATIO = 100


def most_bytes(packed: int) -> int:
    """Bytes that so many packed ones may become."""
    return MOST_BYTES + MOST_RATIO * packed


def unpack_zstd(data: bytes, *_: object) -> bytes:
    """Unpack Zstandard frames.

    Raises:
        ValueError: if they are cut off, or become more than `most_bytes` allows.
    """
    return _unpack(zstd.ZstdDecompressor, data)


def unpack_lz4(data: bytes, *_: object) -> bytes:
    """Unpack LZ4 frames; as `unpack_zstd`."""
    return _unpack(lz4.frame.LZ4FrameDecompressor, data)


def _unpack(make: Callable[[], Any], data: bytes) -> bytes:
    limit, parts, size = most_bytes(len(data)), [], 0
    while data:
        decompressor = make()
        parts.append(decompressor.decompress(data, max_length=limit - size + 1))
        size += len(parts[-1])
        if size > limit:
            raise ValueError(f"compressed data become more than {limit} bytes")
        if not decompressor.eof:
            raise ValueError("compressed data are cut off")
        data = decompressor.unused_data or b""
    return b"".join(parts)


@contextmanager
def open_zstd(file: Any, mode: Literal["rb"]) -> Iterator[Any]:
    """Read a Zstandard file; `read` raises ValueError beyond what `most_bytes` allows."""
    left = most_bytes(os.fstat(file.fileno()).st_size)
    with zstd.open(file, mode) as inner:

        def read(size: int) -> bytes:
            nonlocal left
            data: bytes = inner.read(size)
            left -= len(data)
            if left < 0:
                raise ValueError(f"the file becomes more than {MOST_RATIO} times as large")
            return data

        yield SimpleNamespace(read=read)


@cache
def install() -> None:
    """Make the rosbags library use these functions."""
    storage_mcap.DECOMPRESSORS.update({"zstd": unpack_zstd, "lz4": unpack_lz4})
    reader.zstd = SimpleNamespace(decompress=unpack_zstd, open=open_zstd)  # type: ignore[assignment]
