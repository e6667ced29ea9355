"""The compact network's stages: those of the release, plus embeddings and a match prompt.

More sizes in shapes: D is the width of the embedding, CD = C + D, MD = M + D, maps MAPS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F

from lmeec_core.model.stages import (
    CONDITIONED,
    DECODER,
    IMAGE_ENCODER,
    MEMORY_ATTENTION,
    MEMORY_ENCODER,
    POSITION,
    TARGET_TOKENS,
    TOP,
    MemoryAttentionOptions,
    TensorSpec,
    table,
)


@dataclass(frozen=True)
class PooledAttentionOptions(MemoryAttentionOptions):
    """Options of memory attention.

    Attributes:
        pooled: whether the memory's frames are pooled, as they are in the banks.
    """

    pooled: bool = False


_unit = partial(F.normalize, dim=1)
MIDDLE_EMBEDDING = TensorSpec(
    "middle_embedding", ("D", "2g", "2g"), dtype="float32", in_range=_unit
)
TOP_EMBEDDING = TensorSpec("top_embedding", ("D", "g", "g"), dtype="float32", in_range=_unit)
TOKENS = TensorSpec("tokens", ("P", "CD"), dtype="float32")

PROMPT = (
    TensorSpec("prompt_token", ("C",)),
    TensorSpec("maps", ("maps", "2g", "2g"), dtype="float32", in_range=torch.tanh),
    TensorSpec("prototype", ("D",), dtype="float32", in_range=_unit),
    TensorSpec("query_mask", ("2g", "2g"), dtype="float32", in_range=torch.sigmoid),
    replace(MIDDLE_EMBEDDING, name="query_embedding"),
    replace(MIDDLE_EMBEDDING, name="target_embedding"),
)
"""The fields of :class:`~lmeec_core.compact.matching.MatchPrompt`."""

COMPACT_STAGES = table(
    replace(IMAGE_ENCODER, outputs=(*IMAGE_ENCODER.outputs, MIDDLE_EMBEDDING, TOP_EMBEDDING)),
    replace(TARGET_TOKENS, inputs=(TOP, TOP_EMBEDDING), outputs=(TOKENS,)),
    replace(
        MEMORY_ATTENTION,
        inputs=(TOKENS, TensorSpec("memory", ("L", "MD")), POSITION),
        outputs=(CONDITIONED,),
        options=PooledAttentionOptions,
    ),
    replace(DECODER, inputs=(*DECODER.inputs, *PROMPT)),
    MEMORY_ENCODER,
)
"""The compact network's table."""
