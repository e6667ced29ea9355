"""Memory encoder of SAM 2.1: turns image features and a mask into memory features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.config import ModelConfig
from lmeec_core.model.layers import LayerNorm2d


class MaskDownSampler(nn.Module):
    """Strided convolutions that bring a mask to the memory's stride and width."""

    def __init__(self, total_stride: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential()
        channels = 1
        for _ in range(total_stride.bit_length() - 1):
            self.encoder.append(nn.Conv2d(channels, channels * 4, 3, stride=2, padding=1))
            channels *= 4
            self.encoder.append(LayerNorm2d(channels))
            self.encoder.append(nn.GELU())
        self.encoder.append(nn.Conv2d(channels, width, 1))

    def forward(self, mask: Tensor) -> Tensor:
        """(B, 1, S, S) to (B, width, S/stride, S/stride)."""
        return self.encoder(mask)


class FuserBlock(nn.Module):
    """A ConvNeXt block (arXiv 2201.03545)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = LayerNorm2d(width)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W), shape kept."""
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """A stack of :class:`FuserBlock`."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FuserBlock(width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W), shape kept."""
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Fuses a mask into the top features of its view."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.mask_downsampler = MaskDownSampler(config.memory_stride, width)
        self.pix_feat_proj = nn.Conv2d(width, width, 1)
        self.fuser = Fuser(width, config.fuser_layers)
        self.out_proj = nn.Conv2d(width, config.memory_dim, 1)

    def forward(self, top: Tensor, mask: Tensor) -> Tensor:
        """Encode masks in their views.

        Args:
            top: (B, hidden, g, g) top features of the view.
            mask: (B, 1, S, S) mask values already scaled to about -10 .. 10.

        Returns:
            (B, memory_dim, g, g).
        """
        return self.out_proj(self.fuser(self.pix_feat_proj(top) + self.mask_downsampler(mask)))
