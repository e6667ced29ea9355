"""Chooses a mask among candidates, as in O-MaMa."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmeec_core.errors import InputError
from lmeec_core.methods.omama.descriptors import check_view, describe, fit_masks
from lmeec_core.methods.omama.network import OMaMa, published

Values = Tensor | npt.NDArray[Any]

LEAST = -1.0
"""Similarity of an empty candidate, so that any other one is preferred."""


class Matched(NamedTuple):
    """The result of :func:`match`."""

    similarity: Tensor
    """(N,) cosine of each candidate with the query object, -1 .. 1; -1 for an empty mask."""
    confidence: Tensor
    """(1,) sigmoid of the greatest similarity: above 0.5 if that is above 0; 0 without
    candidates."""
    best: Tensor
    """(1,) int64, the candidate with the greatest similarity; -1 if all candidates are empty."""
    query_embedding: Tensor
    """(1, C) unit vector."""
    candidate_embeddings: Tensor
    """(N, C) unit vectors; 0 for an empty mask."""


def build(reverse: bool) -> OMaMa:
    """The matcher with random weights; `reverse` True is exo to ego, False ego to exo."""
    return OMaMa(published(reverse)).eval()


@torch.no_grad()
def match(
    model: OMaMa,
    query_tokens: Values,
    query_mask: Values,
    target_tokens: Values,
    candidate_masks: Values,
) -> Matched:
    """Compare an object of the query view with candidates of the target view.

    Args:
        model: made by :func:`build`.
        query_tokens: (768, h, w) float32 patch tokens of the query image of 14h x 14w pixels.
        query_mask: (H, W) bool mask of the object, at the size of that image; a mask of another
            size is sampled at the nearest pixel.
        target_tokens: (768, h, w) float32 tokens of the target image, which may have another size.
        candidate_masks: (N, H, W) bool, likewise; N may be 0.

    Raises:
        InputError: wrong shapes, values that are not finite, or an empty query mask.
    """
    device = model.pos_embed_Q.device
    query = torch.as_tensor(query_tokens, dtype=torch.float32, device=device)
    target = torch.as_tensor(target_tokens, dtype=torch.float32, device=device)
    asked = _masks("query", query_mask, device)
    given = _masks("candidate", candidate_masks, device)
    if asked.ndim == 2:
        asked = asked[None]
    check_view("query", query, asked, model.layout.dim)
    check_view("target", target, given, model.layout.dim)
    if len(asked) != 1 or not bool(asked.any()):
        raise InputError(
            f"query mask {tuple(asked.shape)} with {int(asked.sum())} pixels given, one mask with "
            "at least one pixel expected"
        )
    asked, given = fit_masks(asked, query), fit_masks(given, target)
    query_embedding = embed_queries(model, query, asked, target)
    candidate_embeddings = embed_candidates(model, target, given, query)
    similarity = compare(query_embedding, candidate_embeddings, given)[0]
    return choose(similarity, query_embedding, candidate_embeddings)


def embed_queries(model: OMaMa, query: Tensor, masks: Tensor, target: Tensor) -> Tensor:
    """Unit vectors (N, C) of the query view's objects.

    Args:
        query, target: (C, h, w) tokens of the two views.
        masks: bool (N, 14h, 14w).
    """
    return embed_asked(model, describe(query, masks), target)


def embed_candidates(model: OMaMa, target: Tensor, masks: Tensor, query: Tensor) -> Tensor:
    """Unit vectors (N, C) of the target view's candidates; 0 for an empty mask.

    Arguments as for :func:`embed_queries`, with query and target exchanged.
    """
    embedded = embed_given(model, describe(target, masks), query)
    return embedded * masks.flatten(1).any(dim=1)[:, None]


def embed_asked(model: OMaMa, described: Tensor, target: Tensor) -> Tensor:
    """Unit vectors (N, C) of the query view's objects from their descriptors (N, 2C) and the
    target view's tokens (C, h, w)."""
    positions = model.target_positions(_grid(target))
    crossed = model.cross(described[:, : model.layout.dim], target, positions)
    return model.embed(described, crossed)


def embed_given(model: OMaMa, described: Tensor, query: Tensor) -> Tensor:
    """Unit vectors (N, C) of candidates from their descriptors (N, 2C) and the query view's tokens
    (C, h, w)."""
    positions = model.query_positions(_grid(query))
    crossed = model.cross(described[:, : model.layout.dim], query, positions)
    return model.embed(described, crossed)


def compare(queries: Tensor, candidates: Tensor, masks: Tensor) -> Tensor:
    """Cosines (M, N) of M queries and N candidates; -1 for a candidate without a pixel."""
    shown = masks.flatten(1).any(dim=1)
    return torch.where(shown, queries @ candidates.T, LEAST)


def choose(similarity: Tensor, query_embedding: Tensor, candidate_embeddings: Tensor) -> Matched:
    """The best candidate by similarities (N,)."""
    shown = candidate_embeddings.any(dim=1)
    if bool(shown.any()):
        greatest, best = similarity.max(dim=0)
        confidence = greatest.sigmoid()[None]
    else:
        best, confidence = similarity.new_full((), -1, dtype=torch.int64), similarity.new_zeros(1)
    return Matched(similarity, confidence, best[None], query_embedding, candidate_embeddings)


def _grid(tokens: Tensor) -> tuple[int, int]:
    return tokens.shape[1], tokens.shape[2]


def _masks(name: str, given: Values, device: torch.device) -> Tensor:
    masks = torch.as_tensor(np.ascontiguousarray(given) if isinstance(given, np.ndarray) else given)
    if masks.dtype != torch.bool:
        raise InputError(f"{name} masks of {masks.dtype} given, bool expected")
    return masks.to(device)
