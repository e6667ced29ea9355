"""Features of views, including embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from lmeec_core.model.results import ViewFeatures


@dataclass(frozen=True, eq=False)
class EmbeddedFeatures(ViewFeatures):
    """Image features of a batch of V views, with embeddings that match surfaces across views."""

    middle_embedding: Tensor
    """(V, D, 2g, 2g) unit vectors, float32."""
    top_embedding: Tensor
    """(V, D, g, g) unit vectors, float32."""

    def token_inputs(self) -> tuple[Tensor, ...]:
        """See :class:`ViewFeatures`."""
        return (self.top, self.top_embedding)

    def repeat_for_memory(self, count: int) -> Self:
        """See :class:`ViewFeatures`."""
        return replace(
            super().repeat_for_memory(count),
            top_embedding=self.top_embedding.repeat_interleave(count, 0),
        )

    def with_embedding(self, tokens: Tensor) -> Tensor:
        """Append the embedding to these views' tokens (V, P, .), as additional channels."""
        embedding = self.top_embedding.flatten(2).transpose(1, 2)
        return torch.cat((tokens, embedding.to(tokens.dtype)), dim=-1)
