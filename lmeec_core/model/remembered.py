"""Tensors that follow from weights alone, computed once and kept until the weights change."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor


class Remembered:
    """Keeps the tensors that were used last.

    Args:
        capacity: tensors kept.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._kept: OrderedDict[Any, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Let go of all."""
        self._kept.clear()

    def get(self, weights: Sequence[Tensor], key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key; made anew when weights have changed, and always in training.

        Args:
            weights: all that the tensor follows from.
            key: tells tensors of the same weights apart.
            make: computes it.
        """
        # Weights made in inference mode do not tell whether they have changed.
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
