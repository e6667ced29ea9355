"""Aligns masks with image edges, using the fast guided filter (arXiv 1505.00996).

A small network locates an object but is imprecise at its boundary. In every window of the image,
the mask is fitted as a linear function of colour, so that its edges follow edges in colour.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from lmeec_core.config import ModelConfig, RefinementConfig
from lmeec_core.preprocessing import colours


class Guide:
    """A view's image, prepared once for all masks in the view.

    Args:
        image: (3, S, S) float32, RGB in 0 .. 1.
        side: s, side of the masks.
        config: the filter's configuration.
    """

    def __init__(self, image: Tensor, side: int, config: RefinementConfig) -> None:
        self.config = config
        self._fine = image
        self._side = side

    @cached_property
    def _prepared(self) -> tuple[Tensor, Tensor, Tensor]:
        """Colours (3, s, s), their means, and their inverse covariances (s, s, 3, 3)."""
        colour = F.interpolate(self._fine[None], size=(self._side, self._side), mode="area")[0]
        mean = self._box(colour)
        products = self._box((colour[:, None] * colour[None]).flatten(0, 1)).unflatten(0, (3, 3))
        spread = (products - mean[:, None] * mean[None]).permute(2, 3, 0, 1)
        own = self.config.epsilon * torch.eye(3, device=colour.device)
        return colour, mean, torch.linalg.inv_ex(spread + own).inverse  # does not wait for the GPU

    def _box(self, x: Tensor) -> Tensor:
        """Means over square windows, (C, s, s) to (C, s, s); one axis after the other."""
        r = self.config.radius
        rows = F.avg_pool2d(x[None], (2 * r + 1, 1), 1, (r, 0), count_include_pad=False)
        return F.avg_pool2d(rows, (1, 2 * r + 1), 1, (0, r), count_include_pad=False)[0]

    def refine(self, logits: Tensor) -> Tensor:
        """Filter a mask's logits (s, s), clamped to +-``config.limit``; returns (S, S)."""
        limited = logits.float().clamp(-self.config.limit, self.config.limit)
        colour, mean, inverse = self._prepared
        moments = self._box(torch.cat((limited[None], colour * limited)))
        shared = moments[1:] - mean * moments[0]
        slope = (inverse @ shared.permute(1, 2, 0)[..., None])[..., 0].permute(2, 0, 1)
        offset = moments[0] - (slope * mean).sum(dim=0)
        fit = self._box(torch.cat((slope, offset[None])))
        fit = F.interpolate(fit[None], size=self._fine.shape[1:], mode="bilinear")[0]
        return (fit[:3] * self._fine).sum(dim=0) + fit[3]


def guides(config: ModelConfig, images: Tensor) -> list[Guide | None]:
    """The guide for each of V views; None for each if the network has no refinement.

    Args:
        config: the network's configuration.
        images: (V, 3, S, S) float32, model input.
    """
    if config.refinement is None:
        return [None] * len(images)
    return [Guide(image, config.mask_size, config.refinement) for image in colours(images)]


def full_size(logits: Tensor, size: tuple[int, int], guide: Guide | None) -> Tensor:
    """Resize a mask's logits (s, s) to (height, width), refined if there is a guide."""
    if guide is not None:
        logits = guide.refine(logits)
    return F.interpolate(logits.float()[None, None], size=size, mode="bilinear")[0, 0]
