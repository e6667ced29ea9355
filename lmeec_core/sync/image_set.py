"""A synchronised set with named members: query image, query masks, target images, candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")

QUERY_MASKS = "query masks"
"""Name of the query masks' stream; image streams are named like their cameras."""


def candidates_of(camera: str) -> str:
    """Name of the stream of a target camera's candidate masks."""
    return f"candidates of {camera}"


@dataclass(frozen=True)
class ImageSet(Generic[T_co]):
    """A synchronised set, or the streams from which sets are formed.

    Iterating gives the query image, the masks if there are any, then the targets in their order,
    then their candidates.

    Attributes:
        query: the query image.
        masks: the query masks; None if objects are marked by prompts.
        targets: images by target camera; targets without an image are left out.
        candidates: candidate masks of the images, by target camera; empty unless another program
            provides them.
    """

    query: T_co
    masks: T_co | None
    targets: Mapping[str, T_co]
    candidates: Mapping[str, T_co] = field(default_factory=dict)

    def __iter__(self) -> Iterator[T_co]:
        yield self.query
        if self.masks is not None:
            yield self.masks
        yield from self.targets.values()
        yield from self.candidates.values()

    def map(self, function: Callable[[T_co], U]) -> ImageSet[U]:
        """A set of the function's results, one for each member."""
        targets, candidates = (
            {name: function(one) for name, one in each.items()}
            for each in (self.targets, self.candidates)
        )
        masks = None if self.masks is None else function(self.masks)
        return ImageSet(function(self.query), masks, targets, candidates)
