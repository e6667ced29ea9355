"""Scores candidates for objects that are described in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.errors import InputError
from lmeec_core.methods.conditions.fusion import ConditionScorer, MCFuse, TextFuse
from lmeec_core.methods.conditions.text import TextVectors

Form = Literal["none", "mcfuse", "words"]
FORMS: tuple[Form, ...] = get_args(Form)


class TextScorer(nn.Module):
    """Adds a term for the objects' descriptions to the scores of candidates.

    With K objects of the query view and Q candidates of a target view::

        out = fuse(project(objects), texts)                (K, width)
        logits = scores + out . scorer(candidates)         (K, Q)

    Untrained, the second term is 0. Vectors are normalised first.

    Args:
        form: of the fusion. "mcfuse": :class:`MCFuse`, with one text for the image, the mean of the
            texts of its objects; "words": :class:`TextFuse`, in which each object attends to the
            words about it; "none": no text, to compare with.
        dim: of the vectors of objects and candidates.
        text_dim: of the vectors of texts.
        width: of the vectors in which they meet.
    """

    def __init__(self, form: Form, dim: int, text_dim: int, width: int = 64) -> None:
        super().__init__()
        if form not in FORMS:
            raise InputError(f"form {form!r} given, one of {', '.join(FORMS)} expected")
        self.form, self.dim, self.text_dim, self.width = form, dim, text_dim, width
        self.objects = nn.Linear(dim, width)
        if form != "none":
            self.text = nn.Linear(text_dim, width)
            self.fuse = MCFuse(width) if form == "mcfuse" else TextFuse(width)
        self.scorer = ConditionScorer(width, dim)
        last = self.scorer.project[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(
        self, scores: Tensor, objects: Tensor, candidates: Tensor,
        texts: Sequence[TextVectors | None],
    ) -> Tensor:  # fmt: skip
        """Logits (K, Q).

        Args:
            scores: (K, Q) without text, as logits.
            objects, candidates: (K, dim) and (Q, dim).
            texts: one for each object, or None.

        Raises:
            InputError: other shapes.
        """
        if len(texts) != len(objects):
            raise InputError(f"{len(texts)} texts given for {len(objects)} objects, one each")
        regions = self.objects(_even(objects))
        added: Tensor = self.scorer(self._fused(regions, texts), _even(candidates))
        return scores + added

    def _fused(self, regions: Tensor, texts: Sequence[TextVectors | None]) -> Tensor:
        given = [one for one in texts if one is not None]
        if self.form == "none" or not given:
            return regions
        if isinstance(self.fuse, MCFuse):
            pooled = torch.stack([one.pooled.to(regions) for one in given]).mean(dim=0)
            fused: Tensor = self.fuse(regions, self.text(_even(pooled[None])))
            return fused
        words = [None if one is None else self.text(_even(one.words.to(regions))) for one in texts]
        fused = self.fuse(regions, words)
        return fused


def _even(vectors: Tensor) -> Tensor:
    """Vectors with a mean square of 1."""
    even: Tensor = F.layer_norm(vectors, vectors.shape[-1:])
    return even
