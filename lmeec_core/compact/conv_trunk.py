"""A small convolutional image encoder for CPUs: residual stages, two attention blocks, a neck."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.config import ConvTrunkConfig
from lmeec_core.model.image_encoder import register_backbone
from lmeec_core.model.layers import MLP, Attention, sine_position_2d
from lmeec_core.model.trunk import Neck, Trunk


def conv_block(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ReLU: (B, inside, H, W) to (B, outside, H', W')."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut around them (arXiv 1512.03385); starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = conv_block(channels, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), shape kept."""
        return F.relu(x + self.norm(self.conv(self.inner(x))))


class AttentionBlock(nn.Module):
    """Self-attention over all locations and a feed-forward part, each with pre-normalisation."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = Attention(channels, heads, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP((channels, 4 * channels, channels), nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C), shape kept."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y)
        return x + self.mlp(self.norm2(x))


class ConvTrunk(Trunk):
    """Four stages, each at half the resolution of the previous one; the first has stride 2."""

    def __init__(self, config: ConvTrunkConfig) -> None:
        super().__init__(config.channels, strides=(2, 4, 8, 16))
        self.stages = nn.ModuleList([conv_block(3, config.channels[0], 2)])
        for i, depth in enumerate(config.blocks):
            inside, outside = config.channels[i : i + 2]
            blocks = [ResidualBlock(outside) for _ in range(depth)]
            self.stages.append(nn.Sequential(conv_block(inside, outside, 2), *blocks))
        width = config.channels[3]
        self.position = nn.Conv2d(width, width, 1)
        self.attention = nn.ModuleList(
            AttentionBlock(width, config.attention_heads) for _ in range(config.attention_blocks)
        )

    def layer_groups(self) -> list[str]:
        """See :class:`Trunk`: the first convolution, then each stage's first convolution and
        residual blocks, then the attention blocks."""
        groups = ["stages.0."]
        for i, stage in enumerate(self.stages):
            if i:
                assert isinstance(stage, nn.Sequential)
                groups += [f"stages.{i}.{j}." for j in range(len(stage))]
        return groups + [f"attention.{i}." for i in range(len(self.attention))]

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, S, S) to features (B, channels[i], S / 2^(i+1), .), finest first."""
        features = []
        x = image
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        height, width = x.shape[-2:]
        encoding = sine_position_2d(height, width, x.shape[1], x.device)
        tokens = (x + self.position(encoding[None])).flatten(2).transpose(1, 2)
        for block in self.attention:
            tokens = block(tokens)
        features[-1] = tokens.transpose(1, 2).unflatten(2, (height, width))
        return features


class ConvNeck(Neck):
    """Top-down pathway: stride 16 is added to stride 8, and the result to stride 4."""

    def __init__(self, config: ConvTrunkConfig, width: int) -> None:
        half, quarter, eighth, sixteenth = config.channels
        super().__init__((half, config.middle_dim, width))
        self.lateral_sixteenth = nn.Conv2d(sixteenth, width, 1)
        self.lateral_eighth = nn.Conv2d(eighth, width, 1)
        self.smooth_eighth = conv_block(width, width)
        self.down = nn.Conv2d(width, config.middle_dim, 1)
        self.lateral_quarter = nn.Conv2d(quarter, config.middle_dim, 1)
        self.smooth_quarter = conv_block(config.middle_dim, config.middle_dim)

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Features at strides 2 (channels[0]), 4 (middle_dim) and 8 (width)."""
        half, quarter, eighth, sixteenth = stages

        def enlarge(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)

        top = self.lateral_eighth(eighth) + enlarge(self.lateral_sixteenth(sixteenth))
        top = self.smooth_eighth(top)
        middle = self.smooth_quarter(self.lateral_quarter(quarter) + enlarge(self.down(top)))
        return half, middle, top


@register_backbone("conv")
def conv_backbone(config: Any, width: int) -> tuple[Trunk, Neck]:
    """Trunk and neck from a :class:`lmeec_core.ConvTrunkConfig`."""
    return ConvTrunk(config), ConvNeck(config, width)


def frozen_norms(module: nn.Module) -> None:
    """Put every batch normalisation into evaluation mode, which fixes its statistics."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
