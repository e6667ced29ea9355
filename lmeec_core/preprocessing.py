"""Converts images and masks to model input, identically on every device.

The release resizes images with Pillow: antialiased bicubic in two passes, horizontal then vertical,
each rounded to integers. On a CPU, Pillow itself is used; on other devices, the passes are products
with constant matrices, rounded in the same way. Masks are resized by torch, as in the release.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lmeec_core.errors import InputError
from lmeec_core.takes.rle import check_aspect

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_SIDE = 16384
"""Maximum side of an image or mask, in pixels; larger ones are rejected."""


def check_image(name: str, image: Any) -> npt.NDArray[np.uint8]:
    """Return the image if it is valid.

    Raises:
        InputError: naming the camera, what was given and what is expected.
    """
    expected = "a uint8 array (height, width, 3) in RGB expected"
    if not isinstance(image, np.ndarray):
        raise InputError(f"image {name!r}: {type(image).__name__} given, {expected}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"image {name!r}: {image.dtype} {image.shape} given, {expected}")
    if not 0 < min(image.shape[:2]) <= max(image.shape[:2]) <= MAX_SIDE:
        raise InputError(f"image {name!r}: size {image.shape[:2]}, 1 to {MAX_SIDE} a side expected")
    return image


def check_mask(name: str, mask: Any, image: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the mask as bool if it is valid: bool, or numbers that are all 0, 1 or 255.

    Args:
        name: the object's name.
        mask: the mask to check.
        image: (height, width) of the query image; a non-empty mask must have the same aspect
            ratio.

    Raises:
        InputError: naming the object, what was given and what is expected.
    """
    expected = "an array (height, width) of bool, or of 0 and 1 or 255, expected"
    if not isinstance(mask, np.ndarray) or mask.ndim != 2:
        given = (
            f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        )
        raise InputError(f"query mask {name!r}: {given} given, {expected}")
    if not 0 < min(mask.shape) <= max(mask.shape) <= MAX_SIDE:
        raise InputError(f"query mask {name!r}: size {mask.shape}, 1 to {MAX_SIDE} a side expected")
    if mask.dtype.kind not in "buif":
        raise InputError(f"query mask {name!r}: dtype {mask.dtype} given, {expected}")
    inside = mask
    if mask.dtype != np.bool_:
        inside = mask != 0
        wrong = inside & (mask != 1) & (mask != 255)  # NaN differs from everything
        if wrong.any():
            raise InputError(f"query mask {name!r}: value {mask[wrong][0]} found, {expected}")
    if inside.any():
        try:
            check_aspect(mask.shape, image)
        except InputError as error:
            raise InputError(f"query mask {name!r}: {error}") from error
    return inside


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic kernel with a = -0.5 (Pillow's)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=64)
def resize_matrix(source: int, target: int) -> Tensor:
    """Antialiased bicubic resampling of one axis as a matrix.

    Args:
        source, target: lengths of the axis, in pixels.

    Returns:
        float32 (target, source); rows sum to 1.
    """
    support = 2.0
    scale = source / target
    wide = max(scale, 1.0)
    centre = (np.arange(target) + 0.5)[:, None] * scale
    first = np.maximum((centre - support * wide + 0.5).astype(int), 0)
    last = np.minimum((centre + support * wide + 0.5).astype(int), source)
    index = np.arange(source)[None]
    weight = _cubic((index - centre + 0.5) / wide) * ((index >= first) & (index < last))
    return torch.from_numpy((weight / weight.sum(axis=1, keepdims=True)).astype(np.float32))


def resize_image(image: npt.NDArray[np.uint8], size: int, device: torch.device) -> Tensor:
    """Resize an image to (3, size, size), values 0 to 255 in float32, on ``device``.

    The aspect ratio is not kept.
    """
    image = np.ascontiguousarray(image)  # torch takes no negative strides
    height, width = image.shape[:2]
    if device.type != "cpu":
        return resize_by_products(torch.tensor(image, device=device), size)
    if (height, width) != (size, size):
        # Two calls, because newer versions of Pillow choose the order of the passes themselves.
        narrow = Image.fromarray(image).resize((size, height), Image.Resampling.BICUBIC)
        image = np.asarray(narrow.resize((size, size), Image.Resampling.BICUBIC))
    return torch.tensor(image).permute(2, 0, 1).float()


def resize_by_products(image: Tensor, size: int) -> Tensor:
    """Resize an image by products with constant matrices; used on all devices but CPUs.

    Args:
        image: uint8 (H, W, 3), on any device.
        size: side of the result, in pixels.

    Returns:
        float32 (3, size, size) with integer values, 0 to 255, on the image's device.
    """
    height, width = image.shape[:2]
    x = image.permute(2, 0, 1).float()
    if width != size:
        x = (x @ _resize_matrix_on(width, size, x.device).T).round().clamp(0, 255)
    if height != size:
        x = (_resize_matrix_on(height, size, x.device) @ x).round().clamp(0, 255)
    return x


@lru_cache(maxsize=64)
def _resize_matrix_on(source: int, target: int, device: torch.device) -> Tensor:
    return resize_matrix(source, target).to(device)


def prepare_images(images: list[npt.NDArray[np.uint8]], size: int, device: torch.device) -> Tensor:
    """Convert images of any size to model input: (V, 3, size, size) float32, normalised."""
    batch = torch.stack([resize_image(image, size, device) for image in images]) / 255
    return normalise(batch)


def normalise(images: Tensor) -> Tensor:
    """Convert RGB (..., 3, h, w) in 0 .. 1 to model input."""
    mean, std = _normalisation(images.device)
    return (images - mean) / std


def colours(inputs: Tensor) -> Tensor:
    """Convert model input (..., 3, h, w) to RGB in 0 .. 1: the inverse of :func:`normalise`."""
    mean, std = _normalisation(inputs.device)
    return inputs * std + mean


def _normalisation(device: torch.device) -> tuple[Tensor, Tensor]:
    both = torch.tensor((IMAGENET_MEAN, IMAGENET_STD), device=device)[..., None, None]
    return both[0], both[1]


def prepare_masks(masks: list[npt.NDArray[np.bool_]], size: int, device: torch.device) -> Tensor:
    """Convert query masks of any size to model input: (N, size, size) float32 of 0 and 1.

    Resizing is antialiased bilinear, then values of at least 0.5 become 1. It is always done on the
    CPU: values of masks are often exactly 0.5, and rounding must not shift their edges.
    """
    resized = []
    for mask in masks:
        x = torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]
        if x.shape[2:] != (size, size):
            x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
        resized.append((x[0, 0] >= 0.5).float())
    return torch.stack(resized).to(device)
