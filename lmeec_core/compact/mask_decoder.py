"""The compact network's mask decoder, which also sees where the view looks like the object."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmeec_core.compact.matching import MAPS
from lmeec_core.config import ModelConfig
from lmeec_core.model.layers import LayerNorm2d
from lmeec_core.model.mask_decoder import Decoded, MaskDecoder


class Refine(nn.Module):
    """A 3x3 convolution near the output, because small objects need their neighbourhood."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, padding=1)
        self.norm = LayerNorm2d(outside)
        self.outside = outside

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) to (B, outside, H, W); adds the first channels of ``x``."""
        return x[:, : self.outside] + self.norm(self.conv(x))


class MatchingMaskDecoder(MaskDecoder):
    """Decodes masks with the help of :attr:`MatchPrompt.maps`, and adds a bias to their logits.

    The presence head also sees how good the best match is: the peaks of two of the maps and of the
    mask logits.
    """

    def __init__(self, config: ModelConfig, channels: tuple[int, int]) -> None:
        super().__init__(config, channels, presence_inputs=MAPS)
        dim = config.hidden_dim
        self.mask_bias = nn.Parameter(torch.zeros(()))
        self.refine_middle = Refine(dim // 4 + MAPS, dim // 4)
        self.refine_fine = Refine(dim // 8, dim // 8)

    def decode(
        self,
        fused: Tensor,
        fine: Tensor,
        middle: Tensor,
        position: Tensor,
        prompt: Tensor,
        maps: Tensor,
    ) -> Decoded:
        """Like :meth:`MaskDecoder.forward`, with ``maps`` (B, MAPS, 2g, 2g)."""
        tokens, image = self.transform(fused, position, prompt)
        logits = self.mask_logits(tokens, self.upscale_with(image, fine, middle, maps))
        peaks = torch.stack(
            (
                maps[:, 0].amax(dim=(1, 2)),
                maps[:, 2].amax(dim=(1, 2)),
                logits.detach().amax(dim=(1, 2)) / 5,
            ),
            dim=1,
        )
        score_token = tokens[:, 0]
        score_token = torch.cat((score_token, peaks.to(score_token.dtype)), dim=1)
        iou = self.iou_prediction_head(tokens[:, 1])[:, 0].float().sigmoid()
        shifted = logits + self.mask_bias.float()
        return Decoded(shifted, iou, self.presence_logit(score_token), tokens[:, 2])

    def upscale_with(self, image: Tensor, fine: Tensor, middle: Tensor, maps: Tensor) -> Tensor:
        """Like :meth:`upscale`, but refined at both resolutions; the lower one uses the maps."""
        up1, norm, act1, up2, act2 = self.output_upscaling
        image = norm(up1(image) + middle)
        image = self.refine_middle(torch.cat((image, maps.to(image.dtype)), dim=1))
        return act2(self.refine_fine(up2(act1(image)) + fine))
