"""The network's stages as plain functions: tensors in, a tuple of tensors out, nothing else.

What varies but is no tensor is an option, fixed for each engine's graph. Sizes: V views, K target
views, B correspondences, P = g * g tokens, C = hidden_dim, S = image_size, s = mask_size, L memory
tokens; D and the inputs in brackets are there with matching only. Floating inputs are float32, or
bfloat16 where the model computes so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.config import Fusion
from lmeec_core.model.matching import MatchPrompt

if TYPE_CHECKING:
    from lmeec_core.model.lmeec import LMEEC

Stage = Literal["image_encoder", "target_tokens", "memory_attention", "decoder", "memory_encoder"]
Options = tuple[int | str, ...]
Outputs = tuple[Tensor, ...]

MASK_SCALE, MASK_BIAS = 20.0, -10.0
"""Mask probabilities p enter the memory encoder as MASK_SCALE * p + MASK_BIAS."""


def image_encoder(model: LMEEC, options: Options, images: Tensor) -> Outputs:
    """Images to features. No options.

    Args:
        images: (V, 3, S, S) float32, normalised.

    Returns:
        fine (V, C/8, 4g, 4g), middle (V, C/4, 2g, 2g), top (V, C, g, g), and with matching the
        embeddings (V, D, 2g, 2g) and (V, D, g, g).
    """
    fine, middle, top = model.image_encoder(images)
    decoder = model.sam_mask_decoder
    features = (decoder.conv_s0(fine), decoder.conv_s1(middle), top)
    return features if model.matching is None else features + model.matching.embed(middle, top)


def target_tokens(model: LMEEC, options: Options, top: Tensor, *embedding: Tensor) -> Outputs:
    """What memory attention computes of target views alone. No options.

    Args:
        top: (K, C, g, g). embedding: [(K, D, g, g)].

    Returns:
        tokens (K, P, C [+ D]), the embedding behind.
    """
    tokens = top.flatten(2).transpose(1, 2)
    prepared = model.memory_attention.prepare(tokens, model.image_position)
    own = [e.flatten(2).transpose(1, 2).to(prepared.dtype) for e in embedding]
    return (torch.cat((prepared, *own), dim=-1) if own else prepared,)


def memory_attention(
    model: LMEEC, options: Options, prepared: Tensor, memory: Tensor, position: Tensor
) -> Outputs:
    """Target tokens attend to a memory.

    Args:
        options: number of object pointer tokens at the memory's end; 1 if the memory is pooled.
        prepared: (B, P, C [+ D]).
        memory: (B, L, memory_dim [+ D]).
        position: (L, memory_dim), or of each memory (B, L, memory_dim); added to the keys.

    Returns:
        conditioned tokens (B, P, C).
    """
    pointers, pooled = cast(tuple[int, int], options)
    pieces = [(prepared, memory, position)]
    if prepared.device.type == "cpu" and torch.is_inference_mode_enabled():
        # One memory fits into a processor's cache better than many (a fifth less time).
        count = len(prepared)
        positions = position.split(1) if position.ndim == 3 else (position,) * count
        pieces = list(zip(prepared.split(1), memory.split(1), positions, strict=True))
    parts = [
        model.memory_attention(tokens, own, where, pointers, bool(pooled))
        for tokens, own, where in pieces
    ]
    return (torch.cat(parts) if len(parts) > 1 else parts[0],)


def decoder(
    model: LMEEC,
    options: Options,
    aware: Tensor,
    view: Tensor,
    known: Tensor,
    fine: Tensor,
    middle: Tensor,
    *match: Tensor,
) -> Outputs:
    """Fusion, mask decoder, presence rule and object pointers.

    Args:
        options: the fusion, see :class:`lmeec_core.MemoryConfig`.
        aware: (B, P, C) memory-aware features.
        view: (B, P, C) view-specific features.
        known: (B,) bool; where False there is no memory yet, and ``view`` is the fused feature.
        fine: (B, C/8, 4g, 4g). middle: (B, C/4, 2g, 2g).
        match: the fields of :class:`~lmeec_core.model.matching.MatchPrompt`, if there is matching.

    Returns:
        mask logits (B, s, s), predicted IoU (B,), presence logit (B,), all float32, and object
        pointers (B, C).
    """
    fused = model.fuse(aware, view, cast(Fusion, options[0]))
    fused = torch.where(known[:, None, None], fused, view)
    prompt = MatchPrompt(*match) if match else None
    return tuple(model.decode(fused, fine, middle, prompt))


def memory_encoder(
    model: LMEEC, options: Options, top: Tensor, mask: Tensor, presence_logit: Tensor
) -> Outputs:
    """A view and a mask to memory features. No options.

    Args:
        top: (B, C, g, g).
        mask: (B, s, s) or (B, S, S), values before the sigmoid.
        presence_logit: (B,).

    Returns:
        memory features (B, P, memory_dim).
    """
    size = model.config.image_size
    mask = mask[:, None]
    if mask.shape[-1] != size:
        mask = F.interpolate(mask, size=(size, size), mode="bilinear")
    encoded = model.memory_encoder(top, mask.sigmoid() * MASK_SCALE + MASK_BIAS)
    encoded = encoded.flatten(2).transpose(1, 2)
    absent = (presence_logit <= 0).to(mask.dtype)[:, None, None]
    return (encoded + (absent * model.no_obj_embed_spatial).to(encoded.dtype),)


STAGES: dict[Stage, Callable[..., Outputs]] = {
    "image_encoder": image_encoder,
    "target_tokens": target_tokens,
    "memory_attention": memory_attention,
    "decoder": decoder,
    "memory_encoder": memory_encoder,
}
"""Every stage's function: (model, options, *inputs) to outputs."""


class StageModule(nn.Module):
    """A stage as a module, for exporters: positional tensors in, a tuple of tensors out."""

    def __init__(self, model: LMEEC, stage: Stage, options: Options = ()) -> None:
        super().__init__()
        self.model, self.stage, self.options = model, stage, options

    def forward(self, *inputs: Tensor) -> Outputs:
        """See the stage's function."""
        return STAGES[self.stage](self.model, self.options, *inputs)
