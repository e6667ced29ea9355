"""Configuration refuses what cannot work and says why."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

import lmeec_core as lm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 100}, "100 given, a multiple of 32 expected"),
        (
            {"image_size": 224, "trunk": {"stages": (1, 2, 3, 1), "window_spec": (8, 4, 7, 7)}},
            "14 tokens a side in windows of 7 cannot be halved before stage 4",
        ),
        ({"hidden_dim": 100}, "hidden_dim: 100 given"),
        ({"decoder_heads": 7}, "decoder_heads: 7 does not divide"),
        ({"trunk": {"num_heads": 3}}, "num_heads: 3 does not divide"),
        ({"trunk": {"patch_stride": 3}}, "must be 2 or 4"),
        ({"memory_pool": 2}, "memory_pool: 2 given without matching"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_model_config(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        lm.ModelConfig(**options)


@pytest.mark.parametrize(
    "options", [{"compression": "best"}, {"capacity": 0}, {"fusion": "sum"}, {"size": 6}]
)
def test_memory_config(options: dict) -> None:
    with pytest.raises(ValidationError):
        lm.MemoryConfig(**options)


def test_small_presets_are_possible() -> None:
    config = lm.ModelConfig(
        image_size=128,
        hidden_dim=64,
        memory_dim=32,
        memory_layers=1,
        memory_feedforward=128,
        decoder_heads=4,
        decoder_feedforward=64,
        trunk=lm.TrunkConfig(embed_dim=8, num_heads=1, stages=(1, 1, 1, 1), patch_stride=2),
    )
    model = lm.build_model(config)
    assert config.grid == 16 and config.mask_size == 64
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
