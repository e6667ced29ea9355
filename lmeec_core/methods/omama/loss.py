"""The contrastive loss that O-MaMa is trained with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lmeec_core.errors import InputError

TEMPERATURE = 0.07


def contrastive_loss(
    similarity: Tensor, true: int | None, temperature: float = TEMPERATURE, none: bool = False
) -> Tensor:
    """Loss of one object in one target image, a scalar.

    With a true mask among the candidates: cross-entropy over the candidates of this image. Without
    one: the same with "none of them" as the true answer, whose similarity is 0, the value above
    which an object counts as found. So objects that are not visible are used for training as well.

    Args:
        similarity: (N,) cosines.
        true: index of the true mask; None if the object is not visible.
        temperature: divides the cosines.
        none: whether "none of them" is also an answer if there is a true mask, whose similarity
            then has to be above 0.

    Raises:
        InputError: there is no candidate with this index.
    """
    logits = similarity.float() / temperature
    if true is None:
        return F.pad(logits, (1, 0)).logsumexp(dim=0)
    if not 0 <= true < len(logits):
        raise InputError(f"true candidate {true} given, 0 .. {len(logits) - 1} expected")
    others = F.pad(logits, (1, 0)) if none else logits
    return others.logsumexp(dim=0) - logits[true]
