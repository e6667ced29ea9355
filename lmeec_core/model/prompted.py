"""SAM 2.1's prompts: masks of points, boxes and given masks in one view, MV-MoE taking no part."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lmeec_core.model.lmeec import LMEEC
from lmeec_core.model.mask_decoder import Candidates, Decoded
from lmeec_core.model.network import MASK_BIAS, MASK_SCALE
from lmeec_core.model.results import Prediction, ViewFeatures
from lmeec_core.model.stages import StageRunner

STABILITY_DELTA, STABILITY_THRESHOLD = 0.05, 0.98
"""The single mask is stable if its area above +delta is this share of that above -delta."""
PREVIOUS_LIMIT = 32.0
"""Logits of an earlier mask are limited to plus and minus this before they become a prompt."""
_CERTAIN = 1e3  # a logit whose sigmoid is 1 to the last bit, and 0 where it is negative


def decode_prompt(
    model: LMEEC,
    tokens: Tensor,
    views: ViewFeatures,
    points: tuple[Tensor, Tensor] | None = None,
    previous: Tensor | None = None,
) -> Prediction:
    """Decode B objects of B views.

    With at most one point (none: tracking) the likeliest of three masks is taken, since one point
    may mean a part or the whole; otherwise the single mask, if it is stable.

    Args:
        tokens: (B, P, C) image tokens after the memory attention, or with ``no_mem_embed``.
        views: the view of each.
        points: places (B, n, 2), shares 0 .. 1 of the image, and labels (B, n); see
            :meth:`~lmeec_core.model.mask_decoder.PromptEncoder.points`.
        previous: (B, s, s) mask logits of an earlier answer that the points correct.
    """
    several = points is None or points[0].shape[1] <= 1
    if previous is not None:
        previous = previous.clamp(-PREVIOUS_LIMIT, PREVIOUS_LIMIT)
    return model.apply_presence(
        _choose(_candidates(model, tokens, views, points, previous), several)
    )


def decode_candidates(
    model: LMEEC, tokens: Tensor, views: ViewFeatures, points: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The three masks that one point may mean, whatever the presence.

    Arguments are those of :func:`decode_prompt`.

    Returns:
        mask logits (B, 3, s, s) and predicted IoU (B, 3).
    """
    found = _candidates(model, tokens, views, points, None)
    return found.logits[:, 1:], found.predicted_iou[:, 1:]


def use_mask(model: LMEEC, views: ViewFeatures, masks: Tensor) -> Prediction:
    """Take given masks as the answer; the decoder makes their object pointers.

    Args:
        views: the view of each of B masks.
        masks: (B, S, S) of 0 and 1; an empty one says that the object is absent.

    Returns:
        logits of 10 inside and -10 outside (between at the edge, masks being S/4), predicted IoU 1.
    """
    given = masks[:, None].to(model.image_position.dtype)
    prompt = model.mask_downsample(given)[:, 0]
    decoded = _choose(_candidates(model, _tokens(views), views, None, prompt), several=False)
    present = masks.flatten(1).any(dim=1)
    pointer = model.apply_presence(decoded).pointer
    pointer = pointer.where(present[:, None], model.no_obj_ptr.to(pointer.dtype))
    side = model.config.mask_size
    logits = F.interpolate(
        given * MASK_SCALE + MASK_BIAS, size=(side, side), mode="bilinear", antialias=True
    )
    score = present.float() * MASK_SCALE + MASK_BIAS
    return Prediction(logits[:, 0].float(), torch.ones_like(score), score, pointer)


def fresh_tokens(model: LMEEC, views: ViewFeatures) -> Tensor:
    """Image tokens (B, P, C) of views in which nothing is remembered."""
    return _tokens(views) + model.no_mem_embed[0]


def encode_prompted_memory(
    model: LMEEC, views: ViewFeatures, prediction: Prediction, run: StageRunner | None = None
) -> Tensor:
    """Memory features (B, P, memory_dim) of masks that a person confirmed: inside or outside,
    as they were shown, with nothing between."""
    size = model.config.image_size
    logits = F.interpolate(prediction.logits[:, None], size=(size, size), mode="bilinear")[:, 0]
    certain = torch.where(logits > 0, _CERTAIN, -_CERTAIN)
    return model.encode_target_memory(views, certain, prediction.presence_logit, run)


def _tokens(views: ViewFeatures) -> Tensor:
    return views.top.flatten(2).transpose(1, 2)


def _candidates(
    model: LMEEC,
    tokens: Tensor,
    views: ViewFeatures,
    points: tuple[Tensor, Tensor] | None,
    mask: Tensor | None,
) -> Candidates:
    encoder, side = model.sam_prompt_encoder, model.config.grid
    sparse = encoder.sparse(len(tokens)) if points is None else encoder.points(*points)
    image = tokens.transpose(1, 2).unflatten(2, (side, side)) + encoder.dense(mask)
    position = encoder.pe_layer(side)
    candidates: Candidates = model.sam_mask_decoder.candidates(
        image, views.fine, views.middle, position, sparse
    )
    return candidates


def _choose(candidates: Candidates, several: bool) -> Decoded:
    """The likeliest of the three masks, or the single mask where that is stable.

    The token (hence the object pointer) of the single mask stays when an unstable one is replaced,
    as in SAM 2.
    """
    logits, iou, presence, tokens = candidates
    rows = torch.arange(len(logits), device=logits.device)
    best = iou[:, 1:].argmax(dim=1) + 1
    if several:
        return Decoded(logits[rows, best], iou[rows, best], presence, tokens[rows, best])
    inner = (logits[:, 0] > STABILITY_DELTA).sum(dim=(1, 2)).float()
    outer = (logits[:, 0] > -STABILITY_DELTA).sum(dim=(1, 2)).float()
    stable = torch.where(outer > 0, inner / outer, 1.0) >= STABILITY_THRESHOLD
    chosen = torch.where(stable, 0, best)
    return Decoded(logits[rows, chosen], iou[rows, chosen], presence, tokens[:, 0])
