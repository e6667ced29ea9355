"""malloc's arenas: one for all threads, set before anything else is imported, and given back."""

from __future__ import annotations

import ctypes
import os

M_ARENA_MAX = -8
"""glibc's number for the count of arenas (malloc.h)."""


def use_one() -> None:
    """Let all threads allocate from one arena (glibc alone; MALLOC_ARENA_MAX goes before).

    By default a thread keeps what it freed for itself: a network that one thread after the other
    loads and runs leaves some 50 MB in the arena of each.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Return what was freed to the system (glibc alone).

    malloc keeps freed memory between blocks that are in use: some 50 MB after a network was freed.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
