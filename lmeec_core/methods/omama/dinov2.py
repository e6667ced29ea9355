"""The published features: DINOv2 ViT-B/14 with registers, by the library transformers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmeec_core.checkpoint import CheckpointError, read_state_dict, resolve_device
from lmeec_core.methods.omama.descriptors import PATCH
from lmeec_core.methods.omama.features import PatchView, SeenView
from lmeec_core.methods.omama.network import EGO_GRID, EXO_GRID, HEADS, Layout
from lmeec_core.methods.pairs import Image
from lmeec_core.preprocessing import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from transformers import Dinov2WithRegistersModel

NAME = "facebook/dinov2-with-registers-base"
"""Name of the weights on the Hugging Face hub."""
HUB_FILE = "dinov2_vitb14_reg4_pretrain.pth"
"""File name of the same weights in torch.hub's cache, with DINOv2's own tensor names."""
_OWN_NAMES = (
    (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
)
"""DINOv2's own tensor names, and those of transformers."""


class DinoFeatures:
    """Patch tokens of DINOv2: (768, 50, 50) for ego images, (768, 38, 68) for exo images.

    Args:
        model: a transformers model of any size with patches of 14 pixels.
        device: the device to run on.

    Raises:
        CheckpointError: the patch size is different.
    """

    def __init__(self, model: Dinov2WithRegistersModel, device: torch.device) -> None:
        if model.config.patch_size != PATCH:
            raise CheckpointError(
                f"DINOv2 with patches of {model.config.patch_size} pixels given, {PATCH} expected"
            )
        self.model, self.device = model.eval().requires_grad_(False).to(device), device

    @property
    def fingerprint(self) -> str:
        """See :class:`lmeec_core.methods.omama.features.Features`."""
        digest = hashlib.sha256(b"dinov2, 1")
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode() + value.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def layout(self, reverse: bool) -> Layout:
        """See :class:`lmeec_core.methods.omama.features.Features`."""
        grids = (EXO_GRID, EGO_GRID) if reverse else (EGO_GRID, EXO_GRID)
        return Layout(int(self.model.config.hidden_size), HEADS, *grids, visible_head=True)

    @torch.inference_mode()
    def see(self, images: Sequence[Image], ego: Sequence[bool]) -> list[SeenView]:
        """See :class:`lmeec_core.methods.omama.features.Features`."""
        views: list[SeenView] = []
        skipped = 1 + int(self.model.config.num_register_tokens)
        for image, own in zip(images, ego, strict=True):
            pixels = prepare(image, own).to(self.device)
            found: Tensor = self.model(pixel_values=pixels[None]).last_hidden_state[0, skipped:]
            grid = (pixels.shape[1] // PATCH, pixels.shape[2] // PATCH)
            views.append(PatchView(found.T.unflatten(1, grid).float()))
        return views


def prepare(image: npt.NDArray[np.uint8], ego: bool) -> Tensor:
    """The network's input: float32 (3, 700, 700) of an ego image, (3, 532, 952) of an exo one,
    which stands upright if the image does.

    Images with the size of the published frames (704 x 704, 960 x 540) are reduced as there, by
    nearest neighbour. Others are resized by area averaging, which avoids aliasing.
    """
    rows, columns = EGO_GRID if ego else EXO_GRID
    if image.shape[0] > image.shape[1]:
        rows, columns = columns, rows
    height, width = PATCH * rows, PATCH * columns
    if image.shape[:2] != (height, width):
        fits = (image.shape[0] // PATCH, image.shape[1] // PATCH) == (rows, columns)
        shrinks = image.shape[0] >= height and image.shape[1] >= width
        way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        way = cv2.INTER_NEAREST if fits else way
        image = np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)
    scaled = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (scaled - mean) / deviation


def load_dinov2(
    weights: str | Path | None = None, device: str = "auto", **sizes: Any
) -> DinoFeatures:
    """DINOv2 ViT-B/14 with registers, with weights from this machine; nothing is downloaded.

    Args:
        weights: a folder written by transformers (config.json, model.safetensors), or a file with
            weights by the names of transformers or of DINOv2. None: the caches of the Hugging Face
            hub and of torch.hub are searched.
        device: see :func:`lmeec_core.load_model`.
        sizes: other values of transformers' configuration, for weights from a file.

    Raises:
        CheckpointError: there are no weights, they are for another network, or some are missing,
            unexpected or have wrong shapes.
        ImportError: transformers is not installed.
    """
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    found = resolve_device(device)
    path = Path(weights) if weights is not None else None
    if path is None:
        kept = Path(torch.hub.get_dir()) / "checkpoints" / HUB_FILE
        path = kept if kept.is_file() else None
    how: dict[str, Any] = {"local_files_only": True}
    if path is not None and path.is_file():
        # ViT-B/14, trained with images of 518 pixels.
        given = {"image_size": 518, "patch_size": PATCH, **sizes}
        how = {"config": Dinov2WithRegistersConfig(**given),
               "state_dict": transformers_names(read_state_dict(path))}  # fmt: skip
    elif path is not None and not (path / "config.json").is_file():
        raise CheckpointError(
            f"features {path}: a file with weights, or a folder with config.json and "
            "model.safetensors expected"
        )
    name = None if "state_dict" in how else str(path or NAME)
    try:
        loaded: Any = Dinov2WithRegistersModel.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True, **how
        )
    except (OSError, ValueError, RuntimeError) as error:
        where = str(path) if path else "this machine's caches (Hugging Face, torch.hub)"
        raise CheckpointError(
            f"features dinov2: no usable weights of DINOv2 ViT-B/14 with registers in {where}: "
            f"{str(error).splitlines()[0]}; fetch them once with `hf download {NAME}`, or name a "
            f"file such as {HUB_FILE} or a folder"
        ) from error
    model, loading_info = loaded
    _check_loaded(loading_info, path)
    return DinoFeatures(model, found)


def _check_loaded(loading_info: Mapping[str, Any], path: Path | None) -> None:
    """Reject weights that transformers loaded only partly.

    Raises:
        CheckpointError: names the first that are missing, unexpected or have wrong shapes.
    """
    wrong = {
        kind: sorted(map(str, loading_info.get(f"{kind}_keys") or ()))
        for kind in ("missing", "unexpected", "mismatched")
    }
    if any(wrong.values()):
        listed = "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:3])}" for kind, names in wrong.items() if names
        )
        raise CheckpointError(
            f"features {path or NAME}: not weights of DINOv2 ViT-B/14 with registers; {listed}"
        )


def transformers_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with transformers' tensor names, from those or DINOv2's own names."""
    if "pos_embed" not in state:
        return state
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        for own, other in _OWN_NAMES:
            name = re.sub(own, other, name)
        if ".attn.qkv." in name:
            parts = value.chunk(3)
            for part, kind in zip(parts, ("query", "key", "value"), strict=True):
                named[name.replace(".attn.qkv.", f".attention.attention.{kind}.")] = part
        else:
            named[name] = value
    return named
