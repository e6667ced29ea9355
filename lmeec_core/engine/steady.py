"""A tracker in the steady state (full banks) at once, and the calls that its step makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmeec_core.config import RELEASE_POINTER_WINDOW, MemoryConfig
from lmeec_core.engine.base import Call
from lmeec_core.model.stages import STAGES, Options, Stage
from lmeec_core.tracker import CorrespondenceTracker, Image, Mask

if TYPE_CHECKING:
    from lmeec_core.model import LMEEC

FRAME_SIZE = (480, 640)
"""(height, width) of the generated images, in pixels."""


class SteadyState(NamedTuple):
    """A tracker with full banks and an input for its next step."""

    tracker: CorrespondenceTracker
    images: dict[str, Image]
    masks: dict[str, Mask]


def steady_state(
    model: LMEEC,
    objects: int = 1,
    targets: int = 1,
    memory: MemoryConfig | None = None,
    seed: int = 0,
) -> SteadyState:
    """A tracker as after 15 or more steps, with random contents, and random images and masks.

    Args:
        model: the network.
        objects: N objects. targets: K target views.
        memory: the tracker's memory.
        seed: of the contents.
    """
    memory = memory or MemoryConfig()
    config, rng = model.config, torch.Generator().manual_seed(seed)
    cameras = [f"target_{k}" for k in range(targets)]
    tracker = CorrespondenceTracker(model, "query", cameras, memory, max_objects=objects)
    dtype = torch.float32 if model.precision == "fp32" else torch.bfloat16

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng).to(model.device, dtype)

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
    return SteadyState(tracker, images, masks)


def steady_calls(
    model: LMEEC, objects: int = 1, targets: int = 1, memory: MemoryConfig | None = None
) -> list[tuple[Call, tuple[Tensor, ...]]]:
    """Every call of a step in the steady state, in its order, with inputs as they occur.

    The step is computed once, in eager torch. Arguments as :func:`steady_state`.
    """
    calls: list[tuple[Call, tuple[Tensor, ...]]] = []

    def record(stage: Stage, options: Options, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        calls.append((Call.of(stage, options, inputs), tuple(x.clone() for x in inputs)))
        return STAGES[stage](model, options, *inputs)

    state = steady_state(model, objects, targets, memory)
    before, model.runner = model.runner, record
    try:
        state.tracker.step(state.images, state.masks)
    finally:
        model.runner = before
    return calls
