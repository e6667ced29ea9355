"""Compression strategies on hand-made banks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmeec_core import MemoryConfig
from lmeec_core.memory import MemoryBank, strategy
from lmeec_core.memory.bank import PointerBank


def bank(*values: float) -> Tensor:
    """One bank whose frames are constant: (1, m, 1, 1)."""
    return torch.tensor(values)[None, :, None, None]


def compressed(name: str, frames: Tensor, scores: list[float], capacity: int) -> list[float]:
    config = MemoryConfig(compression=name, capacity=capacity)
    (kept, kept_scores), *_ = strategy(config)(frames, torch.tensor([scores]), capacity)
    assert kept.shape[0] == kept_scores.shape[0]
    return kept[:, 0, 0].tolist()


ONES = [1.0] * 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("keep_first", [0.0, 5.0, 9.0]),  # 5 and 6 are closest: 6 goes
        ("average", [0.0, 5.5, 9.0]),
        ("fifo", [5.0, 6.0, 9.0]),
        ("cluster", [0.0, 5.0, 9.0]),
    ],
)
def test_what_goes(name: str, expected: list[float]) -> None:
    assert compressed(name, bank(0, 5, 6, 9), ONES, 3) == expected


def test_the_first_of_equal_distances_is_merged() -> None:
    assert compressed("keep_first", bank(0, 1, 2, 3), ONES, 3) == [0.0, 2.0, 3.0]


@pytest.mark.parametrize("name", ["keep_first", "average"])
def test_each_location_is_compressed_separately(name: str) -> None:
    frames = torch.tensor([[[0.0], [0.0]], [[1.0], [7.0]], [[9.0], [8.0]]])[None]
    (kept, _), *_ = strategy(MemoryConfig(compression=name))(frames, torch.ones(1, 3), 2)
    first = 0.5 if name == "average" else 0.0
    second = 7.5 if name == "average" else 7.0
    assert kept[..., 0].tolist() == [[first, 0.0], [9.0, second]]


def test_iou_selection_drops_unreliable_frames_but_never_the_newest() -> None:
    assert compressed("iou", bank(0, 1, 2, 3), [0.9, 0.2, 0.9, 0.1], 3) == [0.0, 2.0, 3.0]
    assert compressed("iou", bank(0, 1, 2, 3), [0.9, 0.9, 0.9, 0.1], 3) == [1.0, 2.0, 3.0]
    assert compressed("iou", bank(0, 1), [0.3, 0.0], 3) == [1.0]


@pytest.mark.parametrize("name", ["keep_first", "average", "fifo", "cluster"])
def test_a_bank_within_capacity_is_kept(name: str) -> None:
    assert compressed(name, bank(0, 1, 2, 3), ONES, 4) == [0.0, 1.0, 2.0, 3.0]


def test_batched_banks_do_not_touch_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(3, 5, 7, 4, generator=generator)
    for name in ("keep_first", "average", "fifo", "iou", "cluster"):
        compress = strategy(MemoryConfig(compression=name, capacity=4))
        scores = torch.rand(3, 5, generator=generator)
        together = compress(frames, scores, 4)
        for b in range(3):
            (alone, alone_scores), *_ = compress(frames[b : b + 1], scores[b : b + 1], 4)
            assert torch.equal(together[b][0], alone) and torch.equal(together[b][1], alone_scores)


def test_rows_of_the_temporal_embedding() -> None:
    release = MemoryBank(6, strategy(MemoryConfig()))
    assert release.rows(1, 7) == [5], "the first stored frame sits at row 5 while the bank fills"
    assert release.rows(6, 7) == [5, 4, 3, 2, 1, 0]
    fifo = MemoryBank(6, strategy(MemoryConfig(compression="fifo")))
    assert fifo.rows(1, 7) == [0] and fifo.rows(3, 7) == [2, 1, 0]
    large = MemoryBank(8, strategy(MemoryConfig(capacity=8)))
    assert large.rows(8, 7) == [5, 5, 5, 4, 3, 2, 1, 0]


def test_plan_changes_nothing_until_commit() -> None:
    store = MemoryBank(2, strategy(MemoryConfig(compression="fifo", capacity=2)))
    for value in (1.0, 2.0):
        for update in store.plan([0, 1], torch.full((2, 1, 1), value), torch.ones(2)):
            store.commit(update)
    updates = store.plan([1], torch.full((1, 1, 1), 3.0), torch.ones(1))
    assert store.read([0, 1])[..., 0, 0].tolist() == [[1.0, 2.0], [1.0, 2.0]]
    for update in updates:
        store.commit(update)
    assert store.read([0, 1])[..., 0, 0].tolist() == [[1.0, 2.0], [2.0, 3.0]]
    store.clear(1)
    assert store.length(0) == 2 and store.length(1) == 0


def test_pointers_of_another_precision_join_those_that_are_there() -> None:
    """A memory saved under one engine goes on under another, which may compute in float32."""
    kept = PointerBank(3)
    kept.push([0], torch.ones(1, 4, dtype=torch.bfloat16))
    kept.push([0], torch.full((1, 4), 2.0))
    assert kept.read([0])[0, :, 0].tolist() == [2, 1]
    assert kept.read([0]).dtype == torch.bfloat16
