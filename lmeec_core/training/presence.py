"""The last part of training: the presence verdict on what the tracker itself finds.

Losses on batches of crops teach the network to judge presence only roughly. Here the trained
network tracks whole scenes, with its memory, and :class:`Verification` alone is fitted to what it
sees there. They are scenes of their own: in those it was trained on, the network is surer than it
will be elsewhere.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmeec_core.compact import CompactLMEEC
from lmeec_core.compact.verification import EVIDENCE_SIZE, Verification
from lmeec_core.config import Precision
from lmeec_core.model import LMEEC
from lmeec_core.training.store import SceneStore
from lmeec_core.training.tracking import Job, Report, each_scene, track_scene

logger = logging.getLogger(__name__)

FRAMES = 2
"""Frames of each scene: one without memory, one with."""
_EPOCHS, _BATCH, _RATE, _DECAY, _SMOOTHING = 15, 256, 4e-3, 0.02, 0.02
_DROPOUT = (0.2, 0.3)  # of the figures, of the layers between


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
        for answers in track_scene(model, job):
            if not answers:
                continue
            seen, logit = inputs.pop()
            facts = torch.tensor([[float(a.query > 0), float(a.target_area > 0)] for a in answers])
            counts = torch.tensor([a.counts for a in answers])
            rows.append(torch.cat((seen, logit[:, None], facts), dim=1)[counts])
    finally:
        hook.remove()
    return torch.cat([_NONE, *rows])


def _weights(direction: Tensor, present: Tensor) -> Tensor:
    """Weights by which each direction, and present and absent in each, count alike; mean 1."""
    group = (2 * direction + present).long()
    count = torch.bincount(group, minlength=4).float()
    return (len(group) / (count > 0).sum() / count.clamp_min(1))[group]


def _fit(verification: Verification, rows: Tensor, seed: int) -> None:
    """Fit to rows of :func:`_observe`; in place."""
    seen = rows[:, :-3]
    logit, direction, present = rows[:, -3:].unbind(1)
    mean, scale = seen.mean(dim=0), seen.std(dim=0) + 1e-3
    weight = _weights(direction, present)
    target = present * (1 - 2 * _SMOOTHING) + _SMOOTHING
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = Verification().train().requires_grad_(True)
        optimizer = torch.optim.AdamW(fresh.parameters(), _RATE, weight_decay=_DECAY)
        steps = _EPOCHS * max(1, len(rows) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps + 1)
        for _ in range(steps):
            index = torch.randint(len(rows), (min(_BATCH, len(rows)),))
            x = F.dropout((seen[index] - mean) / scale, _DROPOUT[0])
            for layer in fresh.mlp.layers[:-1]:
                x = F.dropout(layer(x).relu(), _DROPOUT[1])
            verdict = logit[index] + fresh.mlp.layers[-1](x)[:, 0]
            losses = F.binary_cross_entropy_with_logits(verdict, target[index], reduction="none")
            optimizer.zero_grad()
            (losses * weight[index]).mean().backward()
            optimizer.step()
            schedule.step()
    first = fresh.mlp.layers[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():  # the layer takes figures as they are from now on
        first.weight.div_(scale)
        first.bias.sub_(first.weight @ mean)
    verification.load_state_dict(fresh.state_dict())


def fit_presence(
    model: LMEEC,
    store: SceneStore,
    scenes: int,
    seed: int = 0,
    precision: Precision = "fp32",
    report: Report = lambda done, total: None,
) -> dict[str, Any]:
    """Fit the verification of a network with matching; nothing else of it changes.

    Args:
        model: the network.
        store: scenes that the network was not trained on.
        scenes: use the first so many.
        seed: of start values and sampling.
        precision: see :func:`each_scene`.
        report: called with the number of scenes done and their total.

    Returns:
        numbers of scenes and of correspondences; empty where none were there to fit to.
    """
    assert isinstance(model, CompactLMEEC)
    found = each_scene(
        _observe, model, store, scenes, frames=FRAMES, precision=precision, report=report
    )
    rows = torch.cat([_NONE, *found])
    if len(rows) < 2:
        logger.warning("presence: no correspondences in %d scenes, verdict left as it is", scenes)
        return {}
    _fit(model.matching.verification, rows, seed)
    numbers = {"scenes": len(found), "correspondences": len(rows),
               "absent": int((rows[:, -1] == 0).sum())}  # fmt: skip
    logger.info("presence: fitted to %s", numbers)
    return numbers
