"""Memory attention of SAM 2.1: a view's tokens attend to themselves and to a memory.

SAM 2 (arXiv 2408.00714), section 4: L layers of self-attention, cross-attention to frames and
object pointers, and a feed-forward part, with rotary position encoding of the token grid.
"""

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
    """Attention with the token grid's rotary encoding applied to queries and keys.

    Args:
        dim: width of queries and output.
        grid: side of the token grid.
        key_dim: width of keys and values before projection; ``dim`` if not given.
        inner: width of the projected queries, keys and values; ``dim`` if not given.
    """

    order: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(
        self, dim: int, grid: int, key_dim: int | None = None, inner: int | None = None
    ) -> None:
        super().__init__(dim, 1, inner or dim, key_dim)
        pairs = torch.arange(inner or dim).unflatten(0, (-1, 2))
        self.register_buffer("order", pairs.T.flatten(), persistent=False)
        cos, sin = rotary_tables(grid, inner or dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def rotate_queries(self, q: Tensor) -> Tensor:
        """Projected and rotated queries of (B, P, dim): (B, 1, P, inner)."""
        return rotate(self._project(self.q_proj, q), self.cos, self.sin)

    def rotate_keys(self, k: Tensor, num_pointer_tokens: int) -> Tensor:
        """Projected keys of (B, L, key_dim), all but the last ``num_pointer_tokens`` rotated."""
        return self._rotate_frames(k, num_pointer_tokens, self.cos, self.sin)

    def _rotate_frames(
        self, k: Tensor, num_pointer_tokens: int, cos: Tensor, sin: Tensor
    ) -> Tensor:
        k = self._project(self.k_proj, k)
        frames = k.shape[2] - num_pointer_tokens
        rotated = rotate(k[:, :, :frames], cos, sin)
        if not num_pointer_tokens:
            return rotated
        return torch.cat((rotated, k[:, :, frames:]), dim=2)

    def _project(self, projection: nn.Linear, x: Tensor) -> Tensor:
        """Project tokens into the order that :func:`rotate` expects. Scores do not depend on the
        order of channels, and the weights' order, in adjacent pairs, is slow to rotate."""
        return self.split(F.linear(x, projection.weight[self.order], projection.bias[self.order]))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, num_pointer_tokens: int = 0) -> Tensor:
        """Attend. The last ``num_pointer_tokens`` keys get no rotary encoding.

        Args:
            q: (B, P, dim). k, v: (B, r * P + num_pointer_tokens, key_dim).

        Returns:
            (B, P, dim).
        """
        return self.attend_rotated(
            self.rotate_queries(q), self.rotate_keys(k, num_pointer_tokens), v
        )

    def attend_rotated(self, queries: Tensor, keys: Tensor, v: Tensor) -> Tensor:
        """Attention with rotated queries (B, 1, P, inner) and keys (B, 1, L, inner), and values
        (B, L, key_dim) that are not yet projected; returns (B, P, dim)."""
        if v.shape[-1] >= self.q_proj.in_features or not slow_fused_attention(queries):
            return self.attend(queries, keys, self.split(self.v_proj(v)))
        # Weights sum to 1, so narrow values may be projected after the attention.
        mixed = attention(queries, keys, v.to(queries.dtype)[:, None])[:, 0]
        return self.out_proj(self.v_proj(mixed))


class MemoryAttentionLayer(nn.Module):
    """Self-attention, cross-attention to the memory, feed-forward; each with pre-normalisation."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = RotaryAttention(dim, config.grid)
        self.cross_attn_image = self.make_cross_attention(config)
        self.linear1 = nn.Linear(dim, config.memory_feedforward)
        self.linear2 = nn.Linear(config.memory_feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def make_cross_attention(self, config: ModelConfig) -> RotaryAttention:
        """Make the attention to the memory."""
        return RotaryAttention(config.hidden_dim, config.grid, config.memory_dim)

    def attend_self(self, x: Tensor) -> Tensor:
        """(B, P, C) with the self-attention added."""
        y = self.norm1(x)
        return x + self.self_attn(y, y, y)

    def attend_memory(
        self, x: Tensor, keys: Tensor, memory: Tensor, num_pointer_tokens: int
    ) -> Tensor:
        """(B, P, C) with the cross-attention to the memory (keys: memory with position) added."""
        return x + self.cross_attn_image(self.norm2(x), keys, memory, num_pointer_tokens)

    def feed_forward(self, x: Tensor) -> Tensor:
        """(B, P, C) with the feed-forward part added."""
        return x + self.linear2(F.relu(self.linear1(self.norm3(x))))


class MemoryAttention(nn.Module):
    """The stack of layers. The first self-attention needs only the view, so it is separate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.make_layer(config) for _ in range(config.memory_layers))
        self.norm = nn.LayerNorm(config.hidden_dim)

    def make_layer(self, config: ModelConfig) -> MemoryAttentionLayer:
        """Make one layer."""
        return MemoryAttentionLayer(config)

    def prepare(self, tokens: Tensor, position: Tensor) -> Tensor:
        """The part shared by all memories and objects: input position and first self-attention.

        Args:
            tokens: (K, P, C) top features of the target views.
            position: (P, C) their sine position encoding.

        Returns:
            (K, P, C).
        """
        first = cast(MemoryAttentionLayer, self.layers[0])
        return first.attend_self(tokens + 0.1 * position)

    def forward(
        self, prepared: Tensor, memory: Tensor, position: Tensor, num_pointer_tokens: int
    ) -> Tensor:
        """Condition views on a memory.

        Args:
            prepared: (B, P, C) from :meth:`prepare`.
            memory: (B, L, memory_dim), L = frames * P + num_pointer_tokens.
            position: (L, memory_dim), or (B, L, memory_dim); added to the keys only.
            num_pointer_tokens: tokens of object pointers at the end of the memory.

        Returns:
            (B, P, C).
        """
        x, keys = prepared, memory + position
        for i, module in enumerate(self.layers):
            layer = cast(MemoryAttentionLayer, module)
            if i:
                x = layer.attend_self(x)
            x = layer.feed_forward(layer.attend_memory(x, keys, memory, num_pointer_tokens))
        return self.norm(x)
