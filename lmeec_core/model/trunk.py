"""Base classes of trunks and necks, as used by the rest of the network and by training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import nn


class Trunk(nn.Module, ABC):
    """Images (B, 3, S, S) to a list of features (B, channels[i], S / strides[i], .), finest first.

    Attributes:
        channels: number of channels of each level.
        strides: stride of each level, in pixels.
        cuts_windows: whether exporting with few operations gives a different graph.
    """

    cuts_windows = False

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.strides = tuple(channels), tuple(strides)

    @abstractmethod
    def layer_groups(self) -> list[str]:
        """The layers, starting from the input, as prefixes of parameter names.

        Parameters outside of them (position embeddings) are trained at the full learning rate.
        """

    def exportable(self, side: int, few_operations: bool) -> AbstractContextManager[None]:
        """A context for exports, in which the position embedding is a constant.

        Args:
            side: side of the embedding, in cells.
            few_operations: for GPUs, use fewer operations that compute more; the results are the
                same.
        """
        return nullcontext()


class Neck(nn.Module):
    """Converts a trunk's features to features at 1, 2 and 4 patch strides.

    Attributes:
        channels: numbers of channels of these three, finest first.
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.channels = channels
