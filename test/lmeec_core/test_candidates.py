"""Candidate masks of an image, and the choice among them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lmeec_core as lm
from lmeec_core.engine.compare import difference
from lmeec_core.evaluation import iou
from lmeec_core.methods import load_method
from lmeec_core.methods.candidates.automatic import (
    AutomaticMasks,
    Generated,
    _cut_off,
    crop_boxes,
    suppressed,
)
from lmeec_core.methods.candidates.limits import CandidateLimits
from lmeec_core.methods.candidates.regions import Regions
from lmeec_core.methods.omama.features import EncoderView
from lmeec_core.takes import resize_mask

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


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
    view = EncoderView((places,))
    found = view.plain(view.describe(mask))
    assert torch.allclose(found[0], places[:, 2, 1], atol=1e-5)
    both = mask | resize_mask(np.eye(4, dtype=bool), (64, 64))
    assert float(view.plain(view.describe(both)).norm()) == pytest.approx(1, abs=1e-5)


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    """What SAM 2's own generator finds, see test/data/golden/README.md."""
    found: dict[str, np.ndarray] = {}
    for name in ("automatic_masks", "automatic_crops"):
        with np.load(GOLDEN / f"{name}.npz") as file:
            found |= {key: file[key] for key in file if key != "image"}
            found[name] = file["image"]
    return found


def as_recorded(
    model: lm.LMEEC, recorded: dict[str, np.ndarray], case: str, image: np.ndarray
) -> tuple[AutomaticMasks, Generated]:
    """A generator with a case's settings, and what it finds, which is what SAM 2 found."""
    given = json.loads(str(recorded[f"{case}_settings"]))
    generator = AutomaticMasks(
        model,
        points_per_side=given["points_per_side"],
        points_per_batch=given.get("points_per_batch", 64),
        predicted_iou=given["pred_iou_thresh"],
        stability=given["stability_score_thresh"],
        box_nms=given["box_nms_thresh"],
        mask_threshold=given["mask_threshold"],
        stability_offset=given["stability_score_offset"],
        crop_layers=given.get("crop_n_layers", 0),
    )
    found, iou = generator.generate(image), recorded[f"{case}_iou"]
    shape = (len(iou), *image.shape[:2])
    masks = np.unpackbits(recorded[f"{case}_masks"], count=int(np.prod(shape))).reshape(shape)
    assert found.masks.shape == shape and len(iou) > 2, len(iou)
    assert difference(found.predicted_iou, iou) < 1e-4
    # A pixel of a hundred; an empty mask's is not a number in both.
    np.testing.assert_allclose(found.stability, recorded[f"{case}_stability"], atol=1e-2)
    assert np.mean(found.masks != masks.astype(bool)) < 1e-4
    return generator, found


@pytest.mark.parametrize("case", ["plain", "strict", "lenient"])
def test_parity_with_sam_2(
    case: str, recorded: dict[str, np.ndarray], golden_model: Callable[..., lm.LMEEC]
) -> None:
    image = recorded["automatic_masks"]
    generator, _ = as_recorded(golden_model("mini", 0.75), recorded, case, image)
    kept = dataclasses.replace(generator, limits=CandidateLimits(most=2, min_area=0, max_area=1))
    assert len(kept(image)) == 2


@pytest.mark.parametrize("case", ["one", "two"])
def test_crops_are_searched_as_by_sam_2(
    case: str, recorded: dict[str, np.ndarray], golden_model: Callable[..., lm.LMEEC]
) -> None:
    """Masks of the image and of its crops, without those that are cut off or found twice."""
    image = recorded["automatic_crops"]
    generator, found = as_recorded(golden_model("mini", 0.75), recorded, case, image)
    whole = dataclasses.replace(generator, crop_layers=0).generate(image)
    assert set(map(bytes, found.masks)) - set(map(bytes, whole.masks))


def test_crops_are_sam_2s(recorded: dict[str, np.ndarray]) -> None:
    for k in range(3):
        height, width, layers = recorded[f"crops_{k}_of"].tolist()
        assert crop_boxes((height, width), layers) == [tuple(b) for b in recorded[f"crops_{k}"]]


def test_what_a_crop_cuts_off_is_left_out(golden_model: Callable[..., lm.LMEEC]) -> None:
    """Crops add masks, none of them at an edge of its crop that is no edge of the image."""
    image = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)
    settings = {"points_per_side": 2, "predicted_iou": 0.0, "stability": 0.0, "box_nms": 1.0}
    whole, crops = (
        AutomaticMasks(golden_model("mini", 0.75), **settings, mask_threshold=2.0, crop_layers=n)
        for n in (0, 1)
    )
    assert len(whole.generate(image).masks) <= len(crops.generate(image).masks)
    edges = torch.tensor([[1, 30, 50, 60], [40, 30, 65, 60], [40, 30, 90, 60]])
    assert _cut_off(edges, (0, 0, 100, 90), (90, 160)).tolist() == [False, False, True]
    assert _cut_off(edges, (60, 0, 160, 90), (90, 160)).tolist() == [True, False, False]


def test_of_boxes_that_overlap_the_better_one_remains() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10], [0, 0, 5, 5]])
    scores = torch.tensor([0.5, 0.9, 0.4, 0.4])
    assert suppressed(boxes, scores, 0.7).tolist() == [1, 2, 3]
    assert suppressed(boxes, scores, 0.95).tolist() == [1, 0, 2, 3]
    assert suppressed(boxes[:0], scores[:0], 0.5).tolist() == []


def test_what_is_no_setting_is_refused(golden_model: Callable[..., lm.LMEEC]) -> None:
    with pytest.raises(lm.InputError, match="points_per_side 0"):
        AutomaticMasks(golden_model("mini"), points_per_side=0)
    with pytest.raises(lm.InputError, match="does not accept points"):
        AutomaticMasks(lm.load_model("nano", device="cpu"))
