"""The matcher's input from an image: patch tokens, and descriptors of masks made from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmeec_core.compact.features import EmbeddedFeatures
from lmeec_core.compact.layers import masked_mean
from lmeec_core.correspondence import Mask
from lmeec_core.methods.omama.descriptors import bounding_boxes, describe, fit_masks
from lmeec_core.methods.omama.network import Layout
from lmeec_core.methods.pairs import Image
from lmeec_core.model import LMEEC
from lmeec_core.preprocessing import prepare_images

CONTEXT = 1 / 7
"""Share of the image's sides by which a bounding box is enlarged: the published 100 pixels of an
ego image."""


class SeenView(Protocol):
    """An image in the form that the matcher needs."""

    @property
    def tokens(self) -> Tensor:
        """(C, h, w) float32."""

    def describe(self, masks: Mask) -> Tensor:
        """Descriptors (N, 2C), [object; context], of masks (N, H, W) of any size; N may be 0."""

    def plain(self, descriptors: Tensor) -> Tensor:
        """Unit vectors (N, D) of descriptors, to compare objects without a matcher."""


class Features(Protocol):
    """A frozen network that describes images."""

    @property
    def fingerprint(self) -> str:
        """Changes with the weights, and with anything else that changes the features."""

    def layout(self, reverse: bool) -> Layout:
        """Sizes of a matcher for these features; `reverse` True is exo to ego."""

    def see(self, images: Sequence[Image], ego: Sequence[bool]) -> list[SeenView]:
        """Views of uint8 RGB images; `ego` is True for ego images."""


@dataclass(frozen=True, eq=False)
class PatchView:
    """A view with the published descriptors."""

    tokens: Tensor
    """(C, h, w) float32, one per 14 x 14 pixels of the network's image."""

    def describe(self, masks: Mask) -> Tensor:
        """See :class:`SeenView`."""
        given = torch.from_numpy(np.ascontiguousarray(masks)).to(self.tokens.device)
        return describe(self.tokens, fit_masks(given, self.tokens))

    def plain(self, descriptors: Tensor) -> Tensor:
        """See :class:`SeenView`."""
        return F.normalize(descriptors[:, : self.tokens.shape[0]], dim=-1)


@dataclass(frozen=True, eq=False)
class EncoderView:
    """A view of one of our own networks."""

    maps: tuple[Tensor, ...]
    """(C, g, g) or (C, 2g, 2g) each, with a mean square of 1 at each place."""

    @property
    def tokens(self) -> Tensor:
        """See :class:`SeenView`; (C, g / 2, g / 2), which is enough to attend to and faster."""
        half = self.maps[0].shape[1] // 2
        return torch.cat([F.avg_pool2d(x[None], x.shape[1] // half)[0] for x in self.maps])

    def describe(self, masks: Mask) -> Tensor:
        """See :class:`SeenView`. A place counts by the share of it that the mask covers, so that
        an object smaller than a place is described as well."""
        given = torch.from_numpy(np.ascontiguousarray(masks)).to(self.maps[0].device)
        areas = (given.float(), _boxes_around(given))
        return torch.cat([_mean(x, area) for area in areas for x in self.maps], dim=1)

    def plain(self, descriptors: Tensor) -> Tensor:
        """See :class:`SeenView`; computed from the last, finest map."""
        end = sum(x.shape[0] for x in self.maps)
        return F.normalize(descriptors[:, end - self.maps[-1].shape[0] : end], dim=-1)


def _mean(places: Tensor, areas: Tensor) -> Tensor:
    if not len(areas):
        return places.new_zeros(0, places.shape[0])
    cover = F.interpolate(areas[None], size=tuple(places.shape[1:]), mode="area")
    return masked_mean(places[None], cover)[0]


def _boxes_around(masks: Tensor) -> Tensor:
    """float32 (N, H, W): 1 in each mask's enlarged bounding box; nothing around an empty mask."""
    height, width = masks.shape[1:]
    boxes = bounding_boxes(masks)

    def inside(first: Tensor, behind: Tensor, size: int) -> Tensor:
        margin = round(CONTEXT * size)
        index = torch.arange(size, device=masks.device)
        return (index >= (first - margin)[:, None]) & (index < (behind + margin)[:, None])

    y, x = inside(boxes.y0, boxes.y1, height), inside(boxes.x0, boxes.x1, width)
    around = (y[:, :, None] & x[:, None, :]).float()
    return around * masks.flatten(1).any(dim=1)[:, None, None]


class EncoderFeatures:
    """The features of one of our own networks, whose images are squares of one size.

    Args:
        model: the embedding of a compact network is used beside its top features; of another
            network the top features alone.
    """

    def __init__(self, model: LMEEC) -> None:
        self.model = model

    @property
    def fingerprint(self) -> str:
        """See :class:`Features`."""
        digest = hashlib.sha256(b"compact, 1")
        for name, value in sorted(self.model.image_encoder.state_dict().items()):
            digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def layout(self, reverse: bool) -> Layout:
        """See :class:`Features`; both directions are alike."""
        config = self.model.config
        grid = (config.grid // 2, config.grid // 2)
        own = 2 * config.matching.dim if config.matching else 0
        return Layout(config.hidden_dim + own, 4, grid, grid)

    @torch.inference_mode()
    def see(self, images: Sequence[Image], ego: Sequence[bool]) -> list[SeenView]:
        """See :class:`Features`."""
        model = self.model
        with model.autocast():
            inputs = prepare_images(list(images), model.config.image_size, model.device)
            views = model.encode_images(inputs, model.runner or model.compute)
        if not isinstance(views, EmbeddedFeatures):
            return [EncoderView((one,)) for one in _even(views.top)]
        top = torch.cat((_even(views.top), _even(views.top_embedding)), dim=1)
        middle = _even(views.middle_embedding)
        return [EncoderView(maps) for maps in zip(top, middle, strict=True)]


def _even(features: Tensor) -> Tensor:
    """Features (V, C, h, w) with a mean square of 1 at each place, float32."""
    even: Tensor = F.normalize(features.float(), dim=1) * features.shape[1] ** 0.5
    return even
