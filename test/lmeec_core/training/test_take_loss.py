"""The loss of clips: its terms, which weights it reaches, and that batches can be split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lmeec_core as lm
from lmeec_core.config import ModelConfig
from lmeec_core.training.clips import stack
from lmeec_core.training.losses import LossWeights
from lmeec_core.training.optimizer import freeze_idle
from lmeec_core.training.parts import initialise
from lmeec_core.training.take_clips import TakeClips
from lmeec_core.training.take_loss import ClipLoss

WEIGHTS = LossWeights()


@pytest.fixture
def batch(data: Path) -> list[torch.Tensor]:
    """Three clips of three frames with two objects."""
    clips = TakeClips(data / "train", 64, 3, 2)
    found = [clips[number].clip for number in range(8)]
    return list(stack([c for c in found if c is not None and c.filled == 2][:3]))


def build(config: ModelConfig) -> lm.LMEEC:
    torch.manual_seed(0)
    model = lm.build_model(config)
    initialise(model)
    freeze_idle(model, "mv_moe")
    return model


def gradients(loss: ClipLoss, parts: list[list[torch.Tensor]]) -> dict[str, torch.Tensor | None]:
    loss.zero_grad(set_to_none=True)
    total = torch.tensor(6.0)
    for part in parts:
        loss(None, total, *part)[0].backward()
    return {name: p.grad for name, p in loss.model.named_parameters()}


def assert_same(
    found: dict[str, torch.Tensor | None], expected: dict[str, torch.Tensor | None]
) -> None:
    for name, grad in expected.items():
        if grad is not None:  # that of a key's bias is zero but for rounding
            atol = 1e-4 * grad.abs().max().item() + 1e-6
            torch.testing.assert_close(found[name], grad, rtol=0, atol=atol)


def test_every_weight_but_the_idle_ones_is_reached(
    network: ModelConfig, batch: list[torch.Tensor]
) -> None:
    """DistributedDataParallel waits for the gradient of every weight that trains."""
    loss = ClipLoss(build(network), WEIGHTS, bf16=False)
    found = gradients(loss, [batch])
    trains = {n for n, p in loss.model.named_parameters() if p.requires_grad}
    assert {name for name, grad in found.items() if grad is not None} == trains
    loss.model.requires_grad_(True)
    free = gradients(loss, [batch])
    assert {name for name, grad in free.items() if grad is not None} == trains


def test_without_mv_moe(batch: list[torch.Tensor], network: ModelConfig) -> None:
    model = build(network)
    freeze_idle(model, "add")
    found = gradients(ClipLoss(model, WEIGHTS, fusion="add", bf16=False), [batch])
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n, g in found.items() if g is not None} == trains
    assert not [n for n in trains if n.startswith("MV_MoE")]


def test_a_split_batch_has_the_same_gradient(
    network: ModelConfig, batch: list[torch.Tensor]
) -> None:
    """Also where the parts have unequal numbers of objects that count."""
    batch[3][:, 0, 0] = 0
    loss = ClipLoss(build(network), WEIGHTS, bf16=False)
    whole = gradients(loss, [batch])
    split = gradients(loss, [[x[:, :1] for x in batch], [x[:, 1:] for x in batch]])
    assert_same(split, whole)


def test_recomputing_changes_nothing(network: ModelConfig, batch: list[torch.Tensor]) -> None:
    model = build(network)
    plain = gradients(ClipLoss(model, WEIGHTS, bf16=False), [batch])
    saving = gradients(ClipLoss(model, WEIGHTS, bf16=False, recompute=True), [batch])
    assert_same(saving, plain)


def test_what_does_not_count_has_no_influence(
    network: ModelConfig, batch: list[torch.Tensor]
) -> None:
    loss = ClipLoss(build(network), WEIGHTS, bf16=False)
    total = torch.tensor(4.0)
    batch[3][:, :, 1] = 0
    with torch.no_grad():
        found, figures = loss(None, total, *batch)
        batch[2][:, :, 1] = ~batch[2][:, :, 1]
        again, _ = loss(None, total, *batch)
        nothing, _ = loss(None, total, *batch[:3], batch[3] * 0)
    assert again.item() == found.item() and nothing.item() == 0
    named = {name: value.item() for name, value in figures.items()}
    assert named["counted"] == batch[3].sum().item()
    assert 0 < named["present"] <= named["counted"]
    terms = sum(named[name] for name in ("focal", "dice", "iou", "presence"))
    assert terms == pytest.approx(found.item(), rel=1e-5)


def test_bfloat16_is_close(network: ModelConfig, batch: list[torch.Tensor]) -> None:
    model = build(network)
    with torch.no_grad():
        exact, _ = ClipLoss(model, WEIGHTS, bf16=False)(None, torch.tensor(6.0), *batch)
        rough, _ = ClipLoss(model, WEIGHTS, bf16=True)(None, torch.tensor(6.0), *batch)
    assert rough.dtype == torch.float32 and rough.item() != exact.item()
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
