"""DINOv2's features for O-MaMa: real files that transformers itself writes, tiny networks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lmeec_core.checkpoint import CheckpointError
from lmeec_core.errors import InputError
from lmeec_core.methods.omama.dinov2 import DinoFeatures, load_dinov2, prepare
from lmeec_core.methods.omama.network import EXO_GRID
from lmeec_core.methods.omama.sources import load_features

transformers = pytest.importorskip("transformers")

TINY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2,
    "image_size": 518, "patch_size": 14,
}  # fmt: skip


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(3)
    config = transformers.Dinov2WithRegistersConfig(**TINY)
    return transformers.Dinov2WithRegistersModel(config).eval()


@pytest.fixture(scope="module")
def folder(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights")
    network.save_pretrained(path)
    return path


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def tokens(features: DinoFeatures, image: np.ndarray, ego: bool = False) -> torch.Tensor:
    return features.see([image], [ego])[0].tokens


def own_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights as DINOv2's own code calls them."""
    names = [
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"), ("embeddings.", ""),
        ("encoder.layer.", "blocks."), ("attention.output.dense", "attn.proj"),
        ("layernorm.", "norm."), ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
    ]  # fmt: skip
    found = {}
    for name, value in state.items():
        if ".attention.attention." in name:
            continue
        for theirs, own in names:
            name = name.replace(theirs, own)
        found[name] = value
    for layer in range(2):
        for kind in ("weight", "bias"):
            place = f"encoder.layer.{layer}.attention.attention"
            parts = [state[f"{place}.{part}.{kind}"] for part in ("query", "key", "value")]
            found[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
    return found


def test_a_folder_that_transformers_wrote(network: Any, folder: Path) -> None:
    features = load_dinov2(folder, "cpu")
    image = picture(532, 952)
    found = tokens(features, image)
    assert found.shape == (32, *EXO_GRID)
    with torch.no_grad():
        outputs = network(pixel_values=prepare(image, False)[None]).last_hidden_state
    expected = outputs[0, 1 + 4 :].T.unflatten(1, EXO_GRID)  # without the class and four registers
    assert torch.allclose(found, expected, atol=1e-5)
    assert features.layout(True).query_grid == EXO_GRID and features.layout(True).dim == 32
    assert load_dinov2(folder, "cpu").fingerprint == features.fingerprint


@pytest.mark.parametrize("names", ["transformers", "own"])
def test_files_with_either_names(folder: Path, tmp_path: Path, names: str) -> None:
    state = load_file(folder / "model.safetensors")
    path = tmp_path / "weights.pth"
    torch.save(own_names(state) if names == "own" else state, path)
    sizes = {k: v for k, v in TINY.items() if k not in ("image_size", "patch_size")}
    found = load_dinov2(path, "cpu", **sizes)
    assert found.fingerprint == load_dinov2(folder, "cpu").fingerprint
    with pytest.raises(CheckpointError, match=r"weights\.pth: not weights of DINOv2.*mis"):
        load_dinov2(path, "cpu")  # it is not ViT-B/14


@pytest.mark.parametrize(
    ("size", "ego", "grid"),
    [
        ((704, 704), True, (50, 50)), ((540, 960), False, (38, 68)), ((960, 540), False, (68, 38)),
        ((1080, 1920), False, (38, 68)), ((240, 320), True, (50, 50)),
    ],
)  # fmt: skip
def test_two_sizes_of_images(size: tuple[int, int], ego: bool, grid: tuple[int, int]) -> None:
    """Published frames are shrunk by their nearest pixels; portrait ones stay upright."""
    image = picture(*size)
    found = prepare(image, ego)
    assert found.shape == (3, 14 * grid[0], 14 * grid[1])
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = found.permute(1, 2, 0).numpy() * deviation + mean
    assert pixels.min() > -1e-6 and pixels.max() < 1 + 1e-6
    rows = np.arange(found.shape[1]) * size[0] // found.shape[1]
    columns = np.arange(found.shape[2]) * size[1] // found.shape[2]
    nearest = np.allclose(pixels, image[rows][:, columns] / 255, atol=1e-5)
    assert nearest == (size in ((704, 704), (540, 960), (960, 540)))


def test_what_cannot_be_used_is_named(
    folder: Path, network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for weights, message in [
        (tmp_path / "none", "a file with weights, or a folder with config.json"),
        (None, r"no usable weights.*caches.*hf download facebook/dinov2-with-registers-base"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            load_dinov2(weights, "cpu")
    lacking = tmp_path / "lacking"
    network.save_pretrained(lacking)
    state = load_file(folder / "model.safetensors")
    del state["embeddings.register_tokens"]
    save_file(state, lacking / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 missing: embeddings.register_tokens"):
        load_dinov2(lacking, "cpu")
    other = tmp_path / "other"
    network.save_pretrained(other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"patch_size": 7}))
    with pytest.raises(CheckpointError, match="mismatched|patches of 7|no usable"):
        load_dinov2(other, "cpu")
    with pytest.raises(InputError, match="'resnet' given, nano or dinov2"):
        load_features("resnet")


def test_the_cache_of_torch_hub_is_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    path = tmp_path / "hub" / "checkpoints" / "dinov2_vitb14_reg4_pretrain.pth"
    torch.save(own_names(load_file(folder / "model.safetensors")), path)
    sizes = {k: v for k, v in TINY.items() if k not in ("image_size", "patch_size")}
    assert load_dinov2(None, "cpu", **sizes).layout(False).dim == 32


def test_it_is_imported_only_where_it_is_used() -> None:
    code = (
        "import sys, lmeec_core.methods.omama.tracker, lmeec_core.methods.omama.sources;"
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
