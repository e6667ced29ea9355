"""What training sees: clips of two views by number, from takes or from simulated scenes.

Which clip has which number, and how it is augmented, follows from the seed alone, so that a run
that was cut off, or that is spread over other processes, sees the same clips.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lmeec_core.errors import InputError


class Clip(NamedTuple):
    """T frames of two views with up to N objects, at the model's size S.

    On takes the first view is the query of all objects. On simulated scenes both directions train:
    the first half of the objects is given in the first view, the rest in the second one.
    """

    images: Tensor
    """uint8 (T, 2, 3, S, S)."""
    masks: Tensor
    """bool (T, N, S, S) in the object's query view."""
    truth: Tensor
    """bool (T, N, S, S) in the other view, the target; empty where the object is absent."""
    counts: Tensor
    """float32 (T, N): 1 where the query mask is given and the truth is known."""
    filled: int
    """Objects that there are; the rest of the N is empty."""
    name: str
    """Recording, cameras and frames, for messages."""
    regions: Tensor | None = None
    """uint8 (T, 2, S, S): 0 background, 1 an object, 2 a person; of simulated scenes alone."""
    identity: Tensor | None = None
    """int64 (N,) equal where scene and object are the same; of simulated scenes alone."""


class Drawn(NamedTuple):
    """A clip, and what happened on the way to it."""

    clip: Any
    """A :class:`Clip`, or what else the recipe trains on; None if no attempt gave one."""
    errors: tuple[str, ...]
    """Broken files and annotations met on the way, one line each."""


class Clips(Dataset[Drawn]):
    """Clips by number 0, 1, 2, ... without end; one clip is one item of a DataLoader.

    Subclasses draw a clip from a number generator of its own for each number and attempt.

    Attributes:
        seed: of everything that is drawn.
        attempts: draws for one clip before giving up.
    """

    seed: int
    attempts: int

    @abstractmethod
    def draw(self, key: Any, attempt: int, random: np.random.Generator, failed: bool) -> Any:
        """Draw the clip of a key.

        Args:
            key: the clip's number, or a tuple that begins with it.
            attempt: 0 .. attempts - 1.
            random: of this number and attempt.
            failed: whether a file was found to be broken in an earlier attempt.

        Returns:
            A :class:`Clip`, or what else the recipe stacks and counts (:attr:`Clip.filled`); None
            if there is nothing to learn from in what was drawn.

        Raises:
            InputError: a broken file; names it.
        """

    def __getitem__(self, key: Any) -> Drawn:
        """The clip of a key."""
        number = key[0] if isinstance(key, tuple) else key
        errors: list[str] = []
        for attempt in range(self.attempts):
            random = np.random.default_rng((self.seed, number, attempt))
            try:
                clip = self.draw(key, attempt, random, bool(errors))
            except InputError as error:
                errors.append(str(error))
            else:
                if clip is not None:
                    return Drawn(clip, tuple(errors))
        return Drawn(None, tuple(errors))


def stack(clips: Sequence[Clip]) -> tuple[Tensor, ...]:
    """Clips as one batch: images (T, B, 2, 3, S, S), masks and truth (T, B, n, S, S), counts.

    n is the largest number of objects among the clips. Of simulated scenes also regions
    (T, B, 2, S, S) and identity (B, n).
    """
    n = max(clip.filled for clip in clips)
    images = torch.stack([clip.images for clip in clips], dim=1)
    masks, truth, counts = (
        torch.stack([getattr(clip, field)[:, :n] for clip in clips], dim=1)
        for field in ("masks", "truth", "counts")
    )
    regions = [clip.regions for clip in clips if clip.regions is not None]
    identity = [clip.identity for clip in clips if clip.identity is not None]
    more = (torch.stack(regions, dim=1), torch.stack(identity)) if regions else ()
    return (images, masks, truth, counts, *more)
