"""Peak and current memory, on a GPU or of the process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from collections.abc import Callable
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"


def peak_of(device: torch.device, work: Callable[[], object]) -> float | None:
    """Peak memory in megabytes during ``work``, including what was in use before.

    Args:
        device: for a GPU, torch's allocated memory is measured, otherwise the process's resident
            memory.
        work: called once; nothing else should run in this process.

    Returns:
        the peak; None on systems that cannot reset a process's peak (all but Linux).
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) / 1e6
    with contextlib.suppress(AttributeError, OSError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)  # return freed memory to the system
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        work()
        return None
    work()
    return _status("VmHWM") * 1024 / 1e6


def used(device: torch.device) -> float:
    """Megabytes in use now: torch's allocated memory on a GPU, or the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 1e6
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def _status(name: str) -> int:
    """An entry of the process's status, in kB."""
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
