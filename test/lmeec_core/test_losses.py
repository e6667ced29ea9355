"""Every loss term against values worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lmeec_core.training import losses
from lmeec_core.training.losses import LossWeights

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def row(*values: float) -> Tensor:
    """One image of one row of pixels: (1, n)."""
    return torch.tensor([values], dtype=torch.float32)


HALF_AND_THREE_QUARTERS = row(0.0, LN3)  # logits of p = 1/2 and p = 3/4
FIRST_PIXEL = row(1.0, 0.0)


def test_focal() -> None:
    # pixel 1: p = 1/2 of an object, -ln 1/2 * (1/2)^2; pixel 2: 3/4 of none, -ln 1/4 * (3/4)^2
    first, second = LN2 / 4, LN4 * 9 / 16
    found = losses.focal_loss(HALF_AND_THREE_QUARTERS, FIRST_PIXEL, alpha=0.25)
    assert found.item() == pytest.approx((0.25 * first + 0.75 * second) / 2, rel=1e-5)
    found = losses.focal_loss(HALF_AND_THREE_QUARTERS, FIRST_PIXEL, alpha=-1)
    assert found.item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_focal_without_focus_is_cross_entropy() -> None:
    found = losses.focal_loss(HALF_AND_THREE_QUARTERS, FIRST_PIXEL, alpha=-1, gamma=0)
    assert found.item() == pytest.approx((LN2 + LN4) / 2, rel=1e-5)


def test_focal_of_a_soft_border() -> None:
    # target 1/2, p = 3/4: cross-entropy (ln 4/3 + ln 4) / 2, right 1/2, alpha weight 1/2
    found = losses.focal_loss(row(LN3), row(0.5), alpha=0.25)
    assert found.item() == pytest.approx((LN4 - LN3 + LN4) / 2 / 4 / 2, rel=1e-5)


def test_dice() -> None:
    # |p t| = 1/2, |p| = 5/4, |t| = 1
    found = losses.dice_loss(HALF_AND_THREE_QUARTERS, FIRST_PIXEL)
    assert found.item() == pytest.approx(1 - 2 / 3.25, rel=1e-5)
    nothing = losses.dice_loss(row(-100, -100), row(0, 0))
    assert nothing.item() == pytest.approx(0, abs=1e-6)
    missed = losses.dice_loss(row(-100, -100), row(1, 1))
    assert missed.item() == pytest.approx(1 - 1 / 3, rel=1e-5)


def test_mask_iou() -> None:
    logits = torch.stack((row(1, 1, -1), row(-1, -1, -1), row(1, 1, 1), row(1, -1, -1)))
    target = torch.stack((row(0, 1, 1), row(0, 0, 0), row(1, 1, 1), row(0, 0.9, 0.5)))
    assert losses.mask_iou(logits, target).tolist() == pytest.approx([1 / 3, 0, 1, 0])


def test_weighted_mean() -> None:
    values = torch.tensor([2.0, 4.0])
    assert losses.weighted_mean(values, torch.tensor([1.0, 3.0])).item() == pytest.approx(3.5)
    assert losses.weighted_mean(values, torch.zeros(2)).item() == 0


def _mask_terms(
    valid: tuple[float, ...],
    weights: LossWeights,
    present: tuple[bool, ...] = (True, False, True),
    count: float | None = None,
) -> dict[str, float]:
    """Three examples, the second one absent; each has p = (1/2, 3/4), IoU 1/4, presence 3/4."""
    logits = HALF_AND_THREE_QUARTERS.expand(3, 1, 2)
    target = torch.stack([FIRST_PIXEL if there else row(0, 0) for there in present])
    terms = losses.mask_losses(
        logits, torch.full((3,), 0.25), torch.full((3,), LN3), target, torch.tensor(valid), weights,
        None if count is None else torch.tensor(count),
    )  # fmt: skip
    return {name: value.item() for name, value in terms.items()}


def test_paper_weights() -> None:
    assert LossWeights()[:4] == (20, 1, 1, 1)
    assert (LossWeights().absent, LossWeights().empty) == (0, 0)


def test_mask_terms() -> None:
    """Mask and IoU terms are of the present example, presence of both that count."""
    terms = _mask_terms((1, 1, 0), LossWeights())
    focal = (0.25 * LN2 / 4 + 0.75 * LN4 * 9 / 16) / 2
    assert terms["focal"] == pytest.approx(20 * focal, rel=1e-5)
    assert terms["dice"] == pytest.approx(1 - 2 / 3.25, rel=1e-5)
    # logits > 0 at the second pixel alone (0 is not above 0), truth is the first: IoU 0
    assert terms["iou"] == pytest.approx(0.25, rel=1e-5)
    assert terms["presence"] == pytest.approx(((LN4 - LN3) + LN4) / 2, rel=1e-5)


def test_absent_examples_can_count_more() -> None:
    terms = _mask_terms((1, 1, 0), LossWeights(absent=1.0, empty=4.0, alpha=0.5))
    present = (LN2 / 4 + LN4 * 9 / 16) / 2 / 2
    absent = (LN2 / 4 + LN4 * 9 / 16) / 2 / 2  # p = 1/2 of none is as wrong as of an object
    assert terms["focal"] == pytest.approx(20 * present + 4 * absent, rel=1e-5)
    assert terms["presence"] == pytest.approx(((LN4 - LN3) + 2 * LN4) / 2, rel=1e-5)


def test_all_absent() -> None:
    terms = _mask_terms((1, 1, 1), LossWeights(), present=(False, False, False))
    assert (terms["focal"], terms["dice"], terms["iou"]) == (0, 0, 0)
    assert terms["presence"] == pytest.approx(LN4, rel=1e-5)


def test_nothing_counts() -> None:
    weights = LossWeights(absent=1.0, empty=4.0)
    assert set(_mask_terms((0, 0, 0), weights).values()) == {0}


def test_sums_over_a_given_count() -> None:
    """Divided by one count, the terms of a batch are the sum of its parts' terms."""
    one = _mask_terms((1, 0, 0), LossWeights(), count=4.0)
    mean = _mask_terms((1, 0, 0), LossWeights())
    assert one == pytest.approx({name: value / 4 for name, value in mean.items()})
    weights = LossWeights(absent=1.0, empty=4.0)
    parts = [_mask_terms(v, weights, count=4.0) for v in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    whole = _mask_terms((1, 1, 1), weights, count=4.0)
    assert whole == pytest.approx({name: sum(p[name] for p in parts) for name in whole})


def test_absent_examples_leave_the_mask_alone() -> None:
    """By the paper's terms no gradient reaches the mask of an object that is not there."""
    logits = torch.randn(2, 4, 4, requires_grad=True)
    iou = torch.full((2,), 0.5, requires_grad=True)
    target = torch.zeros(2, 4, 4)
    target[0, 1:3, 1:3] = 1
    terms = losses.mask_losses(logits, iou, torch.zeros(2), target, torch.ones(2), LossWeights())
    losses.total(terms).backward()
    assert logits.grad is not None and iou.grad is not None
    assert logits.grad[0].abs().min() > 0 and iou.grad[0] != 0
    assert not logits.grad[1].any() and iou.grad[1] == 0


def test_dense_contrast() -> None:
    cosine = torch.tensor([0.0, LN3 / 2]).expand(1, 3, 1, 2)  # times 2: shares 1/4 and 3/4
    target = torch.stack((FIRST_PIXEL, row(1, 1), row(0, 0)))[None]

    def loss(*weight: float) -> float:
        scale = torch.tensor(2.0)
        return losses.dense_info_nce(cosine, target, scale, torch.tensor([weight])).item()

    assert loss(1, 0, 0) == pytest.approx(LN4, rel=1e-5)
    assert loss(0, 1, 0) == pytest.approx((LN4 + LN4 - LN3) / 2, rel=1e-5)
    assert loss(1, 1, 0) == pytest.approx((LN4 + (LN4 + LN4 - LN3) / 2) / 2, rel=1e-5)
    assert loss(0, 0, 1) == 0  # an empty mask is nowhere
    assert loss(0, 0, 0) == 0


def test_prototype_contrast() -> None:
    eye, scale = torch.eye(2), torch.tensor(LN3)  # shares 3/4 on the diagonal, 1/4 beside it

    def loss(identity: tuple[int, int], weight: tuple[float, float]) -> float:
        return losses.prototype_info_nce(
            eye, eye, torch.tensor(identity), torch.tensor(weight), scale
        ).item()

    assert loss((1, 2), (1, 1)) == pytest.approx(LN4 - LN3, rel=1e-5)
    # one object twice: both prototypes are right
    assert loss((1, 1), (1, 1)) == pytest.approx((LN4 - LN3 + LN4) / 2, rel=1e-5)
    # an object that is not there is neither right nor wrong for the other
    assert loss((1, 2), (1, 0)) == pytest.approx(0, abs=1e-6)
    assert loss((1, 2), (0, 0)) == 0


def test_ranking() -> None:
    target, cosine = torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 8)
    target[0, 0, 0, 0] = 0.5  # the largest counts as inside, however little it is
    cosine[0, 0, 0, [0, 5]] = LN3  # inside, and the best wrong place: cross-entropy log 2
    cosine[0, 0, 0, 1:3] = 5.0  # near the mask: neither
    cosine[0, 1, 0, 0] = 2 * LN3  # absent, and alike all the same: log(1 + 3)

    def loss(*valid: float) -> float:
        return losses.ranking_loss(cosine, target, torch.tensor([valid]), 1.0).item()

    assert loss(1, 0) == pytest.approx(LN2, rel=1e-5)
    assert loss(1, 1) == pytest.approx((LN2 + LN4) / 2, rel=1e-5)
    assert loss(0, 1) == 0  # nothing that could rank above it
    assert loss(0, 0) == 0


def test_propagation() -> None:
    carried, target = row(0.5, 0.25)[None, None], FIRST_PIXEL[None, None]
    cross = (4 * LN2 + LN4 - LN3) / 2
    dice = 1 - 1.5 / 2.25
    found = losses.propagation_loss(carried, target, torch.ones(1, 1))
    assert found.item() == pytest.approx(2 * cross + 0.3 * dice, rel=1e-5)
    assert losses.propagation_loss(carried, target, torch.zeros(1, 1)).item() == 0


def test_propagation_of_nothing_at_all_is_finite() -> None:
    zeros = torch.zeros(1, 1, 1, 4, requires_grad=True)
    loss = losses.propagation_loss(zeros, torch.zeros(1, 1, 1, 4), torch.ones(1, 1))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-3)
    assert zeros.grad is not None and torch.isfinite(zeros.grad).all()


def test_foreground() -> None:
    # two images, two channels; dice of a channel is over both images
    logits = torch.tensor([[[[0.0]], [[LN3]]], [[[LN3]], [[-100.0]]]])
    target = torch.tensor([[[[1.0]], [[0.0]]], [[[1.0]], [[0.0]]]])
    cross = (LN2 + LN4 + (LN4 - LN3) + 0) / 4
    first = 1 - (2 * 1.25 + 1) / (1.25 + 2 + 1)
    second = 1 - 1 / (0.75 + 0 + 1)
    found = losses.foreground_loss(logits, target)
    assert found.item() == pytest.approx(cross + 0.5 * (first + second) / 2, rel=1e-5)


def test_total_adds_up_in_float32() -> None:
    terms = {"a": torch.tensor(1.5, dtype=torch.bfloat16), "b": torch.tensor(2.25)}
    found = losses.total(terms)
    assert found.item() == 3.75 and found.dtype == torch.float32


# -- points around objects -----------------------------------------------------------------------


def _discs(side: int = 32) -> Tensor:
    """A disc whose radius is not known: (12, side, side)."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    far = ((y - 14.0) ** 2 + (x - 16.0) ** 2).sqrt()
    return (far < torch.linspace(3, 9, 12)[:, None, None]).float()


def _iou_by_shift(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """Expected IoU of the mask that a loss leads to, as it is and with the best shift."""
    torch.manual_seed(0)
    truth = _discs()
    logits = torch.full(truth.shape[1:], -2.0, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.15)
    for _ in range(100):
        optimizer.zero_grad()
        loss(logits.expand_as(truth), truth).mean().backward()
        optimizer.step()
    with torch.no_grad():
        found = [
            losses.mask_iou((logits + shift / 5).expand_as(truth), truth).mean().item()
            for shift in range(-15, 16)
        ]
    return found[15], max(found)


def test_masks_learnt_at_points_need_no_shift() -> None:
    as_it_is, best = _iou_by_shift(losses.point_loss)
    assert as_it_is > best - 0.03
    focal, better = _iou_by_shift(lambda x, t: losses.focal_loss(x, t, 0.25))
    assert focal < better - 0.05  # a mean over the whole image makes masks too small


def test_points_lie_around_the_object_and_where_it_is_claimed_wrongly() -> None:
    torch.manual_seed(0)
    target, logits = torch.zeros(2, 50, 50), torch.full((2, 50, 50), -20.0)
    target[0, 10:20, 10:20] = 1
    logits[:, 40:45, 40:45] = 20
    near = losses.surroundings(target)
    assert near[0].sum() == 16 * 16 and not near[1].any()  # three cells further, 6 % of 50
    index = losses.draw_points(logits, target, 4000)
    share = near.flatten(1).gather(1, index).float().mean(dim=1)
    inside = target.flatten(1).gather(1, index).mean(dim=1)
    wrong = (logits > 0).flatten(1).gather(1, index).float().mean(dim=1)
    assert share.tolist() == pytest.approx([0.75, 0.0], abs=0.03)
    assert inside.tolist() == pytest.approx([0.75 * 200 / 356, 0.0], abs=0.03)
    assert wrong[0] > 0.2 and wrong[1] > 0.8


def test_points_count_where_the_focal_term_did() -> None:
    torch.manual_seed(0)
    target = torch.zeros(2, 20, 20)
    target[0, 5:9, 5:9] = 1
    zeros, ones = torch.zeros(2), torch.ones(2)
    weights = LossWeights(focal=2.0, empty=0.5)
    terms = losses.mask_losses(
        torch.zeros(2, 20, 20), zeros, zeros, target, ones, weights, at_points=True
    )
    assert "focal" not in terms and terms["points"].item() == pytest.approx(2.5 * LN2)
