"""Precision auto: bfloat16 where it is faster and finds the same masks, else float32."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

import lmeec_core as lm
from lmeec_core.engine import precision
from lmeec_core.offline.units import Settings


@pytest.mark.parametrize(
    ("times", "wrong", "chosen", "reason"),
    [
        ((1.0, 2.0), 0, "bf16", "IoU of 1.0000"),
        ((1.0, 2.0), 10, "bf16", "IoU of 0.9900"),
        ((1.0, 2.0), 11, "fp32", "IoU of 0.9890"),
        ((1.9, 2.0), 0, "fp32", "1.9 ms in bfloat16, 2 ms in float32"),
        ((1.0, 2.0), None, "fp32", "finds nothing"),
    ],
)
def test_the_choice_and_its_reason(
    small: lm.LMEEC,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    times: tuple[float, float],
    wrong: int | None,
    chosen: str,
    reason: str,
) -> None:
    """`wrong` pixels of a thousand are not found in bfloat16."""

    def masks(model: lm.LMEEC) -> np.ndarray:
        found = np.full(1000, wrong is not None)
        found[: (wrong or 0) if model.precision == "bf16" else 0] = False
        return found

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(precision, "product_times", lambda device: times)
    monkeypatch.setattr(precision, "_masks", masks)
    assert precision.choose_precision(small) == chosen
    assert small.precision == "fp32"
    assert caplog.messages[-1].startswith(f"precision auto: {chosen}, since ")
    assert reason in caplog.messages[-1]


def test_random_weights_and_offline_work_are_in_float32(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(precision, "product_times", lambda device: (1.0, 100.0))
    model = lm.load_model("mini", seed=0, device="cpu", precision="auto")
    assert model.precision == "fp32" and "weights are random" in caplog.text
    assert Settings(precision="auto").identity()["precision"] == "fp32"  # type: ignore[arg-type]
    assert Settings(precision="bf16").identity()["precision"] == "bf16"


def test_what_is_measured_here(small: lm.LMEEC) -> None:
    ours, exact = precision.product_times(torch.device("cpu"))
    assert 0 < ours < float("inf") and 0 < exact < float("inf")
    masks = precision._masks(small)
    side = small.config.image_size
    assert masks.shape == (8, side, side)
    agreement = precision.mask_agreement(small)
    assert (agreement is None) == (not masks.any())
    assert agreement is None or 0.0 <= agreement <= 1.0
    image, shown = precision._scene(0, side)
    assert image.shape == (side, side, 3) and len(shown) == 4
    assert all(0.01 < mask.mean() < 0.1 for mask in shown.values())
    assert not (np.sum(list(shown.values()), axis=0) > 1).any()
    moved = precision._scene(1, side)[1]
    assert all((mask != moved[name]).any() for name, mask in shown.items())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_bundled_network_finds_the_scene_in_both() -> None:
    model = lm.load_model("nano", device="cpu")
    assert precision._masks(model).any(axis=(1, 2)).all()
    agreement = precision.mask_agreement(model)
    assert agreement is not None and agreement >= precision.MASK_IOU
