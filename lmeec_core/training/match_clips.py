"""Training examples for O-MaMa's matcher from takes: an object and candidates of another view."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmeec_core.methods.omama.negatives import draw_negatives
from lmeec_core.takes import Take, is_ego
from lmeec_core.training.match_views import DescribedViews
from lmeec_core.training.take_clips import Pair, TakeClips, annotated_frames, visible

Direction = Literal["both", "ego-exo", "exo-ego"]


class MatchClip(NamedTuple):
    """An object in a query view and n candidates in the target view."""

    query: Tensor
    """(C, h, w) float16 tokens; the two grids may differ."""
    target: Tensor
    """(C, h, w) float16."""
    asked: Tensor
    """(2C,) float16: descriptor of the object in the query view."""
    given: Tensor
    """(n, 2C) float16: the candidates' descriptors; the true mask's first, if there is one."""
    true: Tensor
    """int64: 0, or -1 if the object is not in the target view."""
    filled: int = 1
    """Number of objects."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The five tensors."""
        return self[:5]


class MatchClips(TakeClips):
    """An endless sequence of examples, numbered 0, 1, 2, ..., from all takes in a folder.

    :class:`TakeClips` describes which pair of views a number stands for. A frame and an object
    with a query mask are then drawn, whether or not the target view has the object. The negatives
    are drawn by :func:`lmeec_core.methods.omama.negatives.draw_negatives`.

    Args:
        folder: contains the takes, one folder each.
        views: descriptions of the images.
        count: candidates per target view, including the true one.
        direction: which views are query views.
        seed: for all random choices.

    Raises:
        TakeError: the folder does not exist or contains no usable take.
    """

    def __init__(
        self, folder: Path, views: DescribedViews, count: int = 32, direction: Direction = "both",
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(folder, 1, 1, 1, None, seed)
        self.views, self.count = views, count
        self._sought: dict[Pair, list[tuple[str, int]]] = {}
        if direction != "both":
            ego = direction == "ego-exo"
            self.pairs = [pair for pair in self.pairs if is_ego(pair.query) == ego]

    def _read(self, pair: Pair, random: np.random.Generator) -> MatchClip | None:
        if pair not in self._sought:
            self._sought[pair] = sought(self._take(pair.take), pair.query, pair.target)
        asked = self._sought[pair]
        if not asked:
            self._empty.add(pair)
            return None
        name, frame = asked[int(random.integers(len(asked)))]
        query = self.views.view(pair.take, pair.query, frame)
        target = self.views.view(pair.take, pair.target, frame)
        own, there = query.row(name), target.row(name)
        if own is None:
            return None  # the mask is empty
        if there is None:
            none = np.zeros(len(target.shown), bool)
            chosen = draw_negatives(target.shown, none, self.count, random)
            given = target.candidates[chosen]
        else:
            chosen = draw_negatives(
                target.usable[there], target.hard[there], self.count - 1, random
            )
            given = np.concatenate((target.objects[[there]], target.candidates[chosen]))
        if not len(chosen):
            return None  # nothing to compare with
        return MatchClip(
            torch.from_numpy(query.tokens), torch.from_numpy(target.tokens),
            torch.from_numpy(query.objects[own]), torch.from_numpy(given),
            torch.tensor(-1 if there is None else 0),
        )  # fmt: skip


def sought(take: Take, query: str, target: str) -> list[tuple[str, int]]:
    """Objects and frames with a query mask for which presence in the target view is known.

    It is unknown where the file has null for the target's mask.
    """
    frames = annotated_frames(take, query, target)
    names = [
        name
        for name in take.objects
        if take.mask_frames(name, query) and take.mask_frames(name, target)
    ]
    asked, there = (visible(take, names, camera, frames) for camera in (query, target))
    return [
        (names[i], frames[j])
        for i, j in np.argwhere(asked)
        if there[i, j] or not take.annotated(names[i], target, frames[j])
    ]


def stack_matches(clips: Sequence[MatchClip]) -> tuple[Tensor, ...]:
    """The tensors of all clips in a flat tuple, because their grids and counts may differ."""
    return tuple(tensor for clip in clips for tensor in clip.tensors)


def unstack_matches(batch: Sequence[Tensor]) -> list[MatchClip]:
    """The clips that were passed to :func:`stack_matches`."""
    rows = zip(*(batch[i::5] for i in range(5)), strict=True)
    return [MatchClip(q, t, asked, given, true) for q, t, asked, given, true in rows]
