"""A tracker with a full memory from the start, and an input for its next step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmeec_core.config import RELEASE_POINTER_WINDOW, MemoryConfig
from lmeec_core.model import LMEEC
from lmeec_core.model.stages import StageRunner
from lmeec_core.tracker import CorrespondenceTracker, Image, Mask

FRAME_SIZE = (480, 640)
"""(height, width) of the generated images, in pixels."""


class FilledTracker(NamedTuple):
    """A tracker with full memory banks, and an input for its next step."""

    tracker: CorrespondenceTracker
    images: dict[str, Image]
    masks: dict[str, Mask]


def filled_tracker(
    model: LMEEC,
    objects: int = 1,
    targets: int = 1,
    memory: MemoryConfig | None = None,
    seed: int = 0,
    runner: StageRunner | None = None,
) -> FilledTracker:
    """A tracker in its state after 15 or more steps, with random memory, images and masks.

    Args:
        model: the network.
        objects: N objects. targets: K target views.
        memory: the tracker's memory settings; None for the defaults.
        seed: seed of the random contents.
        runner: what computes the tracker's stages; None for the model's own choice.
    """
    memory = memory or MemoryConfig()
    config, rng = model.config, torch.Generator().manual_seed(seed)
    cameras = [f"target_{k}" for k in range(targets)]
    tracker = CorrespondenceTracker(
        model, "query", cameras, memory, max_objects=objects, runner=runner
    )

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng).to(model.device, model.computed)

    parts = ["query"] * memory.query_bank + [str(k) for k in range(targets)] * memory.target_bank
    tracker.restore(
        {
            f"object_{n}": {
                **{
                    f"{part}.frames": random(memory.capacity, *config.stored_shape)
                    for part in parts
                },
                **{f"{p}.scores": torch.ones(memory.capacity, device=model.device) for p in parts},
                **{
                    f"{k}.pointers": random(RELEASE_POINTER_WINDOW - 1, config.hidden_dim)
                    for k in range(targets)
                },
            }
            for n in range(objects)
        }
    )
    draw = np.random.default_rng(seed)
    images = {
        name: draw.integers(0, 256, (*FRAME_SIZE, 3), dtype=np.uint8)
        for name in ("query", *cameras)
    }
    masks = {}
    for n in range(objects):
        mask = np.zeros(FRAME_SIZE, dtype=np.bool_)
        top, left = draw.integers(0, 300), draw.integers(0, 460)
        mask[top : top + 120, left : left + 120] = True
        masks[f"object_{n}"] = mask
    return FilledTracker(tracker, images, masks)
