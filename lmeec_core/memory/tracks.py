"""The memory of all objects of a tracker: their slots, banks and object pointers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lmeec_core.errors import InputError
from lmeec_core.memory.bank import BankUpdate, MemoryBank, PointerBank
from lmeec_core.memory.compression import Strategy

State = dict[str, dict[str, Tensor]]
"""Object id to the parts of its memory. Names: ``query.frames`` (m, P, C), ``query.scores`` (m,),
and for target camera number k ``k.frames``, ``k.scores`` and ``k.pointers`` (n, C), newest first.
Empty parts are left out."""


class TrackMemory:
    """Banks and pointers of objects, each in a slot, and of each object in each target view.

    Args:
        targets: number of target views.
        capacity: frames in each bank.
        compress: reduces a bank that exceeds its capacity.
        pointers: number of object pointers kept.
    """

    def __init__(self, targets: int, capacity: int, compress: Strategy, pointers: int) -> None:
        self.targets = targets
        self.slots: dict[str, int] = {}
        self.query = MemoryBank(capacity, compress)
        self.target = MemoryBank(capacity, compress)
        self.pointers = PointerBank(pointers)

    def copy(self) -> TrackMemory:
        """An independent copy.

        A step writes to a copy, which replaces the memory once the step has succeeded.
        """
        other = TrackMemory(
            self.targets, self.query.capacity, self.query.compress, self.pointers.capacity
        )
        other.slots = dict(self.slots)
        other.query, other.target = self.query.copy(), self.target.copy()
        other.pointers = self.pointers.copy()
        return other

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

    def object_of(self, pair: int) -> int:
        """Slot of the object that a slot from :meth:`pairs` belongs to."""
        return pair // self.targets

    def lengths(self, pair: int) -> tuple[int, int, int]:
        """Frames in an object's query bank, and frames and pointers of one of its target views."""
        query = self.query.length(self.object_of(pair))
        return query, self.target.length(pair), self.pointers.length(pair)

    def forget(self, name: str) -> bool:
        """Forget one object and free its slot; returns whether it was known."""
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
        """Copies of the whole memory."""
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
        self,
        state: Mapping[str, Mapping[str, Tensor]],
        frame: tuple[int, int],
        pointer: int,
        like: Tensor,
    ) -> None:
        """Restore what :meth:`state` returned; the memory must still be empty.

        Args:
            state: of a memory with the same number of targets; in any precision, on any device.
            frame: shape of a stored frame, (tokens, channels).
            pointer: length of an object pointer.
            like: a tensor with the device and type in which frames and pointers are stored.

        Raises:
            InputError: an unknown part, a wrong shape, or numbers that are not finite. This memory
                must then be discarded.
        """
        shapes: dict[str, tuple[int, ...]] = {
            "frames": frame, "scores": (), "pointers": (pointer,)
        }  # fmt: skip
        for slot, (name, given) in enumerate(state.items()):
            parts = {
                key: value.to(like.device, torch.float32 if key.endswith("scores") else like.dtype)
                for key, value in self._checked(name, given, shapes).items()
            }
            self.slots[name] = slot
            for key, bank, place in self._banks(slot):
                if f"{key}.frames" in parts:
                    contents = (parts[f"{key}.frames"], parts[f"{key}.scores"])
                    bank.commit(BankUpdate([place], [contents]))
            for k, pair in enumerate(self.pairs(slot)):
                for one in parts.get(f"{k}.pointers", torch.empty(0)).flip(0):
                    self.pointers.push([pair], one[None])

    def _checked(
        self, name: str, parts: Mapping[str, Tensor], shapes: dict[str, tuple[int, ...]]
    ) -> Mapping[str, Tensor]:
        views = [str(k) for k in range(self.targets)]
        for key, value in parts.items():
            owner, _, kind = key.partition(".")
            if kind not in shapes or owner not in (
                views if kind == "pointers" else [*views, "query"]
            ):
                raise InputError(f"object {name!r}: {key!r} is not a part of a memory")
            _check_numbers(f"object {name!r}: {key}", value)
        for key, value in parts.items():
            owner, _, kind = key.partition(".")
            most = self.pointers.capacity if kind == "pointers" else self.query.capacity
            if tuple(value.shape[1:]) != shapes[kind] or not 1 <= len(value) <= most:
                expected = ", ".join(map(str, (f"1 to {most}", *shapes[kind])))
                raise InputError(
                    f"object {name!r}: {key} of shape {tuple(value.shape)} given, ({expected}) "
                    "expected"
                )
            partner = {"frames": "scores", "scores": "frames"}.get(kind)
            if partner and len(parts.get(f"{owner}.{partner}", ())) != len(value):
                raise InputError(f"object {name!r}: {key} without as many {owner}.{partner}")
        return parts


def _check_numbers(what: str, value: object) -> None:
    """Raise an error for anything but a dense tensor of finite floating-point numbers."""
    expected = "a dense tensor of finite floating numbers expected"
    if not isinstance(value, Tensor):
        raise InputError(f"{what}: {type(value).__name__} given, {expected}")
    if value.layout is not torch.strided or value.is_meta or not value.is_floating_point():
        kind = "a meta tensor" if value.is_meta else f"{value.layout}, {value.dtype}"
        raise InputError(f"{what}: {kind} given, {expected}")
    if not value.ndim:
        raise InputError(f"{what}: a single number given, one row for each frame expected")
    wrong = int((~value.isfinite()).sum())
    if wrong:
        raise InputError(f"{what}: {wrong} of {value.numel()} numbers are not finite, {expected}")
