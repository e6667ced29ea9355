"""Rates and weight decay of every parameter."""

from __future__ import annotations

import pytest

import lmeec_core as lm
from lmeec_core.training.optimizer import (
    cosine,
    freeze_idle,
    make_optimizer,
    set_rates,
    trunk_layers,
)


def rates(model: lm.LMEEC) -> dict[str, tuple[float, float]]:
    """Rate and weight decay by parameter's name; idle ones are absent."""
    freeze_idle(model, "mv_moe")
    optimizer = make_optimizer(model, 5e-6, 3e-6, 0.9, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def test_hiera() -> None:
    model = lm.build_model(lm.preset("mini"))
    found, blocks = rates(model), len(model.image_encoder.trunk.blocks)
    trunk = "image_encoder.trunk."
    expected = {
        f"{trunk}blocks.{blocks - 1}.attn.qkv.weight": (3e-6 * 0.9, 0.1),
        f"{trunk}blocks.{blocks - 1}.norm1.weight": (3e-6 * 0.9, 0.0),
        f"{trunk}blocks.0.mlp.layers.0.bias": (3e-6 * 0.9**blocks, 0.0),
        f"{trunk}patch_embed.proj.weight": (3e-6 * 0.9 ** (blocks + 1), 0.1),
        f"{trunk}pos_embed": (3e-6, 0.1),
        f"{trunk}pos_embed_window": (3e-6, 0.1),
        "image_encoder.neck.convs.0.conv.weight": (3e-6, 0.1),
        "MV_MoE.mlp1.0.weight": (5e-6, 0.1),
        "MV_MoE.mlp1.0.bias": (5e-6, 0.0),
        "sam_mask_decoder.conv_s0.weight": (5e-6, 0.1),
        "memory_attention.norm.weight": (5e-6, 0.0),
        "maskmem_tpos_enc": (5e-6, 0.1),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
    everything = dict(model.named_parameters())
    assert not set(found) - set(everything)
    assert {n for n in everything if n not in found} == {
        n for n, p in everything.items() if not p.requires_grad
    }
    assert all(decay == 0 for n, (_, decay) in found.items() if n.endswith("bias"))


def test_convolutional_trunk() -> None:
    model = lm.build_model(lm.preset("nano"))
    found, layers = rates(model), trunk_layers(model)
    trunk = "image_encoder.trunk."
    assert len(layers) == 1 + (3 + 4 + 3) + 2
    ordered = [
        "stages.0.0.weight", "stages.1.0.0.weight", "stages.1.1.conv.weight",
        "stages.3.2.inner.0.weight", "attention.0.attention.q_proj.weight",
        "attention.1.mlp.layers.0.weight",
    ]  # fmt: skip
    powers = [13, 12, 11, 3, 2, 1]
    for name, power in zip(ordered, powers, strict=True):
        assert found[trunk + name] == pytest.approx((3e-6 * 0.9**power, 0.1))
    assert found[f"{trunk}position.weight"][0] == pytest.approx(3e-6)
    assert found[f"{trunk}stages.0.1.weight"][1] == 0  # batch normalisation
    assert found["matching.log_temperatures"] == pytest.approx((5e-6, 0))


def test_cosine_falls_to_a_tenth() -> None:
    assert cosine(0, 0.1) == 1 and cosine(1, 0.1) == pytest.approx(0.1)
    assert cosine(0.5, 0.1) == pytest.approx(0.55)
    optimizer = make_optimizer(lm.build_model(lm.preset("nano")), 5e-6, 3e-6, 0.9, 0.1)
    before = [group["lr"] for group in optimizer.param_groups]
    set_rates(optimizer, 0.1)
    set_rates(optimizer, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.5 * r for r in before])
