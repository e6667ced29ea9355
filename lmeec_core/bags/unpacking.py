"""Limits the unpacking of compressed recordings: a few kilobytes can expand to gigabytes.

The rosbags library unpacks without a limit. `install` replaces its functions with those in this
module (for the pinned version; a test fails if the functions are moved).
"""

from __future__ import annotations

import bz2
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal

import lz4.frame
from rosbags.rosbag1 import reader as reader1
from rosbags.rosbag2 import reader, storage_mcap

zstd = storage_mcap.zstd  # Python's own, or its backport

PACKED_MAGIC = b"\x28\xb5\x2f\xfd"
"""The first bytes of zstd data."""
MOST_BYTES = 256 * 2**20
"""Size up to which a chunk, message or file is always unpacked; beyond it, MOST_RATIO limits the
growth."""
MOST_RATIO = 100
_STEP = 2**16


def most_bytes(packed: int) -> int:
    """Maximum size of ``packed`` compressed bytes after unpacking."""
    return MOST_BYTES + MOST_RATIO * packed


def unpack_zstd(data: bytes, *_: object) -> bytes:
    """Unpack Zstandard frames.

    Raises:
        ValueError: the data are truncated, or exceed the size that `most_bytes` allows.
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


def unpack_bz2(data: bytes, *_: object) -> bytes:
    """Unpack bzip2 data; as `unpack_zstd`."""
    return _unpack(bz2.BZ2Decompressor, data)


def unpack_beginning(packing: str, data: bytes) -> bytes:
    """Unpack as much as possible of data that may be truncated or damaged.

    Args:
        packing: "zstd", "lz4", or "" for uncompressed data; other formats give no data.
        data: the available data.

    Raises:
        ValueError: the data exceed the size that `most_bytes` allows.
    """
    if not packing:
        return data
    make = {"zstd": zstd.ZstdDecompressor, "lz4": lz4.frame.LZ4FrameDecompressor}.get(packing)
    limit, size = most_bytes(len(data)), 0
    parts: list[bytes] = []
    while data and make is not None:
        decompressor: Any = make()
        for start in range(0, len(data), _STEP):
            try:
                part = decompressor.decompress(
                    data[start : start + _STEP], max_length=limit - size + 1
                )
            except Exception:  # damaged: the libraries raise errors of several kinds
                return b"".join(parts)
            parts.append(part)
            size += len(part)
            if size > limit:
                raise ValueError(f"compressed data become more than {limit} bytes")
            if decompressor.eof:
                data = (decompressor.unused_data or b"") + data[start + _STEP :]
                break
        else:
            break
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
    reader1.decompressors.update({"bz2": unpack_bz2, "lz4": unpack_lz4})
    reader.zstd = SimpleNamespace(decompress=unpack_zstd, open=open_zstd)  # type: ignore[assignment]
