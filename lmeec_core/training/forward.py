"""Runs the network on batches of training examples, stage by stage as the tracker does."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lmeec_core.config import RELEASE_POINTER_WINDOW, Fusion
from lmeec_core.model import LMEEC, ViewFeatures
from lmeec_core.model.mask_decoder import Decoded


def other(rows: Tensor) -> Tensor:
    """The other view of every row: swaps the two halves."""
    return rows.roll(rows.shape[0] // 2, 0)


def swap(views: ViewFeatures) -> ViewFeatures:
    """The other view of every row."""
    return views.map(other)


class Step(NamedTuple):
    """Output for one frame: R rows of N objects, of which the first n are sought."""

    decoded: Decoded
    """R * n correspondences, row by row, before the presence rule."""
    match: tuple[Tensor, ...]
    """Prompts (R, N, ...): a :class:`~lmeec_core.compact.matching.MatchPrompt`, or empty."""


class _Read(NamedTuple):
    """What is computed for a frame before memory is read; R * n correspondences."""

    prepared: Tensor
    query_memory: Tensor
    view_specific: Tensor
    match: tuple[Tensor, ...]


def _read(
    model: LMEEC, query: ViewFeatures, target: ViewFeatures, masks: Tensor, sought: int
) -> _Read:
    match = model.make_prompts(query, masks, target)
    prepared = model.prepare_targets(target).repeat_interleave(sought, 0)
    memory = model.encode_query_memory(
        query.repeat_for_memory(sought), masks[:, :sought].flatten(0, 1)
    )
    return _Read(prepared, memory, model.attend_view(prepared, memory), match)


def _decode(
    model: LMEEC, fused: Tensor, target: ViewFeatures, match: tuple[Tensor, ...], n: int
) -> Decoded:
    prompt = tuple(x[:, :n].flatten(0, 1) for x in match)
    fine, middle = (x.repeat_interleave(n, 0) for x in (target.fine, target.middle))
    return model.decode_raw(fused, fine, middle, prompt)


class ClipMemory:
    """First-in-first-out banks and pointers of R * n correspondences trained as one batch.

    A correspondence that is not sought on a frame repeats its newest entry, so that all banks
    stay the same length.

    Args:
        model: the network.
        capacity: frames in each bank.
        newest_first: True counts the temporal embedding's rows from the newest frame (as the
            released code does in training), False from the oldest slot of a full bank (as in its
            compressed banks).
        query_bank, target_bank: whether to keep each bank.
    """

    def __init__(
        self,
        model: LMEEC,
        capacity: int = 6,
        newest_first: bool = True,
        query_bank: bool = True,
        target_bank: bool = True,
    ) -> None:
        self.model, self.capacity, self.newest_first = model, capacity, newest_first
        self.kept = (query_bank, target_bank)
        self.banks: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.pointers: list[Tensor] = []

    def attend(self, prepared: Tensor) -> Tensor:
        """Memory-aware features (B, P, C)."""
        table = self.model.config.memory_slots
        banks = []
        for frames in self.banks:
            if frames:
                last = (len(frames) if self.newest_first else self.capacity) - 1
                rows = [min(last - i, table - 2) for i in range(len(frames))]
                banks.append((torch.stack(frames, dim=1), rows))
        pointers = torch.stack(self.pointers, dim=1)
        return self.model.attend_memory(prepared, banks, pointers, RELEASE_POINTER_WINDOW)

    def push(self, query: Tensor, target: Tensor, pointer: Tensor, active: Tensor) -> None:
        """Append one frame: memories (B, P, width), pointers (B, C), active (B,) bool."""
        for kept, frames, new in zip(self.kept, self.banks, (query, target), strict=True):
            if not kept:
                continue
            new = self.model.stored_frames(new)
            if frames:
                new = torch.where(active[:, None, None], new, frames[-1].to(new.dtype))
            frames.append(new)
            del frames[: -self.capacity]
        if self.pointers:
            pointer = torch.where(active[:, None], pointer, self.pointers[0].to(pointer.dtype))
        self.pointers = [pointer, *self.pointers][: RELEASE_POINTER_WINDOW - 1]


def forward_frame(
    model: LMEEC,
    query: ViewFeatures,
    target: ViewFeatures,
    masks: Tensor,
    sought: int,
    memory: ClipMemory | None = None,
    fusion: Fusion | None = "mv_moe",
) -> Step:
    """Run one frame, as part of a clip or by itself.

    Args:
        query, target: R views each.
        masks: (R, N, S, S) of 0 and 1 in the query views.
        sought: n, the number of objects per row that go through the whole network.
        memory: the clip's memory, read and updated; None: a memory with only this frame's query, so
            that the decoder already knows fused features when training on clips begins.
        fusion: how the memory-aware and the view-specific feature are fused; None decodes the
            view-specific one.
    """
    read = _read(model, query, target, masks, sought)
    fused = read.view_specific
    if fusion is not None and memory is None:
        bank = model.stored_frames(read.query_memory)[:, None]
        row = int(torch.randint(model.config.memory_slots - 1, ()))
        pointers = read.prepared.new_zeros(bank.shape[0], 0, model.config.hidden_dim)
        aware = model.attend_memory(read.prepared, [(bank, [row])], pointers)
        fused = model.fuse(aware, fused, fusion)
    elif fusion is not None and memory is not None and memory.pointers:
        fused = model.fuse(memory.attend(read.prepared), fused, fusion)
    decoded = _decode(model, fused, target, read.match, sought)
    if memory is not None:
        prediction = model.apply_presence(decoded)
        written = model.encode_target_memory(
            target.repeat_for_memory(sought), prediction.logits, prediction.presence_logit
        )
        active = masks[:, :sought].flatten(0, 1).flatten(1).any(dim=1)
        memory.push(read.query_memory, written, prediction.pointer, active)
    return Step(decoded, read.match)
