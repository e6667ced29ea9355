"""The training loss of O-MaMa's matcher, and its scores on validation takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lmeec_core.methods.conditions import cross_view_align
from lmeec_core.methods.omama.loss import contrastive_loss
from lmeec_core.methods.omama.match import embed_asked, embed_given
from lmeec_core.methods.omama.network import OMaMa
from lmeec_core.takes import DIRECTIONS, Take, TakeError, is_ego
from lmeec_core.training.match_clips import Direction, sought, unstack_matches
from lmeec_core.training.match_views import DescribedView, DescribedViews
from lmeec_core.training.recipe import Figures, StageLike


class MatchLoss(nn.Module):
    """The matcher with its loss; called by the training loop.

    Args:
        model: the matcher.
        temperature: divides the cosines.
        none: whether "none of them", with a cosine of 0, is a possible answer for visible objects
            too, so that the true mask must score above 0. In the published code it is not.
        align: weight of :func:`lmeec_core.methods.conditions.cross_view_align` on the compared
            embeddings of visible objects; O-MaMa does not have this term.
    """

    def __init__(self, model: OMaMa, temperature: float, none: bool, align: float = 0.0) -> None:
        super().__init__()
        self.model, self.temperature, self.none = model, temperature, none
        self.align = align

    def forward(self, stage: StageLike, total: Tensor, *batch: Tensor) -> tuple[Tensor, Figures]:
        """Loss and figures of clips; see :func:`lmeec_core.training.match_clips.stack_matches`."""
        losses, right, there, accepted = [], [], [], []
        for clip in unstack_matches(batch):
            asked = embed_asked(self.model, clip.asked[None].float(), clip.target.float())
            given = embed_given(self.model, clip.given.float(), clip.query.float())
            similarity = (asked @ given.T)[0]
            true = None if int(clip.true) < 0 else int(clip.true)
            losses.append(contrastive_loss(similarity, true, self.temperature, self.none))
            if self.align and true is not None:
                losses[-1] = losses[-1] + self.align * cross_view_align(asked, given[true][None])
            there.append(true is not None)
            right.append(int(similarity.argmax()) == true)
            accepted.append(bool(similarity.max() > 0) == (true is not None))
        loss = torch.stack(losses).sum()
        figures = {"loss": loss.detach()}
        for name, values in (("right", right), ("there", there), ("accepted", accepted)):
            figures[name] = loss.new_tensor(sum(values))
        figures["objects"] = loss.new_tensor(len(losses))
        return loss / total, figures


def compare(
    model: OMaMa, asked: Tensor, query: Tensor, given: Tensor, target: Tensor
) -> Tensor:  # fmt: skip
    """Cosines (M, N) of M objects and N candidates.

    Args:
        model: the matcher.
        asked, given: (M, 2C) and (N, 2C) descriptors.
        query, target: (C, h, w) tokens of the two views.
    """
    return embed_asked(model, asked, target) @ embed_given(model, given, query).T


class Choice(NamedTuple):
    """The matcher's choice for an object in one target view."""

    take: str
    ego: bool
    """Whether the query view is an ego view."""
    similarity: float
    """Similarity of the chosen candidate; -1 without candidates."""
    overlap: float | None
    """IoU of the chosen candidate with the true mask, 0 without candidates; None if the object is
    not in the view."""
    ceiling: float
    """IoU of the best candidate."""


@torch.inference_mode()
def choices(
    model: OMaMa, takes: Iterable[Path], views: DescribedViews, direction: Direction,
    errors: list[str],
) -> Iterator[Choice]:  # fmt: skip
    """The matcher's choices in all annotated frames of takes.

    Args:
        model: the matcher.
        takes: folders of the takes.
        views: descriptions of the images.
        direction: which views are query views.
        errors: takes that cannot be read are added to this list, one line each.
    """
    names = DIRECTIONS if direction == "both" else (direction,)
    device = next(model.parameters()).device
    for path in takes:
        try:
            take = Take.open(path)
            for name in names:
                for query, target in take.pairs(name):
                    frames: dict[int, list[str]] = {}
                    for one, frame in sought(take, query, target):
                        frames.setdefault(frame, []).append(one)
                    for frame, objects in frames.items():
                        seen = [views.view(path, camera, frame) for camera in (query, target)]
                        found = _chosen(model, seen[0], seen[1], objects, device)
                        for similarity, overlap, ceiling in found:
                            ego = is_ego(query)
                            yield Choice(take.path.name, ego, similarity, overlap, ceiling)
        except TakeError as error:
            errors.append(str(error))


def _chosen(
    model: OMaMa, query: DescribedView, target: DescribedView, objects: list[str],
    device: torch.device,
) -> list[tuple[float, float | None, float]]:  # fmt: skip
    """Similarity and overlap of each object's choice, and the best overlap of any candidate."""
    found = [(query.row(name), target.row(name)) for name in objects]
    rows = [(own, there) for own, there in found if own is not None]
    if not rows:
        return []
    shown = target.shown
    if not shown.any():
        return [(-1.0, None if there is None else 0.0, 0.0) for _, there in rows]

    def given(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device).float()

    similarity = compare(
        model, given(query.objects[[own for own, _ in rows]]), given(query.tokens),
        given(target.candidates), given(target.tokens),
    ).cpu()  # fmt: skip
    greatest, best = similarity.masked_fill(~torch.from_numpy(shown), -1.0).max(dim=1)
    return [
        (value, None, 0.0)
        if there is None
        else (value, float(target.overlap[there, i]), float(target.overlap[there].max()))
        for value, i, (_, there) in zip(greatest.tolist(), best.tolist(), rows, strict=True)
    ]


def scores(found: Iterable[Choice]) -> dict[str, float]:
    """Scores by direction: IoU of the chosen and of the best candidate, for present objects;
    balanced accuracy of presence (a similarity above 0)."""
    numbers: dict[str, float] = {}
    every = list(found)
    for name, ego in (("ego_to_exo", True), ("exo_to_ego", False)):
        mine = [c for c in every if c.ego == ego]
        there = [c for c in mine if c.overlap is not None]
        absent = [c for c in mine if c.overlap is None]
        if there:
            numbers[f"{name} iou"] = float(np.mean([c.overlap for c in there]))
            numbers[f"{name} best candidate"] = float(np.mean([c.ceiling for c in there]))
        if there and absent:
            shares = [np.mean([c.similarity > 0 for c in there]),
                      np.mean([c.similarity <= 0 for c in absent])]  # fmt: skip
            numbers[f"{name} existence"] = float(np.mean(shares))
    return numbers
