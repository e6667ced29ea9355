"""Parts of the network used only in training, and initialisation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.compact.conv_trunk import conv_block
from lmeec_core.model import LMEEC, ViewFeatures


class ForegroundHead(nn.Module):
    """Predicts objects and people per pixel; an auxiliary task that helps early training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width // 4, width // 8, 1)
        self.block = conv_block(width // 8, width // 8)
        self.out = nn.Conv2d(width // 8, 2, 1)

    def forward(self, views: ViewFeatures) -> Tensor:
        """Logits of object and person (V, 2, 4g, 4g)."""
        x = F.interpolate(self.reduce(views.middle), scale_factor=2.0, mode="bilinear")
        return self.out(self.block(x + views.fine))


def share_parameters(source: nn.Module, target: nn.Module) -> None:
    """Make ``target`` share the parameters and saved buffers of ``source`` (same layout)."""
    for own, given in zip(target.modules(), source.modules(), strict=True):
        own._parameters = given._parameters
        for name, buffer in given._buffers.items():
            if name not in given._non_persistent_buffers_set:
                own._buffers[name] = buffer


def initialise(model: LMEEC) -> None:
    """Set initial values for training from scratch; the defaults assume a checkpoint is loaded."""
    for module in model.modules():
        gamma = getattr(module, "gamma", None)
        if isinstance(gamma, nn.Parameter):
            nn.init.constant_(gamma, 0.1)
