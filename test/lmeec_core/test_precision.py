"""Float32 is computed in float32, on any device, in any thread, whatever the caller has set."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

import lmeec_core as lm
from lmeec_core.model import LMEEC
from lmeec_core.model.precision import exact_convolutions


@pytest.fixture
def torchs_default() -> Iterator[None]:
    """cuDNN's settings as they are in a new process, and as they were afterwards."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32
    cudnn.allow_tf32 = True
    yield
    cudnn.allow_tf32 = before


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that say that they are on a GPU; their weights stay where they are."""
    monkeypatch.setattr(LMEEC, "device", property(lambda _: torch.device("cuda")))


def settings() -> tuple[bool, bool]:
    return torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32


def test_float32_on_a_gpu_runs_with_cudnn_and_without_tf32(
    torchs_default: None, on_cuda: None, mini: lm.LMEEC
) -> None:
    seen = []
    hook = mini.image_encoder.register_forward_hook(lambda *_: seen.append(settings()))
    with torch.inference_mode(), mini.autocast():
        mini.encode_images(torch.zeros(1, 3, 128, 128))
    hook.remove()
    assert seen == [(True, False)]
    assert settings() == (True, False), "it stays so: other threads may be in a step"


def test_steps_of_several_threads_do_not_undo_each_others_settings(
    torchs_default: None, on_cuda: None, mini: lm.LMEEC
) -> None:
    """The first one ends while the second is at work."""
    entered, ended, seen = threading.Event(), threading.Event(), []

    def second() -> None:
        with mini.autocast():
            entered.set()
            assert ended.wait(10)
            seen.append(settings())

    with mini.autocast():
        thread = threading.Thread(target=second)
        thread.start()
        assert entered.wait(10)
    ended.set()
    thread.join()
    assert seen == [(True, False)]


@pytest.mark.skipif(
    not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has one setting only"
)
def test_convolutions_are_exact_where_all_operations_may_round(torchs_default: None) -> None:
    convolutions = torch.backends.cudnn.conv
    general, own = torch.backends.fp32_precision, convolutions.fp32_precision
    try:
        torch.backends.fp32_precision = "tf32"
        exact_convolutions()
        assert convolutions.fp32_precision != "tf32"
    finally:
        torch.backends.fp32_precision = general
        convolutions.fp32_precision = own


def test_autocast_of_the_caller_does_not_reach_float32(mini: lm.LMEEC, scene) -> None:  # type: ignore[no-untyped-def]
    found = []
    for around in (False, True):
        tracker = lm.CorrespondenceTracker(mini, "ego", ["exo"])
        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            for step in range(3):
                images, masks = scene(step)
                found.append(tracker.step(images, masks)["exo"]["cup"])
    for plain, inside in zip(found[:3], found[3:], strict=True):
        assert torch.equal(plain.logits, inside.logits)
        assert torch.equal(plain.pointer, inside.pointer)


def test_a_model_loaded_in_inference_mode_steps(scene) -> None:  # type: ignore[no-untyped-def]
    images, masks = scene(0)
    found = []
    with torch.inference_mode():
        inside = lm.load_model("mini", seed=0, device="cpu")
        built = lm.build_model(lm.preset("mini"))
        built.load_state_dict(inside.state_dict())
    assert not any(p.is_inference() for p in inside.parameters())
    assert any(p.is_inference() for p in built.parameters())
    for model in (lm.load_model("mini", seed=0, device="cpu"), inside, built):
        tracker = lm.CorrespondenceTracker(model, "ego", ["exo"])
        tracker.step(images, masks)
        found.append(tracker.step(images, masks)["exo"]["cup"].logits)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_the_positions_that_are_used_are_kept(mini: lm.LMEEC) -> None:
    """Of more memories than are remembered, the one that was used last."""
    made = []
    make = mini._make_position

    def count(*key: object) -> torch.Tensor:
        made.append(key)
        return make(*key)  # type: ignore[arg-type]

    mini._positions.clear()
    mini._make_position = count  # type: ignore[method-assign, assignment]
    try:
        with torch.inference_mode():
            for window in range(2, 102):
                for _ in range(2):
                    mini.memory_positions((0,), (1,), window, torch.float32)
                mini.memory_positions((5,), (), 16, torch.float32)
    finally:
        del mini._make_position
    assert len(made) == 101 and len(mini._positions) <= 64
