"""Model input equals what Pillow gives the release, on every device's path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import lmeec_core as lm
from lmeec_core import preprocessing
from lmeec_core.errors import InputError
from lmeec_core.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    prepare_images,
    prepare_masks,
    resize_by_products,
    resize_image,
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
    x = resize_by_products(torch.from_numpy(image), 64)
    assert x.shape == (3, 64, 64) and torch.equal(x, x.round())
    off = np.abs(x.permute(1, 2, 0).numpy() - pillow(image, 64))
    assert off.max() <= 1 and (off > 0).mean() < 1e-3


def test_another_device_than_a_cpu_runs_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's device without numbers, since every machine has that one."""
    ran: list[torch.device] = []

    def noticed(image: torch.Tensor, side: int) -> torch.Tensor:
        ran.append(image.device)
        return resize_by_products(image, side)

    monkeypatch.setattr(preprocessing, "resize_by_products", noticed)
    x = resize_image(random_image((100, 80)), 64, torch.device("meta"))
    assert x.shape == (3, 64, 64) and x.dtype == torch.float32
    assert ran == [torch.device("meta")] == [x.device]


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (64, 48), (50, 70)])
@pytest.mark.parametrize("rows", [1, -1])
@pytest.mark.parametrize("columns", [1, -1])
@pytest.mark.parametrize("channels", [1, -1])
def test_views_with_negative_strides(
    size: tuple[int, int], rows: int, columns: int, channels: int
) -> None:
    """Flipped images and BGR turned to RGB are views; so may a camera's driver give them."""
    view = random_image(size)[::rows, ::columns, ::channels]
    mask = (random_image(size)[:, :, 0] > 128)[::rows, ::columns]
    cpu = torch.device("cpu")
    ours = prepare_images([view], 64, cpu)
    assert torch.equal(ours, prepare_images([np.ascontiguousarray(view)], 64, cpu))
    products = resize_by_products(torch.from_numpy(view.copy()), 64)
    assert (products - resize_image(view, 64, cpu)).abs().max() <= 1
    ours = prepare_masks([mask], 64, cpu)
    assert torch.equal(ours, prepare_masks([np.ascontiguousarray(mask)], 64, cpu))


def test_a_view_with_negative_strides_goes_through_the_tracker(mini: Any) -> None:
    side = mini.config.image_size
    image, mask = random_image((side, side))[:, ::-1], np.eye(side, dtype=bool)[::-1]
    tracker = lm.CorrespondenceTracker(mini, "ego", ["exo"])
    assert set(tracker.step({"ego": image, "exo": image}, {"cup": mask})["exo"]) == {"cup"}


@pytest.mark.parametrize("size", [(60, 120), (120, 60), (64, 64)])
def test_a_query_mask_of_another_aspect_is_refused(mini: Any, size: tuple[int, int]) -> None:
    image = random_image((60, 80))
    tracker = lm.CorrespondenceTracker(mini, "ego", ["exo"])
    views = {"ego": image, "exo": random_image((100, 40))}
    with pytest.raises(InputError, match=f"'cup': mask of {size[1]} x {size[0]} given for 80 x 60"):
        tracker.step(views, {"cup": np.ones(size, bool)})
    assert tracker.objects == ()
    found = tracker.step(views, {"cup": np.ones((120, 160), bool), "no": np.zeros(size, bool)})
    assert found["exo"]["no"].skipped and not found["exo"]["cup"].skipped


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
