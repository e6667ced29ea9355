"""A small building block shared by the compact network's modules."""

from __future__ import annotations

from torch import Tensor


def masked_mean(features: Tensor, masks: Tensor) -> Tensor:
    """Means of features over masks.

    Args:
        features: (B, D, h, w). masks: (B, N, h, w), values 0 .. 1.

    Returns:
        (B, N, D) float32; zero where a mask is empty.
    """
    weight = masks.flatten(2).float()
    weight = weight / weight.sum(dim=-1, keepdim=True).clamp_min(1e-4)
    return weight @ features.flatten(2).transpose(1, 2).float()
