"""The image encoder: a trunk and a neck of the kind that the configuration names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.config import ModelConfig
from lmeec_core.errors import InputError
from lmeec_core.model.hiera import Hiera
from lmeec_core.model.trunk import Neck, Trunk

Backbone = Callable[[Any, int], tuple[Trunk, Neck]]
"""Makes the trunk and neck from a trunk's configuration and the width of the top features."""

BACKBONES: dict[str, Backbone] = {}
"""The registered kinds of trunk; :func:`register_backbone` adds one."""


def register_backbone(kind: str) -> Callable[[Backbone], Backbone]:
    """Decorator that registers a function to make the backbones of this kind."""

    def register(make: Backbone) -> Backbone:
        BACKBONES[kind] = make
        return make

    return register


class FpnNeck(Neck):
    """Lateral 1x1 convolutions; the third level also receives the fourth, upsampled."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__((width, width, width))
        # The checkpoint lists the coarsest level first, each convolution in its own container.
        self.convs = nn.ModuleList()
        for c in reversed(channels):
            level = nn.Sequential()
            level.add_module("conv", nn.Conv2d(c, width, 1))
            self.convs.append(level)

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Four stages' features to those of the three finest levels (B, width, H_i, W_i)."""
        coarse = self.convs[0](stages[3])
        top = self.convs[1](stages[2]) + F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        return self.convs[3](stages[0]), self.convs[2](stages[1]), top


@register_backbone("hiera")
def hiera_backbone(config: Any, width: int) -> tuple[Trunk, Neck]:
    """SAM 2.1's trunk and neck, from a :class:`lmeec_core.TrunkConfig`."""
    trunk = Hiera(config)
    return trunk, FpnNeck(trunk.channels, width)


class ImageEncoder(nn.Module):
    """Trunk and neck; the coarsest level only feeds the one above it.

    Raises:
        InputError: nothing is registered for the trunk's kind.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        kind = config.trunk.kind
        if kind not in BACKBONES:
            raise InputError(
                f"trunk.kind: {kind!r} given, one of {sorted(BACKBONES)} expected; "
                "lmeec_core.build_model knows all kinds"
            )
        trunk, neck = BACKBONES[kind](config.trunk, config.hidden_dim)
        self.trunk = trunk
        self.neck = neck

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, S, S) to features at 1, 2 and 4 patch strides with ``neck.channels`` channels."""
        fine, middle, top = self.neck(self.trunk(image))
        return fine, middle, top
