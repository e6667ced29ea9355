"""`lmeec bench`: what it measures and writes."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.bench import measure as bench
from lmeec_core.bench import report, suite
from lmeec_core.bench.measure import spread
from lmeec_core.bench.memory import peak_of
from lmeec_core.bench.reference import ReferenceStep
from lmeec_core.cli.app import app
from lmeec_core.cli.bench import _engines
from lmeec_core.model.stages import STAGES


def test_the_command_writes_what_it_measured(tmp_path: Path) -> None:
    out, plot = tmp_path / "bench.json", tmp_path / "cost.png"
    arguments = ["bench", "--preset", "mini", "--precision", "fp32", "--objects", "1"]
    arguments += ["--objects", "2", "--targets", "1", "--steps", "1", "--reference"]
    arguments += [
        "--frames",
        "2",
        "--device",
        "cpu",
        "--engine",
        "eager",
        "--json",
        str(out),
        "--plot",
        str(plot),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    one, two = json.loads(out.read_text())["results"]
    for entry, count in ((one, 1), (two, 2)):
        assert (entry["preset"], entry["device"], entry["engine"]) == ("mini", "cpu", "eager")
        assert (entry["precision"], entry["objects"], entry["targets"]) == ("fp32", count, 1)
        step, reference = entry["step_ms"], entry["reference"]["step_ms"]
        assert 0 < step["median"] <= step["p95"]
        assert entry["ratio"] == pytest.approx(reference["median"] / step["median"], rel=1e-2)
        assert entry["memory"]["frames"] == 2 and entry["memory"]["peak_mb"] > 50
        assert set(STAGES) <= {name.split()[0] for name in entry["stage_ms"]}
    assert two["gflop"] > one["gflop"] > 0
    assert plot.stat().st_size > 1000


def test_memory_is_the_peak_of_the_case_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what was used before nor what comes afterwards counts."""
    cpu, size = torch.device("cpu"), 200 * 2**20
    np.ones(2 * size, np.uint8)  # an earlier peak
    small = peak_of(cpu, lambda: np.ones(1000, np.uint8))
    large = peak_of(cpu, lambda: np.ones(size, np.uint8))
    assert small is not None and large is not None
    assert size / 1e6 * 0.9 < large - small < size / 1e6 * 1.2


def test_memory_is_measured_before_the_reference_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    peak = bench.peak_of

    def measured(device: torch.device, work: Callable[[], object]) -> float | None:
        assert bench.plain_of.cache_info().currsize == 0
        order.append("memory")
        return peak(device, work)

    monkeypatch.setattr(bench, "peak_of", measured)
    monkeypatch.setattr(bench, "timed", lambda model, work: (order.append("time"), work(), 1.0)[2])
    case = bench.Case("mini", "cpu", "eager", "fp32", 1, 1, steps=1, reference_steps=1)
    for _ in range(2):
        bench.measure(case)
    assert order[0] == "memory" and order.count("memory") == 2
    assert order[order.index("memory", 1) + 1] == "time"


def test_without_a_way_to_forget_a_peak_there_is_no_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lmeec_core.bench.memory._CLEAR", tmp_path / "absent" / "file")
    ran: list[int] = []
    assert peak_of(torch.device("cpu"), lambda: ran.append(1)) is None and ran == [1]
    assert report._peak({"memory": {}}) == "-"


def test_the_reference_computes_every_pair_by_itself() -> None:
    model = lm.load_model("mini", seed=0, device="cpu")
    step = ReferenceStep(model, objects=2, targets=3)
    assert len(step.passes) == 6
    count = dict.fromkeys(STAGES, 0)
    run = step._run

    def counting(stage, options, inputs):  # type: ignore[no-untyped-def]
        count[stage] += 1
        return run(stage, options, inputs)

    step._run = counting  # type: ignore[method-assign]
    step()
    assert count == {
        "image_encoder": 6,
        "target_tokens": 6,
        "memory_attention": 12,
        "decoder": 6,
        "memory_encoder": 12,
    }
    assert model.runner is None


def test_a_wrong_engine_is_said_before_anything_is_measured() -> None:
    result = CliRunner().invoke(app, ["bench", "--engine", "magic"])
    assert result.exit_code == 1 and "'magic' given, one of auto, eager" in result.output


def test_what_must_be_reached() -> None:
    def result(engine: str, objects: int, targets: int, median: float, ratio: float) -> dict:
        return {
            "preset": "base_plus", "device": "cpu", "precision": "bf16", "engine": engine,
            "objects": objects, "targets": targets, "step_ms": spread([median]), "ratio": ratio,
            "floor_share": 0.5, "memory": {},
        }  # fmt: skip

    results = [
        result("eager", 1, 1, 100.0, 1.7),
        result("openvino", 1, 1, 80.0, 2.1),
        result("auto", 1, 1, 90.0, 1.9),
        result("eager", 8, 2, 100.0, 4.0),
    ]
    checks = {
        c["name"]: c for c in suite.checks(results, {"edge_ms": {"median": 3.0, "p95": 11.0}})
    }
    assert checks[suite.CPU_ONE.name]["value"] == 2.1
    assert checks[suite.CPU_ONE.name]["passed"] is True
    assert checks[suite.CPU_MANY.name]["passed"] is False
    assert checks[suite.CUDA_ONE.name]["passed"] is None
    assert checks[suite.ROS_EDGE.name]["passed"] is False
    assert checks[suite.AUTO.name]["value"] == 1.125  # 90 ms against openvino's 80
    assert checks[suite.AUTO.name]["passed"] is False


def test_all_engines_whose_libraries_are_here_are_measured_and_the_others_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: lm.LMEEC
) -> None:
    """Also where nothing was exported before; auto, which finds what they made, comes last."""
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else there(name)
    )
    monkeypatch.setattr("lmeec_core.checkpoint.load_model", lambda *_, **__: small)
    monkeypatch.setenv("LMEEC_CACHE", str(tmp_path))
    told = io.StringIO()
    assert _engines(None, "mini", "cpu", Console(file=told, width=200)) == [
        "eager", "onnxruntime", "auto",
    ]  # fmt: skip
    assert "not measured: engine openvino: not installed" in told.getvalue()
    assert _engines(["eager"], "mini", "cpu", Console(file=told)) == ["eager"]
