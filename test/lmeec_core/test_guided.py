"""Masks that follow the image: the filter against its definition, and what the tracker shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lmeec_core as lm
from lmeec_core.checkpoint import seeded_model
from lmeec_core.config import RefinementConfig
from lmeec_core.guided_filter import Guide, guides


def _by_definition(image: np.ndarray, mask: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Ridge regression of the mask on colour in every window, then the mean of all windows that
    hold a pixel (equations 1 to 3 of arXiv 1505.00996), pixel by pixel."""
    side = mask.shape[0]
    fits = np.zeros((side, side, 4))

    def window(y: int, x: int) -> tuple[slice, slice]:
        low = (max(0, y - radius), max(0, x - radius))
        return slice(low[0], y + radius + 1), slice(low[1], x + radius + 1)

    for y in range(side):
        for x in range(side):
            colours = image[(slice(None), *window(y, x))].reshape(3, -1).T
            values = mask[window(y, x)].ravel()
            centred = colours - colours.mean(axis=0)
            matrix = centred.T @ centred / len(values) + epsilon * np.eye(3)
            slope = np.linalg.solve(matrix, centred.T @ (values - values.mean()) / len(values))
            fits[y, x] = *slope, values.mean() - slope @ colours.mean(axis=0)
    result = np.zeros_like(mask)
    for y in range(side):
        for x in range(side):
            fit = fits[window(y, x)].reshape(-1, 4).mean(axis=0)
            result[y, x] = fit[:3] @ image[:, y, x] + fit[3]
    return result


def test_the_filter_is_its_definition() -> None:
    random = np.random.default_rng(0)
    image, mask = random.random((3, 11, 11)), random.normal(size=(11, 11))
    config = RefinementConfig(radius=2, epsilon=1e-2, limit=1.5)
    guide = Guide(torch.from_numpy(image).float(), 11, config)
    expected = _by_definition(image, mask.clip(-1.5, 1.5), 2, 1e-2)
    found = guide.refine(torch.from_numpy(mask).float()).numpy()
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_coarse_mask_takes_the_edge_of_the_image() -> None:
    y, x = np.mgrid[:96, :96]
    disc = np.hypot(y - 50, x - 44) < 20
    image = np.where(disc[None], np.array([0.8, 0.3, 0.2])[:, None, None], 0.45)
    image = torch.from_numpy(image + np.random.default_rng(1).normal(0, 0.02, image.shape)).float()
    rough = torch.from_numpy(np.hypot(y - 48, x - 46) < 19).float()[None, None]
    rough = 8 * F.avg_pool2d(F.avg_pool2d(rough, 9, 1, 4), 2)[0, 0] - 4  # (48, 48), blurred

    def iou(logits: torch.Tensor) -> float:
        found = logits.numpy() > 0
        return float((found & disc).sum() / (found | disc).sum())

    before = iou(F.interpolate(rough[None, None], size=(96, 96), mode="bilinear")[0, 0])
    after = iou(Guide(image, 48, RefinementConfig()).refine(rough))
    assert before < 0.83 and after > 0.91


def test_without_edges_the_mask_is_only_smoothed() -> None:
    flat = torch.full((3, 24, 24), 0.3)
    mask = torch.zeros(24, 24)
    mask[:, 12:] = 1.0
    found = Guide(flat, 24, RefinementConfig(radius=2)).refine(mask)
    assert found[12, 12].item() == pytest.approx(0.6, abs=0.02)  # twice a mean over 5 cells
    assert found[:, :8].abs().max() < 1e-4 and (found[:, 16:] - 1).abs().max() < 1e-4


def test_the_tracker_shows_refined_masks_and_remembers_plain_ones() -> None:
    config = lm.preset("nano").model_copy(update={"image_size": 64})
    plain = config.model_copy(update={"refinement": None})
    random = np.random.default_rng(2)
    images = {c: random.integers(0, 256, (48, 80, 3), dtype=np.uint8) for c in ("ego", "exo")}
    mask = np.zeros((48, 80), bool)
    mask[10:30, 20:50] = True
    shown, logits, states = [], [], []
    for own in (config, plain):
        model = seeded_model(own, 0)
        with torch.no_grad():  # judge it present
            model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(9.0)
        tracker = lm.CorrespondenceTracker(model, "ego", ["exo"])
        for _ in range(2):
            one = tracker.step(images, {"cup": mask})["exo"]["cup"]
        assert one.visible() and one.mask().shape == (48, 80)
        shown.append(one.full_logits())
        logits.append(one.logits)
        states.append(tracker.memory_state()["cup"])
        assert np.array_equal(one.mask(), lm.exclusive_masks({"cup": one})["cup"])
    assert torch.equal(*logits)
    assert all(torch.equal(states[0][part], states[1][part]) for part in states[0])
    assert not torch.equal(*shown)


def test_released_networks_have_no_refinement() -> None:
    model = lm.build_model(lm.preset("mini"))
    assert lm.preset("base_plus").refinement is None
    assert guides(model.config, torch.zeros(2, 3, 128, 128)) == [None, None]
    assert not hasattr(model.sam_mask_decoder, "mask_bias")
