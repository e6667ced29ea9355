"""Copies a module without the weights that a computation does not use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree


class _Used(TorchFunctionMode):
    """Records the ids of all tensors that are passed to torch's functions."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        leaves = _pytree.tree_leaves((args, kwargs))
        self.ids.update(id(leaf) for leaf in leaves if isinstance(leaf, Tensor))
        return function(*args, **(kwargs or {}))


def used_part(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """A copy of a module with only the parameters and buffers that a forward pass uses.

    torch.export gets slower with the number of parameters, used or not: without those of the other
    stages, tracing a stage takes half the time.

    Args:
        module: the module, which shares its tensors with the copy.
        inputs: the inputs of the forward pass.
    """
    with _Used() as used:
        module(*inputs)
    copies: dict[int, nn.Module] = {}

    def kept(tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
        return {k: v for k, v in tensors.items() if v is None or id(v) in used.ids}

    def part(one: nn.Module) -> nn.Module:
        if id(one) not in copies:
            copies[id(one)] = other = copy.copy(one)
            other.__dict__["_parameters"] = kept(one._parameters)
            other.__dict__["_buffers"] = kept(one._buffers)
            modules = one._modules.items()
            other.__dict__["_modules"] = {k: m if m is None else part(m) for k, m in modules}
        return copies[id(one)]

    return part(module)
