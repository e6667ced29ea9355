"""The precisions, and how float32 is computed on a GPU."""

from __future__ import annotations

from typing import Any

import torch

from lmeec_core.config import Precision

TYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""The type of products in each precision."""


def exact_convolutions() -> None:
    """Let cuDNN compute float32 convolutions in float32; torch's default rounds to TF32.

    torch keeps this setting once for the whole process. It is set and never set back: a context
    around each step would be undone by another thread's step in the middle of this one's.
    Convolutions in bfloat16 do not depend on it.
    """
    cudnn: Any = torch.backends.cudnn
    cudnn.allow_tf32 = False
    # torch 2.9 and newer: an own setting of convolutions, which follows one of all operations.
    convolutions: Any = getattr(cudnn, "conv", None)
    if getattr(convolutions, "fp32_precision", None) == "tf32":
        convolutions.fp32_precision = "ieee"
