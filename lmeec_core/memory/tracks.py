"""The memory of all objects of a tracker: their places, banks and object pointers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lmeec_core.memory.bank import BankUpdate, MemoryBank, PointerBank
from lmeec_core.memory.compression import Strategy

State = dict[str, dict[str, Tensor]]
"""Object id to the parts of its memory. Names: ``query.frames`` (m, P, C), ``query.scores`` (m,),
and for target camera number k ``k.frames``, ``k.scores`` and ``k.pointers`` (n, C), newest first.
What is empty is left out."""


class TrackMemory:
    """Banks and pointers of objects, each in a slot, and of each object in each target view.

    Args:
        targets: number of target views.
        capacity: frames in each bank.
        compress: what happens when a bank holds one more.
        pointers: object pointers kept.
    """

    def __init__(self, targets: int, capacity: int, compress: Strategy, pointers: int) -> None:
        self.targets = targets
        self.slots: dict[str, int] = {}
        self.query = MemoryBank(capacity, compress)
        self.target = MemoryBank(capacity, compress)
        self.pointers = PointerBank(pointers)

    @property
    def nbytes(self) -> int:
        """Bytes of storage."""
        return self.query.nbytes + self.target.nbytes + self.pointers.nbytes

    def place(self, names: list[str]) -> list[int]:
        """Slots of objects; new ones get the lowest free ones. Nothing is changed."""
        taken = set(self.slots.values())
        slots = []
        for name in names:
            slot = self.slots.get(name)
            if slot is None:
                slot = next(i for i in range(len(taken) + 1) if i not in taken)
                taken.add(slot)
            slots.append(slot)
        return slots

    def pairs(self, slot: int) -> list[int]:
        """Slots of an object's target views, in the target banks and the pointers."""
        return [slot * self.targets + k for k in range(self.targets)]

    def forget(self, name: str) -> bool:
        """Forget one object and free its place; returns whether it was known."""
        slot = self.slots.pop(name, None)
        if slot is None:
            return False
        self.query.clear(slot)
        for pair in self.pairs(slot):
            self.target.clear(pair)
            self.pointers.clear(pair)
        return True

    def _banks(self, slot: int) -> list[tuple[str, MemoryBank, int]]:
        """An object's banks: name, bank and slot in it."""
        views = [(str(k), self.target, pair) for k, pair in enumerate(self.pairs(slot))]
        return [("query", self.query, slot), *views]

    def state(self) -> State:
        """Copies of all that is remembered."""
        state: State = {}
        for name, slot in self.slots.items():
            parts: dict[str, Tensor] = {}
            for key, bank, place in self._banks(slot):
                if bank.length(place):
                    parts[f"{key}.frames"], parts[f"{key}.scores"] = bank.contents(place)
            for k, pair in enumerate(self.pairs(slot)):
                if self.pointers.length(pair):
                    parts[f"{k}.pointers"] = self.pointers.contents(pair)
            state[name] = parts
        return state

    def restore(
        self, state: Mapping[str, Mapping[str, Tensor]], frame: tuple[int, int], pointer: int
    ) -> None:
        """Take in what :meth:`state` gave; for a memory that is still empty.

        Args:
            state: of a memory with as many targets.
            frame: shape of a stored frame, (tokens, channels).
            pointer: length of an object pointer.

        Raises:
            ValueError: an unknown part or a wrong shape; nothing was changed.
        """
        for name, parts in state.items():
            self._check(name, parts, {"frames": frame, "scores": (), "pointers": (pointer,)})
        for slot, (name, parts) in enumerate(state.items()):
            self.slots[name] = slot
            for key, bank, place in self._banks(slot):
                if f"{key}.frames" in parts:
                    contents = (parts[f"{key}.frames"], parts[f"{key}.scores"])
                    bank.commit(BankUpdate([place], [contents]))
            for k, pair in enumerate(self.pairs(slot)):
                for one in parts.get(f"{k}.pointers", torch.empty(0)).flip(0):
                    self.pointers.push([pair], one[None])

    def _check(
        self, name: str, parts: Mapping[str, Tensor], shapes: dict[str, tuple[int, ...]]
    ) -> None:
        views = [str(k) for k in range(self.targets)]
        for key, value in parts.items():
            owner, _, kind = key.partition(".")
            if kind not in shapes or owner not in (
                views if kind == "pointers" else [*views, "query"]
            ):
                raise ValueError(f"object {name!r}: {key!r} is not a part of a memory")
            most = self.pointers.capacity if kind == "pointers" else self.query.capacity
            if tuple(value.shape[1:]) != shapes[kind] or not 1 <= len(value) <= most:
                expected = ", ".join(map(str, (f"1 to {most}", *shapes[kind])))
                raise ValueError(
                    f"object {name!r}: {key} of shape {tuple(value.shape)} given, ({expected}) "
                    "expected"
                )
            partner = {"frames": "scores", "scores": "frames"}.get(kind)
            if partner and len(parts.get(f"{owner}.{partner}", ())) != len(value):
                raise ValueError(f"object {name!r}: {key} without as many {owner}.{partner}")
