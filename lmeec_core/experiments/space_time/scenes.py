"""Simulated scenes with their frozen features, and clips drawn from them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from lmeec_core.compact.features import EmbeddedFeatures
from lmeec_core.evaluation.scenes import MIN_AREA
from lmeec_core.experiments.space_time.network import Seen
from lmeec_core.files import replacing
from lmeec_core.model import LMEEC
from lmeec_core.preprocessing import prepare_images
from lmeec_core.training.store import Scene, areas

USUAL = 256
"""Image side that MIN_AREA refers to, in pixels."""


class Clip(NamedTuple):
    """Objects given in one view and sought in another, over F frames."""

    scene: str
    query: int
    """Number of the camera; 0 is the ego camera."""
    target: int
    labels: list[int]
    """Labels of the B objects."""
    seen: tuple[Seen, Seen]
    """The query and the target view."""
    masks: Tensor
    """(F, B, 2g, 2g) in the query view: covered fraction of each cell."""
    truth: Tensor
    """The same in the target view."""
    counts: Tensor
    """(F, B) bool: whether the object is scored on a frame; see
    :func:`lmeec_core.evaluation.scenes.qualifies`."""


@torch.inference_mode()
def describe(scene: Scene, model: LMEEC, folder: Path) -> dict[str, Tensor]:
    """Features of all images of a scene, (F, cameras, ...) float16 each; cached in the folder."""
    path = folder / f"{scene.path.stem}.safetensors"
    if not path.is_file():
        frames, cameras = scene.packed.shape[:2]
        images = [scene.image(f, c) for f in range(frames) for c in range(cameras)]
        parts: list[dict[str, Tensor]] = []
        for image in images:  # one at a time, so that results do not depend on the batch size
            inputs = prepare_images([image], model.config.image_size, model.device)
            views = model.encode_images(inputs)
            assert isinstance(views, EmbeddedFeatures)
            top = F.normalize(views.top, dim=1) * views.top.shape[1] ** 0.5
            own = {"top": top, "embedding": views.top_embedding, "middle": views.middle}
            parts.append({name: x[0].half() for name, x in own.items()})
        stacked = {
            name: torch.stack([part[name] for part in parts]).unflatten(0, (frames, cameras))
            for name in parts[0]
        }
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            save_file(stacked, partial)
    return load_file(path)


def _cover(labels: NDArray[np.uint8], chosen: list[int], side: int) -> Tensor:
    """Fraction of each cell that each label covers: (B, side, side)."""
    masks = [(labels == label).astype(np.float32) for label in chosen]
    small = [cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA) for mask in masks]
    return torch.from_numpy(np.stack(small))


def clip_of(
    scene: Scene, features: dict[str, Tensor], query: int, target: int, most: int | None = None,
    random: np.random.Generator | None = None,
) -> Clip | None:  # fmt: skip
    """A clip with the scored objects between two cameras; None if there are no such objects.

    Args:
        scene: the scene.
        features: features of the scene, see :func:`describe`.
        query, target: numbers of the cameras.
        most, random: draw at most ``most`` objects; if not given: all, ordered by label.
    """
    frames, least = scene.packed.shape[0], MIN_AREA * (scene.packed.shape[2] / USUAL) ** 2
    maps = [[scene.labels(f, c) for f in range(frames)] for c in (query, target)]
    asked, there = (np.stack([areas(one) for one in own]) for own in maps)
    counts = (asked >= least) & ((there >= least) | (there == 0))  # (F, LABELS)
    chosen = [int(label) for label in np.flatnonzero(counts.any(axis=0))]
    if random is not None:
        chosen = [int(label) for label in random.permutation(chosen)[:most]]
    if not chosen:
        return None
    side = features["middle"].shape[-1]
    masks, truth = (torch.stack([_cover(m, chosen, side) for m in own]) for own in maps)
    seen = [Seen(*(features[name][:, c].float() for name in Seen._fields)) for c in (query, target)]
    return Clip(
        scene.path.stem, query, target, chosen, (seen[0], seen[1]), masks, truth,
        torch.from_numpy(counts[:, chosen]),
    )  # fmt: skip
