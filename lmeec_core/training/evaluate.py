"""Scores on simulated scenes: single frames in batches, and clips through the tracker itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmeec_core.config import MemoryConfig
from lmeec_core.evaluation.metrics import contour_accuracy, iou
from lmeec_core.evaluation.scenes import DIRECTIONS, qualifies
from lmeec_core.model import LMEEC
from lmeec_core.model.guided import Guide, full_size, guides
from lmeec_core.model.mask_decoder import Decoded
from lmeec_core.preprocessing import normalise
from lmeec_core.training.forward import forward_frame
from lmeec_core.training.store import SceneStore
from lmeec_core.training.tracking import Answer, Job, Report, each_scene, track_scene


class Row(NamedTuple):
    """One object in one target view on one frame."""

    direction: int  # 0 ego to exo, 1 exo to ego
    query_area: float  # pixels
    target_area: float
    iou: float  # of the mask before the presence rule (pairs) or of the shown mask (tracker)
    contour: float  # NaN where not measured
    presence_logit: float


def balanced_accuracy(rows: list[Row], threshold: float = 0.0) -> float:
    """Mean of the shares of present and of absent objects that are judged rightly.

    Of rows of both directions it is the mean of the two, however few absent objects one has; NaN
    without rows.
    """
    sides = []
    for direction in range(len(DIRECTIONS)):
        mine = [r for r in rows if r.direction == direction]
        right = [
            [(r.presence_logit > threshold) == there for r in mine if (r.target_area > 0) == there]
            for there in (True, False)
        ]
        if mine:
            sides.append(np.mean([np.mean(s) for s in right if s]))
    return float(np.mean(sides)) if sides else float("nan")


def summary(rows: list[Row]) -> dict[str, float]:
    """IoU and contour accuracy of present objects, and existence, per direction."""
    result: dict[str, float] = {}
    for number, name in enumerate(DIRECTIONS):
        mine = [r for r in rows if r.direction == number]
        present = [r for r in mine if r.target_area > 0]
        result[f"{name} iou"] = (
            float(np.mean([r.iou for r in present])) if present else float("nan")
        )
        contours = [r.contour for r in present if not np.isnan(r.contour)]
        if contours:
            result[f"{name} contour"] = float(np.mean(contours))
        result[f"{name} existence"] = balanced_accuracy(mine)
        result[f"{name} present"] = len(present)
        result[f"{name} absent"] = len(mine) - len(present)
    return result


def by_area(rows: list[Row]) -> dict[str, dict[str, float]]:
    """IoU of present objects by their area in the target view, in pixels."""
    edges = (30, 75, 150, 300, 600, 1e9)
    result: dict[str, dict[str, float]] = {}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        mine = [r.iou for r in rows if low <= r.target_area < high]
        name = f"{low:g}-{high:g}" if high < 1e9 else f"over {low:g}"
        result[name] = {"iou": float(np.mean(mine)) if mine else float("nan"), "count": len(mine)}
    return result


def scores(rows: list[Row]) -> dict[str, Any]:
    """All numbers of an evaluation: overall, by area, and the share of masks on something else."""
    present = [row.iou for row in rows if row.target_area > 0]
    missed = sum(value < 0.1 for value in present) / max(1, len(present))
    return {"all": summary(rows), "by target area": by_area(rows), "missed": missed}


def best_threshold(rows: list[Row], slack: float = 0.01) -> float:
    """Lowest presence logit whose balanced accuracy is within ``slack`` of the best.

    Where accuracy hardly differs, the lower one shows more masks, which costs less IoU.
    """
    values = np.unique(np.quantile([r.presence_logit for r in rows], np.linspace(0, 1, 201)))
    accuracy = np.array([balanced_accuracy(rows, float(v)) for v in values])
    return float(values[accuracy >= accuracy.max() - slack][0])


def queries(store: SceneStore, scenes: int, step: int) -> Iterator[tuple[int, ...]]:
    """(scene, frame, query camera, target camera, label) of everything that counts."""
    for scene in range(min(scenes, store.count)):
        for frame in range(scene % step, store.frames, step):
            area = [store.scene(scene).area(frame, camera) for camera in range(store.cameras)]
            for exo in range(1, store.cameras):
                for query, target in ((0, exo), (exo, 0)):
                    for label, pair in enumerate(zip(area[query], area[target], strict=True)):
                        if label and qualifies(*pair):
                            yield scene, frame, query, target, label


class _Batch(NamedTuple):
    """Single frames that were computed together: R pairs of views, n objects each."""

    places: list[tuple[tuple[int, ...], list[int]]]
    """(scene, frame, query camera, target camera) and the labels that count."""
    decoded: Decoded
    """R * n correspondences, row by row, before the presence rule."""
    guides: list[Guide | None]
    """Of the R target views."""
    truth: Tensor
    """(R, n, S, S) bool masks in the target views."""


@torch.no_grad()
def _single_frames(
    model: LMEEC, store: SceneStore, scenes: int, step: int, batch: int | None, per_view: int
) -> Iterator[_Batch]:
    model.eval()
    if batch is None:
        batch = 4 if model.device.type == "cpu" else 32
    groups: dict[tuple[int, ...], list[int]] = {}
    for *place, label in queries(store, scenes, step):
        groups.setdefault(tuple(place), []).append(label)
    jobs = [
        (place, labels[i : i + per_view])
        for place, labels in groups.items()
        for i in range(0, len(labels), per_view)
    ]
    device, size = model.device, model.config.image_size
    for start in range(0, len(jobs), batch):
        part = jobs[start : start + batch]
        wanted = torch.tensor([g + [0] * (per_view - len(g)) for _, g in part], device=device)
        packed = [
            store.scene(place[0]).packed[place[1], place[view]]
            for view in (2, 3)  # the query views, then the target views
            for place, _ in part
        ]
        views = torch.from_numpy(np.stack(packed)).to(device)
        images = views[..., :3].permute(0, 3, 1, 2).float() / 255
        masks = (
            views[..., 3][:, None] == torch.cat((wanted, wanted))[..., None, None].byte()
        ).float()
        if store.size != size:
            images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
            masks = (
                F.interpolate(masks, size=(size, size), mode="bilinear", antialias=True) >= 0.5
            ).float()
        count, images = len(part), normalise(images)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            features = model.encode_images(images)
            first, second = features.map(lambda x: x[:count]), features.map(lambda x: x[count:])  # noqa: B023
            decoded = forward_frame(
                model, first, second, masks[:count], per_view, fusion=None
            ).decoded
        yield _Batch(part, decoded, guides(model.config, images[count:]), masks[count:] > 0)


def _shown(batch: _Batch, bias: float = 0.0) -> Tensor:
    """(R, n, S, S) masks as the tracker would show them, were all objects judged present."""
    rows, per_view, size = batch.truth.shape[:3]
    logits = batch.decoded.logits.float() + bias
    full = torch.stack(
        [full_size(x, (size, size), batch.guides[i // per_view]) for i, x in enumerate(logits)]
    )
    return (full > 0).unflatten(0, (rows, per_view))


def _overlap(found: Tensor, truth: Tensor) -> Tensor:
    """IoU of masks (..., S, S), 0 where both are empty."""
    return (found & truth).sum(dim=(-2, -1)) / (found | truth).sum(dim=(-2, -1)).clamp_min(1)


def evaluate_pairs(
    model: LMEEC,
    store: SceneStore,
    scenes: int,
    step: int = 1,
    batch: int | None = None,
    per_view: int = 4,
) -> list[Row]:
    """Single frames without memory, in batches; every ``step``-th frame of the first scenes.

    ``batch`` is the number of view pairs computed together: 32 on a GPU, 4 on a CPU by default,
    where larger tensors only cost page faults (a quarter more processor time with 32).
    """
    rows: list[Row] = []
    for part in _single_frames(model, store, scenes, step, batch, per_view):
        score = _overlap(_shown(part), part.truth).tolist()
        presence = part.decoded.presence_logit.unflatten(0, (-1, per_view)).tolist()
        for i, ((scene, frame, query, target), labels) in enumerate(part.places):
            area = [store.scene(scene).area(frame, camera) for camera in (query, target)]
            for j, label in enumerate(labels):
                rows.append(
                    Row(int(query > 0), float(area[0][label]), float(area[1][label]), score[i][j],
                        float("nan"), presence[i][j])
                )  # fmt: skip
    return rows


def best_mask_bias(model: LMEEC, store: SceneStore, scenes: int, step: int = 4) -> float:
    """What to add to the mask logits for the best mean IoU of present objects, -0.4 .. 1.4.

    The losses put the border of a doubtful mask elsewhere than IoU does.
    """
    sums = dict.fromkeys((round(0.2 * i, 1) for i in range(-2, 8)), 0.0)
    for part in _single_frames(model, store, scenes, step, None, 4):
        there = part.truth.flatten(2).any(dim=2)
        for bias in sums:
            sums[bias] += float((_overlap(_shown(part, bias), part.truth) * there).sum())
    return max(sums, key=lambda bias: sums[bias])


def evaluate_tracker(
    model: LMEEC,
    store: SceneStore,
    scenes: int,
    memory: MemoryConfig | None = None,
    report: Report = lambda done, total: None,
) -> list[Row]:
    """Clips through :class:`CorrespondenceTracker`, both directions, all objects at once.

    IoU and contour are of the shown mask, so an object wrongly judged absent scores 0. Each
    core works on scenes of its own.

    Args:
        model, store: the network and the scenes.
        scenes: use the first so many.
        memory: see :class:`lmeec_core.MemoryConfig`.
        report: called with the number of scenes done and their total.

    Raises:
        RuntimeError: a process failed; says why.
    """
    rows = each_scene(_score_scene, model, store, scenes, memory, report=report)
    return [row for own in rows for row in own]


def _score(answer: Answer) -> Row:
    score = contour = float("nan")
    if answer.target_area:
        mask = answer.found.mask()
        score, contour = iou(mask, answer.truth), contour_accuracy(mask, answer.truth)
    return Row(
        int(answer.query > 0),
        answer.query_area,
        answer.target_area,
        score,
        contour,
        answer.found.presence_logit,
    )


def _score_scene(model: LMEEC, job: Job) -> list[Row]:
    return [_score(one) for step in track_scene(model, job) for one in step if one.counts]


def shift_presence(model: LMEEC, threshold: float) -> None:
    """Move the presence logits of a network with matching so that ``threshold`` becomes 0."""
    assert model.matching is not None
    last = model.matching.verification.mlp.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias.sub_(threshold)


def shift_masks(model: LMEEC, bias: float) -> None:
    """Add to the mask logits of a network with matching."""
    own = model.sam_mask_decoder.mask_bias
    assert own is not None
    with torch.no_grad():
        own.add_(bias)
