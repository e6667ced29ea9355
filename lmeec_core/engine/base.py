"""What an engine is: it computes stages of the network for inputs of given shapes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from lmeec_core.config import ENGINES, EngineName
from lmeec_core.engine.calls import StageCall
from lmeec_core.errors import EngineError
from lmeec_core.model import LMEEC

__all__ = ["ENGINES", "Engine", "EngineError", "EngineName", "StageFunction"]

StageFunction = Callable[..., tuple[Tensor, ...]]
"""A stage for inputs of fixed shapes: tensors in, tensors out, on the model's device. The outputs
stay valid only until the function is called again: who keeps one copies it."""


class Engine(ABC):
    """Computes stages. One engine belongs to one model.

    What takes long (exporting, compiling, loading) is done in :meth:`prepare` and nowhere else, so
    that no step of a tracker ever waits for it: what an engine is not prepared for, it does not
    offer.

    Args:
        model: the network, with its final weights, device and precision.
        root: the folder where it keeps files; it has to be writable then. None is the cache, or
            what stands in for it.

    Raises:
        EngineError: a library or device that it needs is missing.
    """

    name: ClassVar[EngineName]

    def __init__(self, model: LMEEC, root: Path | None = None) -> None:
        self.model = model

    def is_ready(self) -> bool:
        """Whether there is anything that it could start with at once; ``auto`` takes no other."""
        return True

    def files(self) -> list[str]:
        """Names of the files that it could start with, if it needs any."""
        return []

    def is_complete(self, calls: Iterable[StageCall]) -> bool:
        """Whether :meth:`prepare` for these calls would make no file."""
        return True

    def prepare(self, calls: Iterable[StageCall], make: bool = True) -> None:  # noqa: B027
        """Get ready for calls, in any batch; before the first step.

        Args:
            calls: what steps will ask for.
            make: make what is missing, which takes minutes; otherwise it is left to eager torch.

        Raises:
            EngineError: with ``make``: something cannot be made or loaded.
            OSError: a file cannot be written.
        """

    def offers(self, call: StageCall) -> bool:
        """Whether :meth:`build` gives a function for this call; cheap. Eager takes the rest."""
        return True

    @abstractmethod
    def build(self, call: StageCall) -> StageFunction:
        """A function for a call that it offers, put together of what is prepared; cheap. Called
        once for each call, within the model's autocast."""
