"""Trains and scores one variant of the space-time network; both can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lmeec_core.config import Fusion
from lmeec_core.errors import InputError
from lmeec_core.evaluation.metrics import mask_metrics
from lmeec_core.experiments.space_time.network import SpaceTime
from lmeec_core.experiments.space_time.scenes import Clip, clip_of, describe
from lmeec_core.files import replacing, write_text
from lmeec_core.model import LMEEC
from lmeec_core.takes.json_file import read_json
from lmeec_core.training.losses import dice_loss, point_loss
from lmeec_core.training.optimizer import cosine
from lmeec_core.training.store import Scene, SceneStore

OBJECTS = 2
"""Maximum number of objects per training clip."""
RATE, WARM_UP = 2e-3, 20
SAVED = 25
"""Number of steps between checkpoints."""


@dataclass(frozen=True)
class Run:
    """One variant with one seed.

    Attributes:
        fusion, seed, steps: what to train, and how long.
        batch: clips per step.
        width: width of the network.
    """

    fusion: Fusion
    seed: int
    steps: int
    batch: int = 2
    width: int = 32

    @property
    def name(self) -> str:
        """Stem of the run's file names."""
        return f"{self.fusion}_{self.seed}_{self.steps}"


def build(run: Run, model: LMEEC) -> SpaceTime:
    """The initial network of a run, for a model's features."""
    assert model.config.matching is not None
    middle = model.config.hidden_dim // 4  # the trunk's width as reduced for the mask decoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return SpaceTime(
            model.config.hidden_dim, model.config.matching.dim, middle, run.fusion, run.width
        )


def draw(store: SceneStore, model: LMEEC, features: Path, random: np.random.Generator) -> Clip:
    """A clip of a random scene, direction and exo camera."""
    while True:
        scene = store.scene(int(random.integers(store.count)))
        cameras = [0, int(random.integers(1, store.cameras))]
        query, target = cameras if random.random() < 0.5 else cameras[::-1]
        clip = clip_of(scene, describe(scene, model, features), query, target, OBJECTS, random)
        if clip is not None:
            return clip


def clip_loss(logits: Tensor, clip: Clip) -> Tensor:
    """Cross-entropy around the objects, and dice loss of present ones; logits (F, B, 2g, 2g).

    Objects that are not scored on a frame (see :class:`Clip`) are ignored.
    """
    found, truth = logits[clip.counts], clip.truth[clip.counts]
    there = truth.flatten(1).sum(dim=1) > 0
    loss = point_loss(found, truth).mean()
    return loss + dice_loss(found[there], truth[there]).mean() if there.any() else loss


def train(run: Run, store: SceneStore, model: LMEEC, work: Path) -> Iterator[dict[str, float]]:
    """Train a variant, or resume its training; yields the loss of each step.

    A step's clips depend only on the seed and the step, so all variants see the same clips.
    """
    network = build(run, model)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.01)
    saved, step = work / f"{run.name}.pt", 0
    if saved.is_file():
        state = torch.load(saved, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    network.train()
    while step < run.steps:
        random = np.random.default_rng([run.seed, step])
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_UP) * cosine(step / run.steps, 0.02)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for _ in range(run.batch):
            clip = draw(store, model, work / "features", random)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(random.integers(1 << 31)))
                loss = clip_loss(network(*clip.seen, clip.masks), clip) / run.batch
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        step += 1
        if step % SAVED == 0 or step == run.steps:
            state = {
                "network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
            }  # fmt: skip
            with replacing(saved) as partial:
                torch.save(state, partial)
        yield {"step": step, "loss": total}


@torch.inference_mode()
def score(run: Run, store: SceneStore, model: LMEEC, work: Path) -> list[dict[str, Any]]:
    """Score a trained run; results are stored beside the weights.

    Returns units as read by :mod:`lmeec_core.experiments.ablation.statistics`: one per scene, exo
    camera and direction, with all scored objects from the second frame on (on the first frame there
    is no memory, so nothing to fuse).

    Raises:
        InputError: the run is not complete.
    """
    path, saved = work / f"{run.name}.json", work / f"{run.name}.pt"
    facts = {"run": asdict(run), "scenes": [file.stem for file in store.paths]}
    if path.is_file() and (kept := read_json(path))["facts"] == facts:
        return kept["units"]
    state: dict[str, Any] = {"step": 0}
    if saved.is_file():
        state = torch.load(saved, weights_only=True)
    if state["step"] != run.steps:
        raise InputError(f"{saved}: {state['step']} steps trained, {run.steps} expected")
    network = build(run, model).eval()
    network.load_state_dict(state["network"])
    units = []
    for number in range(store.count):
        scene = store.scene(number)
        features = describe(scene, model, work / "features")
        pairs = [pair for exo in range(1, store.cameras) for pair in ((0, exo), (exo, 0))]
        for clip in (clip_of(scene, features, *pair) for pair in pairs):
            if clip is not None:
                logits = network(*clip.seen, clip.masks)
                large = F.interpolate(logits, (store.size, store.size), mode="bilinear")
                units.append({"seed": run.seed, **_unit(clip, large.numpy() > 0, scene)})
    write_text(path, json.dumps({"facts": facts, "units": units}))
    return units


def _unit(clip: Clip, masks: NDArray[np.bool_], scene: Scene) -> dict[str, Any]:
    """Scores of a clip's masks (F, B, S, S) in the target view."""
    unit: dict[str, Any] = {"take": clip.scene, "query": clip.query}
    unit |= {name: [] for name in ("iou", "location", "contour", "existing", "predicted")}
    for frame, i in torch.nonzero(clip.counts[1:]).tolist():
        mask = masks[frame + 1, i]
        truth = scene.labels(frame + 1, clip.target) == clip.labels[i]
        unit["existing"].append(bool(truth.any()))
        unit["predicted"].append(bool(mask.any()))
        if truth.any():
            found = mask_metrics(mask, truth)
            for name in ("iou", "location", "contour"):
                unit[name].append(getattr(found, name))
    return unit
