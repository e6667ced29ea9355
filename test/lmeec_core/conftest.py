"""Models with the golden files' weights, and their data."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lmeec_core as lm
from lmeec_core.overlay import write_video
from lmeec_core.takes import encode_mask

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
        model = lm.build_model(lm.preset(config) if isinstance(config, str) else config)
        if isinstance(config, str):
            manifest = json.loads((GOLDEN / f"manifest_{config}.json").read_text())
        else:
            manifest = {name: list(value.shape) for name, value in model.state_dict().items()}
        model.load_state_dict(golden_weights(manifest, bias, salt))
        return model

    return build


@pytest.fixture(scope="session")
def weigh() -> Callable[[torch.nn.Module], None]:
    """Gives any module golden weights."""

    def give(model: torch.nn.Module) -> None:
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        model.load_state_dict(golden_weights(shapes, 0.0))

    return give


@pytest.fixture(scope="session")
def mini(golden_model: Callable[..., lm.LMEEC]) -> lm.LMEEC:
    """A tiny model that judges objects present on some frames and absent on others."""
    return golden_model("mini", 0.75)


@pytest.fixture(scope="session")
def small(golden_model: Callable[..., lm.LMEEC]) -> lm.LMEEC:
    """As `mini`, narrower and of fewer blocks: for what does not depend on the size, at a third of
    the time."""
    narrow = {
        "hidden_dim": 64,
        "memory_dim": 16,
        "memory_layers": 2,
        "memory_feedforward": 128,
        "fuser_layers": 1,
        "decoder_feedforward": 128,
        "trunk": lm.preset("mini").trunk.model_copy(
            update={
                "stages": (1, 1, 2, 1),
                "global_attention_blocks": (3,),
                "window_spec": (8, 4, 8, 4),
            }
        ),
    }
    return golden_model(lm.preset("mini").model_copy(update=narrow), 0.0)


@pytest.fixture(scope="session")
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


@pytest.fixture
def numbered_video() -> Callable[..., Path]:
    """Write a video whose frames show their numbers: numbered_video(path, frames, (H, W))."""

    def make(path: Path, frames: int, size: tuple[int, int] = (48, 64), rate: float = 30) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_video(path, (_numbered(n, size) for n in range(frames)), rate)

    return make


@pytest.fixture
def number_in() -> Callable[[np.ndarray], int]:
    """Read the number that a frame of `numbered_video` shows."""

    def read(image: np.ndarray) -> int:
        width = image.shape[1] // 16
        grey = image[: image.shape[0] // 2].mean(axis=(0, 2))
        return sum(
            1 << bit for bit in range(16) if grey[bit * width : (bit + 1) * width].mean() > 128
        )

    return read


def _numbered(number: int, size: tuple[int, int]) -> np.ndarray:
    image = np.full((*size, 3), 90, np.uint8)
    width = size[1] // 16
    for bit in range(16):
        image[: size[0] // 2, bit * width : (bit + 1) * width] = 255 * (number >> bit & 1)
    return image


@pytest.fixture
def relations() -> Callable[..., Path]:
    """Write a raw relations file: relations(path, takes).

    ``takes`` is {uid: {"take_name", "scenario", "masks": {object: {camera: {frame: mask or None}}},
    "annotated_frames": {object: {camera: [frame, ...]}}}}; frames without the last are those of the
    masks.
    """
    from lzstring import LZString

    def entry(mask: np.ndarray | None) -> dict[str, Any]:
        if mask is None:
            return {"width": 8, "height": 8, "encodedMask": None}
        rle = encode_mask(mask)
        text = LZString().compressToEncodedURIComponent(rle["counts"])
        return {"width": rle["size"][1], "height": rle["size"][0], "encodedMask": text}

    def make(path: Path, takes: Mapping[str, Mapping[str, Any]]) -> Path:
        annotations = {}
        for uid, take in takes.items():
            objects: dict[str, Any] = {}
            for name, cameras in take["masks"].items():
                listed = take.get("annotated_frames", {}).get(name, {})
                objects[name] = {
                    camera: {
                        "annotation": {str(n): entry(mask) for n, mask in masks.items()},
                        "annotated_frames": listed.get(camera, sorted(masks)),
                    }
                    for camera, masks in cameras.items()
                }
            annotations[uid] = {
                "take_name": take.get("take_name", f"name_{uid}"),
                "scenario": take.get("scenario", "Cooking"),
                "object_names": list(objects),
                "object_masks": objects,
            }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"version": "2", "annotations": annotations}))
        return path

    return make
