"""A synchronised set with named members: query image, query masks, target images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")

QUERY_MASKS = "query masks"
"""Name of the query masks' stream; the other streams are named like their cameras."""


@dataclass(frozen=True)
class ImageSet(Generic[T_co]):
    """A synchronised set, or the streams that such sets are made of.

    Iterating gives the query image, the masks if there are any, then the targets in their order.

    Attributes:
        query: of the query camera.
        masks: the query masks; None where objects are marked by prompts.
        targets: target camera to its image; targets without one are left out.
    """

    query: T_co
    masks: T_co | None
    targets: Mapping[str, T_co]

    def __iter__(self) -> Iterator[T_co]:
        yield self.query
        if self.masks is not None:
            yield self.masks
        yield from self.targets.values()

    def map(self, function: Callable[[T_co], U]) -> ImageSet[U]:
        """A set of the function's results, one for each member."""
        targets = {name: function(one) for name, one in self.targets.items()}
        masks = None if self.masks is None else function(self.masks)
        return ImageSet(function(self.query), masks, targets)
