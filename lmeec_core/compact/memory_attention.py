"""The compact network's memory attention, whose scores include how alike locations look.

Stored frames are pooled, and tokens carry their embedding as additional channels at the end.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.config import ModelConfig
from lmeec_core.model.layers import attention, rotary_tables, slow_fused_attention
from lmeec_core.model.memory_attention import (
    MemoryAttention,
    MemoryAttentionLayer,
    RotaryAttention,
)


class MatchingAttention(RotaryAttention):
    """Rotary attention with an additional score term for the similarity of embeddings.

    Score = content score / sqrt(inner) + temperature * cosine of the embeddings. Keys with a zero
    embedding (object pointers) only have the content term.

    Args:
        dim, grid, key_dim, inner: see :class:`RotaryAttention`.
        pool: side, in tokens, of the squares over which pooled keys were averaged.
    """

    pooled_cos: Tensor
    pooled_sin: Tensor

    def __init__(self, dim: int, grid: int, key_dim: int, inner: int, pool: int) -> None:
        super().__init__(dim, grid, key_dim, inner)
        cos, sin = rotary_tables(grid, inner, step=pool)
        self.register_buffer("pooled_cos", cos, persistent=False)
        self.register_buffer("pooled_sin", sin, persistent=False)
        self.log_temperature = nn.Parameter(torch.tensor(3.0))

    def match(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        num_pointer_tokens: int,
        pooled: bool,
        own: Tensor,
        other: Tensor,
    ) -> Tensor:
        """Like :meth:`forward`, with embeddings ``own`` (B, P, D) and ``other`` (B, L, D).

        ``pooled`` says whether the keys are on the pooled grid.
        """
        tables = (self.pooled_cos, self.pooled_sin) if pooled else (self.cos, self.sin)
        queries = self.rotate_queries(q)
        keys = self._rotate_frames(k, num_pointer_tokens, *tables)
        values = self.split(self.v_proj(v))
        scale = (self.log_temperature / 2).exp()
        queries = torch.cat(
            (queries * queries.shape[-1] ** -0.5, (own * scale).to(queries.dtype)[:, None]), dim=-1
        )
        keys = torch.cat((keys, (other * scale).to(keys.dtype)[:, None]), dim=-1)
        if slow_fused_attention(queries):
            queries = queries * queries.shape[-1] ** 0.5
            return self.out_proj(attention(queries, keys, values).transpose(1, 2).flatten(2))
        width = values.shape[-1]
        # Fast kernels need values as wide as the keys.
        values = F.pad(values, (0, keys.shape[-1] - width))
        x = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)[..., :width]
        return self.out_proj(x.transpose(1, 2).flatten(2))


class MatchingLayer(MemoryAttentionLayer):
    """A layer whose attention to the memory is a :class:`MatchingAttention`."""

    def make_cross_attention(self, config: ModelConfig) -> RotaryAttention:
        """See :class:`MemoryAttentionLayer`."""
        assert config.matching is not None
        return MatchingAttention(
            config.hidden_dim,
            config.grid,
            config.memory_dim,
            config.matching.content_dim,
            config.memory_pool,
        )

    def match_memory(
        self,
        x: Tensor,
        keys: Tensor,
        memory: Tensor,
        num_pointer_tokens: int,
        pooled: bool,
        embeddings: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Like :meth:`attend_memory`, with embeddings of tokens and memory."""
        attend = cast(MatchingAttention, self.cross_attn_image)
        return x + attend.match(
            self.norm2(x), keys, memory, num_pointer_tokens, pooled, *embeddings
        )


class MatchingMemoryAttention(MemoryAttention):
    """The stack of :class:`MatchingLayer`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.dim, self.memory_dim = config.hidden_dim, config.memory_dim

    def make_layer(self, config: ModelConfig) -> MemoryAttentionLayer:
        """See :class:`MemoryAttention`."""
        return MatchingLayer(config)

    def forward(
        self,
        prepared: Tensor,
        memory: Tensor,
        position: Tensor,
        num_pointer_tokens: int,
        pooled: bool = False,
    ) -> Tensor:
        """Condition views on a memory.

        Args:
            prepared: (B, P, C + D), the views' embedding last.
            memory: (B, L, memory_dim + D); the embedding of object pointers is zero.
            position: (L, memory_dim), or (B, L, memory_dim); added to the keys only.
            num_pointer_tokens: tokens of object pointers at the end of the memory.
            pooled: whether the memory is on the pooled grid.

        Returns:
            (B, P, C).
        """
        x, own = prepared[..., : self.dim], prepared[..., self.dim :]
        memory, other = memory[..., : self.memory_dim], memory[..., self.memory_dim :]
        keys = memory + position
        for i, module in enumerate(self.layers):
            layer = cast(MatchingLayer, module)
            if i:
                x = layer.attend_self(x)
            x = layer.match_memory(x, keys, memory, num_pointer_tokens, pooled, (own, other))
            x = layer.feed_forward(x)
        return self.norm(x)
