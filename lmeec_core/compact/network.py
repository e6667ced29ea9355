"""The compact LM-EEC: a small network that learns to match by contrast.

It does explicitly what the released network learns thanks to its size: every location has an
embedding, objects are compared with target views before decoding, and presence is verified in a
second pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lmeec_core.compact.features import EmbeddedFeatures
from lmeec_core.compact.mask_decoder import MatchingMaskDecoder
from lmeec_core.compact.matching import MAPS, Described, Matching, MatchPrompt
from lmeec_core.compact.memory_attention import MatchingMemoryAttention
from lmeec_core.compact.stages import COMPACT_STAGES, PooledAttentionOptions
from lmeec_core.model.lmeec import LMEEC
from lmeec_core.model.mask_decoder import Decoded, MaskDecoder
from lmeec_core.model.memory_attention import MemoryAttention
from lmeec_core.model.results import ViewFeatures
from lmeec_core.model.stages import Outputs, Stage, StageRunner, StageSpec


class CompactLMEEC(LMEEC):
    """LM-EEC with an embedding of locations; its configuration must have ``matching``.

    Tokens and memory features carry the embedding as D additional channels at the end.
    """

    stages: ClassVar[Mapping[Stage, StageSpec]] = COMPACT_STAGES
    features_type: ClassVar[type[ViewFeatures]] = EmbeddedFeatures
    takes_prompts: ClassVar[bool] = False  # the embedding needs a query mask
    exact_modules: ClassVar[tuple[str, ...]] = (*LMEEC.exact_modules, "verification")

    matching: Matching
    sam_mask_decoder: MatchingMaskDecoder

    def make_memory_attention(self) -> MemoryAttention:
        """See :class:`LMEEC`."""
        return MatchingMemoryAttention(self.config)

    def make_mask_decoder(self) -> MaskDecoder:
        """See :class:`LMEEC`."""
        fine, middle, _ = self.image_encoder.neck.channels
        return MatchingMaskDecoder(self.config, (fine, middle))

    def make_more(self) -> None:
        """See :class:`LMEEC`: adds ``matching``."""
        assert self.config.matching is not None
        middle = self.image_encoder.neck.channels[1]
        self.matching = Matching(self.config.matching, middle, self.config.hidden_dim)

    @property
    def embedding_dim(self) -> int:
        """D, the width of the embedding."""
        assert self.config.matching is not None
        return self.config.matching.dim

    def sizes(self) -> dict[str, int]:
        """See :class:`LMEEC`."""
        sizes, embedding = super().sizes(), self.embedding_dim
        own = {"D": embedding, "CD": sizes["C"] + embedding, "MD": sizes["M"] + embedding}
        return sizes | own | {"maps": MAPS}

    def describe(self, query: ViewFeatures, masks: Tensor) -> Described:
        """Describe N objects, masks (B, N, S, S), in each of B query views."""
        query = cast(EmbeddedFeatures, query)
        return self.matching.describe(query.middle_embedding, query.top, masks)

    def make_prompts(
        self, query: ViewFeatures, masks: Tensor, targets: ViewFeatures
    ) -> MatchPrompt:
        """See :class:`LMEEC`: objects compared with target views."""
        query, targets = cast(EmbeddedFeatures, query), cast(EmbeddedFeatures, targets)
        return self.matching.compare(
            self.describe(query, masks),
            (query.middle_embedding, query.top_embedding),
            (targets.middle_embedding, targets.top_embedding),
        )

    def encode_memory(
        self, views: ViewFeatures, masks: Tensor, presence_logit: Tensor, run: StageRunner | None
    ) -> Tensor:
        """See :class:`LMEEC`: (B, P, memory_dim + D)."""
        encoded = super().encode_memory(views, masks, presence_logit, run)
        return cast(EmbeddedFeatures, views).with_embedding(encoded)

    def stored_frames(self, memory: Tensor) -> Tensor:
        """See :class:`LMEEC`: averaged over squares of ``memory_pool`` x ``memory_pool`` tokens."""
        step = self.config.memory_pool
        if step == 1:
            return memory
        return F.avg_pool2d(self.as_image(memory), step).flatten(2).transpose(1, 2)

    def stored_options(self, num_pointer_tokens: int) -> PooledAttentionOptions:
        """See :class:`LMEEC`."""
        return PooledAttentionOptions(num_pointer_tokens, pooled=True)

    def pointer_tokens(self, pointers: Tensor) -> Tensor:
        """See :class:`LMEEC`: the embedding of pointers is zero."""
        return F.pad(super().pointer_tokens(pointers), (0, self.embedding_dim))

    def compute_image_encoder(self, images: Tensor) -> Outputs:
        """See :class:`LMEEC`: with the embeddings at 2 and at 4 patch strides."""
        fine, middle, top = self.image_encoder(images)
        reduced = self.sam_mask_decoder.reduce(fine, middle)
        return (*reduced, top, *self.matching.embed(middle, top))

    def compute_target_tokens(self, top: Tensor, *embedding: Tensor) -> Outputs:
        """See :class:`LMEEC`: (K, P, C + D)."""
        (prepared,) = super().compute_target_tokens(top)
        own = [e.flatten(2).transpose(1, 2).to(prepared.dtype) for e in embedding]
        return (torch.cat((prepared, *own), dim=-1),)

    def decode_raw(
        self, fused: Tensor, fine: Tensor, middle: Tensor, prompts: tuple[Tensor, ...] = ()
    ) -> Decoded:
        """See :class:`LMEEC`: with the prompts of B correspondences, and presence verified."""
        prompt = MatchPrompt(*prompts)
        image = self.as_image(fused) + self.matching.dense_prompt(prompt.maps)
        sparse = self.sam_prompt_encoder.sparse(len(fused))
        sparse = torch.cat((sparse.to(prompt.token.dtype), prompt.token[:, None]), dim=1)
        position = self.sam_prompt_encoder.pe_layer(self.config.grid)
        decoded = self.sam_mask_decoder.decode(image, fine, middle, position, sparse, prompt.maps)
        return decoded._replace(presence_logit=self.matching.verify(*decoded[:3], prompt))
