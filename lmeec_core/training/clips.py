"""Training data: numbered clips of two views, from takes or from simulated scenes.

The seed alone decides which clip has which number and how it is augmented. A run that is resumed,
or divided among a different number of processes, therefore sees the same clips.
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

    On takes the first view is the query view of all objects. Simulated scenes train both
    directions: the first view is the query view of the first half of the objects, the second view
    that of the rest.
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
    """Number of objects in the clip; the rest of the N are empty."""
    name: str
    """Recording, cameras and frames, for messages."""
    regions: Tensor | None = None
    """uint8 (T, 2, S, S): 0 background, 1 an object, 2 a person; on simulated scenes only."""
    identity: Tensor | None = None
    """int64 (N,), equal for the same object of the same scene; on simulated scenes only."""


class Drawn(NamedTuple):
    """A clip, and the errors met while drawing it."""

    clip: Any
    """A :class:`Clip`, or whatever the recipe trains on; None if no attempt produced one."""
    errors: tuple[str, ...]
    """Broken files and annotations, one line each."""


class Clips(Dataset[Drawn]):
    """An endless sequence of clips numbered 0, 1, 2, ...; a DataLoader's item is one clip.

    Subclasses draw a clip with a separate random generator for each number and attempt.

    Attributes:
        seed: for all random choices.
        attempts: how often to try to draw a clip before giving up.
    """

    seed: int
    attempts: int

    @abstractmethod
    def draw(self, key: Any, attempt: int, random: np.random.Generator, failed: bool) -> Any:
        """Draw the clip for a key.

        Args:
            key: the clip's number, or a tuple that begins with it.
            attempt: 0 .. attempts - 1.
            random: the generator for this number and attempt.
            failed: whether an earlier attempt met a broken file.

        Returns:
            A :class:`Clip`, or another object that the recipe can stack and that has
            :attr:`Clip.filled`; None if there is nothing to learn from in what was drawn.

        Raises:
            InputError: a file is broken; names it.
        """

    def __getitem__(self, key: Any) -> Drawn:
        """The clip for a key."""
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

    n is the largest number of objects in any of the clips. For simulated scenes, regions
    (T, B, 2, S, S) and identity (B, n) follow.
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
