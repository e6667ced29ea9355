"""The Hiera trunk (arXiv 2306.00989) with windowed position embeddings (arXiv 2311.05613)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.config import TrunkConfig
from lmeec_core.model.layers import MLP, attention, plain_attention
from lmeec_core.model.remembered import Remembered
from lmeec_core.model.trunk import Trunk

_STAGE_POOL = 2  # side of the max pooling at the start of stages 2 to 4


class PatchEmbed(nn.Module):
    """First convolution: pixels to tokens."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            3,
            config.embed_dim,
            config.patch_kernel,
            stride=config.patch_stride,
            padding=config.patch_kernel // 2,
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, S/stride, S/stride, embed_dim)."""
        return self.proj(image).permute(0, 2, 3, 1)


def _pool(x: Tensor) -> Tensor:
    """2x2 max pooling of (B, H, W, C)."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), _STAGE_POOL).permute(0, 2, 3, 1)


def _to_windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """Cut (B, H, W, heads, C) into windows (B * n, heads, rows * columns, C) that fit exactly."""
    b, h, w, heads, c = x.shape
    x = x.view(b, h // rows, rows, w // columns, columns, heads, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, heads, rows * columns, c)


def _from_windows(x: Tensor, b: int, h: int, w: int, rows: int, columns: int) -> Tensor:
    """Join windows (B * n, heads, rows * columns, C) into (B, h, w, heads, C)."""
    heads, c = x.shape[1], x.shape[3]
    x = x.view(b, h // rows, w // columns, heads, rows, columns, c)
    return x.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, h, w, heads, c)


def _spans(length: int, side: int) -> list[tuple[int, int, int]]:
    """Cut an axis into spans (start, end, window side): whole windows, then the remainder."""
    whole = length - length % side
    spans = ((0, whole, side), (whole, length, length % side))
    return [span for span in spans if span[1] > span[0]]


class WindowAttention(nn.Module):
    """Attention within each window; queries are pooled at the start of a stage.

    Windows at the right and lower edges extend past the image. Tokens outside it are zeros, so
    their keys and values all equal the projection's bias. A single key represents them, with the
    logarithm of their number added to its score, so nothing is computed on padding.

    Attributes:
        whole_windows: compute all windows at once, including padding: the same results from a
            graph with far fewer operations.
    """

    def __init__(self, dim: int, dim_out: int, heads: int, pool: bool) -> None:
        super().__init__()
        self.heads, self.pool = heads, pool
        self.width = dim_out // heads
        self.whole_windows = False
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor, window: int) -> Tensor:
        """(B, h, w, dim) to (B, h', w', dim_out); h' = h / 2 and w' = w / 2 if pooled, else equal.

        Args:
            x: the tokens; h and w must be even if pooled.
            window: side of the windows in tokens; 0 for the whole image.
        """
        b, h, w, _ = x.shape
        if self.pool and window % _STAGE_POOL:
            return self._odd_windows(x, window)
        if self.whole_windows and window:
            return self._all_windows(x, window)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        step = _STAGE_POOL if self.pool else 1
        if self.pool:
            q = _pool(q)
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, v))
        rows, columns = ([(0, n, n)] if not window else _spans(n, window) for n in (h, w))
        bands = []
        for top, bottom, tall in rows:
            parts = []
            for left, right, wide in columns:
                side = (tall // step, wide // step)
                queries = q[:, top // step : bottom // step, left // step : right // step]
                keys, values = (
                    _to_windows(t[:, top:bottom, left:right], tall, wide) for t in (k, v)
                )
                outside = window * window - tall * wide if window else 0
                y = self._attend(_to_windows(queries, *side), keys, values, outside)
                _, tall_out, wide_out = queries.shape[:3]
                parts.append(_from_windows(y, b, tall_out, wide_out, *side))
            bands.append(torch.cat(parts, dim=2) if len(parts) > 1 else parts[0])
        joined = torch.cat(bands, dim=1) if len(bands) > 1 else bands[0]
        return self.proj(joined.flatten(3))

    def _all_windows(self, x: Tensor, window: int) -> Tensor:
        """One attention over whole windows, including padding."""
        b, h, w, _ = x.shape
        step = _STAGE_POOL if self.pool else 1
        x = F.pad(F.linear(x, self.qkv.weight), (0, 0, 0, -w % window, 0, -h % window))
        x = x + self.qkv.bias
        rows, columns, side = x.shape[1] // step, x.shape[2] // step, window // step
        if self.pool:
            q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in x.chunk(3, dim=-1))
            q = _to_windows(_pool(q.flatten(3)).unflatten(-1, (self.heads, -1)), side, side)
            k, v = (_to_windows(t, window, window) for t in (k, v))
        else:  # cut all three at once
            x = x.reshape(-1, window, columns // window, window, 3, self.heads, self.width)
            x = x.permute(4, 0, 2, 5, 1, 3, 6)
            q, k, v = x.reshape(3, -1, self.heads, window**2, self.width).chunk(3)
        y = plain_attention(q, k, v).flatten(0, -4)
        y = _from_windows(y, b, rows, columns, side, side).flatten(3)
        return self.proj(y[:, : h // step, : w // step])

    def _odd_windows(self, x: Tensor, window: int) -> Tensor:
        """For windows with an odd side, which lose a row and a column when queries are pooled."""
        b, h, w, dim = x.shape
        x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))
        rows, columns = x.shape[1] // window, x.shape[2] // window
        x = _to_windows(x[:, :, :, None], window, window).reshape(-1, window, window, dim)
        y, side = self(x, 0), window // _STAGE_POOL
        y = _from_windows(y.flatten(1, 2)[:, None], b, rows * side, columns * side, side, side)
        return y[:, : h // _STAGE_POOL, : w // _STAGE_POOL, 0]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, outside: int) -> Tensor:
        """Attention within windows that each contain ``outside`` padding tokens."""
        if not outside:
            return attention(q, k, v)
        _, key, value = self.qkv.bias.to(k.dtype).unflatten(0, (3, self.heads, 1, -1))
        k, v = (
            torch.cat((t, own.expand(t.shape[0], -1, -1, -1)), dim=2)
            for t, own in ((k, key), (v, value))
        )
        bias = F.pad(q.new_full((1, 1), math.log(outside)), (k.shape[2] - 1, 0))
        return attention(q, k, v, bias)


class HieraBlock(nn.Module):
    """One transformer block of the trunk."""

    def __init__(self, dim: int, dim_out: int, heads: int, window: int, pool: bool) -> None:
        super().__init__()
        self.window, self.pool = window, pool
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = WindowAttention(dim, dim_out, heads, pool)
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = MLP((dim_out, 4 * dim_out, dim_out), nn.GELU)
        self.proj = nn.Linear(dim, dim_out) if dim != dim_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to (B, H', W', dim_out)."""
        shortcut, x = x, self.norm1(x)
        if self.proj is not None:
            shortcut = self.proj(x)
            if self.pool:
                shortcut = _pool(shortcut)
        x = self.attn(x, self.window)
        x = shortcut + x
        return x + self.mlp(self.norm2(x))


class Hiera(Trunk):
    """The trunk: four stages, each at half the resolution of the previous one."""

    cuts_windows = True

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__(
            channels=[config.embed_dim * 2**stage for stage in range(4)],
            strides=[config.patch_stride * 2**stage for stage in range(4)],
        )
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Parameter(
            torch.zeros(1, config.embed_dim, *config.background_position_size)
        )
        side = config.window_spec[0]
        self.pos_embed_window = nn.Parameter(torch.zeros(1, config.embed_dim, side, side))
        self.blocks = nn.ModuleList()
        self._last_blocks: set[int] = set()  # last block of each stage
        dim, heads, index = config.embed_dim, config.num_heads, 0
        for stage, depth in enumerate(config.stages):
            for i in range(depth):
                first = stage > 0 and i == 0
                # A stage's first block still uses the previous stage's window.
                window = config.window_spec[stage - 1 if first else stage]
                if index in config.global_attention_blocks:
                    window = 0
                dim_out = dim * 2 if first else dim
                heads = heads * 2 if first else heads
                self.blocks.append(HieraBlock(dim, dim_out, heads, window, first))
                dim, index = dim_out, index + 1
            self._last_blocks.add(index - 1)
        self._remembered = Remembered(1)
        self._constant_position: Tensor | None = None

    def layer_groups(self) -> list[str]:
        """See :class:`Trunk`: the patch embedding, then block by block."""
        return ["patch_embed.", *(f"blocks.{i}." for i in range(len(self.blocks)))]

    def position(self, h: int, w: int) -> Tensor:
        """The position embedding (1, h, w, C); cached until the weights change."""
        if self._constant_position is not None:
            return self._constant_position
        return self._remembered.get(
            (self.pos_embed, self.pos_embed_window), (h, w), lambda: self._make_position(h, w)
        )

    @contextmanager
    def exportable(self, side: int, few_operations: bool) -> Iterator[None]:
        """See :class:`Trunk`. Otherwise an exported graph would contain a bicubic Resize and a
        separate part for each window size at the edges."""
        self._constant_position = self._make_position(side, side).clone()
        layers = [module for module in self.modules() if isinstance(module, WindowAttention)]
        for layer in layers:
            layer.whole_windows = few_operations
        try:
            yield
        finally:
            self._constant_position = None
            for layer in layers:
                layer.whole_windows = False

    def _make_position(self, h: int, w: int) -> Tensor:
        background = F.interpolate(self.pos_embed, size=(h, w), mode="bicubic")
        side = self.pos_embed_window.shape[-1]
        window = self.pos_embed_window.tile(1, 1, h // side, w // side)
        return (background + window).permute(0, 2, 3, 1).contiguous()

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, S, S) to the four stages' features (B, C_i, H_i, W_i), finest first."""
        x = self.patch_embed(image)
        x = x + self.position(x.shape[1], x.shape[2])
        stages = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self._last_blocks:
                stages.append(x.permute(0, 3, 1, 2))
        return stages
