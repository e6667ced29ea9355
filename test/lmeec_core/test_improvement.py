"""Engine auto from an empty cache: eager first, better engines later, without another command."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import lmeec_core as lm
from lmeec_core.bench.filled import filled_tracker
from lmeec_core.engine import (
    EngineError,
    Improvement,
    auto,
    engines_in_use,
    improvement,
    make_first,
    making,
    step_calls,
    use_engine,
)
from lmeec_core.engine.eager import EagerEngine
from lmeec_core.engine.graphs import GraphStore
from lmeec_core.engine.making import Report

pytest.importorskip("onnxscript")

Begin = Callable[[lm.LMEEC], Improvement]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in which may be made what is needed."""
    monkeypatch.setenv("LMEEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(improvement.SWITCH, raising=False)
    monkeypatch.setattr(auto, "_measured", {})
    return tmp_path / "cache"


@pytest.fixture
def model(small: lm.LMEEC) -> lm.LMEEC:
    """A copy of `small`, since engines are given to it."""
    model = lm.build_model(small.config).requires_grad_(False)
    model.load_state_dict(small.state_dict())
    return model


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Begins an improvement as the node does; it ends with the test."""
    begun = []

    def start(model: lm.LMEEC) -> Improvement:
        use_engine(model, "auto")
        begun.append(Improvement(model))
        begun[-1].start()
        return begun[-1]

    yield start
    for one in begun:
        one.stop()


def until(condition: Callable[[], object], seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def ended(one: Improvement) -> bool:
    return one.state.startswith(("ready", "made", "nothing better"))


class Other(EagerEngine):
    """An engine whose file has to be made first."""

    name = "onnxruntime"

    def is_complete(self, calls: object = None) -> bool:
        return bool(self.files())

    is_ready = is_complete  # type: ignore[assignment]

    def files(self) -> list[str]:
        root = Path(os.environ["LMEEC_CACHE"])
        return [path.name for path in root.glob("other.onnx")]


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """`auto` knows eager and :class:`Other`, which is said to be faster; no process is started."""

    def possible(model: lm.LMEEC, root: Path | None = None) -> dict:
        return {"eager": EagerEngine(model), "onnxruntime": Other(model)}

    def run(self: improvement.Maker, listener: Callable[[str], None]) -> None:
        cache.mkdir(exist_ok=True)
        (cache / "other.onnx").touch()
        listener("making it")
        making.make(self._model, lm.MemoryConfig(), lambda _: None)

    monkeypatch.setattr(auto, "possible", possible)
    monkeypatch.setattr(auto, "_compare", lambda *_: {"eager": 2.0, "onnxruntime": 1.0})
    monkeypatch.setattr(improvement.Maker, "run", run)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_the_engines_change_between_two_steps_and_stay_if_they_are_no_slower(
    model: lm.LMEEC,
    begin: Begin,
    other: None,
    factor: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    one = begin(model)
    assert model.runner is None
    until(lambda: one.state == "ready")
    used = []
    for _ in range(40):
        one.take()
        used.append(engines_in_use(model))
        one.stepped(0.1 * (factor if used[-1] == "onnxruntime" else 1.0), 2)
    assert used[:8] == ["eager"] * 8 and used[8:17] == ["onnxruntime"] * 9
    assert set(used[17:]) == {"onnxruntime" if factor <= 1.0 else "eager"}
    assert f"({100 * factor:.0f} ms" in one.state
    said = [r.message for r in caplog.records if r.message.startswith("engine auto: ")]
    assert sum("made in the background" in line for line in said) == 1
    assert sum("changed over to onnxruntime" in line for line in said) == 1
    assert ("no faster" in said[-1]) == (factor > 1.0)
    # The next start has them at once, and makes nothing.
    use_engine(model, "auto")
    assert engines_in_use(model) == "onnxruntime" and improvement.lacking(model) == []


def test_steps_that_are_never_alike_do_not_keep_it_from_changing(
    model: lm.LMEEC, begin: Begin, other: None
) -> None:
    one = begin(model)
    until(lambda: one.state == "ready")
    for step in range(200):
        one.take()
        one.stepped(0.1, step)
    assert engines_in_use(model) == "onnxruntime"


@pytest.mark.parametrize("home", ["none", "read-only", "full"])
def test_without_a_cache_there_is_a_warning_and_eager_computes_on(
    home: str,
    model: lm.LMEEC,
    begin: Begin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The folder is tried before a process is started."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    if home == "none":
        monkeypatch.setattr(improvement, "cache_folder", lambda: None)
    elif home == "read-only":
        monkeypatch.setenv("LMEEC_CACHE", "/proc/nothing/here")
    else:

        def full(folder: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))

        monkeypatch.setattr(improvement, "probe", full)
    one = begin(model)
    until(lambda: "computes on" in caplog.text)
    assert ended(one)
    for _ in range(30):
        one.take()
        one.stepped(0.1, 1)
    assert model.runner is None
    (said,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "nothing better was made" in said and "eager computes on" in said
    assert {"none": "home folder", "read-only": "/proc/nothing", "full": "No space"}[home] in said


def test_nothing_is_made_where_it_is_switched_off_or_a_library_is_missing(
    model: lm.LMEEC, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert improvement.lacking(model) == ["onnxruntime", "openvino"]
    monkeypatch.setenv(improvement.SWITCH, "0")
    assert improvement.lacking(model) == []
    monkeypatch.delenv(improvement.SWITCH)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert improvement.lacking(model) == []
    assert "need onnx, onnxscript, onnxruntime (pip install 'lmeec[onnx]')" in caplog.text


@pytest.mark.parametrize(("steps", "made"), [(50, False), (1_000, False), (10_000_000, True)])
def test_long_work_has_its_engines_made_first(
    model: lm.LMEEC, other: None, steps: int, made: bool
) -> None:
    said: list[str] = []
    make_first(model, None, steps, said.append)
    assert (engines_in_use(model) == "onnxruntime") == made and bool(said) == made


def test_what_fails_in_the_process_is_said(
    model: lm.LMEEC, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process that dies of something else than an error it knows; with its last words."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nhead -n 1 >/dev/null\necho Illegal instruction\nexit 132\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(EngineError, match="Illegal instruction"):
        improvement.Maker(model, None).run(lambda _: None)


def test_a_dead_process_holds_no_lock_and_its_leavings_go(
    model: lm.LMEEC, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that makes the same is waited for; when it is killed, its place is taken."""
    folder = GraphStore(model, cache).folder
    folder.mkdir(parents=True)
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'ab'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder / making.LOCK)]
    said: list[str] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()

        def say(report: Report) -> None:
            said.append(report.doing)
            if "waiting for another process" in report.doing:
                holder.kill()

        old, new = folder / ".decoder.onnx.a1.partial", folder / ".decoder.onnx.b2.partial"
        for file in (old, new):
            file.touch()
        os.utime(old, (0, 0))
        monkeypatch.setattr(
            auto, "possible", lambda model, root=None: {"eager": EagerEngine(model)}
        )
        monkeypatch.setattr(auto, "remembered", lambda *_: {})
        making.make(model, lm.MemoryConfig(), say)
    assert said == ["waiting for another process that makes the same", "measuring"]
    assert not old.exists() and new.exists()  # who writes now is left alone


@pytest.mark.timeout(300)
def test_a_broken_cache_is_mended_by_a_process_that_ends_with_its_parent(
    model: lm.LMEEC, cache: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real process, up to the graph that is broken: all of them take half a minute."""
    assert improvement.LOWEST == 19
    monkeypatch.setattr(improvement, "LOWEST", 1)  # what else runs here must not stop it
    call = step_calls(model)[0].for_graph(1)  # it is made first
    store = GraphStore(model)
    graph = store.path(call)
    graph.parent.mkdir(parents=True)
    graph.write_bytes(b"half of a graph")
    graph.with_suffix(".json").write_text('{"network":')
    assert improvement.lacking(model) == ["onnxruntime", "openvino"]
    one = begin(model)
    until(lambda: store.is_valid(call))
    process = one._maker._process
    assert process is not None and process.stdin is not None
    child = psutil.Process(process.pid)
    assert child.ppid() == os.getpid() and child.cmdline()[-1] == "lmeec_core.engine.making"
    assert child.nice() == 1
    assert model.runner is None and one.state.startswith("making ")
    process.stdin.close()  # as when this process dies
    until(lambda: one.state.startswith("nothing better was made"), 20)
    assert process.returncode == 1


def steps_of(model: lm.LMEEC, one: Improvement | None, seconds: float, least: int) -> list[tuple]:
    """Steps with a full memory for a while: engines in use and seconds of each, logits."""
    state = filled_tracker(model, 1, 1)
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(found) < least:
        if one is not None:
            one.take()
        start = time.perf_counter()
        logits = state.tracker.step(state.images, state.masks)["target_0"]
        took = time.perf_counter() - start
        if one is not None:
            one.stepped(took, 1)
        found.append((engines_in_use(model), took, logits))
        ends = ("changed over (", "made", "nothing")
        if one is not None and one.state.startswith(ends) and len(found) >= least:
            break
        time.sleep(0.2)  # a camera's time
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("preset", ["nano", "base_plus"])
def test_from_an_empty_cache_to_the_speed_of_the_best_engine(
    preset: str, cache: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eager at first; in the end as fast as the best engine within a tenth."""
    monkeypatch.setattr(improvement, "LOWEST", 0)  # what else runs here must not stop it
    seed = None if preset == "nano" else 0
    model = lm.load_model(preset, device="cpu", precision="auto", seed=seed, engine="auto")
    assert not cache.exists() or not list(cache.rglob("*.onnx"))
    one = begin(model)
    steps = steps_of(model, one, 1500, 3)
    assert [engine for engine, _, _ in steps[:3]] == ["eager"] * 3
    assert one.state.startswith(("changed over (", "made"))
    kinds = ["eager", "onnxruntime", "openvino"]
    others = {
        kind: lm.load_model(preset, device="cpu", precision=model.precision, seed=seed)
        for kind in kinds
    }
    for kind, other in others.items():
        use_engine(other, kind)
    taken: dict[str, list[float]] = {kind: [] for kind in ("auto", *kinds)}
    for _ in range(5):  # in turns: other load on the machine comes and goes
        for kind, network in {"auto": model, **others}.items():
            taken[kind] += [took for _, took, _ in steps_of(network, None, 0, 2)][1:]
    best = {kind: min(times) for kind, times in taken.items()}
    print(preset, engines_in_use(model), one.state, {k: round(1e3 * v) for k, v in best.items()})
    assert best["auto"] <= 1.1 * min(best.values())
