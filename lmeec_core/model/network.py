"""The modules of LM-EEC, and its stages in eager torch, each a pure function of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.config import Fusion, ModelConfig, Precision
from lmeec_core.model.image_encoder import ImageEncoder
from lmeec_core.model.layers import MLP, sine_position_2d
from lmeec_core.model.mask_decoder import Decoded, MaskDecoder, PromptEncoder
from lmeec_core.model.memory_attention import MemoryAttention
from lmeec_core.model.memory_encoder import MemoryEncoder
from lmeec_core.model.mv_moe import MVMoE
from lmeec_core.model.precision import TYPES, exact_convolutions
from lmeec_core.model.results import NO_OBJECT_LOGIT, Prediction
from lmeec_core.model.stages import (
    RELEASED_STAGES,
    Outputs,
    Stage,
    StageOptions,
    StageSpec,
    network_sizes,
)

MASK_SCALE, MASK_BIAS = 20.0, -10.0
"""The memory encoder gets MASK_SCALE * p + MASK_BIAS for mask probabilities p."""


def sine_tokens(grid: int, channels: int) -> Tensor:
    """Sine position encoding of the tokens of a grid: (grid * grid, channels)."""
    return sine_position_2d(grid, grid, channels).flatten(1).T.contiguous()


class Network(nn.Module):
    """The modules and the stages; the state dict has the names and shapes of the release.

    ``precision`` ("fp32", "bf16" or "fp16") sets the type that the stages compute in; with the half
    types, normalisation, rotary tables, mask and presence logits stay in float32.

    Attributes:
        stages: the inputs and outputs of each stage.
        exact_modules: modules whose names contain one of these stay in float32.
    """

    stages: ClassVar[Mapping[Stage, StageSpec]] = RELEASED_STAGES
    exact_modules: ClassVar[tuple[str, ...]] = ("pred_obj_score_head",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.precision: Precision = "fp32"
        dim = config.hidden_dim
        self.image_encoder = ImageEncoder(config)
        self.memory_attention = self.make_memory_attention()
        self.memory_encoder = MemoryEncoder(config)
        self.sam_prompt_encoder = PromptEncoder(dim)
        self.sam_mask_decoder = self.make_mask_decoder()
        self.obj_ptr_proj = MLP((dim, dim, dim, dim))
        self.obj_ptr_tpos_proj = nn.Linear(dim, config.memory_dim)
        self.MV_MoE = MVMoE(dim)
        self.make_more()
        # Part of every SAM 2.1 checkpoint, but not used by LM-EEC.
        self.mask_downsample = nn.Conv2d(1, 1, 4, stride=4)
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, dim))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, dim))
        self.maskmem_tpos_enc = nn.Parameter(
            torch.zeros(config.memory_slots, 1, 1, config.memory_dim)
        )
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, dim))
        self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, config.memory_dim))
        for parameter in (
            self.no_mem_embed,
            self.no_mem_pos_enc,
            self.maskmem_tpos_enc,
            self.no_obj_ptr,
            self.no_obj_embed_spatial,
        ):
            nn.init.trunc_normal_(parameter, std=0.02)

        self.image_position: Tensor
        position = sine_tokens(config.grid, dim)
        self.register_buffer("image_position", position, persistent=False)

    def make_memory_attention(self) -> MemoryAttention:
        """Make the module ``memory_attention``."""
        return MemoryAttention(self.config)

    def make_mask_decoder(self) -> MaskDecoder:
        """Make the module ``sam_mask_decoder``."""
        fine, middle, _ = self.image_encoder.neck.channels
        return MaskDecoder(self.config, (fine, middle))

    def make_more(self) -> None:
        """Add modules that the release does not have."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.no_obj_ptr.device

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which the stages compute at :attr:`precision`, whatever the surrounding
        autocast.

        In float32 on a GPU, it permanently turns off TF32 in cuDNN, for the whole process
        (:func:`exact_convolutions`).
        """
        half = self.precision != "fp32"
        if not half and self.device.type == "cuda":
            exact_convolutions()
        dtype = self.computed if half else None
        return torch.autocast(self.device.type, dtype=dtype, enabled=half)

    @property
    def computed(self) -> torch.dtype:
        """The type of products at :attr:`precision`."""
        return TYPES[self.precision]

    def compute_in(self, precision: Precision) -> None:
        """Compute in a precision from now on; not for training.

        With fp16 the weights stay as they are: it is meant for engines with their own weights.
        """
        if precision == "bf16":
            self.cast_weights()
        self.precision = precision

    def cast_weights(self) -> None:
        """Compute in bfloat16 from now on, and convert the weights of linear layers and
        convolutions permanently, as casting them in every step is slow. Not for training.
        """
        self.precision = "bf16"
        for name, module in self.named_modules():
            linear = isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
            if linear and not any(part in name for part in self.exact_modules):
                module.to(torch.bfloat16)

    def sizes(self) -> dict[str, int]:
        """The sizes in the table's shapes that this network fixes, by name."""
        return network_sizes(self.config)

    def compute(
        self, stage: Stage, options: StageOptions, inputs: tuple[Tensor, ...], /
    ) -> Outputs:
        """Compute a stage in eager torch; a :class:`StageRunner`. See ``compute_<stage>``."""
        method = getattr(self, f"compute_{stage}")
        outputs: Outputs = method(*inputs, **vars(options))
        return outputs

    # -- the stages in eager torch; shapes are in the table, options are keywords ---------------

    def compute_image_encoder(self, images: Tensor) -> Outputs:
        """Images (V, 3, S, S) to features fine, middle and top."""
        fine, middle, top = self.image_encoder(images)
        return (*self.sam_mask_decoder.reduce(fine, middle), top)

    def compute_target_tokens(self, top: Tensor) -> Outputs:
        """The part of memory attention that depends only on the target views."""
        tokens = top.flatten(2).transpose(1, 2)
        return (self.memory_attention.prepare(tokens, self.image_position),)

    def compute_memory_attention(
        self, tokens: Tensor, memory: Tensor, position: Tensor, **options: Any
    ) -> Outputs:
        """Target tokens attend to a memory; see :meth:`MemoryAttention.forward`."""
        if tokens.device.type != "cpu" or not torch.is_inference_mode_enabled():
            return (self.memory_attention(tokens, memory, position, **options),)
        # One memory at a time makes better use of the CPU cache (a fifth less time).
        positions = position.split(1) if position.ndim == 3 else (position,) * len(tokens)
        rows = zip(tokens.split(1), memory.split(1), positions, strict=True)
        return (torch.cat([self.memory_attention(*row, **options) for row in rows]),)

    def compute_decoder(
        self,
        memory_aware: Tensor,
        view_specific: Tensor,
        has_memory: Tensor,
        fine: Tensor,
        middle: Tensor,
        *prompts: Tensor,
        fusion: Fusion,
    ) -> Outputs:
        """Fusion, mask decoder, presence rule and object pointers."""
        fused = self.fuse(memory_aware, view_specific, fusion)
        fused = torch.where(has_memory[:, None, None], fused, view_specific)
        return tuple(self.apply_presence(self.decode_raw(fused, fine, middle, prompts)))

    def compute_memory_encoder(self, top: Tensor, mask: Tensor, presence_logit: Tensor) -> Outputs:
        """Top features and mask logits, (B, s, s) or (B, S, S), to memory features."""
        size = self.config.image_size
        mask = mask[:, None]
        if mask.shape[-1] != size:
            mask = F.interpolate(mask, size=(size, size), mode="bilinear")
        encoded = self.memory_encoder(top, mask.sigmoid() * MASK_SCALE + MASK_BIAS)
        encoded = encoded.flatten(2).transpose(1, 2)
        absent = (presence_logit <= 0).to(mask.dtype)[:, None, None]
        return (encoded + (absent * self.no_obj_embed_spatial).to(encoded.dtype),)

    def fuse(self, memory_aware: Tensor, view_specific: Tensor, fusion: Fusion) -> Tensor:
        """Fuse two features (B, P, C) to (B, P, C); see :class:`lmeec_core.MemoryConfig`."""
        if fusion == "none":
            return memory_aware
        if fusion == "add":
            return memory_aware + view_specific
        fused: Tensor = self.MV_MoE(self.as_image(memory_aware), self.as_image(view_specific))
        return fused.flatten(2).transpose(1, 2)

    def as_image(self, tokens: Tensor) -> Tensor:
        """Tokens (B, P, C) as (B, C, g, g)."""
        return tokens.transpose(1, 2).unflatten(2, (self.config.grid, self.config.grid))

    def decode_raw(
        self, fused: Tensor, fine: Tensor, middle: Tensor, prompts: tuple[Tensor, ...] = ()
    ) -> Decoded:
        """The mask decoder's output before the presence rule.

        Args:
            fused: (B, P, C).
            fine, middle: high-resolution features of the target views, (B, ...).
            prompts: from :meth:`LMEEC.make_prompts`, (B, ...) each.
        """
        sparse = self.sam_prompt_encoder.sparse(len(fused))
        position = self.sam_prompt_encoder.pe_layer(self.config.grid)
        decoded: Decoded = self.sam_mask_decoder(
            self.as_image(fused), fine, middle, position, sparse
        )
        return decoded

    def apply_presence(self, decoded: Decoded) -> Prediction:
        """Apply the presence rule and make the object pointers."""
        present = decoded.presence_logit > 0
        logits = decoded.logits.where(present[:, None, None], NO_OBJECT_LOGIT)
        pointer = self.obj_ptr_proj(decoded.token)
        pointer = pointer.where(present[:, None], self.no_obj_ptr.to(pointer.dtype))
        return Prediction(logits, decoded.predicted_iou, decoded.presence_logit, pointer)
