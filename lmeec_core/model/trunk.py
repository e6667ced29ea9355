"""What a trunk and a neck tell of themselves to the rest of the network and to training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import nn


class Trunk(nn.Module, ABC):
    """Images (B, 3, S, S) to a list of features (B, channels[i], S / strides[i], .), finest first.

    Attributes:
        channels: of each level.
        strides: of each level, in pixels.
        cuts_windows: whether exports with few operations are other graphs.
    """

    cuts_windows = False

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.strides = tuple(channels), tuple(strides)

    @abstractmethod
    def layer_groups(self) -> list[str]:
        """The layers from the input on, as beginnings of names of parameters.

        What belongs to none of them (position embeddings) trains at the full rate.
        """

    def exportable(self, side: int, few_operations: bool) -> AbstractContextManager[None]:
        """A context for exports: position embeddings of ``side`` cells are constants.

        Args:
            side: cells of the embedding.
            few_operations: a graph of fewer operations that computes more, for GPUs; the results
                are the same.
        """
        return nullcontext()


class Neck(nn.Module):
    """A trunk's features to those at 1, 2 and 4 patch strides.

    Attributes:
        channels: of the three, finest first.
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.channels = channels
