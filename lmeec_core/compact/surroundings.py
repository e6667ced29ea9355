"""What an object's surroundings say about where it is.

An object that is hidden or out of view cannot be found, but its surroundings often can. Where they
are in the other view indicates whether the object should be visible there, and whether the mask
that was found is in the right place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_RINGS = ((2, 4), (4, 7))  # cells, around the object and farther out
_NEAR = 4
_EACH = 6
SURROUNDINGS_SIZE = 3 + 2 * _EACH * (1 + len(_RINGS))
"""How many numbers describe a correspondence, see :func:`surroundings`."""


def _grown(mask: Tensor, cells: int) -> Tensor:
    return F.max_pool2d(mask[:, None], 2 * cells + 1, 1, cells)[:, 0]


def _regions(mask: Tensor) -> Tensor:
    """The object, the ring around it and the outer ring, as weights (B, R, P) that sum to 1."""
    rings = [_grown(mask, outer) - _grown(mask, inner) for inner, outer in _RINGS]
    weight = torch.stack((mask, *rings), dim=1).flatten(2)
    return weight / weight.sum(dim=2, keepdim=True).clamp_min(1e-3)


def _places(side: int, device: torch.device) -> Tensor:
    """(P, 2) x and y of the cells' centres, 0 .. 1."""
    axis = (torch.arange(side, device=device) + 0.5) / side
    return torch.stack((axis.expand(side, side), axis[:, None].expand(side, side)), -1).flatten(
        0, 1
    )


def _entropy(share: Tensor) -> Tensor:
    return -(share.clamp_min(1e-12).log() * share).sum(dim=2)


def surroundings(
    mask: Tensor, found: Tensor, query: Tensor, target: Tensor, sharpness: Tensor | float
) -> Tensor:
    """Match an object and its surroundings with the other view, in both directions.

    The query mask is matched with the target view, and the found mask with the query view. Each has
    three regions: the object, the ring around it and the outer ring. The numbers for each region
    are: similarity of its best matches; share of its weight that returns to its starting point when
    matched there and back; spread of its matches (entropy); and for the returning part, the share
    near the other mask, the distance of its centre from the image border, and its extent. Before
    these come three numbers for the whole views: the returning share, and the similarity of the
    best matches in both directions. All numbers are continuous, so that rounding cannot make them
    jump.

    Args:
        mask, found: (B, 2g, 2g) the query mask and the found mask, 0 .. 1.
        query, target: (B, D, 2g, 2g) float32 embeddings of the two views.
        sharpness: inverse temperature of the similarity.

    Returns:
        float32 (B, SURROUNDINGS_SIZE).
    """
    # At the patch grid's resolution: all pairs at the finer one would take 16 times the memory.
    query, target = (F.normalize(F.avg_pool2d(x, 2), dim=1).flatten(2) for x in (query, target))
    mask, found = (F.avg_pool2d(x, 2) for x in (mask, found))
    mask, found = (x / x.amax(dim=(1, 2), keepdim=True).clamp_min(1e-6) for x in (mask, found))
    cosine = query.transpose(1, 2) @ target
    best = cosine.amax(dim=2), cosine.amax(dim=1)
    # In place, because allocating new memory costs more than the arithmetic.
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
