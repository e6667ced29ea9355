"""`lmeec bench --all --cuda`: order, time limits, what is written; on the CPU with tiny networks.

What a GPU computes was not run: without one, its engines must be named as not run.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from lmeec_core.bench import gpu, measure
from lmeec_core.bench.isolated import isolated
from lmeec_core.cli.app import app


def answer(**found: Any) -> dict[str, Any]:
    return found


def directly(work: Any, *arguments: Any, seconds: float) -> Any:
    """In place of a process, where only what comes of it matters."""
    assert seconds > 0
    return work(*arguments)


def test_work_in_a_process_ends_whatever_it_does() -> None:
    assert isolated(math.gcd, 12, 18, seconds=60) == 6
    with pytest.raises(RuntimeError, match="ZeroDivisionError: .*division"):
        isolated(divmod, 1, 0, seconds=60)
    with pytest.raises(RuntimeError, match=r"died \(exit code 7\)"):
        isolated(os._exit, 7, seconds=60)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="ended after 0 s"):
        isolated(time.sleep, 600, seconds=0.2)
    assert time.monotonic() - started < 30


def test_right_results_come_first_then_times_then_memory() -> None:
    trials = gpu.plan("cuda", "base_plus", 10)
    kinds = [trial.name.partition(":")[0] for trial in trials]
    assert kinds[:11] == ["right"] * 11 and set(kinds[11:]) == {"time", "memory"}
    assert [t.arguments[2:] for t in trials[:2]] == [("eager", "fp32"), ("eager", "bf16")]
    (memory,) = (t.arguments[0] for t in trials if t.name.startswith("memory"))
    assert memory.frames == 5000 and memory.engine == "cuda_graph"
    assert {t.arguments[0].engine for t in trials[11:]} == {
        "eager", "cuda_graph", "auto", "tensorrt"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("found", "outcome", "word"),
    [
        ({"value": 1e-4, "bound": 1e-3}, "passed", None),
        ({"value": 2e-3, "bound": 1e-3}, "failed", "2.0e-03 apart, at most 1e-03"),
        ({"value": math.nan, "bound": 1e-3}, "failed", "nan apart"),
        ({"result": {"device": "cuda (x)", "memory": {"growth_mb": 0.5}}}, "failed", "0.5 MB"),
        ({"result": {"device": "cuda (x)", "memory": {"growth_mb": 0.0}}}, "passed", None),
        ({"outcome": "not run", "why": "no GPU"}, "not run", "no GPU"),
    ],
)
def test_outcomes(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], outcome: str, word: str | None
) -> None:
    monkeypatch.setattr(gpu, "isolated", lambda *_, seconds: found)
    (told,) = gpu.run([gpu.Trial("x", answer, (), 9)], 60, lambda _: None)
    assert told["outcome"] == outcome and (word is None) == ("why" not in told)
    assert word is None or word in told["why"]


def test_what_has_no_time_left_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "isolated", directly)
    told: list[str] = []
    trials = [gpu.Trial(name, dict, (), 9) for name in "abc"]
    outcomes = gpu.run(trials, 1.0, lambda outcome: told.append(outcome["name"]))
    assert told == ["a", "b", "c"]
    assert {o["why"] for o in outcomes} == {"no time was left"}


@pytest.mark.parametrize(("limit", "outcome"), [(9.0, "failed"), (90.0, "not run")])
def test_a_trial_that_takes_too_long_has_failed_unless_the_whole_is_over(
    monkeypatch: pytest.MonkeyPatch, limit: float, outcome: str
) -> None:
    def slow(*_: Any, seconds: float) -> None:
        raise TimeoutError(f"ended after {seconds:.0f} s")

    monkeypatch.setattr(gpu, "isolated", slow)
    (told,) = gpu.run([gpu.Trial("x", dict, (), limit)], 30.0, lambda _: None)
    assert told["outcome"] == outcome and f"ended after {min(limit, 30.0):.0f} s" in told["why"]


def test_on_a_cpu_the_command_writes_as_it_goes_and_names_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trials themselves on the CPU, without the processes."""
    monkeypatch.setattr(gpu, "isolated", directly)
    monkeypatch.setattr(gpu, "FRAMES", {"cpu": 2})
    monkeypatch.setattr(measure, "peak_gflops", lambda *_: 100.0)
    plan, written = gpu.plan, []
    left_out = ("N=10", "time: mini auto", "right: mini cuda_graph bf16")

    def tiny(*given: Any) -> list[gpu.Trial]:
        trials = plan(*given, small=("mini",))
        return [trial for trial in trials if not any(part in trial.name for part in left_out)]

    monkeypatch.setattr(gpu, "plan", tiny)
    out = tmp_path / "gpu.json"
    run = gpu.run

    def watched(trials: Any, seconds: float, tell: Any) -> Any:
        def tell_and_look(outcome: Any) -> None:
            tell(outcome)
            written.append(len(json.loads(out.read_text())["trials"]))

        return run(trials, seconds, tell_and_look)

    monkeypatch.setattr(gpu, "run", watched)
    arguments = ["bench", "--all", "--cuda", "--preset", "mini", "--steps", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--json", str(out)])
    assert result.exit_code == 1, result.output  # GPU engines are not run
    content = json.loads(out.read_text())
    assert written == list(range(1, len(content["trials"]) + 1))
    by_name = {trial["name"]: trial for trial in content["trials"]}
    for name, trial in by_name.items():
        needs_gpu = "cuda_graph" in name or "tensorrt" in name
        assert trial["outcome"] == ("not run" if needs_gpu else "passed"), trial
    assert "cuda" in by_name["right: mini cuda_graph fp32"]["why"].lower()
    assert by_name["right: mini eager fp32"]["value"] == 0
    assert 0 < by_name["right: mini eager bf16"]["value"] < gpu.BOUNDS["bf16"]
    assert [entry["engine"] for entry in content["results"]] == ["eager", "eager"]
    assert content["results"][1]["memory"]["frames"] == 2
    assert {check["passed"] for check in content["checks"] if check["name"][:4] == "CUDA"} == {None}


def test_a_comparison_of_constants_shows_nothing() -> None:
    absent, present = np.full((2, 4), -1024.0), np.array([[1.0, -2.0, 0.5, 1.0]] * 2)
    for kind in gpu.BOUNDS:
        assert gpu._apart(absent, absent, kind) == math.inf
        assert gpu._apart(present, present, kind) == 0
        assert gpu._apart(present + np.nan, present, kind) != 0
        assert not gpu._apart(present * 1.1, present, kind) <= gpu.BOUNDS[kind]


def test_the_objects_of_the_bundled_network_are_present() -> None:
    """With random memory it finds none by itself, and all its masks would be equal."""
    _, found = gpu._outputs("nano", "cpu", "eager", "fp32")
    assert found["presence"].min() > 0 and len(np.unique(found["logits"])) > 1000


def test_cuda_belongs_to_all() -> None:
    result = CliRunner().invoke(app, ["bench", "--cuda"])
    assert result.exit_code == 1 and "without --all" in result.output
