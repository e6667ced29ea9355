"""A unit of an ablation: one variant on one take from one query camera, scored and stored."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmeec_core.checkpoint import load_model
from lmeec_core.evaluation.live import track_take
from lmeec_core.evaluation.scores import Scores
from lmeec_core.experiments.ablation.variants import Variant
from lmeec_core.files import write_text
from lmeec_core.methods.lm_eec import LmEec
from lmeec_core.model import LMEEC
from lmeec_core.takes import Take, is_ego


@dataclass(frozen=True)
class Unit:
    """Input of :func:`score_unit`, and the folder for its result."""

    variant: Variant
    checkpoint: Path
    seed: int | None
    """Seed with which the checkpoint was trained, for variants that are trained."""
    take: Path
    query: str
    objects: tuple[str, ...]
    threads: int
    device: str
    folder: Path

    @property
    def file(self) -> Path:
        """Path of the result; depends on weights, objects, variant and take, but not on the device.

        The take's name alone is not enough: takes of different lengths but with the same seed have
        the same name.
        """
        facts = (
            f"{_digest(self.checkpoint)} {self.take} {sorted(self.objects)} {asdict(self.variant)}"
        )
        key = hashlib.sha256(facts.encode()).hexdigest()[:12]
        return self.folder / f"{self.variant.name}_{self.take.name}_{self.query}_{key}.json"


@functools.cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def _model(path: Path, device: str) -> LMEEC:
    return load_model("nano", path, device=device)


def sought_objects(take: Take, count: int) -> tuple[str, ...]:
    """Up to ``count`` objects: those the person moves, then the most visible in all cameras."""
    moved = take.annotation.get("simulation", {}).get("moved", [])

    def rank(name: str) -> tuple[bool, int, str]:
        frames = [len(take.mask_frames(name, camera)) for camera in take.cameras]
        return name not in moved, -min(frames), name

    visible = [n for n in take.objects if any(take.mask_frames(n, c) for c in take.cameras)]
    return tuple(sorted(visible, key=rank)[:count])


def score_unit(unit: Unit) -> str:
    """Track, score and write one unit; returns the file's path. An existing file is reused."""
    import torch

    if unit.file.is_file():
        return str(unit.file)
    torch.set_num_threads(unit.threads)
    take = Take.open(unit.take)
    ego = is_ego(unit.query)
    method = LmEec(_model(unit.checkpoint, unit.device), unit.variant.memory(ego))
    targets = take.exos if ego else (take.ego,)
    frames = len(take.common_frames(unit.query, *targets))
    _write(unit, frames, track_take(method, take, unit.query, unit.objects))
    return str(unit.file)


def _write(unit: Unit, frames: int, scores: Scores) -> None:
    content: dict[str, Any] = {
        "variant": unit.variant.name,
        "seed": unit.seed,
        "take": unit.take.name,
        "query": unit.query,
        "frames": frames,
        "objects": list(unit.objects),
        "protocol": scores.protocol,
        "iou": [round(x, 6) for x in scores.ious],
        "location": [round(x, 6) for x in scores.locations],
        "contour": [round(x, 6) for x in scores.contours],
        "existing": scores.existing,
        "predicted": scores.predicted,
    }
    unit.folder.mkdir(parents=True, exist_ok=True)
    write_text(unit.file, json.dumps(content))
