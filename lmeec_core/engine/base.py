"""Base class of the engines, which compute the network's stages for given input shapes."""

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
"""A stage for fixed input shapes: tensors in, tensors out, on the model's device. The outputs are
valid only until the next call of the function: copy them to keep them."""


class Engine(ABC):
    """Computes stages. Each engine belongs to one model.

    Slow work (exporting, compiling, loading) is only done in :meth:`prepare`, so that no step of a
    tracker ever waits for it: an engine does not offer calls that it was not prepared for.

    Args:
        model: the network, with its final weights, device and precision.
        root: the folder for its files, which must be writable. None for the cache, or for a
            temporary folder if the cache cannot be written.

    Raises:
        EngineError: a required library or device is missing.
    """

    name: ClassVar[EngineName]

    def __init__(self, model: LMEEC, root: Path | None = None) -> None:
        self.model = model

    def is_ready(self) -> bool:
        """Whether it can run anything without making files first; ``auto`` uses no other."""
        return True

    def files(self) -> list[str]:
        """Names of the files that already exist for it; empty if it needs none."""
        return []

    def is_complete(self, calls: Iterable[StageCall]) -> bool:
        """Whether :meth:`prepare` would have no files to make for these calls."""
        return True

    def prepare(self, calls: Iterable[StageCall], make: bool = True) -> None:  # noqa: B027
        """Get ready for calls, at any batch size; called before the first step.

        Args:
            calls: the calls that steps will make.
            make: make missing files, which takes minutes; otherwise eager torch takes these calls.

        Raises:
            EngineError: with ``make``: a file cannot be made or loaded.
            OSError: a file cannot be written.
        """

    def offers(self, call: StageCall) -> bool:
        """Whether :meth:`build` supports this call; cheap. Eager torch computes the rest."""
        return True

    @abstractmethod
    def build(self, call: StageCall) -> StageFunction:
        """Build the function for a call that it offers, from what :meth:`prepare` made; cheap.
        Called once for each call, within the model's autocast."""
