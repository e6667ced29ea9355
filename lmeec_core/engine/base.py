"""What an engine is: it computes stages of the network for inputs of given shapes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from lmeec_core.config import ENGINES, EngineName
from lmeec_core.errors import EngineError
from lmeec_core.model.matching import MatchPrompt, in_range
from lmeec_core.model.stages import Options, Stage

if TYPE_CHECKING:
    from lmeec_core.model import LMEEC

__all__ = ["ENGINES", "Call", "Engine", "EngineError", "EngineName", "StageFunction"]

StageFunction = Callable[..., tuple[Tensor, ...]]
"""A stage for inputs of fixed shapes: tensors in, tensors out, on the model's device. The outputs
stay valid only until the function is called again: who keeps one copies it."""


_MATCH = 5
"""Inputs of the decoder before those of a match prompt."""


class Call(NamedTuple):
    """A stage with the shapes of its inputs: what an engine builds a function for."""

    stage: Stage
    options: Options
    """What is fixed beside the shapes, see :mod:`lmeec_core.model.stages`."""
    shapes: tuple[tuple[int, ...], ...]
    """Shape of each input tensor, the batch first (the memory's position has none)."""
    dtypes: tuple[torch.dtype, ...]
    """Type of each input tensor."""

    @classmethod
    def of(cls, stage: Stage, options: Options, inputs: tuple[Tensor, ...]) -> Call:
        """The call that these inputs make."""
        return cls(
            stage, options, tuple(tuple(x.shape) for x in inputs), tuple(x.dtype for x in inputs)
        )

    def example(self, device: torch.device, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs as they may occur: normal numbers (bool: all true), the parts of a match
        prompt in their ranges; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        inputs = [
            torch.ones(shape, dtype=dtype)
            if dtype is torch.bool
            else torch.randn(shape, generator=generator)
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        ]
        if self.stage == "decoder" and len(inputs) > _MATCH:
            inputs[_MATCH:] = in_range(MatchPrompt(*inputs[_MATCH:]))
        return tuple(x.to(device, dtype) for x, dtype in zip(inputs, self.dtypes, strict=True))


class Engine(ABC):
    """Computes stages. One engine belongs to one model.

    What takes long (exporting, compiling, loading) is done in :meth:`prepare` and nowhere else, so
    that no step of a tracker ever waits for it: what an engine is not prepared for, it does not
    offer.

    Args:
        model: the network, with its final weights, device and precision.

    Raises:
        EngineError: a library or device that it needs is missing.
    """

    name: ClassVar[EngineName]

    def __init__(self, model: LMEEC) -> None:
        self.model = model

    def is_ready(self) -> bool:
        """Whether there is anything that it could start with at once; ``auto`` takes no other."""
        return True

    def files(self) -> list[str]:
        """Names of the files that it could start with, if it needs any."""
        return []

    def prepare(self, calls: Iterable[Call], make: bool = True) -> None:  # noqa: B027
        """Get ready for calls, in any batch; before the first step.

        Args:
            calls: what steps will ask for.
            make: make what is missing, which takes minutes; otherwise it is left to eager torch.

        Raises:
            EngineError: with ``make``: something cannot be made or loaded.
            OSError: a file cannot be written.
        """

    def offers(self, call: Call) -> bool:
        """Whether :meth:`build` gives a function for this call; cheap. Eager takes the rest."""
        return True

    @abstractmethod
    def build(self, call: Call) -> StageFunction:
        """A function for a call that it offers, put together of what is prepared; cheap. Called
        once for each call, within the model's autocast."""
