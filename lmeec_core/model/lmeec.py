"""The LM-EEC network, with the methods that trackers and training call."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lmeec_core.config import RELEASE_POINTER_WINDOW, Fusion, ModelConfig
from lmeec_core.model.layers import sine_position_1d
from lmeec_core.model.network import Network, sine_tokens
from lmeec_core.model.remembered import Remembered
from lmeec_core.model.results import Prediction, ViewFeatures
from lmeec_core.model.stages import (
    DecoderOptions,
    MemoryAttentionOptions,
    StageOptions,
    StageRunner,
)

_POSITIONS_KEPT = 64
"""Cached position encodings of memories: a filling memory has 16 lengths per configuration."""


class LMEEC(Network):
    """LM-EEC on SAM 2.1 (paper section 3), put together from its stages.

    The module keeps no state between steps. :class:`lmeec_core.CorrespondenceTracker` keeps the
    memory and chooses the :class:`StageRunner` that computes the stages; eager torch without one.

    Other networks are subclasses. They may replace the modules (``make_...``), the table of stages
    and their computation, the features, the decoder's prompts and the way that frames are stored.

    Attributes:
        features_type: the type that :meth:`encode_images` returns.
        takes_prompts: whether :class:`lmeec_core.PromptTracker` can use it.
        runner: the default for trackers that are given none, set by
            :func:`lmeec_core.engine.use_engine`; None for eager torch.
    """

    features_type: ClassVar[type[ViewFeatures]] = ViewFeatures
    takes_prompts: ClassVar[bool] = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.runner: StageRunner | None = None
        self._positions = Remembered(_POSITIONS_KEPT)
        self.memory_position: Tensor
        self.stored_position: Tensor  # for the tokens of stored frames
        position = sine_tokens(config.grid, config.memory_dim)
        self.register_buffer("memory_position", position, persistent=False)
        stored = self.stored_frames(self.memory_position[None])[0]
        self.register_buffer("stored_position", stored, persistent=False)

    # -- what a subclass may replace -----------------------------------------------------------

    def make_prompts(
        self, query: ViewFeatures, masks: Tensor, targets: ViewFeatures
    ) -> tuple[Tensor, ...]:
        """Additional inputs for the decoder, (B, N, ...) each; the release has none.

        Args:
            query: the query view of each of B target views, or one query view for all of them.
            masks: (B or 1, N, S, S) of 0 and 1: N objects in each query view.
            targets: B target views.
        """
        return ()

    def encode_memory(
        self, views: ViewFeatures, masks: Tensor, presence_logit: Tensor, run: StageRunner | None
    ) -> Tensor:
        """Memory features (B, P, width) of mask logits (B, s, s) or (B, S, S)."""
        run = run or self.compute
        return run("memory_encoder", StageOptions(), (views.top, masks, presence_logit))[0]

    def stored_frames(self, memory: Tensor) -> Tensor:
        """Convert memory features (B, P, .) to the form kept in the banks, (B, P', .); unchanged
        in the release."""
        return memory

    def stored_options(self, num_pointer_tokens: int) -> MemoryAttentionOptions:
        """Options of memory attention to stored frames."""
        return MemoryAttentionOptions(num_pointer_tokens)

    def pointer_tokens(self, pointers: Tensor) -> Tensor:
        """Object pointers (B, n, C) as memory tokens, (B, n * C / memory_dim, memory_dim)."""
        return pointers.reshape(len(pointers), -1, self.config.memory_dim)

    # -- the steps of a tracker, each one stage ------------------------------------------------

    def encode_images(self, images: Tensor, run: StageRunner | None = None) -> ViewFeatures:
        """Encode views.

        Args:
            images: (V, 3, S, S) float32, normalised (:mod:`lmeec_core.preprocessing`).
            run: computes the stage; None for eager torch, here and below.
        """
        run = run or self.compute
        return self.features_type(*run("image_encoder", StageOptions(), (images,)))

    def prepare_targets(self, targets: ViewFeatures, run: StageRunner | None = None) -> Tensor:
        """The part of memory attention that depends only on the K target views: (K, P, C)."""
        run = run or self.compute
        return run("target_tokens", StageOptions(), targets.token_inputs())[0]

    def encode_query_memory(
        self, views: ViewFeatures, masks: Tensor, run: StageRunner | None = None
    ) -> Tensor:
        """Memory features of query masks.

        As in the release, the binary mask goes through a sigmoid before scale and bias, which maps
        outside to 0 and inside to 4.62.

        Args:
            views: the query view of each of B masks.
            masks: (B, S, S) of 0 and 1.

        Returns:
            (B, P, memory_dim).
        """
        given = masks.to(self.image_position.dtype)
        return self.encode_memory(views, given, given.new_ones(len(masks)), run)

    def encode_target_memory(
        self,
        views: ViewFeatures,
        logits: Tensor,
        presence_logit: Tensor,
        run: StageRunner | None = None,
    ) -> Tensor:
        """Memory features of predicted masks.

        Args:
            views: the target view of each of B masks.
            logits: (B, s, s) mask logits after the presence rule.
            presence_logit: (B,).

        Returns:
            (B, P, memory_dim).
        """
        return self.encode_memory(views, logits, presence_logit, run)

    def attend_view(
        self, prepared: Tensor, query_memory: Tensor, run: StageRunner | None = None
    ) -> Tensor:
        """The view-specific feature: the targets attend to this frame's query memory.

        Args:
            prepared: (B, P, C) from :meth:`prepare_targets`.
            query_memory: (B, P, memory_dim).

        Returns:
            (B, P, C).
        """
        run = run or self.compute
        options = self.stages["memory_attention"].options()
        position = self.memory_position.to(query_memory.dtype)
        return run("memory_attention", options, (prepared, query_memory, position))[0]

    def attend_memory(
        self,
        prepared: Tensor,
        banks: list[tuple[Tensor, list[int]]],
        pointers: Tensor,
        pointer_window: int = RELEASE_POINTER_WINDOW,
        run: StageRunner | None = None,
    ) -> Tensor:
        """The memory-aware feature: the targets attend to the banks and the object pointers.

        Args:
            prepared: (B, P, C) from :meth:`prepare_targets`.
            banks: for each bank, its frames (B, m, P', width) from :meth:`stored_frames`, oldest
                first, and each frame's row in the temporal embedding.
            pointers: (B, n, C) object pointers, newest first (1, 2, ... frames back).
            pointer_window: number of frames covered by pointers; scales their distance in time.

        Returns:
            (B, P, C).
        """
        run = run or self.compute
        features = [frames.flatten(1, 2) for frames, _ in banks]
        num_pointer_tokens = 0
        if pointers.shape[1]:
            features.append(self.pointer_tokens(pointers))
            num_pointer_tokens = features[-1].shape[1]
        memory = torch.cat([f.to(features[0].dtype) for f in features], dim=1)
        rows = tuple(row for _, own in banks for row in own)
        frames_back = tuple(range(1, pointers.shape[1] + 1))
        position = self.memory_positions(rows, frames_back, pointer_window, memory.dtype)
        options = self.stored_options(num_pointer_tokens)
        return run("memory_attention", options, (prepared, memory, position))[0]

    def attend_frames(
        self,
        prepared: Tensor,
        frames: Tensor,
        positions: Tensor,
        pointers: Tensor,
        run: StageRunner | None = None,
    ) -> Tensor:
        """The views attend to remembered frames of one view and to object pointers, as in SAM 2.1.

        Args:
            prepared: (B, P, C) from :meth:`prepare_targets`.
            frames: (B, m, P, memory_dim).
            positions: (B, L, memory_dim) from :meth:`memory_positions`, one for each memory.
            pointers: (B, n, C).

        Returns:
            (B, P, C).
        """
        run = run or self.compute
        tokens = self.pointer_tokens(pointers)
        memory = torch.cat((frames.flatten(1, 2).to(tokens.dtype), tokens), dim=1)
        options = MemoryAttentionOptions(tokens.shape[1])
        return run("memory_attention", options, (prepared, memory, positions))[0]

    def predict(
        self,
        memory_aware: Tensor,
        view_specific: Tensor,
        has_memory: Tensor,
        targets: ViewFeatures,
        prompts: tuple[Tensor, ...],
        fusion: Fusion,
        run: StageRunner | None = None,
    ) -> Prediction:
        """Fuse and decode B correspondences.

        Args:
            memory_aware: (B, P, C) from :meth:`attend_memory`.
            view_specific: (B, P, C) from :meth:`attend_view`.
            has_memory: (B,) bool; where it is False, ``memory_aware`` is not used.
            targets: the target view of each.
            prompts: from :meth:`make_prompts`, (B, ...) each.
            fusion: see :class:`lmeec_core.MemoryConfig`.
        """
        run = run or self.compute
        features = (memory_aware, view_specific, has_memory, targets.fine, targets.middle)
        return Prediction(*run("decoder", DecoderOptions(fusion), (*features, *prompts)))

    def memory_positions(
        self, rows: tuple[int, ...], frames_back: tuple[int, ...], window: int, dtype: torch.dtype
    ) -> Tensor:
        """Position encoding of a memory's tokens; in inference, cached until the weights change.

        Args:
            rows: each frame's row in the temporal embedding.
            frames_back: how many frames back each object pointer is.
            window: number of frames covered by pointers; scales their distance in time.
            dtype: type of the result.

        Returns:
            (L, memory_dim).
        """
        weights = (self.maskmem_tpos_enc, *self.obj_ptr_tpos_proj.parameters())
        key = (rows, frames_back, window, dtype)
        return self._positions.get(weights, key, lambda: self._make_position(*key))

    def _make_position(
        self, rows: tuple[int, ...], frames_back: tuple[int, ...], window: int, dtype: torch.dtype
    ) -> Tensor:
        time = self.maskmem_tpos_enc[list(rows)].flatten(1)  # (m, memory_dim)
        positions = [(self.stored_position + time[:, None]).flatten(0, 1)]
        if frames_back:
            split = self.config.hidden_dim // self.config.memory_dim
            distance = torch.tensor(frames_back, dtype=torch.float32, device=self.device)
            sine = sine_position_1d(distance / max(window - 1, 1), self.config.hidden_dim)
            positions.append(self.obj_ptr_tpos_proj(sine).repeat_interleave(split, dim=0))
        return torch.cat([p.to(dtype) for p in positions], dim=0)
