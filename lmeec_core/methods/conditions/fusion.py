"""MCFuse and XObjAlign, and a variant of MCFuse in which text has an effect."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.compact.layers import masked_mean
from lmeec_core.errors import InputError


class MCFuse(nn.Module):
    """The published fusion of K objects of an image with a text that describes them.

    With the objects' vectors R (K, C) and the text's vector t (1, C)::

        F = attention(query = t repeated K times, key = value = R)     one head
        out = k R + (1 - k) F                                           k learned, 0.5 at first

    Without text, ``out = R``. As published, it follows that

    - with one object the softmax is over one key, so the text has no effect at all:
      ``F = W_o (W_v R + b_v) + b_o``;
    - with several objects all rows of F are equal: every object is mixed with the same vector,
      and no value ever holds text; it only weighs the objects.

    :class:`TextFuse` is the form in which the text of an object can change that object.

    Args:
        dim: C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, 1, batch_first=True)
        self.k = nn.Parameter(torch.tensor(0.5))

    def forward(self, regions: Tensor, text: Tensor | None = None) -> Tensor:
        """Fused vectors (K, C) of regions (K, C) and a text (1, C), or None.

        Raises:
            InputError: other shapes.
        """
        dim = self.attention.embed_dim
        _check("regions", regions, dim)
        if text is None or not len(regions):
            return regions
        if text.shape != (1, dim):
            raise InputError(f"text {tuple(text.shape)} given, (1, {dim}) expected")
        asked = text.expand(len(regions), -1)[None]
        attended: Tensor = self.attention(asked, regions[None], regions[None], need_weights=False)[
            0
        ]
        return self.k * regions + (1 - self.k) * attended[0]


class TextFuse(nn.Module):
    """The roles of :class:`MCFuse` exchanged: an object attends to the words about it.

    For each object r (1, C) with the vectors T (L, C) of its words::

        out = k r + (1 - k) attention(query = r, key = value = T)       k learned, 0.5 at first

    So each object has its own text, and an object without text is unchanged.

    Args:
        dim: C.
        heads: of the attention.
    """

    def __init__(self, dim: int, heads: int = 1) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.k = nn.Parameter(torch.tensor(0.5))

    def forward(self, regions: Tensor, words: Sequence[Tensor | None]) -> Tensor:
        """Fused vectors (K, C).

        Args:
            regions: (K, C).
            words: for each region the vectors (L, C) of its words, or None.

        Raises:
            InputError: other shapes.
        """
        dim = self.attention.embed_dim
        _check("regions", regions, dim)
        if len(words) != len(regions):
            raise InputError(f"{len(words)} texts given for {len(regions)} regions, one each")
        fused = []
        for region, own in zip(regions[:, None], words, strict=True):
            if own is None or not len(own):
                fused.append(region)
                continue
            _check("words", own, dim)
            attended = self.attention(region[None], own[None], own[None], need_weights=False)[0]
            fused.append(self.k * region + (1 - self.k) * attended[0])
        return torch.cat(fused) if fused else regions


def cross_view_align(query: Tensor, target: Tensor) -> Tensor:
    """XObjAlign: the mean Euclidean distance between the objects' vectors in two views, a scalar.

    As published, distances are not squared and vectors are not normalised; it is computed before
    :class:`MCFuse`. A loss for training only; 0 without an object.

    Args:
        query, target: (N, C), row by row the same objects.

    Raises:
        InputError: shapes that differ.
    """
    if query.ndim != 2 or query.shape != target.shape:
        raise InputError(
            f"{tuple(query.shape)} and {tuple(target.shape)} given, twice (N, C) expected: the "
            "same objects in both views"
        )
    if not len(query):
        return query.sum()
    return torch.linalg.vector_norm(query - target, dim=1).mean()


class RegionPool(nn.Module):
    """Vectors of masks: the mean of the features in each.

    Each location is weighted by the share of it that the mask covers. (The published form averages
    256 random points in the mask; this is its limit.)
    """

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Vectors (N, C) of features (C, h, w) and masks bool (N, H, W) of any size; 0 for an
        empty mask.

        Raises:
            InputError: other shapes.
        """
        if features.ndim != 3 or masks.ndim != 3:
            raise InputError(
                f"features {tuple(features.shape)} and masks {tuple(masks.shape)} given, (C, h, w) "
                "and (N, H, W) expected"
            )
        if not len(masks):
            return features.new_zeros(0, features.shape[0])
        areas = masks[None].to(features)
        cover = F.interpolate(areas, size=tuple(features.shape[1:]), mode="area")
        pooled: Tensor = masked_mean(features[None], cover)[0]
        return pooled


class ConditionScorer(nn.Module):
    """Scores of Q candidates for K conditions: ``logits[K, Q] = conditions . project(candidates)``.

    Args:
        dim: of the conditions.
        candidate_dim: of the candidates; None: the same.
    """

    def __init__(self, dim: int, candidate_dim: int | None = None) -> None:
        super().__init__()
        self.dim, self.candidate_dim = dim, candidate_dim or dim
        self.project = nn.Sequential(
            nn.Linear(self.candidate_dim, dim), nn.ReLU(), nn.Linear(dim, dim)
        )

    def forward(self, conditions: Tensor, candidates: Tensor) -> Tensor:
        """Logits (K, Q) of conditions (K, C) and candidates (Q, D).

        Raises:
            InputError: other shapes.
        """
        _check("conditions", conditions, self.dim)
        _check("candidates", candidates, self.candidate_dim)
        scores: Tensor = conditions @ self.project(candidates).T
        return scores


def _check(name: str, given: Tensor, dim: int) -> None:
    if given.ndim != 2 or given.shape[1] != dim:
        raise InputError(f"{name} {tuple(given.shape)} given, (N, {dim}) expected")
