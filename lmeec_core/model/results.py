"""What the network gives: features of views, and predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

NO_OBJECT_LOGIT = -1024.0
"""Mask logit everywhere where the object is judged absent (SAM 2.1)."""


class ViewFeatures(NamedTuple):
    """Image features of a batch of V views."""

    fine: Tensor
    """(V, C/8, 4g, 4g), reduced for the mask decoder."""
    middle: Tensor
    """(V, C/4, 2g, 2g), reduced for the mask decoder."""
    top: Tensor
    """(V, C, g, g); g * g = P tokens."""
    middle_embedding: Tensor | None = None
    """With matching: (V, D, 2g, 2g) unit vectors, float32."""
    top_embedding: Tensor | None = None
    """With matching: (V, D, g, g) unit vectors, float32."""

    def map(self, function: Callable[[Tensor], Tensor]) -> ViewFeatures:
        """The same function applied to every tensor, to select or to repeat views."""
        middle, top = self.middle_embedding, self.top_embedding
        return ViewFeatures(
            function(self.fine),
            function(self.middle),
            function(self.top),
            None if middle is None else function(middle),
            None if top is None else function(top),
        )


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
