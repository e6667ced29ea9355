"""Memory banks and object pointers of constant size, one row per slot.

A slot is an object (query banks) or an object in a target view (target banks, pointers).
Storage is allocated when a slot is first used and never grows with the number of frames.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lmeec_core.memory.compression import Strategy


class BankUpdate(NamedTuple):
    """New contents of some slots, computed but not yet written."""

    slots: list[int]
    contents: list[tuple[Tensor, Tensor]]


def _rows(tensor: Tensor, slots: list[int]) -> Tensor:
    """Rows of a tensor, as a view where the slots are consecutive."""
    if slots == list(range(slots[0], slots[0] + len(slots))):
        return tensor[slots[0] : slots[0] + len(slots)]
    return tensor[slots]


class MemoryBank:
    """Past frames of many slots, at most ``capacity`` each, oldest first."""

    def __init__(self, capacity: int, compress: Strategy) -> None:
        self.capacity = capacity
        self.compress = compress
        self.lengths: list[int] = []
        self._frames = torch.empty(0)
        self._scores = torch.empty(0)

    def copy(self) -> MemoryBank:
        """An independent copy."""
        other = MemoryBank(self.capacity, self.compress)
        other.lengths = list(self.lengths)
        other._frames, other._scores = self._frames.clone(), self._scores.clone()
        return other

    def read(self, slots: list[int]) -> Tensor:
        """Frames (B, m, P, C) of slots that all hold m frames, at least one."""
        return _rows(self._frames, slots)[:, : self.lengths[slots[0]]]

    def length(self, slot: int) -> int:
        """Number of frames that a slot holds."""
        return self.lengths[slot] if slot < len(self.lengths) else 0

    def rows(self, length: int, table: int) -> list[int]:
        """Row of the temporal embedding (``table`` rows) for each of ``length`` frames.

        With feature-level compression and clusters, position i uses row capacity - 1 - i, even
        while the bank fills; other strategies count from the newest frame, which uses row 0, as in
        training. Positions beyond the table share the row of its oldest past frame.
        """
        last = length - 1 if self.compress.counts_from_newest else self.capacity - 1
        return [min(last - i, table - 2) for i in range(length)]

    def plan(self, slots: list[int], frames: Tensor, scores: Tensor) -> list[BankUpdate]:
        """Append one frame to each slot and compress; the bank itself is not changed yet.

        Args:
            slots: B slots.
            frames: (B, P, C). scores: (B,) predicted IoU, 1 for a given mask.

        Returns:
            one update per group of slots with the same number of frames.
        """
        groups: dict[int, list[int]] = {}
        for i, slot in enumerate(slots):
            groups.setdefault(self.length(slot), []).append(i)
        return [
            self._plan(length, [slots[i] for i in index], frames[index], scores[index].float())
            for length, index in groups.items()
        ]

    def _plan(self, length: int, slots: list[int], frames: Tensor, scores: Tensor) -> BankUpdate:
        frames, scores = frames[:, None], scores[:, None]
        if length:
            frames = torch.cat((self.read(slots), frames.to(self._frames.dtype)), dim=1)
            scores = torch.cat((_rows(self._scores, slots)[:, :length], scores), dim=1)
        return BankUpdate(slots, self.compress(frames, scores, self.capacity))

    def commit(self, update: BankUpdate) -> None:
        """Write planned contents."""
        self._reserve(max(update.slots) + 1, update.contents[0][0])
        for slot, (frames, scores) in zip(update.slots, update.contents, strict=True):
            count = frames.shape[0]
            self._frames[slot, :count] = frames
            self._scores[slot, :count] = scores
            self.lengths[slot] = count

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        if slot < len(self.lengths):
            self.lengths[slot] = 0

    def contents(self, slot: int) -> tuple[Tensor, Tensor]:
        """A slot's frames (m, P, C) and scores (m,), copies; m is at least 1."""
        length = self.lengths[slot]
        return self._frames[slot, :length].clone(), self._scores[slot, :length].clone()

    def _reserve(self, slots: int, like: Tensor) -> None:
        missing = slots - len(self.lengths)
        if missing > 0:
            shape = (missing, self.capacity, *like.shape[1:])
            more = like.new_zeros(shape)
            scores = torch.zeros(missing, self.capacity, device=like.device)
            empty = not self.lengths
            self._frames = more if empty else torch.cat((self._frames, more))
            self._scores = scores if empty else torch.cat((self._scores, scores))
            self.lengths += [0] * missing

    @property
    def nbytes(self) -> int:
        """Bytes of storage."""
        return self._frames.nbytes + self._scores.nbytes


class PointerBank:
    """The newest object pointers of many slots, newest first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.lengths: list[int] = []
        self._pointers = torch.empty(0)

    def copy(self) -> PointerBank:
        """An independent copy."""
        other = PointerBank(self.capacity)
        other.lengths, other._pointers = list(self.lengths), self._pointers.clone()
        return other

    def length(self, slot: int) -> int:
        """Number of pointers that a slot holds."""
        return self.lengths[slot] if slot < len(self.lengths) else 0

    def read(self, slots: list[int]) -> Tensor:
        """Pointers (B, n, C), newest first, of slots that all hold n."""
        if not self.length(slots[0]):
            return torch.empty(len(slots), 0, 0)
        return _rows(self._pointers, slots)[:, : self.length(slots[0])]

    def push(self, slots: list[int], pointers: Tensor) -> None:
        """Add the newest pointers (B, C); the oldest ones beyond the capacity are dropped."""
        missing = max(slots) + 1 - len(self.lengths)
        if missing > 0:
            more = pointers.new_zeros(missing, self.capacity, pointers.shape[-1])
            self._pointers = more if not self.lengths else torch.cat((self._pointers, more))
            self.lengths += [0] * missing
        # An engine may compute in another precision than the one that filled the memory.
        pointers = pointers.to(self._pointers.dtype)
        old = self._pointers[slots]
        self._pointers[slots] = torch.cat((pointers[:, None], old), dim=1)[:, : self.capacity]
        for slot in slots:
            self.lengths[slot] = min(self.lengths[slot] + 1, self.capacity)

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        if slot < len(self.lengths):
            self.lengths[slot] = 0

    def contents(self, slot: int) -> Tensor:
        """A slot's pointers (n, C), newest first, a copy; n is at least 1."""
        return self._pointers[slot, : self.lengths[slot]].clone()

    @property
    def nbytes(self) -> int:
        """Bytes of storage."""
        return self._pointers.nbytes
