"""A compact space-time memory network for two views, after STCN (arXiv 2106.05210).

The target view reads values from memory by the similarity of keys: once from past frames of both
views (the memory-aware feature) and once from the current frame of the query view, whose mask is
given (the view-specific feature). The two are fused and decoded to a mask. The network uses frozen
features of the bundled network, but nothing else of LM-EEC.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.config import Fusion
from lmeec_core.model import MVMoE

TOP = 20
"""Maximum number of memory positions that one position reads from."""
SHARPNESS = 10.0
"""Initial length of the keys, which start as the trunk's own embedding."""
_GROUPS = 8
CELLS = 4
"""Mask pixels per position of the features."""
SAID = (10.0, -4.0)
"""Initial slope and offset of the logits as a function of the mask read from memory."""


class Seen(NamedTuple):
    """Frozen features of F frames of one view."""

    top: Tensor
    """(F, C, g, g), with a mean square of 1 at each position."""
    embedding: Tensor
    """(F, D, g, g) unit vectors."""
    middle: Tensor
    """(F, c, 2g, 2g)."""


def read_out(asked: Tensor, keys: Tensor, values: Tensor, top: int = TOP) -> Tensor:
    """Read from memory at each position: a weighted mean of the values with the most similar keys.

    Similarity is the negative squared distance between keys, divided by the square root of their
    width. The weights are its softmax over the ``top`` most similar positions.

    Args:
        asked: (P, K) keys of the reading positions.
        keys: (M, K). values: (M, B, W) for B objects.

    Returns:
        (B, W, P).
    """
    # The norm of the reading key is the same for all memory positions and cancels out.
    similarity = (2 * asked @ keys.T - keys.square().sum(dim=1)) / keys.shape[1] ** 0.5
    best, index = similarity.topk(min(top, len(keys)), dim=1)
    weights = best.softmax(dim=1)
    read = F.embedding_bag(index, values.flatten(1), per_sample_weights=weights, mode="sum")
    return read.T.unflatten(0, values.shape[1:])


def _block(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, outside),
        nn.ReLU(),
    )


class SpaceTime(nn.Module):
    """The network on top of frozen features.

    Args:
        channels, embedding, middle: C, D and c of :class:`Seen`.
        fusion: how the two features are fused: ``mv_moe``, ``add``, or ``none`` (only the
            memory-aware one). Without memory, on the first frame, it is the view-specific one.
        width: width of values and decoder, a multiple of 8.
    """

    def __init__(
        self, channels: int, embedding: int, middle: int, fusion: Fusion, width: int = 32
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self.key = nn.Conv2d(channels + embedding, embedding, 1, bias=False)
        self.value = nn.Sequential(
            _block(channels + CELLS, width), nn.Conv2d(width, width - CELLS, 3, padding=1)
        )
        self.image = nn.Conv2d(channels, width, 1)
        self.coarse = nn.Sequential(_block(2 * width, width), _block(width, width))
        self.fine = nn.Sequential(
            _block(width + middle, width // 2), nn.Conv2d(width // 2, 1, 3, padding=1)
        )
        self.said = nn.Conv2d(1, 1, 1)
        # Last, so that the other initial weights do not depend on the fusion.
        self.MV_MoE = MVMoE(width) if fusion == "mv_moe" else None
        with torch.no_grad():
            own = SHARPNESS * torch.eye(embedding)
            self.key.weight.copy_(
                torch.cat((torch.zeros(embedding, channels), own), 1)[..., None, None]
            )
            for part, value in zip(self.said.parameters(), SAID, strict=True):
                part.fill_(value)
            for part in self.fine[-1].parameters():
                part.zero_()

    def keys(self, seen: Seen) -> Tensor:
        """(F, P, K) of all frames; objects share them."""
        return self.key(torch.cat((seen.top, seen.embedding), dim=1)).flatten(2).transpose(1, 2)

    def values(self, top: Tensor, masks: Tensor) -> Tensor:
        """(P, B, W) of an image's features (C, g, g) and masks (B, 2g, 2g), 0 .. 1.

        They include the mask itself, so that from the first training step, the values read show
        where the object is.
        """
        image = top[None].expand(len(masks), -1, -1, -1)
        given = F.pixel_unshuffle(masks[:, None], 2)
        learned = self.value(torch.cat((image, given), dim=1))
        return torch.cat((given, learned), dim=1).flatten(2).permute(2, 0, 1)

    def fuse(self, memory: Tensor, view: Tensor) -> Tensor:
        """Fuse two features (B, W, g, g) into one."""
        if self.fusion == "none":
            return memory
        if self.MV_MoE is None:
            return memory + view
        fused: Tensor = self.MV_MoE(memory, view)
        return fused

    def decode(self, fused: Tensor, top: Tensor, middle: Tensor) -> Tensor:
        """Mask logits (B, 2g, 2g) from fused features and the target's (C, g, g) and (c, 2g, 2g).

        Initially the logits are those of the mask read from memory, which the decoder learns to
        correct; learning from scratch would take many more steps.
        """
        image, count = self.image(top[None]), len(fused)
        x = self.coarse(torch.cat((fused, image.expand(count, -1, -1, -1)), dim=1))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        logits: Tensor = self.fine(torch.cat((x, middle[None].expand(count, -1, -1, -1)), dim=1))
        logits = logits + self.said(F.pixel_shuffle(fused[:, :CELLS], 2))
        return logits[:, 0]

    def forward(self, query: Seen, target: Seen, masks: Tensor) -> Tensor:
        """Mask logits (F, B, 2g, 2g) in the target view, one frame after the other.

        Args:
            query, target: the two views.
            masks: (F, B, 2g, 2g) of B objects in the query view, 0 .. 1; empty where an object is
                not visible.
        """
        asked, given = self.keys(target), self.keys(query)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        found = []
        for frame, (top, middle) in enumerate(zip(target.top, target.middle, strict=True)):
            shown = self.values(query.top[frame], masks[frame])
            size = (*shown.shape[1:], *top.shape[1:])
            fused = read_out(asked[frame], given[frame], shown).view(size)
            if keys:
                read = read_out(asked[frame], torch.cat(keys), torch.cat(values))
                fused = self.fuse(read.view(size), fused)
            logits = self.decode(fused, top, middle)
            found.append(logits)
            keys += [given[frame], asked[frame]]
            values += [shown, self.values(top, logits.detach().sigmoid())]
        return torch.stack(found)
