"""Losses for masks, IoU and presence (the paper's four) and for the contrastive embedding."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.5, gamma: float = 2.0) -> Tensor:
    """Focal loss (arXiv 1708.02002), mean over pixels.

    Args:
        logits: (..., h, w). target: the same shape, 0 .. 1 (soft at the border).
        alpha: weight of object pixels, 1 - alpha that of the others; below 0: no weighting.
        gamma: how strongly easy pixels are down-weighted.

    Returns:
        (...,).
    """
    p = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    right = p * target + (1 - p) * (1 - target)
    loss = cross * (1 - right) ** gamma
    if alpha >= 0:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return loss.mean(dim=(-2, -1))


POINTS = 256
"""Number of points per mask that :func:`point_loss` evaluates."""
_REACH = 0.06
_INSIDE, _ELSEWHERE = 2.0, 0.25


def surroundings(target: Tensor) -> Tensor:
    """The object and the area around it, (B, h, w) bool; all False without an object.

    The area extends from the object by :data:`_REACH` of the image's side.
    """
    reach = max(1, round(_REACH * target.shape[-1]))
    return F.max_pool2d((target > 0.5).float()[:, None], 2 * reach + 1, 1, reach)[:, 0] > 0


def draw_points(logits: Tensor, target: Tensor, count: int = POINTS) -> Tensor:
    """Draw points of masks, with replacement: (B, count) indices into h * w.

    Most points are on the object or around it, with object pixels drawn twice as often. A pixel is
    therefore predicted as object if its probability exceeds about 1/3 rather than the 1/2 that a
    mean over the whole image gives; expected IoU is best with a threshold of half that IoU. The
    other points are elsewhere, drawn more often where the logits wrongly claim the object; without
    an object, all points are drawn this way.

    Args:
        logits, target: (B, h, w). count: number of points.
    """
    with torch.no_grad():
        near = surroundings(target)
        around = near * torch.where(target > 0.5, _INSIDE, 1.0)
        elsewhere = ~near * (logits.sigmoid() + 1e-3)
        parts = [x.flatten(1).float() for x in (around, elsewhere)]
        around, elsewhere = (x / x.sum(dim=1, keepdim=True).clamp_min(1e-6) for x in parts)
        likely = (1 - _ELSEWHERE) * around + _ELSEWHERE * elsewhere
        return torch.multinomial(likely, count, replacement=True)


def point_loss(logits: Tensor, target: Tensor, count: int = POINTS) -> Tensor:
    """Cross-entropy at points around the object, see :func:`draw_points`: (B, h, w) to (B,)."""
    index = draw_points(logits, target, count)
    here, there = (x.flatten(1).gather(1, index) for x in (logits, target))
    return F.binary_cross_entropy_with_logits(here, there, reduction="none").mean(dim=1)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 |p t| + 1) / (|p| + |t| + 1), (..., h, w) to (...,)."""
    p = logits.sigmoid()
    both = (p * target).sum(dim=(-2, -1))
    return 1 - (2 * both + 1) / (p.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1)) + 1)


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of thresholded masks: logits > 0, target > 0.5; 0 where both are empty."""
    p, t = logits > 0, target > 0.5
    union = (p | t).sum(dim=(-2, -1)).clamp_min(1)
    return (p & t).sum(dim=(-2, -1)) / union


def weighted_mean(values: Tensor, weight: Tensor, count: Tensor | None = None) -> Tensor:
    """Weighted mean of values, weights >= 0; 0 if all weights are 0.

    ``count``, if given, divides the weighted sum instead of the sum of the weights.
    """
    return (values * weight).sum() / (weight.sum().clamp_min(1) if count is None else count)


class LossWeights(NamedTuple):
    """Weights of the terms; the defaults are the paper's four (section 4.3)."""

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    presence: float = 1.0
    absent: float = 0.0
    """Extra weight of absent examples in the presence term."""
    empty: float = 0.0
    """Weight of the first term of absent examples (their target is an empty mask)."""
    alpha: float = 0.25


def mask_losses(
    logits: Tensor,
    predicted_iou: Tensor,
    presence_logit: Tensor,
    target: Tensor,
    valid: Tensor,
    weights: LossWeights,
    count: Tensor | None = None,
    at_points: bool = False,
) -> dict[str, Tensor]:
    """The four weighted terms.

    The mask and IoU terms apply only where the object is in the target view, presence everywhere.

    Args:
        logits: (B, h, w) before the presence rule.
        predicted_iou: (B,) 0 .. 1. presence_logit: (B,).
        target: (B, h, w) true masks, 0 .. 1.
        valid: (B,) 1 where the example counts.
        count: divides each term's sum over the examples, so that batches can be split; None: the
            number of examples that have the term.
        at_points: use points around the objects (:func:`point_loss`) instead of the focal loss
            over all pixels.
    """
    logits = logits.float()
    present = (target.sum(dim=(-2, -1)) > 0).float()
    weight = present * valid
    pixels = point_loss(logits, target) if at_points else focal_loss(logits, target, weights.alpha)
    presence = F.binary_cross_entropy_with_logits(presence_logit, present, reduction="none")
    presence_weight = valid * (1 + weights.absent * (1 - present))
    wrong = (predicted_iou - mask_iou(logits.detach(), target)).abs()
    return {
        "points" if at_points else "focal": weights.focal * weighted_mean(pixels, weight, count)
        + weights.empty * weighted_mean(pixels, valid * (1 - present), count),
        "dice": weights.dice * weighted_mean(dice_loss(logits, target), weight, count),
        "iou": weights.iou * weighted_mean(wrong, weight, count),
        "presence": weights.presence
        * (presence * presence_weight).sum()
        / (valid.sum().clamp_min(1) if count is None else count),
    }


def dense_info_nce(cosine: Tensor, target: Tensor, temperature: Tensor, weight: Tensor) -> Tensor:
    """InfoNCE of an object's prototype against every location of a view.

    Args:
        cosine: (B, N, h, w). target: (B, N, h, w) true masks, 0 .. 1.
        temperature: factor on the cosine. weight: (B, N), 0 if the object is not in the view.
    """
    score = (cosine * temperature).flatten(2).log_softmax(dim=-1)
    share = target.flatten(2)
    share = share / share.sum(dim=-1, keepdim=True).clamp_min(1e-4)
    return weighted_mean(-(share * score).sum(dim=-1), weight)


def prototype_info_nce(
    query: Tensor, target: Tensor, identity: Tensor, weight: Tensor, temperature: Tensor
) -> Tensor:
    """InfoNCE of objects' prototypes in one view against all prototypes in the other views.

    Args:
        query, target: (M, D) unit vectors of the same M objects in the two views.
        identity: (M,), equal for the same object.
        weight: (M,), 1 if the object is in both views.
    """
    there = weight > 0
    score = (query @ target.T) * temperature
    score = score.masked_fill(~there[None], -1e4).log_softmax(dim=1)
    same = ((identity[:, None] == identity[None]) & there[None]).float()
    each = -(score * same).sum(dim=1) / same.sum(dim=1).clamp_min(1)
    return weighted_mean(each, weight)


def ranking_loss(cosine: Tensor, target: Tensor, valid: Tensor, scale: float = 30.0) -> Tensor:
    """How well a threshold on the largest cosine separates right places from wrong ones.

    The largest cosine inside the true mask of every present object is compared with the best wrong
    place of every object in the batch: anywhere if that object is absent, else more than two cells
    from its mask. In total, the wrong places of absent and of present objects have equal weight.

    Args:
        cosine: (B, N, h, w). target: (B, N, h, w) true masks, 0 .. 1.
        valid: (B, N), 0 where there is no object.
        scale: factor on differences of cosines; a difference of 1 / scale counts as separated.
    """
    largest = target.amax(dim=(-2, -1), keepdim=True)
    near = F.max_pool2d(target, 5, 1, 2) > 0
    inside = (cosine - 9 * (target < 0.5 * largest)).amax(dim=(-2, -1)).flatten()
    outside = (cosine - 9 * near).amax(dim=(-2, -1)).flatten()
    present = ((largest > 0)[..., 0, 0] * valid).flatten()
    absent = valid.flatten() - present
    wrong = present / present.sum().clamp_min(1) + absent / absent.sum().clamp_min(1)
    each = F.softplus(scale * (outside[None] - inside[:, None]))
    return weighted_mean(each, present[:, None] * wrong[None])


def propagation_loss(carried: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Loss between the mask that attention transfers to the target view and the true one.

    Args:
        carried, target: (B, N, h, w), 0 .. 1. weight: (B, N).
    """
    p = carried.clamp(1e-4, 1 - 1e-4)
    cross = -(4 * target * p.log() + (1 - target) * (1 - p).log()).mean(dim=(-2, -1))
    both = (p * target).sum(dim=(-2, -1))
    total = p.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1))
    dice = 1 - (2 * both + 0.5) / (total + 0.5)
    return weighted_mean(2 * cross + 0.3 * dice, weight)


def foreground_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy and dice loss of foreground channels; both arguments are (B, c, h, w)."""
    p = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, target)
    both = (p * target).sum(dim=(0, 2, 3))
    total = p.sum(dim=(0, 2, 3)) + target.sum(dim=(0, 2, 3))
    return cross + 0.5 * (1 - (2 * both + 1) / (total + 1)).mean()


def total(terms: dict[str, Tensor]) -> Tensor:
    """Sum of all terms."""
    return torch.stack([term.float() for term in terms.values()]).sum()
