"""The last part of training: fits the presence verdict to the tracker's own output.

Losses on batches of crops teach the network to judge presence only roughly. Here the trained
network tracks whole scenes, and only :class:`Verification` is fitted, to what it sees on frames
with full memory banks, since most frames in use have full banks. The scenes are not training
scenes: on those the network is more confident than it will be elsewhere. The verdict uses only a
few figures, each clamped to the range it had on these scenes.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.compact import CompactLMEEC
from lmeec_core.compact.verification import EVIDENCE_SIZE, Verification
from lmeec_core.config import MemoryConfig, Precision
from lmeec_core.errors import InputError
from lmeec_core.model import LMEEC
from lmeec_core.training.store import SceneStore
from lmeec_core.training.tracking import Job, Report, each_scene, track_scene

logger = logging.getLogger(__name__)

FULL = MemoryConfig().capacity
"""Number of frames after which the banks are full."""
FIGURES = (
    0, 1, 2, 4, 5, 6, 7, 9, 11, 17, 18, 19, 21, 22, 23,
    27, 28, 29, 30, 33, 35, 40, 43, 44, 45, 47, 48, 50, 51, 54, 57, 61,
)  # fmt: skip
"""The figures that the verdict uses, as columns of
:func:`~lmeec_core.compact.verification.presence_evidence`. Each needs two units of the first layer,
which leaves no room for more. Eight were set beforehand: similarity of the best place and of the
runner-up, predicted IoU, ratio of the areas, borders of both masks, the share of the object that is
matched back to itself, and the share that is matched near the find. The others are those whose
permutation costs the most on scenes left out of the fit; the eight alone are too few
(docs/results.md)."""
_CUT = 0.005  # quantile of a figure's values at each of its bounds
_EPOCHS, _BATCH, _RATE, _DECAY, _SMOOTHING = 15, 256, 4e-3, 0.02, 0.02
_DROPOUT = (0.1, 0.2)  # on the figures, on the hidden layer


_NONE = torch.empty(0, EVIDENCE_SIZE + 3)


def _observe(model: LMEEC, job: Job) -> Tensor:
    """(n, EVIDENCE_SIZE + 3): evidence, presence logit before verification, direction, presence."""
    assert isinstance(model, CompactLMEEC)
    inputs: list[tuple[Tensor, Tensor]] = []
    hook = model.matching.verification.register_forward_pre_hook(
        lambda module, given: inputs.append((given[0].float().cpu(), given[1].float().cpu()))
    )
    rows = []
    try:
        for number, answers in enumerate(track_scene(model, job)):
            if not answers:
                continue
            seen, logit = inputs.pop()
            if number % job.frames < FULL:  # counts anew for each query camera
                continue
            facts = torch.tensor([[float(a.query > 0), float(a.target_area > 0)] for a in answers])
            counts = torch.tensor([a.counts for a in answers])
            rows.append(torch.cat((seen, logit[:, None], facts), dim=1)[counts])
    finally:
        hook.remove()
    return torch.cat([_NONE, *rows])


def _weights(direction: Tensor, present: Tensor) -> Tensor:
    """Weights that balance directions, and present and absent objects in each; mean 1."""
    group = (2 * direction + present).long()
    count = torch.bincount(group, minlength=4).float()
    return (len(group) / (count > 0).sum() / count.clamp_min(1))[group]


def _fit(verification: Verification, rows: Tensor, seed: int) -> None:
    """Fit the verification in place to rows of :func:`_observe`."""
    seen = rows[:, list(FIGURES)]
    logit, direction, present = rows[:, -3:].unbind(1)
    bounds = torch.stack([_quantile(seen, q) for q in (_CUT, 1 - _CUT)])
    seen = seen.clamp(*bounds)
    mean, scale = seen.mean(dim=0), seen.std(dim=0) + 1e-3
    weight = _weights(direction, present)
    target = present * (1 - 2 * _SMOOTHING) + _SMOOTHING
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = _layers(verification)[1].out_features
        hidden, last = nn.Linear(len(FIGURES), width), nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        parameters = [*hidden.parameters(), *last.parameters()]
        optimizer = torch.optim.AdamW(parameters, _RATE, weight_decay=_DECAY)
        steps = _EPOCHS * max(1, len(rows) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps + 1)
        for _ in range(steps):
            index = torch.randint(len(rows), (min(_BATCH, len(rows)),))
            x = F.dropout((seen[index] - mean) / scale, _DROPOUT[0])
            x = F.dropout(hidden(x).relu(), _DROPOUT[1])
            verdict = logit[index] + last(x)[:, 0]
            losses = F.binary_cross_entropy_with_logits(verdict, target[index], reduction="none")
            optimizer.zero_grad()
            (losses * weight[index]).mean().backward()
            optimizer.step()
            schedule.step()
    _write(verification, bounds, mean, scale, hidden, last)


def _layers(verification: Verification) -> list[nn.Linear]:
    return cast(list[nn.Linear], list(verification.mlp.layers))


@torch.no_grad()
def _write(
    verification: Verification,
    bounds: Tensor,
    mean: Tensor,
    scale: Tensor,
    hidden: nn.Linear,
    last: nn.Linear,
) -> None:
    """Write the two fitted layers and the clamping of the figures into the three layers.

    A figure x clamped to its bounds is low + relu(x - low) - relu(x - high): two units of the first
    layer, whose difference the second layer takes.
    """
    first, second, third = layers = _layers(verification)
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    for i, column in enumerate(FIGURES):
        first.weight[2 * i : 2 * i + 2, column] = 1
        first.bias[2 * i : 2 * i + 2] = -bounds[:, i]
    used = slice(0, 2 * len(FIGURES), 2), slice(1, 2 * len(FIGURES), 2)
    second.weight[:, used[0]], second.weight[:, used[1]] = (
        hidden.weight / scale,
        -hidden.weight / scale,
    )
    second.bias.copy_(hidden.bias + hidden.weight @ ((bounds[0] - mean) / scale))
    third.weight.copy_(last.weight)
    third.bias.copy_(last.bias)


def _quantile(values: Tensor, q: float) -> Tensor:
    """Quantile q of each column; torch.quantile is limited to 16 million values."""
    rank = round(q * (len(values) - 1))
    return values.kthvalue(rank + 1, dim=0).values


def check_length(frames: int, where: str) -> None:
    """Raise InputError if scenes of ``frames`` frames are too short to fill the banks."""
    if frames <= FULL:
        raise InputError(
            f"{where}: {frames} frames given, more than {FULL} without a jump in time expected: "
            "the verdict on presence is fitted to full banks; render longer scenes, or set "
            "presence_scenes to 0, which leaves the verdict as it is"
        )


def fit_presence(
    model: LMEEC,
    store: SceneStore,
    scenes: int,
    seed: int = 0,
    precision: Precision = "fp32",
    report: Report = lambda done, total: None,
) -> dict[str, Any]:
    """Fit the verification of a network with matching; nothing else in the network changes.

    Args:
        model: the network.
        store: scenes that the network was not trained on, with more than :data:`FULL` frames.
        scenes: how many to use, from the first.
        seed: for initial values and sampling.
        precision: see :func:`each_scene`.
        report: called with the number of scenes done and the total.

    Returns:
        numbers of scenes, correspondences and absent ones; empty if there were none to fit to.

    Raises:
        InputError: the scenes are too short.
    """
    assert isinstance(model, CompactLMEEC)
    if store.count:
        check_length(store.run, str(store.folder))
    found = each_scene(_observe, model, store, scenes, precision=precision, report=report)
    rows = torch.cat([_NONE, *found])
    if len(rows) < 2:
        logger.warning("presence: no correspondences in %d scenes, verdict left as it is", scenes)
        return {}
    _fit(model.matching.verification, rows, seed)
    numbers = {"scenes": len(found), "correspondences": len(rows),
               "absent": int((rows[:, -1] == 0).sum())}  # fmt: skip
    logger.info("presence: fitted to %s", numbers)
    return numbers
