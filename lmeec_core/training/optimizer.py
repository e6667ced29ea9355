"""AdamW as in SAM 2.1's fine-tuning, with a lower rate for the image encoder; weight averaging."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lmeec_core.config import Fusion
from lmeec_core.model import LMEEC

TRUNK = "image_encoder.trunk."
IDLE = (
    "mask_downsample.",
    "no_mem_embed",
    "no_mem_pos_enc",
    "sam_prompt_encoder.point_embeddings.",
    "sam_prompt_encoder.mask_downscaling.",
    "sam_prompt_encoder.no_mask_embed.",
    "sam_mask_decoder.output_hypernetworks_mlps.1.",
    "sam_mask_decoder.output_hypernetworks_mlps.2.",
    "sam_mask_decoder.output_hypernetworks_mlps.3.",
)
"""Prefixes of the names of weights in SAM 2.1 checkpoints that LM-EEC does not use."""


def freeze_idle(model: LMEEC, fusion: Fusion) -> None:
    """Freeze the weights that no output depends on, and make all others trainable."""
    idle = IDLE if fusion == "mv_moe" else (*IDLE, "MV_MoE.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(idle))


def trunk_layers(model: LMEEC) -> list[str]:
    """The trunk's layers from the input on, as prefixes of parameter names."""
    return [TRUNK + group for group in model.image_encoder.trunk.layer_groups()]


def rate_factor(name: str, layers: list[str], decay: float) -> float:
    """Factor on the image encoder's learning rate for one of its parameters.

    With L layers, the last one has ``decay`` and the first ``decay ** L``; parameters outside the
    layers (position embeddings, the neck) have 1.
    """
    for i, layer in enumerate(layers):
        if name.startswith(layer):
            # SAM 2 counts one layer more than there are blocks, so the last block decays once.
            return float(decay ** (len(layers) - i))
    return 1.0


def make_optimizer(
    model: LMEEC,
    rate: float,
    encoder_rate: float,
    layer_decay: float,
    weight_decay: float,
) -> torch.optim.AdamW:
    """AdamW over all trainable parameters; each group stores its peak rate as ``top``.

    Parameters with one dimension (biases, normalisation, scales) have no weight decay.
    """
    layers = trunk_layers(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in _training(model):
        top = rate
        if name.startswith("image_encoder."):
            top = encoder_rate * rate_factor(name, layers, layer_decay)
        key = (top, weight_decay if parameter.ndim > 1 else 0.0)
        groups.setdefault(key, []).append(parameter)
    settings = [
        {"params": members, "top": top, "lr": top, "weight_decay": decay}
        for (top, decay), members in groups.items()
    ]
    return torch.optim.AdamW(settings)


def _training(model: LMEEC) -> Iterator[tuple[str, nn.Parameter]]:
    return ((n, p) for n, p in model.named_parameters() if p.requires_grad)


def cosine(progress: float, floor: float) -> float:
    """Factor on all rates at a progress of 0 .. 1: half a cosine from 1 down to ``floor``."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to a fraction of its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["top"] * factor


def running_mean(decay: float) -> Any:
    """Update rule for :class:`AveragedModel`: an exponential mean, shorter at the start."""

    @torch.no_grad()
    def update(mean: list[Tensor], now: list[Tensor], count: Tensor) -> None:
        if not mean[0].is_floating_point():  # batch counters
            for old, new in zip(mean, now, strict=True):
                old.copy_(new)
            return
        steps = int(count) + 1
        torch._foreach_lerp_(mean, now, 1 - min(decay, (1 + steps) / (10 + steps)))

    return update
