"""The LM-EEC network: its stages, each a pure function of tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.config import RELEASE_POINTER_WINDOW, Fusion, ModelConfig, Precision
from lmeec_core.model.image_encoder import ImageEncoder, level_channels
from lmeec_core.model.layers import MLP, sine_position_1d, sine_position_2d
from lmeec_core.model.mask_decoder import Decoded, MaskDecoder, PromptEncoder
from lmeec_core.model.matching import Described, Matching, MatchPrompt
from lmeec_core.model.memory_attention import MemoryAttention
from lmeec_core.model.memory_encoder import MemoryEncoder
from lmeec_core.model.mv_moe import MVMoE
from lmeec_core.model.precision import exact_convolutions
from lmeec_core.model.results import NO_OBJECT_LOGIT, Prediction, ViewFeatures
from lmeec_core.model.stages import STAGES, Options, Outputs, Stage

StageRunner = Callable[[Stage, Options, tuple[Tensor, ...]], Outputs]

_POSITIONS_KEPT = 64
"""Positions of memories: a filling memory passes 16 lengths for each configuration."""


class LMEEC(nn.Module):
    """LM-EEC on SAM 2.1; names and shapes of the state dict are the released checkpoint's.

    The module holds no state in time. :class:`lmeec_core.CorrespondenceTracker` keeps the memory
    and calls the stages. ``precision`` ("fp32" or "bf16") sets how the stages compute; bf16 keeps
    normalisation, rotary tables, mask and presence logits in float32. ``runner`` computes the
    stages with another engine than eager torch (:func:`lmeec_core.engine.use_engine`).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.precision: Precision = "fp32"
        self.runner: StageRunner | None = None
        self._positions: OrderedDict[Any, Tensor] = OrderedDict()
        dim = config.hidden_dim
        self.image_encoder = ImageEncoder(config)
        self.memory_attention = MemoryAttention(config)
        self.memory_encoder = MemoryEncoder(config)
        self.sam_prompt_encoder = PromptEncoder(dim)
        self.sam_mask_decoder = MaskDecoder(config)
        self.obj_ptr_proj = MLP((dim, dim, dim, dim))
        self.obj_ptr_tpos_proj = nn.Linear(dim, config.memory_dim)
        self.MV_MoE = MVMoE(dim)
        self.matching = (
            Matching(config.matching, level_channels(config)[1], dim) if config.matching else None
        )
        # Part of every SAM 2.1 checkpoint; takes no part in LM-EEC.
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

        def tokens(channels: int) -> Tensor:  # (P, channels)
            return sine_position_2d(config.grid, config.grid, channels).flatten(1).T.contiguous()

        self.image_position: Tensor
        self.memory_position: Tensor
        self.register_buffer("image_position", tokens(dim), persistent=False)
        self.register_buffer("memory_position", tokens(config.memory_dim), persistent=False)
        self.stored_position: Tensor  # of the stored frames' tokens
        self.register_buffer(
            "stored_position", self.pool_memory(self.memory_position[None])[0], persistent=False
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.no_obj_ptr.device

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which the stages compute at :attr:`precision`, whatever autocast is
        around it.

        The first one in float32 on a GPU switches TF32 off in cuDNN, for the whole process and for
        good (:func:`exact_convolutions`).
        """
        half = self.precision == "bf16"
        if not half and self.device.type == "cuda":
            exact_convolutions()
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)

    def cast_weights(self) -> None:
        """Compute in bfloat16 from now on, and hold the weights of linear maps so once and for
        all: casting them in every step costs more than the memory they take. Not for training.
        """
        self.precision = "bf16"
        exact = ("pred_obj_score_head", "verification")
        for name, module in self.named_modules():
            linear = isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
            if linear and not any(part in name for part in exact):
                module.to(torch.bfloat16)

    def encode_images(self, images: Tensor) -> ViewFeatures:
        """Encode views.

        Args:
            images: (V, 3, S, S) float32, normalised (:mod:`lmeec_core.preprocessing`).
        """
        return ViewFeatures(*self._run("image_encoder", images))

    def _run(self, stage: Stage, *inputs: Tensor, options: Options = ()) -> Outputs:
        if self.runner is not None:
            return self.runner(stage, options, inputs)
        return STAGES[stage](self, options, *inputs)

    def prepare_targets(self, views: ViewFeatures) -> Tensor:
        """What memory attention computes of K target views alone: (K, P, C).

        With matching (K, P, C + D): the embedding, as it is, behind.
        """
        embedding = () if views.top_embedding is None else (views.top_embedding,)
        return self._run("target_tokens", views.top, *embedding)[0]

    @staticmethod
    def _with_embedding(tokens: Tensor, views: ViewFeatures) -> Tensor:
        """Tokens (B, P, .) with the views' embedding, if there is one, as further channels."""
        if views.top_embedding is None:
            return tokens
        embedding = views.top_embedding.flatten(2).transpose(1, 2)
        return torch.cat((tokens, embedding.to(tokens.dtype)), dim=-1)

    def pool_memory(self, memory: Tensor) -> Tensor:
        """Memory features as they are stored: (B, P, C) to (B, P / memory_pool^2, C)."""
        step, side = self.config.memory_pool, self.config.grid
        if step == 1:
            return memory
        image = memory.transpose(1, 2).unflatten(2, (side, side))
        return F.avg_pool2d(image, step).flatten(2).transpose(1, 2)

    def match(
        self, query: ViewFeatures, masks: Tensor, targets: ViewFeatures
    ) -> MatchPrompt | None:
        """Compare objects with target views; None for networks without matching.

        Args:
            query: the query view of each of B target views, or the one query view of all.
            masks: (B or 1, N, S, S) of 0 and 1: N objects of each query view.
            targets: B target views.

        Returns:
            prompts (B, N, ...).
        """
        if self.matching is None:
            return None
        described = self.describe(query, masks)
        assert query.middle_embedding is not None and query.top_embedding is not None
        assert targets.middle_embedding is not None and targets.top_embedding is not None
        return self.matching.compare(
            described,
            (query.middle_embedding, query.top_embedding),
            (targets.middle_embedding, targets.top_embedding),
        )

    def describe(self, query: ViewFeatures, masks: Tensor) -> Described:
        """Describe N objects of each of B query views; needs matching."""
        assert self.matching is not None and query.middle_embedding is not None
        return self.matching.describe(query.middle_embedding, query.top, masks)

    def encode_query_memory(self, views: ViewFeatures, masks: Tensor) -> Tensor:
        """Memory features of query masks.

        The binary mask passes a sigmoid before scale and bias, as in the release: outside
        becomes 0, inside 4.62.

        Args:
            views: the query view of each of B masks.
            masks: (B, S, S) of 0 and 1.

        Returns:
            (B, P, memory_dim); with matching memory_dim + D.
        """
        given = masks.to(self.image_position.dtype)
        present = given.new_ones(masks.shape[0])
        return self._with_embedding(
            self._run("memory_encoder", views.top, given, present)[0], views
        )

    def encode_target_memory(
        self, views: ViewFeatures, logits: Tensor, presence_logit: Tensor
    ) -> Tensor:
        """Memory features of predicted masks.

        Args:
            views: the target view of each of B masks.
            logits: (B, s, s) mask logits after the presence rule.
            presence_logit: (B,).

        Returns:
            (B, P, memory_dim); with matching memory_dim + D.
        """
        (encoded,) = self._run("memory_encoder", views.top, logits, presence_logit)
        return self._with_embedding(encoded, views)

    def attend_view(self, prepared: Tensor, query_memory: Tensor) -> Tensor:
        """View-specific feature: the targets attend to this frame's query memory.

        Args:
            prepared: (B, P, C) from :meth:`prepare_targets`.
            query_memory: (B, P, memory_dim).

        Returns:
            (B, P, C).
        """
        position = self.memory_position.to(query_memory.dtype)
        return self._run("memory_attention", prepared, query_memory, position, options=(0, 0))[0]

    def attend_memory(
        self,
        prepared: Tensor,
        banks: list[tuple[Tensor, list[int]]],
        pointers: Tensor,
        pointer_window: int = RELEASE_POINTER_WINDOW,
    ) -> Tensor:
        """Memory-aware feature: the targets attend to the banks and the object pointers.

        Args:
            prepared: (B, P, C) from :meth:`prepare_targets`.
            banks: for each bank its frames (B, m, P', width) from :meth:`pool_memory`, oldest
                first, and the row of the temporal embedding for each frame.
            pointers: (B, n, C) object pointers, newest first (1, 2, ... frames back).
            pointer_window: frames that pointers look back over; scales their distance in time.

        Returns:
            (B, P, C).
        """
        features = [frames.flatten(1, 2) for frames, _ in banks]
        batch, count, _ = pointers.shape
        split = self.config.hidden_dim // self.config.memory_dim
        if count:
            tokens = pointers.reshape(batch, count * split, -1)
            if self.config.matching is not None:  # pointers have no embedding
                tokens = F.pad(tokens, (0, self.config.matching.dim))
            features.append(tokens)
        memory = torch.cat([f.to(features[0].dtype) for f in features], dim=1)
        rows = tuple(row for _, own in banks for row in own)
        back = tuple(range(1, count + 1))
        position = self.memory_positions(rows, back, pointer_window, memory.dtype)
        options = (count * split, 1)
        return self._run("memory_attention", prepared, memory, position, options=options)[0]

    def attend_frames(
        self, prepared: Tensor, frames: Tensor, positions: Tensor, pointers: Tensor
    ) -> Tensor:
        """The views attend to remembered frames of one view and object pointers, as in SAM 2.1.

        Args:
            prepared: (B, P, C) from :meth:`prepare_targets`.
            frames: (B, m, P, memory_dim).
            positions: (B, L, memory_dim) from :meth:`memory_positions`, one of each memory.
            pointers: (B, n, C).

        Returns:
            (B, P, C).
        """
        split = self.config.hidden_dim // self.config.memory_dim
        tokens = pointers.reshape(len(pointers), -1, self.config.memory_dim)
        memory = torch.cat((frames.flatten(1, 2).to(tokens.dtype), tokens), dim=1)
        options = (pointers.shape[1] * split, 0)
        return self._run("memory_attention", prepared, memory, positions, options=options)[0]

    def memory_positions(
        self, rows: tuple[int, ...], back: tuple[int, ...], window: int, dtype: torch.dtype
    ) -> Tensor:
        """Position of a memory's tokens; remembered in inference until weights change.

        Args:
            rows: the row of the temporal embedding for each frame.
            back: how many frames back each object pointer is.
            window: frames that pointers look back over; scales their distance in time.

        Returns:
            (L, memory_dim).
        """
        weights = (self.maskmem_tpos_enc, *self.obj_ptr_tpos_proj.parameters())
        # Weights made in inference mode do not tell whether they have changed.
        if not torch.is_inference_mode_enabled() or any(w.is_inference() for w in weights):
            return self._make_position(rows, back, window, dtype)
        state = tuple((w.data_ptr(), w._version) for w in weights)
        key = (state, rows, back, window, dtype)
        position = self._positions.pop(key, None)
        if position is None:
            position = self._make_position(rows, back, window, dtype)
        self._positions[key] = position  # the newest; the one unused for longest goes
        while len(self._positions) > _POSITIONS_KEPT:
            self._positions.popitem(last=False)
        return position

    def _make_position(
        self, rows: tuple[int, ...], back: tuple[int, ...], window: int, dtype: torch.dtype
    ) -> Tensor:
        time = self.maskmem_tpos_enc[list(rows)].flatten(1)  # (m, memory_dim)
        positions = [(self.stored_position + time[:, None]).flatten(0, 1)]
        if back:
            split = self.config.hidden_dim // self.config.memory_dim
            distance = torch.tensor(back, dtype=torch.float32, device=self.device)
            sine = sine_position_1d(distance / max(window - 1, 1), self.config.hidden_dim)
            positions.append(self.obj_ptr_tpos_proj(sine).repeat_interleave(split, dim=0))
        return torch.cat([p.to(dtype) for p in positions], dim=0)

    def fuse(self, memory_aware: Tensor, view_specific: Tensor, fusion: Fusion) -> Tensor:
        """Fuse two features (B, P, C) to (B, P, C); see :class:`lmeec_core.MemoryConfig`."""
        if fusion == "none":
            return memory_aware
        if fusion == "add":
            return memory_aware + view_specific
        side = self.config.grid

        def image(x: Tensor) -> Tensor:
            return x.transpose(1, 2).unflatten(2, (side, side))

        return self.MV_MoE(image(memory_aware), image(view_specific)).flatten(2).transpose(1, 2)

    def predict(
        self,
        aware: Tensor,
        view: Tensor,
        known: Tensor,
        views: ViewFeatures,
        match: MatchPrompt | None,
        fusion: Fusion,
    ) -> Prediction:
        """Fuse and decode B correspondences.

        Args:
            aware: (B, P, C) from :meth:`attend_memory`.
            view: (B, P, C) from :meth:`attend_view`.
            known: (B,) bool; where False there is no memory yet and ``aware`` takes no part.
            views: the target view of each.
            match: with matching, their prompts from :meth:`match`.
            fusion: see :class:`lmeec_core.MemoryConfig`.
        """
        inputs = (aware, view, known, views.fine, views.middle, *(match or ()))
        return Prediction(*self._run("decoder", *inputs, options=(fusion,)))

    def decode(
        self, fused: Tensor, fine: Tensor, middle: Tensor, match: MatchPrompt | None = None
    ) -> Prediction:
        """Mask, predicted IoU, presence and object pointer of fused features.

        Args:
            fused: (B, P, C).
            fine, middle: high-resolution features of the target views, (B, ...).
            match: with matching, the B prompts of :meth:`match`.
        """
        return self.judge(self.decode_raw(fused, fine, middle, match))

    def decode_raw(
        self, fused: Tensor, fine: Tensor, middle: Tensor, match: MatchPrompt | None = None
    ) -> Decoded:
        """The mask decoder's output before the presence rule; arguments as :meth:`decode`."""
        side = self.config.grid
        image = fused.transpose(1, 2).unflatten(2, (side, side))
        prompt, maps = self.sam_prompt_encoder.sparse(fused.shape[0]), None
        if self.matching is not None and match is not None:
            maps = match.maps
            image = image + self.matching.dense_prompt(maps)
            prompt = torch.cat((prompt.to(match.token.dtype), match.token[:, None]), dim=1)
        position = self.sam_prompt_encoder.pe_layer(side)
        decoded: Decoded = self.sam_mask_decoder(image, fine, middle, position, prompt, maps)
        if self.matching is None or match is None:
            return decoded
        return decoded._replace(presence_logit=self.matching.verify(*decoded[:3], match))

    def judge(self, decoded: Decoded) -> Prediction:
        """Apply the presence rule and make the object pointers."""
        present = decoded.presence_logit > 0
        logits = decoded.logits.where(present[:, None, None], NO_OBJECT_LOGIT)
        pointer = self.obj_ptr_proj(decoded.token)
        pointer = pointer.where(present[:, None], self.no_obj_ptr.to(pointer.dtype))
        return Prediction(logits, decoded.predicted_iou, decoded.presence_logit, pointer)


def build_model(config: ModelConfig) -> LMEEC:
    """Build an untrained network in evaluation mode, as a torch module.

    Use :func:`lmeec_core.load_model` to get one with weights.
    """
    return LMEEC(config).eval()
