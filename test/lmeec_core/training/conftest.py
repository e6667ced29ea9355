"""Drawn takes and a tiny network, for training tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lmeec_core.config import ModelConfig
from lmeec_core.takes import TakeWriter
from lmeec_core.training.settings import TakeTrainConfig

SIDE = 64
TINY: dict[str, Any] = {
    "image_size": SIDE, "hidden_dim": 64, "memory_dim": 32, "memory_layers": 1,
    "memory_feedforward": 128, "fuser_layers": 1, "decoder_layers": 1, "decoder_heads": 4,
    "decoder_feedforward": 128,
    "trunk": {
        "kind": "hiera", "embed_dim": 16, "num_heads": 1, "stages": [1, 1, 2, 1],
        "global_attention_blocks": [2], "background_position_size": [7, 7],
        "window_spec": [8, 4, 7, 7],
    },
}  # fmt: skip

TINY_CONV = TINY | {
    "memory_pool": 2, "matching": {"dim": 16, "content_dim": 16},
    "trunk": {"kind": "conv", "channels": [16, 24, 48, 64], "blocks": [1, 1, 1],
              "attention_blocks": 1, "attention_heads": 4, "middle_dim": 32},
}  # fmt: skip


def draw_take(path: Path, frames: int = 10, seed: int = 0, absent: range = range(0)) -> None:
    """A red and a blue disk that move against each other; red is not in cam01 in ``absent``."""
    random = np.random.default_rng(seed)
    rough = random.integers(30, 140, (2, SIDE, SIDE, 3), dtype=np.uint8)
    grounds = [cv2.GaussianBlur(image, (0, 0), 3) for image in rough]
    centres = {"red": lambda t: ((16 + t, 18), (44 - t, 44)),
               "blue": lambda t: ((46 - t, 46), (18 + t, 20))}  # fmt: skip
    with TakeWriter(path) as take:
        for t in range(frames):
            for camera, name in enumerate(("aria01", "cam01")):
                image = grounds[camera].copy()
                for thing, shade in (("red", (220, 40, 40)), ("blue", (40, 60, 220))):
                    if thing == "red" and camera and t in absent:
                        continue
                    mask = np.zeros((SIDE, SIDE), np.uint8)
                    cv2.circle(mask, centres[thing](t)[camera], 11 - 2 * camera, 1, -1)
                    image[mask > 0] = shade
                    take.mask(thing, name, 30 * t, mask)
                take.image(name, 30 * t, image)


@pytest.fixture
def draw() -> Callable[..., None]:
    """The function that draws takes: draw(path, frames, seed, absent)."""
    return draw_take


@pytest.fixture(params=["hiera", "conv"])
def network(request: pytest.FixtureRequest) -> ModelConfig:
    """Both kinds of tiny networks."""
    return ModelConfig.model_validate(TINY if request.param == "hiera" else TINY_CONV)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with three training takes and a validation take."""
    for seed in range(3):
        draw_take(tmp_path / "data" / "train" / f"take_{seed}", 6, seed, range(3, 6))
    draw_take(tmp_path / "data" / "val" / "take_9", 5, 9)
    return tmp_path / "data"


@pytest.fixture
def settings(data: Path) -> Callable[..., TakeTrainConfig]:
    """Settings of short runs of a tiny network: settings(conv, name=value, ...)."""

    def make(conv: bool = False, **changes: Any) -> TakeTrainConfig:
        values: dict[str, Any] = {
            "recipe": "takes", "data": str(data), "preset": "mini",
            "model": TINY_CONV if conv else TINY, "frames": 3,
            "objects": 2, "batch": 2, "steps": 4, "rate": 1e-3, "encoder_rate": 6e-4,
            "bf16": False, "workers": 0, "report_steps": 1, "save_steps": 1, "device": "cpu",
            "tensorboard": False, "val_takes": 0,
        }  # fmt: skip
        return TakeTrainConfig(**(values | changes))

    return make
