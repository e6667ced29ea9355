"""Use one malloc arena for all threads (set before other imports), and return freed memory."""

from __future__ import annotations

import ctypes
import os

M_ARENA_MAX = -8
"""mallopt's option for the maximum number of arenas (malloc.h of glibc)."""


def use_one() -> None:
    """Make all threads allocate from one arena (glibc only; MALLOC_ARENA_MAX takes precedence).

    By default threads have separate arenas, which keep freed memory: loading a network in one
    thread and running it in another leaves about 50 MB unused in each arena.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Return freed memory to the system (glibc only).

    malloc keeps freed memory that lies between blocks in use: about 50 MB after freeing a network.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
