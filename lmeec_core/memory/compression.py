"""Compression strategies: how a bank with one frame too many is reduced to its capacity.

Each strategy depends only on the frames and their scores, and treats each bank of a batch
independently. It may return fewer frames than the capacity, and a different number for each bank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from lmeec_core.config import Compression, MemoryConfig

Banks = list[tuple[Tensor, Tensor]]
"""For each bank of a batch its frames (m, P, C), oldest first, and their scores (m,)."""


class Strategy(Protocol):
    """The interface of a compression strategy."""

    counts_from_newest: bool
    """Whether slot positions count from the newest frame (as in training) or from the slot of
    the oldest frame of a full bank (as the release does with its compressed banks)."""

    def __call__(self, frames: Tensor, scores: Tensor, capacity: int) -> Banks:
        """Reduce banks to at most ``capacity`` frames.

        Args:
            frames: (B, m, P, C), oldest first; m is at most capacity + 1.
            scores: (B, m) predicted IoU of each frame, 1 where the mask was given.
            capacity: frames that a bank may hold.

        Returns:
            for each of the B banks its frames (m', P, C) and scores (m',), m' <= capacity.
        """
        ...


def nearest_neighbours(frames: Tensor) -> Tensor:
    """Per location, the index k whose frames k and k + 1 are closest (Euclidean, float32).

    Args:
        frames: (B, m, P, C).

    Returns:
        int64 (B, P), values 0 .. m - 2; the first of equals.
    """
    wide = frames.float()
    return (wide[:, :-1] - wide[:, 1:]).norm(dim=-1).argmin(dim=1)


class _FeatureLevel:
    """Merges, at each location separately, the two most similar neighbouring frames."""

    counts_from_newest = False

    def __init__(self, average: bool) -> None:
        self.average = average

    def __call__(self, frames: Tensor, scores: Tensor, capacity: int) -> Banks:
        if frames.shape[1] > capacity:
            k = nearest_neighbours(frames)[:, None]  # (B, 1, P)
            slot = torch.arange(frames.shape[1] - 1, device=frames.device)[:, None]  # (m-1, 1)

            def take(index: Tensor) -> Tensor:
                return frames.gather(1, index[..., None].expand(-1, -1, -1, frames.shape[-1]))

            kept = take(slot + (slot > k))
            if self.average:
                kept = kept.where((slot != k)[..., None], (take(k) + take(k + 1)) / 2)
            frames, scores = kept, scores[:, 1:]
        return list(zip(frames.unbind(), scores.unbind(), strict=True))


class _FrameLevel:
    """Keeps or drops whole frames."""

    def __init__(
        self, choose: Callable[[Tensor, Tensor, int], list[int]], counts_from_newest: bool = True
    ) -> None:
        self.choose = choose
        self.counts_from_newest = counts_from_newest

    def __call__(self, frames: Tensor, scores: Tensor, capacity: int) -> Banks:
        result = []
        for bank, score in zip(frames.unbind(), scores.unbind(), strict=True):
            keep = self.choose(bank, score, capacity)
            whole = keep == list(range(bank.shape[0]))
            result.append((bank, score) if whole else (bank[keep], score[keep]))
        return result


def _newest(bank: Tensor, score: Tensor, capacity: int) -> list[int]:
    count = bank.shape[0]
    return list(range(max(0, count - capacity), count))


def _reliable(threshold: float) -> Callable[[Tensor, Tensor, int], list[int]]:
    """Always keep the newest frame, and older ones only above the threshold."""

    def choose(bank: Tensor, score: Tensor, capacity: int) -> list[int]:
        good = (score > threshold).tolist()
        keep = [i for i in range(bank.shape[0] - 1) if good[i]] + [bank.shape[0] - 1]
        return keep[-capacity:]

    return choose


def _clusters(bank: Tensor, score: Tensor, capacity: int) -> list[int]:
    """k-means on spatially pooled frames; the frame nearest to each centre is kept (Table 6).

    Deterministic: the first centres are found farthest-first from the newest frame.
    """
    count = bank.shape[0]
    if count <= capacity:
        return list(range(count))
    points = bank.float().mean(dim=1)  # (m, C)
    seeds = [count - 1]
    while len(seeds) < capacity:
        seeds.append(int(torch.cdist(points, points[seeds]).amin(dim=1).argmax()))
    centres = points[seeds]
    for _ in range(10):
        owner = torch.cdist(points, centres).argmin(dim=1)
        member = torch.nn.functional.one_hot(owner, len(seeds)).to(points.dtype)  # (m, k)
        size = member.sum(dim=0)[:, None]
        moved = torch.where(size > 0, member.T @ points / size.clamp_min(1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    distance = torch.cdist(points, centres)
    # Two members of a cluster may be equally near its centre. So that rounding does not decide, the
    # oldest of those that are nearest within a tolerance is kept.
    near = distance <= distance.amin(dim=0) + 1e-3 * distance.max()
    return sorted(set(near.int().argmax(dim=0).tolist()))


def strategy(config: MemoryConfig) -> Strategy:
    """The strategy that a memory configuration names."""
    strategies: dict[Compression, Strategy] = {
        "keep_first": _FeatureLevel(average=False),
        "average": _FeatureLevel(average=True),
        "fifo": _FrameLevel(_newest),
        "iou": _FrameLevel(_reliable(config.iou_threshold)),
        "cluster": _FrameLevel(_clusters, counts_from_newest=False),
    }
    return strategies[config.compression]
