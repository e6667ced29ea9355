"""Augmentation of whole batches on the training device.

Hue, saturation and brightness change for both views of a pair alike, because colour is what tells
objects apart; small jitter, blur and noise differ per view.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def uniform(shape: tuple[int, ...], low: float, high: float, device: torch.device) -> Tensor:
    """Uniform random numbers, float32."""
    return torch.rand(shape, device=device) * (high - low) + low


def hue_rotation(angle: Tensor) -> Tensor:
    """Rotations of RGB space about the grey axis: (B,) radians to (B, 3, 3)."""
    cos, sin = angle.cos(), angle.sin()
    axis = math.sqrt(1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=angle.device) * axis
    eye = torch.eye(3, device=angle.device)
    return cos[:, None, None] * eye + ((1 - cos) / 3)[:, None, None] + sin[:, None, None] * cross


def colour_matrices(count: int, device: torch.device) -> Tensor:
    """Random colour transforms (count, 3, 3): hue, saturation, now and then grey, gain."""
    turned = torch.rand(count, device=device) < 0.6
    matrix = hue_rotation(uniform((count,), 0, 2 * math.pi, device) * turned)
    saturation = uniform((count,), 0.5, 1.4, device) * (torch.rand(count, device=device) > 0.05)
    saturation = saturation[:, None, None]
    grey = torch.full((3, 3), 1 / 3, device=device)
    matrix = matrix @ (saturation * torch.eye(3, device=device) + (1 - saturation) * grey)
    return matrix * uniform((count, 1, 1), 0.7, 1.3, device)


def colour(images: Tensor, matrices: Tensor) -> Tensor:
    """Colour transforms plus per-image jitter, gamma, blur and noise.

    Args:
        images: (N, 3, h, w) in 0 .. 1.
        matrices: (N, 3, 3), the same for views that belong together.

    Returns:
        (N, 3, h, w) in 0 .. 1.
    """
    n, device = images.shape[0], images.device
    jitter = uniform((n, 3, 1), 0.88, 1.12, device)
    offset = uniform((n, 1, 1), -0.05, 0.05, device)
    x = (matrices @ images.flatten(2)) * jitter + offset
    x = x.clamp(1e-4, 1).view_as(images) ** uniform((n, 1, 1, 1), 0.75, 1.25, device)
    blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    share = torch.rand(n, 1, 1, 1, device=device)
    share = share * (torch.rand(n, 1, 1, 1, device=device) < 0.35)
    x = x + share * (blurred - x)
    noise = uniform((n, 1, 1, 1), 0, 0.03, device)
    noise = noise * (torch.rand(n, 1, 1, 1, device=device) < 0.5)
    return (x + noise * torch.randn_like(x)).clamp(0, 1)


def crops(centre: Tensor, scale: Tensor, flip: Tensor) -> Tensor:
    """Affine maps from crop coordinates to image coordinates, both in -1 .. 1.

    Args:
        centre: (N, 2) x and y of the crop's centre in the image.
        scale: (N,) side of the crop as a share of the image's side.
        flip: (N,) 1 or -1: mirrored horizontally.

    Returns:
        (N, 2, 3), with a small random rotation (standard deviation 5 degrees) and aspect change.
    """
    n, device = scale.shape[0], scale.device
    angle = torch.randn(n, device=device) * math.radians(5)
    aspect = (torch.randn(n, device=device) * 0.06).exp()
    cos, sin = angle.cos(), angle.sin()
    x, y = scale / aspect * flip, scale * aspect
    rows = torch.stack((cos * x, -sin * y, centre[:, 0], sin * x, cos * y, centre[:, 1]), dim=1)
    return rows.view(n, 2, 3)


def whole(count: int, device: torch.device) -> Tensor:
    """The maps that change nothing: (count, 2, 3)."""
    return torch.eye(2, 3, device=device).expand(count, -1, -1)


def warp(packed: Tensor, theta: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cut crops out of images and label images.

    Args:
        packed: uint8 (N, S, S, 4), colour and label. theta: (N, 2, 3) from :func:`crops`.
        size: side of the crops, in pixels.

    Returns:
        images (N, 3, size, size) in 0 .. 1, and labels uint8 (N, size, size), 0 outside.
    """
    grid = F.affine_grid(theta, [packed.shape[0], 1, size, size], align_corners=False)
    planes = packed.permute(0, 3, 1, 2).float()
    images, labels = planes[:, :3] / 255, planes[:, 3:]
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    cut = F.grid_sample(labels, grid, mode="nearest", align_corners=False)
    return images, cut[:, 0].round().to(torch.uint8)
