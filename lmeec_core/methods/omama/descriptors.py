"""Descriptors of an object in one view: the mean features inside its mask, and around it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lmeec_core.errors import InputError

PATCH = 14
"""Pixels of the image per patch token, on each side."""
CELL = 4
"""Pixels of the image per cell of the grid that features are upsampled to, on each side."""
CONTEXT_MARGIN = 100
"""Pixels of the image by which the bounding box is enlarged on each side."""


class Boxes(NamedTuple):
    """Bounding boxes of N masks in pixels, int64 (N,): from the first column and row to the one
    behind the last. All 0 for an empty mask."""

    x0: Tensor
    y0: Tensor
    x1: Tensor
    y1: Tensor


def bounding_boxes(masks: Tensor) -> Boxes:
    """The boxes of masks, bool (N, H, W)."""

    def ends(seen: Tensor) -> tuple[Tensor, Tensor]:
        size = seen.shape[1]
        first = seen.int().argmax(dim=1)
        end = size - seen.flip(1).int().argmax(dim=1)
        return first, torch.where(seen.any(dim=1), end, 0)

    if masks.shape[0] == 0 or masks[0].numel() == 0:
        none = masks.new_zeros(masks.shape[0], dtype=torch.int64)
        return Boxes(none, none, none, none)
    x0, x1 = ends(masks.any(dim=1))
    y0, y1 = ends(masks.any(dim=2))
    return Boxes(x0, y0, x1, y1)


def fit_masks(masks: Tensor, tokens: Tensor) -> Tensor:
    """Masks (N, H, W) at the size of the network's image, bool (N, 14h, 14w).

    Masks of any other size are sampled at the nearest pixel.
    """
    size = (PATCH * tokens.shape[1], PATCH * tokens.shape[2])
    if tuple(masks.shape[1:]) == size or not len(masks):
        return masks if len(masks) else masks.new_zeros(0, *size)
    return F.interpolate(masks[:, None].float(), size=size, mode="nearest")[:, 0] > 0


def describe(tokens: Tensor, masks: Tensor) -> Tensor:
    """Descriptors (N, 2C) of objects, [object; context].

    Object: mean, over the cells in the mask, of the features upsampled bilinearly to a quarter of
    the image's size. The mask is sampled at the nearest pixel, so one that lies between the
    samples has no cell; its object part is 0, as published, and only the context describes it.
    Context: the same mean over the box of the mask, enlarged by 100 pixels on each side.

    Args:
        tokens: (C, h, w) patch tokens of the view.
        masks: bool (N, 14h, 14w), at the size of its image.
    """
    _, h, w = tokens.shape
    rows, columns = (PATCH * n // CELL for n in (h, w))
    cells = F.interpolate(masks[:, None].float(), size=(rows, columns), mode="nearest")[:, 0]
    weights = torch.cat((cells, context_cells(masks, rows, columns)))
    # The mean of upsampled features is a weighted sum of the tokens. Bringing the weights down to
    # the tokens gives the same sum as bringing the tokens' many channels up to the cells.
    up_y, up_x = (_upsampling(n, size, tokens) for n, size in ((h, rows), (w, columns)))
    shares = up_y @ weights @ up_x.T  # (2N, h, w)
    sums = shares.flatten(1) @ tokens.flatten(1).T
    means = sums / weights.sum(dim=(1, 2)).clamp(min=1)[:, None]
    return torch.cat(means.chunk(2), dim=1)


def context_cells(masks: Tensor, rows: int, columns: int) -> Tensor:
    """float32 (N, rows, columns): 1 in the cells of each mask's enlarged box, at least one cell."""
    height, width = masks.shape[1:]
    boxes = bounding_boxes(masks)

    def inside(first: Tensor, behind: Tensor, size: int, cells: int) -> Tensor:
        start = (first - CONTEXT_MARGIN).clamp(0, size) // CELL
        end = (behind + CONTEXT_MARGIN).clamp(0, size) // CELL
        start = start.clamp(max=cells - 1)
        end = torch.maximum(end.clamp(max=cells), start + 1)
        index = torch.arange(cells, device=masks.device)
        return (index >= start[:, None]) & (index < end[:, None])

    y = inside(boxes.y0, boxes.y1, height, rows)
    x = inside(boxes.x0, boxes.x1, width, columns)
    return (y[:, :, None] & x[:, None, :]).float()


def check_view(name: str, tokens: Tensor, masks: Tensor, dim: int) -> None:
    """Check the arguments of a view.

    Raises:
        InputError: tokens that are not (dim, h, w) or not finite, or masks that are not (N, H, W).
    """
    if tokens.ndim != 3 or tokens.shape[0] != dim or 0 in tokens.shape:
        raise InputError(
            f"{name} tokens {tuple(tokens.shape)} given, ({dim}, h, w) expected: one token per "
            f"{PATCH} x {PATCH} pixels"
        )
    if not bool(torch.isfinite(tokens).all()):
        raise InputError(f"{name} tokens: values that are not finite given, finite ones expected")
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise InputError(
            f"{name} masks {masks.dtype} {tuple(masks.shape)} given, bool at the image's size "
            "expected"
        )


def _upsampling(size: int, larger: int, like: Tensor) -> Tensor:
    """(size, larger): how much each token contributes to each upsampled cell."""
    identity = torch.eye(size, device=like.device, dtype=like.dtype)[None]
    return F.interpolate(identity, size=larger, mode="linear", align_corners=False)[0]
