"""What the surroundings of an object say about where it is.

An object that is hidden or out of the picture cannot be found, but what lies around it often can:
where that lands in the other view tells whether the object should be in sight there, and whether
what was found lies where it should.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_RINGS = ((2, 4), (4, 7))  # cells, around the object and further off
_NEAR = 4
_EACH = 6
SURROUNDINGS_SIZE = 3 + 2 * _EACH * (1 + len(_RINGS))
"""Numbers of a correspondence, see :func:`surroundings`."""


def _grown(mask: Tensor, cells: int) -> Tensor:
    return F.max_pool2d(mask[:, None], 2 * cells + 1, 1, cells)[:, 0]


def _regions(mask: Tensor) -> Tensor:
    """The object, what is around it, and what is further off: weights (B, R, P), sums of 1."""
    rings = [_grown(mask, outer) - _grown(mask, inner) for inner, outer in _RINGS]
    weight = torch.stack((mask, *rings), dim=1).flatten(2)
    return weight / weight.sum(dim=2, keepdim=True).clamp_min(1e-3)


def _places(side: int, device: torch.device) -> Tensor:
    """(P, 2) x and y of the cells, 0 .. 1."""
    axis = (torch.arange(side, device=device) + 0.5) / side
    return torch.stack((axis.expand(side, side), axis[:, None].expand(side, side)), -1).flatten(
        0, 1
    )


def _entropy(share: Tensor) -> Tensor:
    return -(share.clamp_min(1e-12).log() * share).sum(dim=2)


def surroundings(
    mask: Tensor, found: Tensor, query: Tensor, target: Tensor, sharpness: Tensor | float
) -> Tensor:
    """Where an object, its surroundings and those of the find have their likes in the other view.

    Of the query mask in the target view and of the find in the query view, for the object, the ring
    around it and the ring further off: likeness of the best places; share that comes back to where
    it set out; how spread its landing places are (entropy); and of what comes back: the share that
    lands near the other mask, the distance of its centre from the border of the image, and its
    extent. Before them, of the whole views: the share that comes back and the likeness of the best
    places of both. All are continuous, so that they do not depend on the order of sums.

    Args:
        mask, found: (B, 2g, 2g) shares, 0 .. 1, the query mask and what was found.
        query, target: (B, D, 2g, 2g) float32 vectors of the two views.
        sharpness: inverse temperature of the likeness.

    Returns:
        float32 (B, SURROUNDINGS_SIZE).
    """
    # Cells of the patch grid: pairs of finer ones would take 16 times the memory.
    query, target = (F.normalize(F.avg_pool2d(x, 2), dim=1).flatten(2) for x in (query, target))
    mask, found = (F.avg_pool2d(x, 2) for x in (mask, found))
    mask, found = (x / x.amax(dim=(1, 2), keepdim=True).clamp_min(1e-6) for x in (mask, found))
    cosine = query.transpose(1, 2) @ target
    best = cosine.amax(dim=2), cosine.amax(dim=1)
    # In place: fresh pages cost more than the sums.
    likeness = cosine.sub_(1).mul_(sharpness).exp_()
    squared = likeness * likeness
    out, back = (1 / likeness.sum(dim=k).clamp_min(1e-20) for k in (2, 1))
    place = _places(mask.shape[-1], mask.device)

    def one_way(
        regions: Tensor, other: Tensor, best: Tensor, out: Tensor, back: Tensor,
        likeness: Tensor, squared: Tensor,
    ) -> Tensor:  # fmt: skip
        leaving = regions * out[:, None]
        landing = leaving @ likeness
        returning = leaving @ squared * back[:, None]  # softmax there times softmax back
        share = returning.sum(dim=2)
        returning = returning / share.clamp_min(1e-6)[..., None]
        near = _grown(other, _NEAR).flatten(1)[:, None]
        centre = returning @ place
        extent = (returning @ place.square() - centre.square()).clamp_min(0).sum(dim=2).sqrt()
        border = torch.minimum(centre, 1 - centre).amin(dim=2)
        numbers = (
            (best[:, None] * regions).sum(dim=2), share, _entropy(landing),
            (returning * near).sum(dim=2), border, extent,
        )  # fmt: skip
        return torch.stack(numbers, dim=2).flatten(1)

    returned = ((squared @ back[..., None])[..., 0] * out).mean(dim=1)
    whole = (returned, *(x.mean(dim=1) for x in best))
    to_target = one_way(_regions(mask), found, best[0], out, back, likeness, squared)
    swapped = likeness.transpose(1, 2), squared.transpose(1, 2)
    to_query = one_way(_regions(found), mask, best[1], back, out, *swapped)
    return torch.cat((torch.stack(whole, dim=1), to_target, to_query), dim=1)
