"""Candidate masks of an image, and the choice among them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmeec_core.evaluation import iou
from lmeec_core.methods import load_method
from lmeec_core.methods.candidates import CandidateLimits, Regions
from lmeec_core.methods.omama import tracker as omama
from lmeec_core.takes import resize_mask


def scene(seed: int, size: tuple[int, int] = (120, 160)) -> tuple[np.ndarray, list[np.ndarray]]:
    """An image with three discs of different colours on noisy ground, and their masks."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 110, (*size, 3)).astype(np.uint8)
    y, x = np.mgrid[: size[0], : size[1]]
    masks = []
    for i, colour in enumerate(((220, 30, 30), (30, 60, 220), (240, 220, 40))):
        spot = rng.integers((20, 25 + 45 * i), (size[0] - 20, 35 + 45 * i))
        mask = (y - spot[0]) ** 2 + (x - spot[1]) ** 2 <= 12**2
        image[mask] = colour
        masks.append(mask)
    return image, masks


@pytest.mark.parametrize("seed", range(3))
def test_regions_hold_the_objects(seed: int) -> None:
    image, masks = scene(seed)
    found = Regions()(image)
    assert found.dtype == bool and found.shape[1:] == image.shape[:2]
    for mask in masks:
        assert max(iou(one, mask) for one in found) > 0.8


@given(st.integers(1, 40), st.integers(1, 500), st.booleans())
@settings(max_examples=20, deadline=None)
def test_regions_of_any_image(height: int, width: int, even: bool) -> None:
    image = np.full((height, width, 3), 7, np.uint8)
    if not even:
        image = np.random.default_rng(0).integers(0, 256, image.shape, np.uint8)
    found = Regions(CandidateLimits(most=20))(image)
    assert len(found) <= 20 and found.ndim == 3 and max(found.shape[1:]) <= 160


def test_limits_keep_the_better_of_two_that_are_alike() -> None:
    row = np.arange(100)[None, None]
    masks = np.concatenate(
        [row < 10, row < 11, row < 1, row < 80, (row > 50) & (row < 70), row < 0]
    )
    quality = np.array([0.5, 0.9, 0.8, 1.0, 0.1, 2.0])
    limits = CandidateLimits(min_area=0.05, max_area=0.5, same=0.9)
    kept = limits.keep(masks, quality)
    assert [int(mask.sum()) for mask in kept] == [11, 19]
    assert len(limits.model_copy(update={"most": 1}).keep(masks, quality)) == 1
    assert len(limits.keep(masks[:0], quality[:0])) == 0


def test_the_candidate_that_is_most_alike_is_chosen() -> None:
    """The object is found again among others, and a view without candidates is no error."""
    image, masks = scene(1)
    moved = np.roll(image, 15, axis=1)
    found = load_method("omama", device="cpu").tracker("ego", ["exo"]).step(
        {"ego": image, "exo": moved}, {str(i): mask for i, mask in enumerate(masks)}
    )["exo"]  # fmt: skip
    for i, mask in enumerate(masks):
        one = found[str(i)]
        assert one.visible() and iou(one.mask(), np.roll(mask, 15, axis=1)) > 0.6
        assert not one.visible(1.0) and not one.mask(1.0).any()
    none = load_method("omama", device="cpu", candidates=lambda _: np.zeros((0, 5, 5), bool))
    nothing = none.tracker("ego", ["exo"]).step({"ego": image, "exo": moved}, {"cup": masks[0]})
    assert nothing["exo"]["cup"].presence == 0 and not nothing["exo"]["cup"].visible()


def test_an_object_smaller_than_a_place_is_described() -> None:
    places = torch.nn.functional.normalize(torch.randn(8, 4, 4), dim=0)
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 35, 20] = True
    assert torch.allclose(omama.describe(places, mask)[0], places[:, 2, 1], atol=1e-5)
    both = mask | resize_mask(np.eye(4, dtype=bool), (64, 64))
    assert float(omama.describe(places, both).norm()) == pytest.approx(1, abs=1e-5)
