"""Engines: choosing, caching, exact savings, bfloat16."""

from __future__ import annotations

import errno
import json
import time
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import lmeec_core as lm
from lmeec_core.bench.filled import filled_tracker
from lmeec_core.config import EngineName
from lmeec_core.engine import EngineError, Runner, StageCall, cuda_graph, make_engine, step_calls
from lmeec_core.engine import auto as auto_engine
from lmeec_core.engine.base import StageFunction
from lmeec_core.engine.cuda_graph import BUCKETS, CudaGraphEngine, bucket, filled
from lmeec_core.engine.eager import EagerEngine
from lmeec_core.model import layers
from lmeec_core.model.hiera import WindowAttention
from lmeec_core.model.memory_attention import RotaryAttention
from lmeec_core.model.stages import STAGES, MemoryAttentionOptions, Stage, StageOptions
from lmeec_core.takes import Take

SAMPLE = Path(__file__).parents[1] / "data" / "sample_take"


class Counting(EagerEngine):
    """Eager, for some stages only; counts what it builds."""

    def __init__(self, model: lm.LMEEC, stages: set[str]) -> None:
        super().__init__(model)
        self.stages, self.built = stages, []

    def offers(self, call: StageCall) -> bool:
        return call.stage in self.stages

    def build(self, call: StageCall) -> StageFunction:
        self.built.append(call)
        return super().build(call)


def masks_of(model: lm.LMEEC, steps: int = 1) -> list[Tensor]:
    state = filled_tracker(model, 2, 2)
    found = [state.tracker.step(state.images, state.masks) for _ in range(steps)]
    return [c.logits for one in found for entries in one.values() for c in entries.values()]


def test_an_engine_takes_its_stages_once_per_shape_and_eager_the_rest(small: lm.LMEEC) -> None:
    expected = masks_of(small, 3)
    engine = Counting(small, {"image_encoder", "memory_attention"})
    small.runner = Runner(small, {stage: engine for stage in STAGES})
    try:
        found = masks_of(small, 3)
    finally:
        small.runner = None
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    kinds = [(call.stage, call.options) for call in engine.built]
    assert kinds == [
        ("image_encoder", StageOptions()),
        ("memory_attention", MemoryAttentionOptions(num_pointer_tokens=0)),
        ("memory_attention", MemoryAttentionOptions(num_pointer_tokens=60)),
    ]


@pytest.mark.parametrize(
    ("name", "part"),
    [("fast", "one of auto, eager, cuda_graph"), ("cuda_graph", "a CUDA device expected")],
)
def test_an_engine_that_cannot_be_used_says_why(name: str, part: str) -> None:
    with pytest.raises(EngineError, match=part):
        lm.load_model("mini", seed=0, device="cpu", engine=name)  # type: ignore[arg-type]


def test_the_calls_of_a_step_with_a_full_memory(mini: lm.LMEEC) -> None:
    calls = step_calls(mini, objects=3, targets=2)
    shapes = {(c.stage, str(c.options), c.shapes[1:2]): c.shapes[0] for c in calls}
    assert [c.stage for c in calls].count("image_encoder") == 1
    assert shapes["image_encoder", "", ()] == (3, 3, 128, 128)
    assert shapes["target_tokens", "", ()][0] == 2
    assert shapes["memory_attention", "num_pointer_tokens=60", ((6, 12 * 64 + 60, 64),)] == (
        6,
        64,
        256,
    )
    assert shapes["memory_encoder", "", ((3, 128, 128),)][0] == 3  # query, once per object
    assert shapes["memory_encoder", "", ((6, 32, 32),)][0] == 6
    first = step_calls(mini)[0]
    example = first.example(mini.device)
    assert [tuple(x.shape) for x in example] == list(first.shapes)
    assert torch.equal(example[0], first.example(mini.device)[0])


CASES = [
    ("mini", "fp32", 3, 2, lm.MemoryConfig()),
    ("mini", "bf16", 1, 1, lm.MemoryConfig(target_bank=False, fusion="none")),
    ("nano", "fp32", 1, 2, lm.MemoryConfig(query_bank=False)),
    ("nano", "bf16", 3, 1, lm.MemoryConfig(capacity=3, fusion="add")),
]


@pytest.mark.parametrize(("preset", "precision", "objects", "targets", "memory"), CASES)
def test_the_table_tells_the_calls_that_a_tracker_makes(
    preset: str, precision: str, objects: int, targets: int, memory: lm.MemoryConfig
) -> None:
    """Stages, options, shapes and types in their order; outputs are as the table says, too."""
    config = lm.preset(preset).model_copy(update={"image_size": 64} if preset == "nano" else {})
    model = lm.build_model(config).requires_grad_(False)
    if precision == "bf16":
        model.cast_weights()
    calls = []

    def run(stage: Stage, options: StageOptions, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        spec = model.stages[stage]
        call = StageCall.of(spec, options, inputs)
        calls.append(call)
        outputs = model.compute(stage, options, inputs)
        sizes = model.sizes() | {spec.varying: call.length}  # type: ignore[dict-item]
        wanted = [tensor.resolve(call.batch, sizes) for tensor in spec.outputs]
        assert [tuple(x.shape) for x in outputs] == wanted
        return outputs

    state = filled_tracker(model, objects, targets, memory, runner=run)
    state.tracker.step(state.images, state.masks)
    assert calls == step_calls(model, objects, targets, memory)


def test_a_position_of_each_memory_has_a_batch(small: lm.LMEEC) -> None:
    """As the tracker of prompts gives it: the batch of a CUDA graph is filled up in all inputs."""
    call = step_calls(small, 5)[4]
    shared, own = call.shapes[2], (5, *call.shapes[2])
    each = replace(call, shapes=(*call.shapes[:2], own))
    assert not call.has_batch(2) and each.has_batch(2)
    assert filled(call).shapes[2] == shared and filled(each).shapes[2] == (6, *shared)


class Slow(EagerEngine):
    """Eager with a pause in every stage but one."""

    name = "onnxruntime"

    def build(self, call: StageCall) -> StageFunction:
        inner = super().build(call)

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            time.sleep(0.05)
            return inner(*inputs)

        return run


def test_auto_measures_each_stage_and_keeps_the_faster_engine(small: lm.LMEEC) -> None:
    engines = {"eager": make_engine(small, "eager"), "onnxruntime": Slow(small)}
    times = auto_engine.measure(small, engines, step_calls(small))  # type: ignore[arg-type]
    assert set(times) == set(STAGES)
    for stage, entry in times.items():
        assert entry["onnxruntime"] >= 50 * (2 if stage.startswith("memory") else 1)
        assert auto_engine.fastest(entry) == "eager"  # type: ignore[arg-type]
    assert auto_engine.fastest({"eager": 10.0, "openvino": 8.0}) == "openvino"
    assert auto_engine.fastest({"eager": 10.0, "openvino": 9.9}) == "eager"
    assert auto_engine.fastest({}) == "eager"


def test_auto_remembers_by_machine_and_survives_a_damaged_file(
    small: lm.LMEEC,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("LMEEC_CACHE", str(tmp_path / "cache"))
    engines = {"eager": make_engine(small, "eager"), "onnxruntime": Slow(small)}
    monkeypatch.setattr(auto_engine, "candidates", lambda model: engines)
    path = tmp_path / "cache" / auto_engine.cache_name(small, ["eager", "onnxruntime"])
    path.parent.mkdir()
    path.write_text("{ damaged")
    with caplog.at_level("INFO", logger="lmeec_core"):
        assert {e.name for e in auto_engine.choose(small).values()} == {"eager"}
    assert len([r for r in caplog.records if "engine auto: image_encoder eager" in r.message]) == 1
    path.write_text(json.dumps({"decoder": {"eager": 2.0, "onnxruntime": 1.0}}))
    chosen = auto_engine.choose(small)
    assert chosen["decoder"].name == "onnxruntime" and chosen["image_encoder"].name == "eager"


def test_auto_measures_anew_with_another_library_or_memory(
    small: lm.LMEEC, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: list[EngineName] = ["eager", "onnxruntime"]
    names = {auto_engine.cache_name(small, engines), auto_engine.cache_name(small, ["eager"])}
    names.add(auto_engine.cache_name(small, engines, lm.MemoryConfig(fusion="add")))
    names.add(auto_engine.cache_name(small, engines, None, ["decoder_b1.onnx"]))
    assert auto_engine.cache_name(small, engines, lm.MemoryConfig()) in names
    monkeypatch.setattr(auto_engine.metadata, "version", lambda name: "0.0.1")
    names.add(auto_engine.cache_name(small, engines))
    assert len(names) == 5


@pytest.mark.parametrize("home", ["none", "absent", "read-only", "full"])
def test_auto_starts_without_a_cache(
    home: str,
    small: lm.LMEEC,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It measures, says that it will again, and does not measure twice in one process."""
    measured = []

    def measure(*_: object) -> auto_engine.Times:
        measured.append(1)
        return {}

    for name in ("LMEEC_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    engines = {"eager": make_engine(small, "eager"), "onnxruntime": Slow(small)}
    monkeypatch.setattr(auto_engine, "candidates", lambda model: engines)
    monkeypatch.setattr(auto_engine, "measure", measure)
    monkeypatch.setattr(auto_engine, "_measured", {})
    if home == "none":
        monkeypatch.setattr(auto_engine, "cache_folder", lambda: None)
    elif home == "absent":
        monkeypatch.setenv("HOME", "/proc/nobody")
    elif home == "read-only":
        monkeypatch.setenv("HOME", "/sys")
    else:
        monkeypatch.setenv("LMEEC_CACHE", str(tmp_path))

        def full(path: Path, text: str) -> None:
            raise OSError(errno.ENOSPC, "not written: No space left on device", str(path))

        monkeypatch.setattr(auto_engine, "write_text", full)
    for _ in range(2):
        assert {e.name for e in auto_engine.choose(small).values()} == {"eager"}
    assert measured == [1]
    (said,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "what was measured is not kept" in said
    assert {"none": "no home folder", "full": "No space"}.get(home, "/") in said


def test_cuda_graphs_are_shared_by_the_batches_of_a_bucket(small: lm.LMEEC) -> None:
    call = step_calls(small, 5)[4]
    assert call.options == MemoryAttentionOptions(num_pointer_tokens=60)
    full = filled(call)
    assert full.shapes[0][0] == full.shapes[1][0] == bucket(5) == 6
    assert full.shapes[2] == call.shapes[2]  # the position has no batch
    (decode,) = (c for c in step_calls(small, 5) if c.stage == "decoder")
    assert {shape[0] for shape in filled(decode).shapes} == {6}
    assert filled(full, 5) == call


@pytest.mark.parametrize("room", [10_000, 9])
def test_no_step_captures_a_cuda_graph(
    small: lm.LMEEC, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, room: int
) -> None:
    """With a stand-in for the capture: all is captured while preparing, as far as memory goes."""
    captured: list[StageCall] = []

    class Capture:
        def __init__(self, model: lm.LMEEC, call: StageCall, pool: Any) -> None:
            if len(captured) == room:
                raise torch.OutOfMemoryError
            captured.append(call)
            self.compute = lambda inputs: model.compute(call.stage, call.options, inputs)

        def replay(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return self.compute(inputs)

    model, expected = deepcopy(small), masks_of(small, 8)
    monkeypatch.setattr(cuda_graph, "_Graph", Capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    with monkeypatch.context() as patch:
        patch.setattr(lm.LMEEC, "device", property(lambda _: torch.device("cuda")))
        engine = CudaGraphEngine(model)
    calls = step_calls(model)
    engine.prepare(calls, make=False)
    count = len(captured)
    assert count == min(room, len(BUCKETS) * len(set(calls))) == len(set(captured))
    model.runner = Runner(model, dict.fromkeys(STAGES, engine))
    for a, b in zip(masks_of(model, 8), expected, strict=True):
        assert torch.equal(a, b)
    assert len(captured) == count
    if room == 9:
        assert "no memory for" in caplog.text
    else:  # two objects in two targets: in the steady state nothing is left to eager
        assert set(model.runner.used.values()) == {"cuda_graph"}


def padded(module: WindowAttention, x: Tensor, window: int) -> Tensor:
    """Window attention as the release does it: on zeros where a window leaves the image."""
    b, h, w, dim = x.shape
    x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))
    rows, columns = x.shape[1] // window, x.shape[2] // window
    x = (
        x.view(b, rows, window, columns, window, dim)
        .transpose(2, 3)
        .reshape(-1, window, window, dim)
    )
    y = module(x, 0)  # each window as an image of its own
    side = y.shape[1]
    y = (
        y.view(b, rows, columns, side, side, -1)
        .transpose(2, 3)
        .reshape(b, rows * side, -1, y.shape[-1])
    )
    step = window // side
    return y[:, : h // step, : w // step]


@pytest.mark.parametrize(("h", "w", "window"), [(10, 10, 4), (6, 10, 8), (8, 8, 4), (7, 9, 3)])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("exported", [False, True])
def test_padding_that_is_not_computed_changes_nothing(
    h: int, w: int, window: int, pool: bool, exported: bool
) -> None:
    """Nor does the form for exports, which computes all windows at once."""
    if pool and (h % 2 or window % 2):
        pytest.skip("a stage begins at an even size")
    torch.manual_seed(0)
    module = WindowAttention(16, 32, 4, pool).requires_grad_(False)
    x = torch.randn(2, h, w, 16)
    wanted = padded(module, x, window)
    module.whole_windows = exported
    torch.testing.assert_close(module(x, window), wanted, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_bfloat16_attention_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 16) for n in (40, 50, 50))
    v, bias = v[..., :8], torch.randn(1, 50)
    exact = torch.softmax(q @ k.mT / 4 + bias, dim=-1) @ v
    half = [x.bfloat16() for x in (q, k, v)]
    whole = layers.attention(*half, bias.bfloat16())
    assert (whole.float() - exact).abs().max() < 0.05
    monkeypatch.setattr(layers, "_SCORES", 7 * 2 * 50)
    torch.testing.assert_close(layers.attention(*half, bias.bfloat16()), whole)


@torch.inference_mode()
def test_narrow_values_are_projected_after_the_attention() -> None:
    torch.manual_seed(0)
    module = RotaryAttention(64, 4, key_dim=16)
    q, k = torch.randn(2, 16, 64), torch.randn(2, 2 * 16 + 3, 16)
    exact = module(q, k, k, num_pointer_tokens=3)
    with torch.autocast("cpu", torch.bfloat16):
        half = module(q, k, k, num_pointer_tokens=3)
    assert half.dtype is torch.bfloat16
    assert (half - exact).abs().max() < 0.02 * exact.abs().max()


def test_bfloat16_keeps_norms_and_the_presence_head_in_float32() -> None:
    model = lm.load_model("nano", device="cpu", precision="bf16")
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    assert kinds["memory_attention.layers.0.linear1.weight"] is torch.bfloat16
    assert kinds["memory_attention.layers.0.norm1.weight"] is torch.float32
    assert kinds["sam_mask_decoder.pred_obj_score_head.layers.0.weight"] is torch.float32
    state = filled_tracker(model)
    (found,) = state.tracker.step(state.images, state.masks)["target_0"].values()
    assert found.logits.dtype is torch.float32


@pytest.mark.slow
def test_bfloat16_masks_are_those_of_float32() -> None:
    take = Take.open(SAMPLE)
    runs = {}
    for precision in ("fp32", "bf16"):
        model = lm.load_model("nano", device="cpu", precision=precision)
        tracker = lm.CorrespondenceTracker(model, take.ego, take.exos)
        runs[precision] = []
        for frame in take.common_frames(*take.cameras)[:4]:
            found = tracker.step(
                {camera: take.image(camera, frame) for camera in take.cameras},
                {name: take.mask(name, take.ego, frame) for name in take.objects
                 if frame in take.mask_frames(name, take.ego)},
            )  # fmt: skip
            runs[precision] += [c.mask() for entries in found.values() for c in entries.values()]
    pairs = list(zip(runs["fp32"], runs["bf16"], strict=True))
    ious = [(a & b).sum() / (a | b).sum() for a, b in pairs if (a | b).any()]
    assert len(ious) > 20 and np.mean(ious) >= 0.99
