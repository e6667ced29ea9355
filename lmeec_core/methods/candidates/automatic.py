"""SAM 2.1's automatic mask generation: each point of a grid is a prompt; good masks are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lmeec_core.compact import CompactLMEEC
from lmeec_core.correspondence import Mask
from lmeec_core.errors import InputError
from lmeec_core.methods.candidates.limits import CandidateLimits
from lmeec_core.model import LMEEC, ViewFeatures
from lmeec_core.model.prompted import decode_candidates, fresh_tokens
from lmeec_core.preprocessing import prepare_images

EDGE = 20
"""A mask whose box comes this near, in pixels, to an edge of a crop inside the image is cut off."""
OVERLAP = 512 / 1500
"""Share of the image's shorter side by which crops of the first layer overlap."""

Box = tuple[int, int, int, int]


class Generated(NamedTuple):
    """N masks of an image, those of one crop by predicted IoU."""

    masks: Mask
    """(N, H, W)."""
    predicted_iou: npt.NDArray[np.float32]
    """(N,)."""
    stability: npt.NDArray[np.float32]
    """(N,) area with a higher threshold as a share of that with a lower one."""


@dataclass(frozen=True)
class AutomaticMasks:
    """SAM 2's mask generator on a network that takes points; the defaults are SAM 2's.

    Attributes:
        model: the network, not a compact one.
        limits: applied to what is found; they do not change the search.
        points_per_side: points along each side of the grid; each crop has its own grid.
        points_per_batch: number of points decoded together.
        predicted_iou, stability: minimum values; 0 keeps all.
        mask_threshold: minimum logit of a pixel in the mask.
        stability_offset: logits above and below the threshold.
        box_nms: of two masks whose boxes have a greater IoU, that with the lower predicted IoU is
            dropped; also between crops, where smaller crops come first.
        crop_layers: 0 is the whole image only; layer n adds 2^n x 2^n overlapping crops.
    """

    model: LMEEC
    limits: CandidateLimits = CandidateLimits()
    points_per_side: int = 32
    points_per_batch: int = 64
    predicted_iou: float = 0.8
    stability: float = 0.95
    mask_threshold: float = 0.0
    stability_offset: float = 1.0
    box_nms: float = 0.7
    crop_layers: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.model, CompactLMEEC):
            raise InputError(
                "this network does not accept points as SAM 2 does; one with a checkpoint (preset "
                "base_plus, sam2_tiny, ...) expected, or the candidates of Regions"
            )
        if self.points_per_side < 1 or self.points_per_batch < 1 or self.crop_layers < 0:
            raise InputError(
                f"points_per_side {self.points_per_side}, points_per_batch "
                f"{self.points_per_batch}, crop_layers {self.crop_layers}: 1 or more points and 0 "
                "or more layers expected"
            )

    def __call__(self, image: npt.NDArray[np.uint8]) -> Mask:
        """Candidates bool (N, H, W) of a uint8 RGB image within the limits, best first."""
        found = self.generate(image)
        return self.limits.keep(found.masks, found.predicted_iou)

    @torch.inference_mode()
    def generate(self, image: npt.NDArray[np.uint8]) -> Generated:
        """The masks that SAM 2's generator finds in a uint8 RGB image."""
        size = (image.shape[0], image.shape[1])
        crops = crop_boxes(size, self.crop_layers)
        found = [self._crop(image, crop, size) for crop in crops]
        masks, iou, stability, boxes = (torch.cat(part) for part in zip(*found, strict=True))
        if len(crops) > 1:
            areas = [float((x1 - x0) * (y1 - y0)) for x0, y0, x1, y1 in crops]
            scores = [
                torch.full((len(own[1]),), 1 / a) for own, a in zip(found, areas, strict=True)
            ]
            kept = suppressed(boxes, torch.cat(scores), self.box_nms)
            masks, iou, stability = masks[kept], iou[kept], stability[kept]
        return Generated(masks.numpy(), iou.numpy(), stability.numpy())

    def _crop(
        self, image: npt.NDArray[np.uint8], crop: Box, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Masks (n, H, W) of one crop, predicted IoU, stability, and boxes in the whole image."""
        x0, y0, x1, y1 = crop
        with self.model.autocast():
            config = self.model.config
            part = np.ascontiguousarray(image[y0:y1, x0:x1])
            inputs = prepare_images([part], config.image_size, self.model.device)
            views = self.model.encode_images(inputs, self.model.runner or self.model.compute)
        middles = (np.arange(self.points_per_side) + 0.5) / self.points_per_side
        x, y = np.meshgrid(middles, middles)
        grid = torch.from_numpy(np.stack((x.ravel(), y.ravel()), axis=1)).float()
        batches = [
            self._batch(views, points, crop, size) for points in grid.split(self.points_per_batch)
        ]
        masks, iou, stability, boxes = (torch.cat(one) for one in zip(*batches, strict=True))
        kept = suppressed(boxes, iou, self.box_nms)
        whole = torch.zeros(len(kept), *size, dtype=torch.bool)
        whole[:, y0:y1, x0:x1] = masks[kept]
        moved = boxes[kept] + torch.tensor([x0, y0, x0, y0])
        return whole, iou[kept], stability[kept], moved

    def _batch(
        self, views: ViewFeatures, points: Tensor, crop: Box, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The good masks (n, h, w) of the crop for some points (p, 2)."""
        count, device = len(points), self.model.device
        # As in SAM 2: the centre of a pixel of the model's input.
        places = (points + 0.5 / self.model.config.image_size).to(device)[:, None]
        labels = torch.ones(count, 1, dtype=torch.int64, device=device)
        with self.model.autocast():
            repeated = views.map(lambda x: x.expand(count, -1, -1, -1))
            tokens = fresh_tokens(self.model, views).expand(count, -1, -1)
            several, quality = decode_candidates(self.model, tokens, repeated, (places, labels))
        logits, iou = several.float().flatten(0, 1).cpu(), quality.float().flatten().cpu()
        good = iou > self.predicted_iou if self.predicted_iou > 0 else torch.ones_like(iou).bool()
        logits, iou = logits[good], iou[good]
        height, width = crop[3] - crop[1], crop[2] - crop[0]
        if not len(logits):
            empty = torch.zeros(0, height, width, dtype=torch.bool)
            return empty, iou, iou, torch.zeros(0, 4, dtype=torch.int64)
        large = F.interpolate(logits[:, None], size=(height, width), mode="bilinear")[:, 0]
        inner = (large > self.mask_threshold + self.stability_offset).sum(dim=(1, 2))
        outer = (large > self.mask_threshold - self.stability_offset).sum(dim=(1, 2))
        stability = inner / outer
        masks = large > self.mask_threshold
        boxes = boxes_of(masks)
        kept = ~_cut_off(boxes, crop, size)
        if self.stability > 0:
            kept &= stability >= self.stability
        return masks[kept], iou[kept], stability[kept], boxes[kept]


def boxes_of(masks: Tensor) -> Tensor:
    """x0, y0, x1, y1 (n, 4) of masks bool (n, h, w), the last pixels included; 0 for empty ones."""
    ends = []
    for seen in (masks.any(dim=1), masks.any(dim=2)):
        first = seen.int().argmax(dim=1)
        last = seen.shape[1] - 1 - seen.flip(1).int().argmax(dim=1)
        ends.append((first, torch.where(seen.any(dim=1), last, 0)))
    (x0, x1), (y0, y1) = ends
    return torch.stack((x0, y0, x1, y1), dim=1)


def suppressed(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes (n, 4) kept by non-maximum suppression, by score."""
    order = scores.argsort(descending=True, stable=True)
    given = boxes[order].float()
    area = (given[:, 2] - given[:, 0]) * (given[:, 3] - given[:, 1])
    low = torch.maximum(given[:, None, :2], given[None, :, :2])
    high = torch.minimum(given[:, None, 2:], given[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    alike = shared > threshold * (area[:, None] + area - shared)
    kept: list[int] = []
    dropped = torch.zeros(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if not dropped[i]:
            kept.append(i)
            dropped |= alike[i]
    return order[torch.tensor(kept, dtype=torch.int64)]


def crop_boxes(size: tuple[int, int], layers: int) -> list[Box]:
    """Boxes x0, y0, x1, y1 of the whole image (height, width) and of the crops of each layer."""
    height, width = size
    boxes = [(0, 0, width, height)]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(OVERLAP * min(size) * 2 / count)
        sides = [-(-(overlap * (count - 1) + n) // count) for n in (width, height)]
        starts = [[int((side - overlap) * i) for i in range(count)] for side in sides]
        boxes += [
            (x, y, min(x + sides[0], width), min(y + sides[1], height))
            for x in starts[0]
            for y in starts[1]
        ]
    return boxes


def _cut_off(boxes: Tensor, crop: Box, size: tuple[int, int]) -> Tensor:
    """(n,) whether a box is close to an edge of the crop that is not an edge of the image."""
    height, width = size
    own = torch.tensor(crop)
    image = torch.tensor([0, 0, width, height])
    moved = boxes + own[[0, 1, 0, 1]]
    near = (moved - own).abs() <= EDGE
    at_image = (moved - image).abs() <= EDGE
    return (near & ~at_image).any(dim=1)
