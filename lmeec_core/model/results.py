"""The network's results: features of views, and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor

NO_OBJECT_LOGIT = -1024.0
"""Mask logit of every pixel if the object is judged absent (SAM 2.1)."""


@dataclass(frozen=True, eq=False)
class ViewFeatures:
    """Image features of a batch of V views."""

    fine: Tensor
    """(V, C/8, 4g, 4g), reduced for the mask decoder."""
    middle: Tensor
    """(V, C/4, 2g, 2g), reduced for the mask decoder."""
    top: Tensor
    """(V, C, g, g); g * g = P tokens."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to every tensor, for instance to select or repeat views."""
        return type(self)(*(function(getattr(self, field.name)) for field in fields(self)))

    def token_inputs(self) -> tuple[Tensor, ...]:
        """The views' inputs to the stage ``target_tokens``."""
        return (self.top,)

    def repeat_for_memory(self, count: int) -> Self:
        """Repeat each view ``count`` times, but only in tensors that the memory encoder reads."""
        return replace(self, top=self.top.repeat_interleave(count, 0))


Features = TypeVar("Features", bound=ViewFeatures)


def concatenate(parts: Sequence[Features]) -> Features:
    """Join the views of one or more batches of the same type into one batch."""
    kind = type(parts[0])
    return kind(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(kind)))


class Prediction(NamedTuple):
    """A batch of B correspondences."""

    logits: Tensor
    """(B, s, s) float32 mask logits after the presence rule."""
    predicted_iou: Tensor
    """(B,) float32 in 0 .. 1."""
    presence_logit: Tensor
    """(B,) float32."""
    pointer: Tensor
    """(B, C) object pointers."""
