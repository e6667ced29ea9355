"""A cache of tensors that depend only on weights, kept until the weights change."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor


class Remembered:
    """Keeps the most recently used tensors.

    Args:
        capacity: maximum number of tensors.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._kept: OrderedDict[Any, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Remove all tensors."""
        self._kept.clear()

    def get(self, weights: Sequence[Tensor], key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor for a key; computed again when the weights have changed, and always when
        gradients are enabled.

        Args:
            weights: all weights that the tensor depends on.
            key: distinguishes tensors that depend on the same weights.
            make: computes the tensor.
        """
        # Weights made in inference mode do not record changes.
        unversioned = any(w.is_inference() for w in weights)
        if unversioned or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return make()
        state = (
            torch.is_autocast_enabled(weights[0].device.type),
            *((w.device, w.dtype, w.data_ptr(), w._version) for w in weights),
        )
        value = self._kept.pop((state, key), None)
        if value is None:
            value = make()
        self._kept[state, key] = value
        while len(self._kept) > self.capacity:
            self._kept.popitem(last=False)
        return value
