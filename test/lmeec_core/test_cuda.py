"""Correctness on a CUDA device; skipped, with the reason, where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

import lmeec_core as lm
from lmeec_core.bench.filled import filled_tracker
from lmeec_core.config import EngineName, Precision
from lmeec_core.engine import Runner, use_engine
from lmeec_core.engine.compare import difference
from lmeec_core.engine.cuda_graph import CudaGraphEngine
from lmeec_core.preprocessing import prepare_images, prepare_masks

GOLDEN = Path(__file__).parents[1] / "data" / "golden"

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="not run: torch finds no CUDA device"
)


def run(model: lm.LMEEC, golden: dict, memory: lm.MemoryConfig) -> list[lm.Correspondence]:
    count = len(golden["ego"])
    tracker = lm.CorrespondenceTracker(model, "ego", ["exo"], memory, num_frames=count)
    return [
        tracker.step(
            {"ego": golden["ego"][t], "exo": golden["exo"][t]}, {"object": golden["mask"][t]}
        )["exo"]["object"]
        for t in range(count)
    ]


@pytest.mark.parametrize(
    ("case", "preset", "compression"),
    [
        ("mini_present", "mini", "keep_first"),
        ("mini_absent", "mini", "keep_first"),
        ("mini_fifo", "mini", "fifo"),
        ("base_plus", "base_plus", "keep_first"),
    ],
)
def test_golden_fp32_on_cuda(
    case: str, preset: str, compression: str, golden_model: Callable[..., lm.LMEEC]
) -> None:
    with np.load(GOLDEN / f"{case}.npz") as file:
        golden = dict(file)
    model = golden_model(preset, float(golden["score_bias"])).cuda()
    found = run(model, golden, lm.MemoryConfig(compression=compression))
    frames = golden.get("low_res_frames", np.arange(len(found)))
    for ours, reference in (
        (np.stack([found[t].logits.cpu().numpy() for t in frames]), golden["low_res"]),
        (np.stack([c.pointer.cpu().numpy() for c in found]), golden["ptr"]),
        (np.array([[c.presence_logit] for c in found]), golden["score"]),
        (np.array([[c.predicted_iou] for c in found]), golden["iou"]),
    ):
        assert difference(ours, reference) < 1e-4


def test_bf16_on_cuda_is_close_to_fp32(golden_model: Callable[..., lm.LMEEC]) -> None:
    with np.load(GOLDEN / "base_plus.npz") as file:
        golden = dict(file)
    model = golden_model("base_plus", float(golden["score_bias"])).cuda()
    model.precision = "bf16"
    found = run(model, golden, lm.MemoryConfig())
    ours = np.stack([found[t].logits.cpu().numpy() for t in golden["low_res_frames"]])
    apart = np.abs(ours - golden["low_res"])
    assert np.median(apart) / np.abs(golden["low_res"]).max() < 0.01


def test_preprocessing_on_cuda_equals_the_cpu() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (360, 640, 3), dtype=np.uint8)
    mask = rng.random((360, 640)) < 0.5
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    a, b = (prepare_images([image], 480, d).cpu() for d in (cpu, cuda))
    assert ((a - b).abs() > 1e-4).float().mean() < 1e-3
    a, b = (prepare_masks([mask], 480, d).cpu() for d in (cpu, cuda))
    assert (a != b).float().mean() < 1e-3


def test_device_memory_is_constant_in_time(golden_model: Callable[..., lm.LMEEC]) -> None:
    model = golden_model("mini", 1.5).cuda()
    tracker = lm.CorrespondenceTracker(model, "ego", ["exo"])
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    mask = np.ones((128, 128), bool)
    used = []
    for step in range(300):
        tracker.step({"ego": image, "exo": image}, {"cup": mask})
        if step >= 50:
            used.append(torch.cuda.memory_allocated())
    assert max(used) == min(used)


@pytest.mark.parametrize("preset", ["mini", "nano"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cuda_graphs_give_what_eager_gives_not_run_without_a_gpu(
    precision: Precision, preset: str
) -> None:
    masks = {}
    for engine in ("eager", "cuda_graph"):
        model = lm.load_model(preset, seed=0, device="cuda", precision=precision, engine="eager")
        with torch.no_grad():  # the logits of an absent object are the same in any engine
            model.get_parameter("sam_mask_decoder.pred_obj_score_head.layers.2.bias").add_(10.0)
        use_engine(model, cast(EngineName, engine))
        masks[engine] = []
        for objects in (3, 2):  # the second one shares the graphs' buckets only in part
            state = filled_tracker(model, objects, 2)
            for _ in range(6):
                found = state.tracker.step(state.images, state.masks)
                masks[engine] += [
                    c.logits.clone() for entries in found.values() for c in entries.values()
                ]
    for a, b in zip(masks["eager"], masks["cuda_graph"], strict=True):
        assert a.max() > a.min()
        tolerance = 1e-4 if precision == "fp32" else 0.05
        assert (a - b).abs().max() <= tolerance * a.abs().max()


def test_objects_that_come_and_go_are_not_captured_anew_not_run_without_a_gpu() -> None:
    model = lm.load_model("mini", seed=0, device="cuda", engine="cuda_graph")
    assert isinstance(model.runner, Runner)
    engine = cast(CudaGraphEngine, model.runner.engines["decoder"])
    states = {n: filled_tracker(model, n) for n in (1, 2, 3)}
    for _ in range(5):
        for state in states.values():
            state.tracker.step(state.images, state.masks)
    count, used = len(engine.graphs), torch.cuda.memory_allocated()
    for _ in range(20):
        for state in states.values():
            state.tracker.step(state.images, state.masks)
    assert len(engine.graphs) == count
    assert torch.cuda.memory_allocated() == used
