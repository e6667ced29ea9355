"""The small network: shape, size, and that training and tracker compute the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lmeec_core as lm
from lmeec_core.compact import CompactLMEEC
from lmeec_core.model.layers import LayerNorm2d
from lmeec_core.preprocessing import normalise
from lmeec_core.training.evaluate import Row, balanced_accuracy, best_threshold
from lmeec_core.training.forward import ClipMemory, forward_frame

SIZE = 64


@pytest.fixture(scope="module")
def small() -> lm.LMEEC:
    """The nano network at 64 pixels, with random weights whose statistics are not trivial."""
    torch.manual_seed(0)
    model = lm.build_model(lm.preset("nano").model_copy(update={"image_size": SIZE}))
    model.train().encode_images(torch.randn(8, 3, SIZE, SIZE))  # batch statistics
    torch.nn.init.normal_(model.matching.verification.mlp.layers[-1].weight)  # else it does nothing
    return model.eval().requires_grad_(False)


def _clip(frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (2, frames, SIZE, SIZE, 3), dtype=np.uint8)
    masks = np.zeros((frames, 2, SIZE, SIZE), bool)
    for t in range(frames):
        masks[t, 0, 10 + t : 30, 8:24] = True
        masks[t, 1, 30:44, 20 + t : 50] = True
    return images[0], images[1], masks


def test_nano_is_small_enough() -> None:
    model = lm.build_model(lm.preset("nano"))
    count = sum(value.numel() for value in model.state_dict().values())
    assert sum(p.numel() for p in model.parameters()) <= 6_000_000
    assert 2 * count <= 12_000_000  # bytes in half precision
    assert model.config.mask_size == 144 and model.config.grid == 36


@pytest.mark.parametrize("name", ["mini", "nano"])
def test_a_trunk_tells_its_channels_strides_and_layers(name: str) -> None:
    config = lm.preset(name)
    encoder = lm.build_model(config).image_encoder
    images = torch.zeros(1, 3, config.image_size, config.image_size)
    for x, channels, stride in zip(
        encoder.trunk(images), encoder.trunk.channels, encoder.trunk.strides, strict=True
    ):
        assert x.shape[1:] == (channels, config.image_size // stride, config.image_size // stride)
    assert [x.shape[1] for x in encoder(images)] == list(encoder.neck.channels)
    groups = encoder.trunk.layer_groups()
    loose = {
        parameter.partition(".")[0]
        for parameter, _ in encoder.trunk.named_parameters()
        if sum(parameter.startswith(group) for group in groups) != 1
    }
    assert loose <= {"pos_embed", "pos_embed_window", "position"} and len(groups) > 7


def test_an_unknown_trunk_is_named() -> None:
    config = lm.preset("mini")
    odd = config.model_copy(update={"trunk": config.trunk.model_copy(update={"kind": "swin"})})
    with pytest.raises(
        lm.InputError, match=r"trunk.kind: 'swin' given, one of \['conv', 'hiera'\]"
    ):
        lm.build_model(odd)


def test_the_configuration_chooses_the_network() -> None:
    small = lm.preset("nano").model_copy(update={"image_size": SIZE})
    assert type(lm.build_model(lm.preset("mini"))) is lm.LMEEC
    assert type(lm.build_model(small)) is CompactLMEEC
    with pytest.raises(lm.InputError, match="accepts no prompts"):
        lm.PromptTracker(lm.build_model(small))


def test_released_networks_have_no_matching() -> None:
    names = lm.build_model(lm.preset("mini")).state_dict()
    assert not [n for n in names if "matching" in n or "refine" in n or "temperature" in n]


@pytest.mark.parametrize("newest_first", [True, False])
def test_training_computes_what_the_tracker_does(small: lm.LMEEC, newest_first: bool) -> None:
    """With first in first out the rows count from the newest frame, with the release's
    compression from the oldest slot; five frames are too few for anything to be compressed."""
    frames = 5
    ego, exo, masks = _clip(frames)
    compression = "fifo" if newest_first else "keep_first"
    tracker = lm.CorrespondenceTracker(
        small, "ego", ("exo",), lm.MemoryConfig(compression=compression)
    )
    memory = ClipMemory(small, newest_first=newest_first)
    for t in range(frames):
        found = tracker.step({"ego": ego[t], "exo": exo[t]}, {"a": masks[t, 0], "b": masks[t, 1]})[
            "exo"
        ]
        both = torch.from_numpy(np.stack((ego[t], exo[t]))).permute(0, 3, 1, 2).float() / 255
        views = small.encode_images(normalise(both))
        query, target = views.map(lambda x: x[:1]), views.map(lambda x: x[1:])
        given = torch.from_numpy(masks[t])[None].float()
        step = forward_frame(small, query, target, given, 2, memory)
        prediction = small.apply_presence(step.decoded)
        for i, name in enumerate("ab"):
            assert torch.allclose(found[name].logits, prediction.logits[i], atol=1e-3)
            assert found[name].presence_logit == pytest.approx(
                float(prediction.presence_logit[i]), abs=1e-4
            )
            assert torch.allclose(found[name].pointer, prediction.pointer[i], atol=1e-4)


def test_targets_and_objects_of_a_batch_do_not_mix(small: lm.LMEEC) -> None:
    """Two objects in two target views at once give what each gives alone."""
    ego, exo, masks = _clip(3)
    images = [{"q": ego[t], "t0": exo[t], "t1": exo[2 - t]} for t in range(3)]
    together = lm.CorrespondenceTracker(small, "q", ("t0", "t1"))
    alone = lm.CorrespondenceTracker(small, "q", ("t1",))
    for t in range(3):
        found = together.step(images[t], {"a": masks[t, 0], "b": masks[t, 1]})["t1"]["b"]
        single = alone.step(images[t], {"b": masks[t, 1]})["t1"]["b"]
        assert found.presence_logit == pytest.approx(single.presence_logit, abs=1e-4)
        assert torch.allclose(found.logits, single.logits, atol=1e-3)


def test_bank_frames_are_pooled(small: lm.LMEEC) -> None:
    ego, exo, masks = _clip(2)
    tracker = lm.CorrespondenceTracker(small, "q", ("t",))
    tracker.step({"q": ego[0], "t": exo[0]}, {"a": masks[0, 0]})
    config = small.config
    width = config.memory_dim + config.matching.dim
    stored = tracker._tracks.query.read([0])
    assert stored.shape == (1, 1, (config.grid // 2) ** 2, width)


def test_the_presence_threshold_is_the_lowest_that_is_nearly_best() -> None:
    def row(logit: float, there: bool) -> Row:
        return Row(0, 100, 100 * there, 0.5, float("nan"), logit)

    rows = [row(k / 10, True) for k in range(200)]  # 0 .. 19.9
    rows += [row(-k / 10, False) for k in range(1, 200)]  # -0.1 .. -19.9
    exact, loose = best_threshold(rows, slack=0.0), best_threshold(rows, slack=0.05)
    assert balanced_accuracy(rows, exact) == pytest.approx(1, abs=0.01) and -0.3 < exact < 0.1
    assert loose < exact - 1
    assert balanced_accuracy(rows, loose) >= balanced_accuracy(rows, exact) - 0.05


def test_the_presence_threshold_counts_both_directions_alike() -> None:
    def rows(direction: int, edge: float, absent: int) -> list[Row]:
        """Right above and below ``edge`` alone."""
        there = [
            Row(direction, 100, 100, 0.5, float("nan"), edge + 0.1 + 0.1 * k) for k in range(50)
        ]
        return there + [Row(direction, 100, 0, 0, 0, edge - 0.1 - 0.01 * k) for k in range(absent)]

    many, few = rows(1, 0, 400), rows(0, 2, 10)
    assert -0.2 < best_threshold(many, slack=0) < 0.2
    # from 1.9 on the ten are told apart, for 18 of the other fifty: a mean of 0.91, at 0 of 0.75.
    # Of all together the ten are few, and 0 would be best.
    assert 1.5 < best_threshold(many + few, slack=0) <= 2.1


def test_normalisation_of_few_channels_is_the_same_on_a_gpu() -> None:
    """GPUs take another way to it; this compares the two on a CPU."""
    torch.manual_seed(0)
    norm = LayerNorm2d(16)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (3 + 5 * torch.randn(2, 16, 8, 8)).requires_grad_()
    plain, other = norm(x), norm.over_channels(x)
    torch.testing.assert_close(other, plain)
    given = [x, norm.weight, norm.bias]
    gradients = torch.autograd.grad(plain.square().sum(), given)
    for a, b in zip(gradients, torch.autograd.grad(other.square().sum(), given), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
