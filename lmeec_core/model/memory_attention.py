"""Memory attention of SAM 2.1: a view's tokens attend to themselves and to a memory."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.config import ModelConfig
from lmeec_core.model.layers import (
    Attention,
    attention,
    rotary_tables,
    rotate,
    slow_fused_attention,
)


class RotaryAttention(Attention):
    """Attention with the rotary encoding of the token grid on queries and keys.

    Args:
        dim: width of queries and output.
        grid: side of the token grid.
        key_dim: width of keys and values before projection; ``dim`` if not given.
        inner: width of the projected queries, keys and values; ``dim`` if not given.
        pool: side, in tokens, of the squares over which pooled keys were averaged.
    """

    order: Tensor
    cos: Tensor
    sin: Tensor
    pooled_cos: Tensor
    pooled_sin: Tensor

    def __init__(
        self,
        dim: int,
        grid: int,
        key_dim: int | None = None,
        inner: int | None = None,
        pool: int = 1,
    ) -> None:
        super().__init__(dim, 1, inner or dim, key_dim)
        pairs = torch.arange(inner or dim).unflatten(0, (-1, 2))
        self.register_buffer("order", pairs.T.flatten(), persistent=False)
        for name, step in (("", 1), ("pooled_", pool)):
            cos, sin = rotary_tables(grid, inner or dim, step=step)
            self.register_buffer(name + "cos", cos, persistent=False)
            self.register_buffer(name + "sin", sin, persistent=False)

    def rotate_queries(self, q: Tensor) -> Tensor:
        """Projected and rotated queries of (B, P, dim): (B, 1, P, inner)."""
        return rotate(self._project(self.q_proj, q), self.cos, self.sin)

    def _project(self, projection: nn.Linear, x: Tensor) -> Tensor:
        """Projected tokens as :func:`rotate` wants them. Scores do not depend on the order of
        channels, and adjacent pairs, as the weights have them, are slow to turn."""
        return self.split(F.linear(x, projection.weight[self.order], projection.bias[self.order]))

    def rotate_keys(self, k: Tensor, unrotated: int, pooled: bool) -> Tensor:
        """Projected keys of (B, L, key_dim), all but the last ``unrotated`` rotated."""
        k = self._project(self.k_proj, k)
        spatial = k.shape[2] - unrotated
        cos, sin = (self.pooled_cos, self.pooled_sin) if pooled else (self.cos, self.sin)
        turned = rotate(k[:, :, :spatial], cos, sin)
        return torch.cat((turned, k[:, :, spatial:]), dim=2) if unrotated else turned

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, unrotated: int = 0, pooled: bool = False
    ) -> Tensor:
        """Attend. The last ``unrotated`` keys (object pointers) take no rotary encoding.

        Args:
            q: (B, P, dim). k, v: (B, r * P + unrotated, key_dim).
            pooled: whether the keys lie on the pooled grid (then P is its number of tokens).

        Returns:
            (B, P, dim).
        """
        queries, keys = self.rotate_queries(q), self.rotate_keys(k, unrotated, pooled)
        if v.shape[-1] >= q.shape[-1] or not slow_fused_attention(queries):
            return self.attend(queries, keys, self.split(self.v_proj(v)))
        # Weights sum to 1, so narrow values may be projected after the attention.
        mixed = attention(queries, keys, v.to(queries.dtype)[:, None])[:, 0]
        return self.out_proj(self.v_proj(mixed))


class MatchingAttention(RotaryAttention):
    """Rotary attention whose scores have one more term: how alike the locations' embeddings are.

    Score = content score / sqrt(inner) + temperature * cosine of the embeddings. Keys whose
    embedding is zero (object pointers) have the content term alone.
    """

    def __init__(self, dim: int, grid: int, key_dim: int, inner: int, pool: int) -> None:
        super().__init__(dim, grid, key_dim, inner, pool)
        self.log_temperature = nn.Parameter(torch.tensor(3.0))

    def match(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        unrotated: int,
        pooled: bool,
        own: Tensor,
        other: Tensor,
    ) -> Tensor:
        """As :meth:`forward`, with embeddings ``own`` (B, P, D) and ``other`` (B, L, D)."""
        queries = self.rotate_queries(q)
        keys = self.rotate_keys(k, unrotated, pooled)
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
        # Fast kernels want values as wide as the keys.
        values = F.pad(values, (0, keys.shape[-1] - width))
        x = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)[..., :width]
        return self.out_proj(x.transpose(1, 2).flatten(2))


class MemoryAttentionLayer(nn.Module):
    """Self-attention, cross-attention to the memory, feed-forward; normalisation first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = RotaryAttention(dim, config.grid)
        grid, key_dim, pool = config.grid, config.memory_dim, config.memory_pool
        self.cross_attn_image = (
            RotaryAttention(dim, grid, key_dim, pool=pool)
            if config.matching is None
            else MatchingAttention(dim, grid, key_dim, config.matching.content_dim, pool)
        )
        self.linear1 = nn.Linear(dim, config.memory_feedforward)
        self.linear2 = nn.Linear(config.memory_feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def attend_self(self, x: Tensor) -> Tensor:
        """(B, P, C) with the self-attention added."""
        y = self.norm1(x)
        return x + self.self_attn(y, y, y)

    def attend_memory(
        self,
        x: Tensor,
        keys: Tensor,
        memory: Tensor,
        pointers: int,
        pooled: bool,
        embeddings: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """(B, P, C) with the cross-attention to the memory (keys: memory with position) and the
        feed-forward added."""
        attention = self.cross_attn_image
        given = (self.norm2(x), keys, memory, pointers, pooled)
        if embeddings is not None and isinstance(attention, MatchingAttention):
            x = x + attention.match(*given, *embeddings)
        else:
            x = x + attention(*given)
        return x + self.linear2(F.relu(self.linear1(self.norm3(x))))


class MemoryAttention(nn.Module):
    """The stack of layers. The first self-attention sees only the view, so it is split off."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dim, self.memory_dim = config.hidden_dim, config.memory_dim
        self.matching = config.matching is not None
        self.layers = nn.ModuleList(
            MemoryAttentionLayer(config) for _ in range(config.memory_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_dim)

    def prepare(self, tokens: Tensor, position: Tensor) -> Tensor:
        """What every memory and object shares: input position and first self-attention.

        Args:
            tokens: (K, P, C) top features of the target views.
            position: (P, C) their sine position encoding.

        Returns:
            (K, P, C).
        """
        first = cast(MemoryAttentionLayer, self.layers[0])
        return first.attend_self(tokens + 0.1 * position)

    def forward(
        self,
        prepared: Tensor,
        memory: Tensor,
        position: Tensor,
        pointers: int,
        pooled: bool = False,
    ) -> Tensor:
        """Condition views on a memory.

        Args:
            prepared: (B, P, C) from :meth:`prepare`; with matching C + D, the views' embedding
                behind.
            memory: (B, L, memory_dim), L = frames * P + pointers; with matching memory_dim + D.
            position: (L, memory_dim), or (B, L, memory_dim); added to the keys only.
            pointers: number of object pointer tokens at the end of the memory.
            pooled: whether the memory lies on the pooled grid.

        Returns:
            (B, P, C).
        """
        x, embeddings = prepared, None
        if self.matching:
            x, own = prepared[..., : self.dim], prepared[..., self.dim :]
            embeddings = (own, memory[..., self.memory_dim :])
            memory = memory[..., : self.memory_dim]
        keys = memory + position
        for i, module in enumerate(self.layers):
            layer = cast(MemoryAttentionLayer, module)
            if i:
                x = layer.attend_self(x)
            x = layer.attend_memory(x, keys, memory, pointers, pooled, embeddings)
        return self.norm(x)
