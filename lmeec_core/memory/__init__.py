"""Banks of constant size and the compression strategies (paper section 3.5)."""

from lmeec_core.memory.bank import BankUpdate, MemoryBank, PointerBank
from lmeec_core.memory.compression import Strategy, strategy
from lmeec_core.memory.tracks import State, TrackMemory

__all__ = [
    "BankUpdate",
    "MemoryBank",
    "PointerBank",
    "State",
    "Strategy",
    "TrackMemory",
    "strategy",
]
