"""Models with the golden files' weights, and their data."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import lmeec_core as lm

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def golden_weights(manifest: dict[str, list[int]], bias: float, salt: str = "") -> dict:
    """Weights made from names, by the rule of test/data/golden/README.md."""
    state = {}
    for name, shape in manifest.items():
        generator = np.random.Generator(np.random.PCG64(zlib.crc32((salt + name).encode())))
        value = generator.standard_normal(size=shape, dtype=np.float32)
        last = name.split(".")[-1]
        if not name.endswith("positional_encoding_gaussian_matrix"):
            if len(shape) >= 2 and "pos_embed" not in name and "embed" not in last:
                value /= np.float32(np.sqrt(np.prod(shape[1:])))
            else:
                value *= np.float32(0.1)
                if name.endswith(".weight") or "gamma" in last:
                    value += 1 if len(shape) == 1 else 0
        if name == "sam_mask_decoder.pred_obj_score_head.layers.2.bias":
            value += np.float32(bias)
        state[name] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return state


@pytest.fixture(scope="session")
def golden_model() -> Callable[..., lm.LMEEC]:
    """Build a model with golden weights: golden_model(preset or config, bias, salt)."""

    def build(config: str | lm.ModelConfig, bias: float = 0.0, salt: str = "") -> lm.LMEEC:
        name = config if isinstance(config, str) else "mini"
        manifest = json.loads((GOLDEN / f"manifest_{name}.json").read_text())
        model = lm.build_model(lm.preset(config) if isinstance(config, str) else config)
        model.load_state_dict(golden_weights(manifest, bias, salt))
        return model

    return build


@pytest.fixture(scope="session")
def mini(golden_model: Callable[..., lm.LMEEC]) -> lm.LMEEC:
    """A tiny model that judges objects present on some frames and absent on others."""
    return golden_model("mini", 0.75)


@pytest.fixture
def scene() -> Callable[..., tuple[dict, dict]]:
    """Images and query masks of a random scene: scene(seed, cameras, objects, size)."""

    def make(
        seed: int,
        cameras: tuple[str, ...] = ("ego", "exo"),
        objects: tuple[str, ...] = ("cup",),
        size: tuple[int, int] = (128, 128),
    ) -> tuple[dict, dict]:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (len(cameras), 8, 8, 3), dtype=np.uint8)
        scale = (1, -(-size[0] // 8), -(-size[1] // 8), 1)
        smooth = np.kron(coarse, np.ones(scale, np.uint8))[:, : size[0], : size[1]]
        images = {name: np.ascontiguousarray(smooth[i]) for i, name in enumerate(cameras)}
        masks = {}
        for name in objects:
            y, x = (int(rng.integers(0, n // 2)) for n in size)
            mask = np.zeros(size, bool)
            mask[y : y + size[0] // 3, x : x + size[1] // 3] = True
            masks[name] = mask
        return images, masks

    return make
