"""The types of the precisions, and exact float32 on a GPU."""

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
    """Make cuDNN compute float32 convolutions in float32; torch's default rounds to TF32.

    torch has a single setting for the whole process. It is set once and never restored: if each
    step restored it, another thread's step could do so in the middle of this one.
    Convolutions in bfloat16 are not affected.
    """
    cudnn: Any = torch.backends.cudnn
    cudnn.allow_tf32 = False
    # torch 2.9 and newer: convolutions have their own setting, which follows a general one.
    convolutions: Any = getattr(cudnn, "conv", None)
    if getattr(convolutions, "fp32_precision", None) == "tf32":
        convolutions.fp32_precision = "ieee"
