"""Model input equals what Pillow gives the release, on every device's path."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lmeec_core.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    prepare_images,
    prepare_masks,
    resize_matrix,
)

SIZES = [(360, 640), (100, 80), (64, 64), (1080, 1920), (7, 513)]


def pillow(image: np.ndarray, size: int) -> np.ndarray:
    """Pillow's two passes in the order of the release: horizontal, then vertical."""
    passes = Image.fromarray(image).resize((size, image.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(passes.resize((size, size), Image.Resampling.BICUBIC))


def random_image(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_cpu_images_are_pillows(size: tuple[int, int]) -> None:
    image = random_image(size)
    ours = prepare_images([image], 64, torch.device("cpu"))[0]
    expected = (pillow(image, 64) / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(ours.permute(1, 2, 0).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_matrix_products_of_other_devices_agree_with_pillow(size: tuple[int, int]) -> None:
    """The passes that a GPU runs, here on the CPU: equal but for rounding ties."""
    image = random_image(size)
    x = torch.from_numpy(image).permute(2, 0, 1).float()
    x = (x @ resize_matrix(size[1], 64).T).round().clamp(0, 255)
    x = (resize_matrix(size[0], 64) @ x).round().clamp(0, 255)
    off = np.abs(x.permute(1, 2, 0).numpy() - pillow(image, 64))
    assert off.max() <= 1 and (off > 0).mean() < 1e-3


@pytest.mark.parametrize("size", [*SIZES, (540, 960), (704, 704), (64, 128)])
def test_masks_are_antialiased_bilinear(size: tuple[int, int]) -> None:
    """Compared with Pillow's antialiased bilinear, which rounds to whole values of 255."""
    mask = np.zeros(size, bool)
    mask[size[0] // 3 : -(size[0] // 4), size[1] // 5 : size[1] // 2] = True
    ours = prepare_masks([mask], 64, torch.device("cpu"))[0].numpy()
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize((64, 64), Image.Resampling.BILINEAR)
    expected = np.asarray(grey)
    assert set(np.unique(ours)) == {0.0, 1.0}
    clear = np.abs(expected - 127.5) > 2
    np.testing.assert_array_equal(ours[clear], expected[clear] > 127)


def test_a_mask_value_of_exactly_half_is_inside() -> None:
    mask = np.zeros((8, 8), bool)
    mask[:, :3] = True  # halved: columns 1, 0.5 (and an antialiased tail), 0, 0
    expected = F.interpolate(
        torch.from_numpy(mask)[None, None].float(), size=(4, 4), mode="bilinear", antialias=True
    )[0, 0]
    assert (expected == 0.5).any()
    ours = prepare_masks([mask], 4, torch.device("cpu"))[0]
    assert torch.equal(ours, (expected >= 0.5).float())
