"""Verifies presence in a second pass: is the found object the one that was sought?

The mask decoder sees the sought object as a single token. Here, the found object is described in
the same way as the sought one, and both descriptions are matched with both views: for a correct
result, each description matches best at the object's mask in each view. This evidence, together
with that of the surroundings and the decoder's outputs, goes through a small network, which
corrects the presence logit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.compact.layers import masked_mean
from lmeec_core.compact.surroundings import SURROUNDINGS_SIZE, surroundings
from lmeec_core.model.layers import MLP

EVIDENCE_SIZE = 24 + SURROUNDINGS_SIZE
"""How many numbers describe a correspondence, see :func:`presence_evidence`."""
_WIDTH = 64


def _cosine(prototype: Tensor, view: Tensor) -> Tensor:
    """Cosine of prototypes (B, D) with unit vectors (B, D, h, w): (B, h, w)."""
    return (prototype[:, None] @ view.flatten(2))[:, 0].unflatten(1, view.shape[-2:])


def _contrast(cosine: Tensor, mask: Tensor) -> list[Tensor]:
    """Largest cosine inside a mask, largest outside, mean inside: (B, h, w) to three times (B,)."""
    inside = (cosine - 9 * (0.3 - mask).relu()).amax(dim=(1, 2)).clamp_min(-1)
    outside = (cosine - 9 * (mask - 0.1).relu()).amax(dim=(1, 2)).clamp_min(-1)
    return [inside, outside, _mean(cosine, mask)]


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2)).clamp_min(1e-3)


def _at_border(mask: Tensor) -> Tensor:
    """Share of a mask that touches the image border."""
    sides = (mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1])
    border = torch.stack([side.sum(dim=1) for side in sides]).sum(dim=0)
    return border / mask.sum(dim=(1, 2)).clamp_min(1)


def presence_evidence(
    logits: Tensor,
    predicted_iou: Tensor,
    presence_logit: Tensor,
    maps: Tensor,
    prototype: Tensor,
    mask: Tensor,
    query: Tensor,
    target: Tensor,
    sharpness: Tensor | float,
) -> Tensor:
    """Evidence for and against a result: float32 (B, EVIDENCE_SIZE), without gradient.

    Args:
        logits: (B, 4g, 4g), predicted_iou: (B,), presence_logit: (B,) from the mask decoder.
        maps: (B, 3, 2g, 2g) from the match prompt.
        prototype: (B, D) unit vectors of the sought objects.
        mask: (B, 2g, 2g) the query mask, 0 .. 1.
        query, target: (B, D, 2g, 2g) unit vectors of the two views.
        sharpness: inverse temperature of their cosines, see :func:`surroundings`.
    """
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        logits, maps, query, target = (x.float() for x in (logits, maps, query, target))
        p = logits.sigmoid()
        # If nothing is likely, the likeliest is described. Without steps, so that exports agree.
        found = F.avg_pool2d((2 * p - 1).relu() + 1e-3 * p, logits.shape[-1] // mask.shape[-1])
        place = F.normalize(masked_mean(target, found[:, None])[:, 0], dim=-1)
        sizes = [x.mean(dim=(1, 2)).sqrt() for x in (mask, found)]
        positive = logits.relu()
        values = [
            *_contrast(maps[:, 0], found),  # the sought object in the target view
            *_contrast(_cosine(place, query), mask),  # the found one in the query view
            *_contrast(_cosine(place, target), found),  # how distinctive each is in its own view
            *_contrast(_cosine(prototype, query), mask),
            _mean(maps[:, 2], found),
            maps[:, 2].amax(dim=(1, 2)),
            logits.amax(dim=(1, 2)) / 10,
            positive.sum(dim=(1, 2)) / (positive > 0).sum(dim=(1, 2)).clamp_min(1) / 5,
            (p - 0.5).abs().mean(dim=(1, 2)),
            predicted_iou.float(),
            presence_logit.float() / 2,
            *sizes,
            ((sizes[1] + 0.01) / (sizes[0] + 0.01)).log(),
            _at_border(mask),
            _at_border(found),
        ]
        around = surroundings(mask.float(), found, query, target, sharpness)
        return torch.cat((torch.stack(values, dim=1), around), dim=1)


class Verification(nn.Module):
    """Corrects presence logits using :func:`presence_evidence`. Untrained, it changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = MLP((EVIDENCE_SIZE, _WIDTH, _WIDTH, 1))
        last = self.mlp.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, evidence: Tensor, presence_logit: Tensor) -> Tensor:
        """Evidence (B, EVIDENCE_SIZE) and presence logits (B,) to presence logits (B,), float32."""
        with torch.autocast(evidence.device.type, enabled=False):
            correction: Tensor = self.mlp(evidence)[:, 0]
            return presence_logit.float() + correction
