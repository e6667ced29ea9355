"""One malloc arena for all threads, set before anything else is imported, and trimmed."""

from __future__ import annotations

import ctypes
import os

M_ARENA_MAX = -8
"""glibc's number for the count of arenas (malloc.h)."""


def use_one() -> None:
    """Let all threads allocate from one arena (glibc only; MALLOC_ARENA_MAX takes precedence).

    By default each thread keeps the memory that it freed: a network that one thread loads and
    another one runs leaves about 50 MB in the arena of each.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Return freed memory to the system (glibc only).

    malloc keeps freed memory between blocks in use: about 50 MB after a network is freed.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
