"""A small head on the compact network's features: turns points and boxes into an object's mask.

The network itself finds an object whose mask is given; this head makes the mask of an object that
was clicked. Its inputs are the image encoder's features, maps of where the prompt is, and maps of
what looks like the clicked place.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.compact.conv_trunk import conv_block
from lmeec_core.compact.features import EmbeddedFeatures
from lmeec_core.compact.layers import masked_mean
from lmeec_core.config import ModelConfig

WIDTH, FINE = 32, 16
"""Number of channels at two and at one patch stride."""
DILATIONS = (1, 2, 4, 8, 4, 2, 1)
"""Dilations of the 3x3 convolutions, in cells of two patch strides: together they span 45 cells."""
NEAR, WIDE = 0.028, 0.12
"""Standard deviations of the maps of points, as fractions of the image's side."""
_SEED, _COLOUR = 0.012, 0.08
_MAPS, _FINE_MAPS = 12, 3


class Hints(NamedTuple):
    """Points and boxes of B objects in one view; coordinates are fractions 0 .. 1 of the image."""

    points: Tensor
    """(B, K, 2), x and y."""
    labels: Tensor
    """(B, K) 1 (on the object), 0 (not on it), -1 (no point)."""
    boxes: Tensor
    """(B, 4), x0, y0, x1, y1; all 0 for objects without a box."""


class Seen(NamedTuple):
    """The head's inputs from V views, before any prompt."""

    shared: Tensor  # (V, WIDTH, 2g, 2g)
    fine: Tensor  # (V, FINE, 4g, 4g)
    embeddings: tuple[Tensor, Tensor]  # (V, D, 2g, 2g), from middle and top features
    colours: Tensor  # (V, 3, 4g, 4g)

    def of(self, views: list[int]) -> Seen:
        """Select the view of each of B objects."""
        middle, top = self.embeddings
        return Seen(
            self.shared[views], self.fine[views], (middle[views], top[views]), self.colours[views]
        )


class Maps(NamedTuple):
    """The head's inputs from B prompts."""

    coarse: Tensor  # (B, _MAPS, 2g, 2g)
    seeds: Tensor  # (B, 1, 2g, 2g), what is certainly the object, 0 .. 1
    fine: Tensor  # (B, _FINE_MAPS, 4g, 4g)


def _axes(side: int, like: Tensor) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(side, device=like.device, dtype=like.dtype) + 0.5) / side
    return axis[None, None, :], axis[None, :, None]


def _bumps(points: Tensor, valid: Tensor, side: int, width: float) -> Tensor:
    """(B, side, side): Gaussian of the distance to the nearest valid point, with a peak of 1."""
    x, y = _axes(side, points)
    far = (x[:, None] - points[..., 0, None, None]).square()
    far = far + (y[:, None] - points[..., 1, None, None]).square()
    far = far.masked_fill(~valid[..., None, None], torch.inf).amin(dim=1)
    return (far / (-2 * width**2)).exp()


def _inside(boxes: Tensor, side: int) -> Tensor:
    """(B, side, side): 1 in the box, 0 outside and for objects without a box."""
    x, y = _axes(side, boxes)
    x0, y0, x1, y1 = (edge[:, None, None] for edge in boxes.unbind(dim=1))
    return ((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)).to(boxes.dtype)


def _middle(boxes: Tensor, side: int) -> Tensor:
    """(B, side, side): 1 in the middle of the box, falling off towards its edges."""
    x, y = _axes(side, boxes)
    x0, y0, x1, y1 = (edge[:, None, None] for edge in boxes.unbind(dim=1))
    wide, high = ((x1 - x0) / 4).clamp_min(1e-3), ((y1 - y0) / 4).clamp_min(1e-3)
    far = ((x - (x0 + x1) / 2) / wide).square() + ((y - (y0 + y1) / 2) / high).square()
    return (far / -2).exp()


def _alike(embedding: Tensor, weights: Tensor) -> Tensor:
    """Cosine of (B, D, h, w) with its mean over weights (B, h, w); 0 where all weights are 0."""
    mean = F.normalize(masked_mean(embedding, weights[:, None])[:, 0], dim=1)
    return (mean[:, None] @ embedding.flatten(2).float())[:, 0].unflatten(1, weights.shape[1:])


class ClickHead(nn.Module):
    """Predicts mask logits from points, boxes and an earlier result.

    Args:
        config: the configuration of the network whose features it reads.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.matching is not None
        dim, embedding = config.hidden_dim, config.matching.dim
        self.from_top = nn.Conv2d(dim, WIDTH, 1)
        self.from_middle = nn.Conv2d(dim // 4, WIDTH, 1)
        self.from_embedding = nn.Conv2d(embedding, WIDTH, 1)
        self.from_fine = nn.Conv2d(dim // 8 + 3, FINE, 3, padding=1)
        self.from_maps = nn.Conv2d(_MAPS, WIDTH, 3, padding=1)
        self.seed = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(WIDTH, WIDTH, 3, padding=d, dilation=d, bias=False),
                nn.BatchNorm2d(WIDTH),
                nn.ReLU(),
            )
            for d in DILATIONS
        )
        self.reduce = nn.Conv2d(WIDTH, FINE, 1)
        self.refine = nn.Sequential(conv_block(2 * FINE + _FINE_MAPS, FINE), conv_block(FINE, FINE))
        self.mask = nn.Conv2d(FINE, 1, 1)
        assert self.mask.bias is not None
        nn.init.constant_(self.mask.bias, -2.0)  # most of a view is not the object
        self.iou = nn.Linear(2 * WIDTH, 1)
        # Identifies the network that the head was trained on, see `belongs_to`.
        self.of_network: Tensor
        self.register_buffer("of_network", torch.zeros(0))

    def look(self, colours: Tensor, views: EmbeddedFeatures) -> Seen:
        """Prepare V views.

        Args:
            colours: (V, 3, S, S) RGB in 0 .. 1. views: their features.
        """
        side = views.fine.shape[-1]
        small = F.interpolate(colours, size=(side, side), mode="area")

        def enlarge(x: Tensor) -> Tensor:
            return F.interpolate(x.float(), scale_factor=2.0, mode="bilinear", align_corners=False)

        shared = self.from_middle(views.middle.float()) + enlarge(self.from_top(views.top.float()))
        shared = shared + self.from_embedding(views.middle_embedding)
        fine = F.relu(self.from_fine(torch.cat((views.fine.float(), small), dim=1)))
        return Seen(shared, fine, (views.middle_embedding, enlarge(views.top_embedding)), small)

    def maps(self, seen: Seen, hints: Hints, before: Tensor | None = None) -> Maps:
        """Draw the prompts as maps.

        Args:
            seen: the view of each of B objects.
            hints: the prompts.
            before: (B, 4g, 4g) an earlier result that they correct, 0 .. 1.
        """
        half, whole = seen.shared.shape[-1], seen.fine.shape[-1]
        points, on, off = hints.points, hints.labels == 1, hints.labels == 0
        boxed = (hints.boxes != 0).any(dim=1)
        alone = (boxed & ~on.any(dim=1))[:, None, None]

        def seeds(side: int) -> Tensor:
            return torch.where(alone, _middle(hints.boxes, side), _bumps(points, on, side, _SEED))

        coarse, fine_seeds = seeds(half), seeds(whole)
        barred = _bumps(points, off, half, _SEED)
        colour = masked_mean(seen.colours, fine_seeds[:, None])[:, 0, :, None, None]
        alike = ((seen.colours - colour).square().sum(dim=1) / (-2 * _COLOUR**2)).exp()
        previous = torch.zeros_like(alike) if before is None else before
        inside = _inside(hints.boxes, half)
        pooled = F.avg_pool2d(torch.stack((alike, previous), dim=1), 2)
        middle, top = seen.embeddings
        maps = (
            *(_bumps(points, on, half, width) for width in (NEAR, WIDE)),
            *(_bumps(points, off, half, width) for width in (NEAR, WIDE)),
            inside,
            (1 - inside) * boxed[:, None, None],
            *pooled.unbind(dim=1),
            _alike(middle, coarse),
            _alike(top, coarse),
            _alike(middle, barred),
            _alike(middle, pooled[:, 1]),
        )
        fine = torch.stack((alike, previous, _bumps(points, on, whole, _SEED)), dim=1)
        return Maps(torch.stack(maps, dim=1), coarse[:, None], fine)

    def forward(self, shared: Tensor, fine: Tensor, maps: Maps) -> tuple[Tensor, Tensor]:
        """Decode B prompts.

        Args:
            shared, fine: from each object's view, see :class:`Seen`. maps: from the prompts.

        Returns:
            mask logits (B, 4g, 4g), and predicted IoU (B,) before the sigmoid.
        """
        x = F.relu(shared + self.from_maps(maps.coarse))
        for i, block in enumerate(self.blocks):
            if i == 2:
                x = x + self.seed(masked_mean(x, maps.seeds)[:, 0])[:, :, None, None]
            x = x + block(x)
        large = F.interpolate(self.reduce(x), scale_factor=2.0, mode="bilinear")
        logits = self.mask(self.refine(torch.cat((large, fine, maps.fine), dim=1)))
        inside = F.avg_pool2d(logits.detach().sigmoid(), 2)
        summary = torch.cat((masked_mean(x, inside)[:, 0], masked_mean(x, maps.seeds)[:, 0]), 1)
        return logits[:, 0], self.iou(summary)[:, 0]

    def belongs_to(self, network: nn.Module) -> bool:
        """Whether the head was trained on this network's features, in any precision."""
        mark = fingerprint(network)
        return self.of_network.shape == mark.shape and bool(
            torch.allclose(self.of_network.cpu(), mark, rtol=0.01, atol=1e-4)
        )


def fingerprint(network: nn.Module) -> Tensor:
    """Mean absolute value of each weight tensor of the image encoder's trunk: float32 (n,)."""
    weights = [p for n, p in network.named_parameters() if n.startswith("image_encoder.trunk.")]
    return torch.stack([p.detach().float().abs().mean().cpu() for p in weights])
