"""Scores on simulated scenes: of single frames, and of clips run through the tracker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmeec_core.compact import CompactLMEEC
from lmeec_core.config import MemoryConfig
from lmeec_core.evaluation.metrics import contour_accuracy, iou
from lmeec_core.evaluation.scenes import DIRECTIONS, qualifies
from lmeec_core.guided_filter import Guide, full_size, guides
from lmeec_core.model import LMEEC
from lmeec_core.model.mask_decoder import Decoded
from lmeec_core.preprocessing import prepare_images, prepare_masks
from lmeec_core.training.forward import forward_frame
from lmeec_core.training.store import Scene, SceneStore
from lmeec_core.training.tracking import Answer, Job, Report, each_scene, track_scene

SLACK = 0.005
"""IoU by which an offset to the mask logits may miss the best one."""


class Row(NamedTuple):
    """One object in one target view on one frame."""

    direction: int  # 0 ego to exo, 1 exo to ego
    query_area: float  # pixels
    target_area: float
    iou: float  # of the mask before the presence rule (pairs) or of the shown mask (tracker)
    contour: float  # NaN where not measured
    presence_logit: float


def balanced_accuracy(rows: list[Row], threshold: float = 0.0) -> float:
    """Mean of the shares of present and of absent objects that are classified correctly.

    With rows of both directions it is the mean over the two, however few absent objects one of
    them has. NaN without rows.
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
    """IoU and contour accuracy of present objects, and existence accuracy, per direction."""
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
    """IoU of present objects, grouped by their area in the target view, in pixels."""
    edges = (30, 75, 150, 300, 600, 1e9)
    result: dict[str, dict[str, float]] = {}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        mine = [r.iou for r in rows if low <= r.target_area < high]
        name = f"{low:g}-{high:g}" if high < 1e9 else f"over {low:g}"
        result[name] = {"iou": float(np.mean(mine)) if mine else float("nan"), "count": len(mine)}
    return result


def scores(rows: list[Row]) -> dict[str, Any]:
    """All scores of an evaluation: overall, by area, and the share of present objects missed."""
    present = [row.iou for row in rows if row.target_area > 0]
    missed = sum(value < 0.1 for value in present) / max(1, len(present))
    return {"all": summary(rows), "by target area": by_area(rows), "missed": missed}


def best_threshold(rows: list[Row], slack: float = 0.01) -> float:
    """Lowest threshold on the presence logit with a balanced accuracy within ``slack`` of the best.

    If the accuracy is nearly the same, a lower threshold shows more masks and costs less IoU.
    """
    values = np.unique(np.quantile([r.presence_logit for r in rows], np.linspace(0, 1, 201)))
    accuracy = np.array([balanced_accuracy(rows, float(v)) for v in values])
    return float(values[accuracy >= accuracy.max() - slack][0])


class Views(NamedTuple):
    """A pair of views of one frame of a scene, and the objects that are scored in it."""

    scene: Scene
    frame: int
    query: int
    target: int
    labels: list[int]

    def area(self, camera: int) -> list[float]:
        """Visible pixels of the objects in a view."""
        found = self.scene.area(self.frame, camera)
        return [float(found[label]) for label in self.labels]

    def masks(self, camera: int) -> list[NDArray[np.bool_]]:
        """The objects' masks in a view."""
        labels = self.scene.labels(self.frame, camera)
        return [labels == label for label in self.labels]


def pairs(store: SceneStore, scenes: int, step: int) -> Iterator[Views]:
    """Every ``step``-th frame of the first scenes in both directions, if any object is scored."""
    for number in range(min(scenes, store.count)):
        scene = store.scene(number)
        for frame in range(number % step, store.frames, step):
            area = [scene.area(frame, camera) for camera in range(store.cameras)]
            for exo in range(1, store.cameras):
                for query, target in ((0, exo), (exo, 0)):
                    both = enumerate(zip(area[query], area[target], strict=True))
                    labels = [label for label, pair in both if label and qualifies(*pair)]
                    if labels:
                        yield Views(scene, frame, query, target, labels)


@torch.no_grad()
def decode(model: LMEEC, views: Views) -> tuple[Decoded, Guide | None, Tensor]:
    """Find the objects from this frame alone, without memory.

    Returns:
        the correspondences before the presence rule, the guide for fitting their masks to the
        target view (or None), and the true masks (n, S, S) bool.
    """
    model.eval()
    device, size, cameras = model.device, model.config.image_size, (views.query, views.target)
    images = prepare_images([views.scene.image(views.frame, c) for c in cameras], size, device)
    masks, truth = (prepare_masks(views.masks(c), size, device) for c in cameras)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        features = model.encode_images(images)
        query, target = features.map(lambda x: x[:1]), features.map(lambda x: x[1:])
        step = forward_frame(model, query, target, masks[None], len(masks), fusion=None)
    return step.decoded, guides(model.config, images[1:])[0], truth > 0


def _overlap(decoded: Decoded, guide: Guide | None, truth: Tensor, bias: float = 0.0) -> Tensor:
    """IoU (n,) of the masks that the tracker would show if it judged all objects present."""
    size = (truth.shape[1], truth.shape[2])
    logits = decoded.logits.float() + bias
    found = torch.stack([full_size(one, size, guide) for one in logits]) > 0
    return (found & truth).sum(dim=(1, 2)) / (found | truth).sum(dim=(1, 2)).clamp_min(1)


def evaluate_pairs(model: LMEEC, store: SceneStore, scenes: int, step: int = 1) -> list[Row]:
    """Score single frames without memory: every ``step``-th frame of the first scenes."""
    rows: list[Row] = []
    for views in pairs(store, scenes, step):
        decoded, guide, truth = decode(model, views)
        numbers = (
            views.area(views.query), views.area(views.target),
            _overlap(decoded, guide, truth).tolist(), decoded.presence_logit.tolist(),
        )  # fmt: skip
        rows += [
            Row(int(views.query > 0), asked, there, score, float("nan"), presence)
            for asked, there, score, presence in zip(*numbers, strict=True)
        ]
    return rows


def best_mask_bias(model: LMEEC, store: SceneStore, scenes: int, step: int = 4) -> float:
    """Offset to the mask logits: the smallest whose mean IoU is close to the best, -0.4 .. 1.4.

    For an uncertain mask, the border that minimises the losses is not the one that maximises IoU.
    Only present objects count. Offsets within :data:`SLACK` of the best are taken as equally good:
    on simulated scenes large ones gain next to nothing, on photographs they lose points
    (docs/results.md). The offset is 0 if no object is present.
    """
    sums = dict.fromkeys((round(0.2 * i, 1) for i in range(-2, 8)), 0.0)
    count = 0
    for views in pairs(store, scenes, step):
        decoded, guide, truth = decode(model, views)
        present = truth.flatten(1).any(dim=1)
        count += int(present.sum())
        for bias in sums:
            sums[bias] += float((_overlap(decoded, guide, truth, bias) * present).sum())
    enough = max(sums.values()) - SLACK * count
    return min(bias for bias in sums if sums[bias] >= enough) if count else 0.0


def evaluate_tracker(
    model: LMEEC,
    store: SceneStore,
    scenes: int,
    memory: MemoryConfig | None = None,
    report: Report = lambda done, total: None,
) -> list[Row]:
    """Score clips run through :class:`CorrespondenceTracker`, both directions, all objects at once.

    IoU and contour accuracy are those of the shown mask, so an object wrongly judged absent scores
    0. Each core works on separate scenes.

    Args:
        model, store: the network and the scenes.
        scenes: how many to use, from the first.
        memory: see :class:`lmeec_core.MemoryConfig`.
        report: called with the number of scenes done and the total.

    Raises:
        ExplainedError: a process failed; says why.
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
    assert isinstance(model, CompactLMEEC)
    last = model.matching.verification.mlp.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias.sub_(threshold)


def shift_masks(model: LMEEC, bias: float) -> None:
    """Add ``bias`` to the mask logits of a network with matching."""
    assert isinstance(model, CompactLMEEC)
    with torch.no_grad():
        model.sam_mask_decoder.mask_bias.add_(bias)
