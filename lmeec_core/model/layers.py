"""Small building blocks shared by the network's modules."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with an activation between them.

    Args:
        sizes: widths from input to output, at least two.
        activation: the module between the linear layers.
    """

    def __init__(self, sizes: tuple[int, ...], activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(i, o) for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., sizes[0]) to (..., sizes[-1])."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


_FEW_CHANNELS = 32
"""Up to this many channels, torch's GPU kernel is slow: it runs a block of threads per pixel, most
of them idle. With it, layer normalisation took 28 % of a training step on an H100."""


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of (B, C, H, W), in float32."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel's channels; shape (B, C, H, W) kept."""
        if x.device.type == "cuda" and x.shape[1] <= _FEW_CHANNELS:
            return self.over_channels(x)
        y = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)

    def over_channels(self, x: Tensor) -> Tensor:
        """The same, with elementwise operations on whole images."""
        x = x.float()
        x = x - x.mean(dim=1, keepdim=True)
        x = x * (x.square().mean(dim=1, keepdim=True) + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])


class Attention(nn.Module):
    """Multi-head attention with separate projections, as SAM's mask decoder uses it.

    Args:
        dim: width of queries and output.
        heads: number of attention heads.
        inner: width of the projected queries, keys and values.
        key_dim: width of keys and values before projection; ``dim`` if not given.
    """

    def __init__(self, dim: int, heads: int, inner: int, key_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(key_dim or dim, inner)
        self.v_proj = nn.Linear(key_dim or dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def split(self, x: Tensor) -> Tensor:
        """(B, L, inner) to (B, heads, L, inner / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Scaled dot-product attention on split heads; returns (B, L, dim)."""
        return self.out_proj(attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, L, dim), k and v (B, M, key_dim); returns (B, L, dim)."""
        return self.attend(
            self.split(self.q_proj(q)), self.split(self.k_proj(k)), self.split(self.v_proj(v))
        )


_SCORES = 32 << 20
"""Maximum number of attention scores held at once on a CPU; more are computed in parts."""


def slow_fused_attention(q: Tensor) -> bool:
    """Whether plain matrix products are faster than torch's fused attention: bfloat16 on a CPU.

    There, inference takes 109 ms with the fused kernel and 40 ms with plain products (900 queries,
    10,860 keys and 64 values on one core), and the kernel's backward pass is slow; in float32, the
    two are equally fast.
    """
    return q.device.type == "cpu" and q.dtype is torch.bfloat16


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention.

    Args:
        q: (B, H, L, C). k: (B, H, M, C). v: (B, H, M, W); W may differ from C.
        bias: added to the scores; broadcasts to (B, H, L, M), with its last axis of length M.

    Returns:
        (B, H, L, W).
    """
    if not slow_fused_attention(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    if q.shape[:3].numel() * k.shape[2] <= _SCORES:
        return plain_attention(q, k, v, bias)
    rows = max(1, _SCORES // (q.shape[1] * k.shape[2]))
    parts = [
        plain_attention(part, k[i : i + 1], v[i : i + 1], bias)
        for i, one in enumerate(q.split(1))
        for part in one.split(rows, dim=2)
    ]
    return torch.cat(parts, dim=2)[0].unflatten(1, (q.shape[0], -1)).transpose(0, 1)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """:func:`attention` as plain matrix products; any number of leading axes."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        scores += bias
    return scores.softmax(-1) @ v


def sine_position_2d(
    height: int, width: int, channels: int, device: torch.device | None = None
) -> Tensor:
    """Sine encoding of image positions (DETR's normalised form).

    Rows and columns are counted from 1 and scaled to 2 pi. The first half of the channels encodes
    the row, the second half the column, with alternating sines and cosines.

    Returns:
        float32 (channels, height, width), values in [-1, 1].
    """
    half = channels // 2
    index = torch.arange(half, device=device)
    scale = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

    def encode(n: int) -> Tensor:  # (n, half)
        steps = torch.arange(1, n + 1, dtype=torch.float32, device=device)
        angle = (steps / (n + 1e-6) * (2 * math.pi))[:, None] / scale
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    rows = encode(height)[:, None].expand(height, width, half)
    columns = encode(width)[None].expand(height, width, half)
    return torch.cat((rows, columns), dim=2).permute(2, 0, 1).contiguous()


def sine_position_1d(position: Tensor, channels: int) -> Tensor:
    """Sine encoding of scalars, such as the object pointers' distance in time.

    Args:
        position: float32 (n,), the scalars. channels: width of the encoding.

    Returns:
        float32 (n, channels): all sines, then all cosines.
    """
    half = channels // 2
    index = torch.arange(half, dtype=torch.float32, device=position.device)
    scale = 10000 ** (2 * torch.div(index, 2, rounding_mode="floor") / half)
    angle = position[:, None] / scale
    return torch.cat((angle.sin(), angle.cos()), dim=1)


def rotary_tables(
    grid: int, channels: int, theta: float = 10000.0, step: int = 1
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the axial rotary encoding of a square token grid.

    The first half of the channel pairs rotates with the column, the second with the row.

    Args:
        grid: side of the grid, in tokens.
        channels: width of queries and keys, a multiple of 4.
        theta: base of the frequencies.
        step: side of the squares of tokens whose centres are encoded; must divide ``grid``.

    Returns:
        two float32 tensors ((grid / step)^2, channels / 2).
    """
    frequency = 1.0 / theta ** (torch.arange(0, channels, 4).float() / channels)
    side = grid // step
    index = torch.arange(side * side, dtype=torch.float32)
    column, row = index % side, torch.div(index, side, rounding_mode="floor")
    column, row = (column + 0.5) * step - 0.5, (row + 0.5) * step - 0.5
    angle = torch.cat((torch.outer(column, frequency), torch.outer(row, frequency)), dim=1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary encoding, in float32 and without complex numbers.

    Args:
        x: (B, heads, r * P, C): r frames of P tokens; the encoding repeats for each frame. The
            first channels of all pairs come first, then the second channels.
        cos, sin: (P, C / 2).

    Returns:
        the same shape, order and dtype as ``x``.
    """
    frames = x.unflatten(2, (-1, cos.shape[0]))
    first, second = frames.chunk(2, dim=-1)
    turned = (
        torch.addcmul(first * cos, second, sin, value=-1).to(x.dtype),
        torch.addcmul(first * sin, second, cos).to(x.dtype),
    )
    return torch.cat(turned, dim=-1).flatten(2, 3)
