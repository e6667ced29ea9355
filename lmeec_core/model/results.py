"""What the network gives: features of views, and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor

NO_OBJECT_LOGIT = -1024.0
"""Mask logit everywhere where the object is judged absent (SAM 2.1)."""


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
        """The same function applied to every tensor, to select or to repeat views."""
        return type(self)(*(function(getattr(self, field.name)) for field in fields(self)))

    def token_inputs(self) -> tuple[Tensor, ...]:
        """What the stage ``target_tokens`` takes of the views."""
        return (self.top,)

    def repeat_for_memory(self, count: int) -> Self:
        """Each view ``count`` times in what the memory encoder reads; the rest stays as it is."""
        return replace(self, top=self.top.repeat_interleave(count, 0))


Features = TypeVar("Features", bound=ViewFeatures)


def concatenate(parts: Sequence[Features]) -> Features:
    """The views of one or more batches of the same kind as one batch."""
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
