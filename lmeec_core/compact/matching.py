"""Contrastive matching: an embedding of image locations, and where it finds an object.

Large networks learn to match from the mask loss alone; a small one does not. So each location in a
view gets a unit vector, trained so that the same surface has the same vector in every view.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.compact.layers import masked_mean
from lmeec_core.compact.verification import Verification, presence_evidence
from lmeec_core.config import MatchingConfig

MAPS = 3
"""Number of maps per correspondence: cosine, sharpened cosine, propagated mask."""


class Described(NamedTuple):
    """Descriptions of N objects in each of B query views."""

    prototype: Tensor
    """(B, N, D) unit vectors: mean embedding of the object."""
    content: Tensor
    """(B, N, C) mean top feature of the object."""
    coverage: Tensor
    """(B, N, g, g) fraction of each cell of the token grid that the mask covers, 0 .. 1."""
    fine: Tensor
    """(B, N, 2g, 2g) the same at two patch strides."""


class MatchPrompt(NamedTuple):
    """For each object and target: hints for the mask decoder, and inputs to verify its result."""

    token: Tensor
    """(..., C) sparse prompt made from the object's description."""
    maps: Tensor
    """(..., MAPS, 2g, 2g) float32: where the target view looks like the object."""
    prototype: Tensor
    """(..., D) float32 unit vector of the object."""
    mask: Tensor
    """(..., 2g, 2g) float32 query mask, 0 .. 1."""
    query: Tensor
    """(..., D, 2g, 2g) float32 embedding of the query view."""
    target: Tensor
    """(..., D, 2g, 2g) float32 embedding of the target view."""


class Matching(nn.Module):
    """Embeds views, and compares objects with target views.

    Args:
        config: configuration of the embedding.
        middle_dim: number of channels of the image encoder's features at two patch strides.
        dim: number of channels of its top features.
    """

    def __init__(self, config: MatchingConfig, middle_dim: int, dim: int) -> None:
        super().__init__()
        self.embed_middle = nn.Conv2d(middle_dim, config.dim, 1)
        self.embed_top = nn.Conv2d(dim, config.dim, 1)
        self.log_temperatures = nn.Parameter(torch.tensor([3.0, 3.0]))  # for prototypes, for top
        self.token = nn.Linear(dim + config.dim, dim)
        self.add_maps = nn.Conv2d(MAPS, dim, 3, padding=1)
        self.verification = Verification()

    def embed(self, middle: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 unit vectors for every location: (V, D, 2g, 2g) and (V, D, g, g)."""
        return (
            F.normalize(self.embed_middle(middle).float(), dim=1),
            F.normalize(self.embed_top(top).float(), dim=1),
        )

    def describe(self, middle: Tensor, top: Tensor, masks: Tensor) -> Described:
        """Describe objects in query views.

        Args:
            middle: (B, D, 2g, 2g) embedding. top: (B, C, g, g) top features.
            masks: (B, N, S, S) of 0 and 1.
        """
        with torch.autocast(masks.device.type, enabled=False):
            fine = F.avg_pool2d(masks.float(), masks.shape[-1] // middle.shape[-1])
            coverage = F.avg_pool2d(fine, middle.shape[-1] // top.shape[-1])
            prototype = F.normalize(masked_mean(middle, fine), dim=-1)
            return Described(prototype, masked_mean(top, coverage), coverage, fine)

    def compare(
        self,
        objects: Described,
        query: tuple[Tensor, Tensor],
        target: tuple[Tensor, Tensor],
    ) -> MatchPrompt:
        """Compare objects with target views.

        Args:
            objects: those in the query view of each of B target views (or 1, for all of them).
            query, target: embeddings from :meth:`embed` of the 1 or B query views and of the B
                target views.

        Returns:
            the prompt for every target view and object, (B, N, ...).
        """
        (query_middle, query_top), (middle, top) = query, target
        prototype_scale, top_scale = self.log_temperatures.exp().unbind()
        with torch.autocast(middle.device.type, enabled=False):
            batch, side = middle.shape[0], middle.shape[-2:]
            prototype = objects.prototype.expand(batch, -1, -1)
            cosine = (prototype @ middle.flatten(2)).unflatten(2, side)
            peak = cosine.amax(dim=(2, 3), keepdim=True).detach()
            sharp = ((cosine - peak) * prototype_scale.detach()).exp()
            alike = top.flatten(2).transpose(1, 2) @ query_top.flatten(2)  # (B, P, P)
            share = (alike * top_scale).softmax(dim=-1)
            coverage = objects.coverage.flatten(2).transpose(1, 2).expand(batch, -1, -1)
            carried = (share @ coverage).transpose(1, 2).unflatten(2, top.shape[-2:])
            carried = F.interpolate(carried, size=side, mode="bilinear", align_corners=False)
        token = self.token(torch.cat((objects.content, objects.prototype), dim=-1))
        count = objects.prototype.shape[1]

        def for_each_object(embedding: Tensor) -> Tensor:  # without copies
            return embedding[:, None].expand(batch, count, -1, -1, -1)

        return MatchPrompt(
            token.expand(batch, -1, -1),
            torch.stack((cosine, sharp, carried), dim=2),
            prototype,
            objects.fine.expand(batch, -1, -1, -1),
            for_each_object(query_middle),
            for_each_object(middle),
        )

    def verify(
        self, logits: Tensor, predicted_iou: Tensor, presence_logit: Tensor, match: MatchPrompt
    ) -> Tensor:
        """Presence logits (B,) of the mask decoder's results, verified against the prompts.

        Args:
            logits: (B, 4g, 4g), predicted_iou: (B,), presence_logit: (B,).
            match: B prompts.
        """
        # The token is only for the decoder; the rest of the prompt is used to verify.
        sharpness = self.log_temperatures[0].float().exp()
        evidence = presence_evidence(logits, predicted_iou, presence_logit, *match[1:], sharpness)
        verified: Tensor = self.verification(evidence, presence_logit)
        return verified

    def dense_prompt(self, maps: Tensor) -> Tensor:
        """Maps (B, MAPS, 2g, 2g) as a dense prompt (B, C, g, g)."""
        return self.add_maps(F.avg_pool2d(maps, 2))
