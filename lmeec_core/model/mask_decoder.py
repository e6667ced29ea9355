"""SAM 2.1's prompt encoder (the part that has weights) and mask decoder."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lmeec_core.config import ModelConfig
from lmeec_core.model.layers import MLP, Attention, LayerNorm2d

_MASK_TOKENS = 4  # one for a single mask, three for ambiguous prompts


class RandomFourierPosition(nn.Module):
    """Position encoding with random spatial frequencies (arXiv 2006.10739)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, grid: int) -> Tensor:
        """Encoding of the cell centres of a square grid: (grid * grid, width)."""
        device = self.positional_encoding_gaussian_matrix.device
        centre = (torch.arange(grid, device=device, dtype=torch.float32) + 0.5) / grid
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        return self.at(torch.stack((x, y), dim=-1).flatten(0, 1))

    def at(self, places: Tensor) -> Tensor:
        """Encoding of places (..., 2), x and y as fractions 0 .. 1 of the image: (..., width)."""
        matrix = self.positional_encoding_gaussian_matrix.float()
        with torch.autocast(matrix.device.type, enabled=False):
            angle = (2 * places - 1) @ matrix * (2 * math.pi)
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


class PromptEncoder(nn.Module):
    """Encodes points and boxes as tokens, and masks as a map (arXiv 2304.02643, appendix A)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pe_layer = RandomFourierPosition(width)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, 2, stride=2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, 2, stride=2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, width, 1),
        )
        self.no_mask_embed = nn.Embedding(1, width)

    def sparse(self, batch: int) -> Tensor:
        """The prompt for a frame without clicks: two "not a point" tokens (batch, 2, width)."""
        return self.not_a_point_embed.weight.expand(batch, 2, -1)

    def points(self, places: Tensor, labels: Tensor) -> Tensor:
        """The sparse prompt for points, followed by a padding point.

        Args:
            places: (B, n, 2) float32, x and y as fractions 0 .. 1 of the image.
            labels: (B, n) int64: 1 on the object, 0 not on it, 2 and 3 corners of a box.

        Returns:
            (B, n + 1, width).
        """
        kinds = torch.cat([cast(nn.Embedding, kind).weight for kind in self.point_embeddings])
        tokens = self.pe_layer.at(places) + kinds[labels]
        return torch.cat((tokens, self.sparse(len(places))[:, :1]), dim=1)

    def dense(self, logits: Tensor | None) -> Tensor:
        """Dense prompt: mask logits (B, 4g, 4g) to (B, width, g, g); None to (1, width, 1, 1)."""
        if logits is None:
            return self.no_mask_embed.weight[:, :, None, None]
        return self.mask_downscaling(logits[:, None])


class TwoWayLayer(nn.Module):
    """A layer in which tokens and image attend to each other (arXiv 2304.02643, appendix A)."""

    def __init__(self, config: ModelConfig, first: bool) -> None:
        super().__init__()
        dim, heads = config.hidden_dim, config.decoder_heads
        self.first = first
        self.self_attn = Attention(dim, heads, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, dim // 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP((dim, config.decoder_feedforward, dim))
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, dim // 2)

    def forward(
        self, tokens: Tensor, image: Tensor, token_pos: Tensor, image_pos: Tensor
    ) -> tuple[Tensor, Tensor]:
        """tokens and token_pos (B, T, C), image (B, P, C), image_pos (P, C); returns both."""
        if self.first:  # tokens and their positions are still the same
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pos
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        keys = image + image_pos
        tokens = tokens + self.cross_attn_token_to_image(tokens + token_pos, keys, image)
        tokens = self.norm2(tokens)
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = image + self.cross_attn_image_to_token(keys, tokens + token_pos, tokens)
        return tokens, self.norm4(image)


class TwoWayTransformer(nn.Module):
    """The decoder's transformer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.layers = nn.ModuleList(
            TwoWayLayer(config, first=i == 0) for i in range(config.decoder_layers)
        )
        self.final_attn_token_to_image = Attention(dim, config.decoder_heads, dim // 2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, image_pos: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, P, C), image_pos (P, C), tokens (B, T, C); returns (tokens, image)."""
        position = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, position, image_pos)
        attended = self.final_attn_token_to_image(tokens + position, image + image_pos, image)
        return self.norm_final_attn(tokens + attended), image


class Decoded(NamedTuple):
    """The mask decoder's output for a batch of B correspondences."""

    logits: Tensor
    """(B, s, s) float32 mask logits before the presence rule."""
    predicted_iou: Tensor
    """(B,) float32 in 0 .. 1."""
    presence_logit: Tensor
    """(B,) float32; the object is judged present where it is above 0."""
    token: Tensor
    """(B, C) mask token from which the object pointer is made."""


class Candidates(NamedTuple):
    """All masks that the decoder predicts for each object of a batch, the single mask first."""

    logits: Tensor
    """(B, 4, s, s) float32 mask logits before the presence rule."""
    predicted_iou: Tensor
    """(B, 4) float32 in 0 .. 1."""
    presence_logit: Tensor
    """(B,) float32."""
    tokens: Tensor
    """(B, 4, C) mask tokens."""


class MaskDecoder(nn.Module):
    """Predicts one mask, its IoU and the object's presence.

    Args:
        config: the network's configuration.
        channels: those of the image encoder's features at 1 and 2 patch strides.
        presence_inputs: number of inputs that the presence head takes besides its token.
    """

    def __init__(
        self, config: ModelConfig, channels: tuple[int, int], presence_inputs: int = 0
    ) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.transformer = TwoWayTransformer(config)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(_MASK_TOKENS, dim)
        self.obj_score_token = nn.Embedding(1, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        fine, middle = channels
        self.conv_s0 = nn.Conv2d(fine, dim // 8, 1)
        self.conv_s1 = nn.Conv2d(middle, dim // 4, 1)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP((dim, dim, dim, dim // 8)) for _ in range(_MASK_TOKENS)
        )
        self.iou_prediction_head = MLP((dim, dim, dim, _MASK_TOKENS))
        self.pred_obj_score_head = MLP((dim + presence_inputs, dim, dim, 1))

    def reduce(self, fine: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce the image encoder's features for :meth:`forward`; once for each view."""
        return self.conv_s0(fine), self.conv_s1(middle)

    def forward(
        self, fused: Tensor, fine: Tensor, middle: Tensor, position: Tensor, prompt: Tensor
    ) -> Decoded:
        """Decode the token of the single mask.

        Args:
            fused: (B, C, g, g) fused features.
            fine: (B, C/8, 4g, 4g) and middle: (B, C/4, 2g, 2g) high-resolution features.
            position: (g * g, C) position encoding of the image tokens.
            prompt: (B, n, C) sparse prompt tokens.
        """
        tokens, image = self.transform(fused, position, prompt)
        logits = self.mask_logits(tokens, self.upscale(image, fine, middle))
        iou = self.iou_prediction_head(tokens[:, 1])[:, 0].float().sigmoid()
        return Decoded(logits, iou, self.presence_logit(tokens[:, 0]), tokens[:, 2])

    def candidates(
        self, image: Tensor, fine: Tensor, middle: Tensor, position: Tensor, prompt: Tensor
    ) -> Candidates:
        """Decode all mask tokens; takes the arguments of :meth:`forward`, ``image`` including the
        dense prompt."""
        tokens, features = self.transform(image, position, prompt)
        features = self.upscale(features, fine, middle)
        masks = tokens[:, 2 : 2 + _MASK_TOKENS]
        kernels = torch.stack(
            [mlp(masks[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        with torch.autocast(image.device.type, enabled=False):
            logits = torch.einsum("bmc,bchw->bmhw", kernels.float(), features.float())
        iou = self.iou_prediction_head(tokens[:, 1]).float().sigmoid()
        return Candidates(logits, iou, self.presence_logit(tokens[:, 0]), masks)

    def transform(self, image: Tensor, position: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, 6 + n, C) and image (B, C, g, g) after the transformer.

        The tokens are the decoder's own (presence, IoU, four masks), then the prompt's.
        """
        own = torch.cat(
            (self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight)
        )
        tokens = torch.cat((own.expand(len(image), -1, -1), prompt), dim=1)
        tokens, features = self.transformer(image.flatten(2).transpose(1, 2), position, tokens)
        return tokens, features.transpose(1, 2).unflatten(2, image.shape[2:])

    def upscale(self, image: Tensor, fine: Tensor, middle: Tensor) -> Tensor:
        """Upscale image features (B, C, g, g) to (B, C/8, 4g, 4g), the resolution of the masks."""
        up1, norm, act1, up2, act2 = self.output_upscaling
        image = act1(norm(up1(image) + middle))
        return act2(up2(image) + fine)

    def mask_logits(self, tokens: Tensor, image: Tensor) -> Tensor:
        """Logits (B, 4g, 4g) float32 of the single mask: its token's kernel on the image."""
        kernel = self.output_hypernetworks_mlps[0](tokens[:, 2])
        with torch.autocast(image.device.type, enabled=False):
            return torch.einsum("bc,bchw->bhw", kernel.float(), image.float())

    def presence_logit(self, inputs: Tensor) -> Tensor:
        """Presence logits (B,) float32 from the presence head's inputs (B, C + presence_inputs)."""
        with torch.autocast(inputs.device.type, enabled=False):
            logit: Tensor = self.pred_obj_score_head(inputs.float())[:, 0]
        return logit
