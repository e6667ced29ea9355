"""Memory-View Mixture-of-Experts (paper section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MVMoE(nn.Module):
    """Fuses the memory-aware and the view-specific feature.

    Channel routing weights each feature's channels, based on both spatial means (equations 1 to 3).
    Spatial routing then weights each location, based on both results. Each weight w is applied as
    f + w * f, and the sum of the two is the fused feature. Equation 5 in the paper repeats the
    channel weight, but the text and the released weights use the spatial one. In the state dict, 1
    is memory and 2 is view.

    It can be used on its own, in any network with two spatially aligned features of ``dim``
    channels, of any size.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp1, self.mlp2 = self._channel_router(dim), self._channel_router(dim)
        self.conv1, self.conv2 = self._spatial_router(dim), self._spatial_router(dim)

    @staticmethod
    def _channel_router(dim: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.Sigmoid())

    @staticmethod
    def _spatial_router(dim: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(2 * dim, dim, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(dim, 1, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, memory: Tensor, view: Tensor) -> Tensor:
        """Fuse two features (B, C, h, w); returns (B, C, h, w)."""
        means = torch.cat((memory.mean(dim=(2, 3)), view.mean(dim=(2, 3))), dim=1)
        memory = memory + memory * self.mlp1(means)[:, :, None, None]
        view = view + view * self.mlp2(means)[:, :, None, None]
        both = torch.cat((memory, view), dim=1)
        return memory + memory * self.conv1(both) + view + view * self.conv2(both)
