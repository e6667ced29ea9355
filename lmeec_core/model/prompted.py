"""SAM 2.1's prompts: masks from points, boxes and given masks in one view, without MV-MoE."""

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
"""A single mask is stable if its area above +delta is at least this share of that above -delta."""
PREVIOUS_LIMIT = 32.0
"""The logits of an earlier mask are clamped to plus or minus this before use as a prompt."""
_CERTAIN = 1e3  # the sigmoid of this logit is exactly 1, that of its negative exactly 0


def decode_prompt(
    model: LMEEC,
    tokens: Tensor,
    views: ViewFeatures,
    points: tuple[Tensor, Tensor] | None = None,
    previous: Tensor | None = None,
) -> Prediction:
    """Decode B objects in B views.

    With at most one point (none when tracking), the most likely of three masks is used, because one
    point may mean a part or the whole; otherwise the single mask is used, if it is stable.

    Args:
        model: the network.
        tokens: (B, P, C) image tokens after memory attention, or from :func:`fresh_tokens`.
        views: the view of each object.
        points: places (B, n, 2) as fractions 0 .. 1 of the image, and labels (B, n); see
            :meth:`~lmeec_core.model.mask_decoder.PromptEncoder.points`.
        previous: (B, s, s) mask logits of an earlier result that the points correct.
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
    """The three masks that one point may mean, regardless of presence.

    Takes the arguments of :func:`decode_prompt`.

    Returns:
        mask logits (B, 3, s, s) and predicted IoU (B, 3).
    """
    found = _candidates(model, tokens, views, points, None)
    return found.logits[:, 1:], found.predicted_iou[:, 1:]


def use_mask(model: LMEEC, views: ViewFeatures, masks: Tensor) -> Prediction:
    """Use given masks as the result; the decoder makes their object pointers.

    Args:
        model: the network.
        views: the view of each of B masks.
        masks: (B, S, S) of 0 and 1; an empty one means that the object is absent.

    Returns:
        logits of 10 inside and -10 outside (in between at edges, as they are reduced to mask_size),
        and a predicted IoU of 1.
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
    """Image tokens (B, P, C) of views without any memory."""
    return _tokens(views) + model.no_mem_embed[0]


def encode_prompted_memory(
    model: LMEEC, views: ViewFeatures, prediction: Prediction, run: StageRunner | None = None
) -> Tensor:
    """Memory features (B, P, memory_dim) of masks that a person confirmed: binary, as they were
    shown, without values in between."""
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
    """The most likely of the three masks, or (unless ``several``) the single mask if it is stable.

    As in SAM 2, replacing an unstable single mask keeps its token, and hence its object pointer.
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
