"""`lmeec bench`: what it measures and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.bench import suite
from lmeec_core.bench.measure import spread
from lmeec_core.bench.reference import ReferenceStep
from lmeec_core.cli import app
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
