"""The command `lmeec bench`."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from lmeec_core.errors import InputError
from lmeec_core.methods import METHODS

if TYPE_CHECKING:
    from lmeec_core.bench.measure import Case
    from lmeec_core.config import EngineName


def _several(text: str, default: str, **limits: Any) -> Any:
    return typer.Option(help=f"{text}; may be repeated.", show_default=default, **limits)


def bench_command(
    preset: Annotated[
        list[str] | None, _several("The network", "base_plus; nano with --method")
    ] = None,
    method: Annotated[
        list[str] | None,
        _several(
            f"Method to measure ({', '.join(METHODS)}) on synthetic images", "lmeec's network"
        ),
    ] = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            help="For --method omama: regions or sam2.",
            show_default="sam2 if the network accepts points, else regions",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    engine: Annotated[
        list[str] | None,
        _several("auto, eager, cuda_graph, onnxruntime, openvino or tensorrt", "auto"),
    ] = None,
    precision: Annotated[list[str] | None, _several("fp32, bf16 or fp16", "fp32, bf16")] = None,
    objects: Annotated[list[int] | None, _several("Number of objects (N)", "1", min=1)] = None,
    targets: Annotated[list[int] | None, _several("Number of target views (K)", "1", min=1)] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps measured per case.")] = 10,
    frames: Annotated[
        int, typer.Option(min=0, help="Also measure the growth of memory over this many frames.")
    ] = 0,
    reference: Annotated[
        bool,
        typer.Option(
            "--reference",
            help="Also measure steps computed as in the release (one pass of the network for each "
            "object and target view), alternating with the others.",
        ),
    ] = False,
    node: Annotated[
        bool, typer.Option("--node", help="Measure the node over DDS: the overhead of ROS.")
    ] = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Measure every case that this machine supports, and compare the results with the "
            "required values. Of the options that choose cases, only --preset, --device, --engine "
            "and --steps apply.",
        ),
    ] = False,
    cuda: Annotated[
        bool,
        typer.Option(
            "--cuda",
            help="With --all, for a GPU that is available only for minutes: check results first, "
            "then measure times, then memory; each outcome is written to the --json file at once. "
            "Without a GPU, only the checks that a CPU can do are run; the others are listed as "
            "not run.",
        ),
    ] = False,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="With --cuda: stop after this many minutes.")
    ] = 9.5,
    threads: Annotated[int, typer.Option(min=0, help="Threads of torch; 0: torch's default.")] = (
        0
    ),
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Plot the cost over N x K into this PNG or SVG file.")
    ] = None,
) -> None:
    """Measure the time of a step in the steady state (full memory), with random images and memory.

    All combinations of preset, engine, precision, N and K are measured. Presets without bundled
    weights get random ones; times do not depend on them. With --method, each method is measured
    with its own memory as it fills; for omama, the time spent on candidates is shown as well.

    **Examples**

    - `lmeec bench --preset nano --objects 1 --objects 8 --plot cost.png`
    - `lmeec bench --precision bf16 --reference --json out/bench.json`
    - `lmeec bench --method omama --method lmeec --objects 4`
    - `lmeec bench --node`
    - `lmeec bench --all --json out/bench_all.json`
    - `lmeec bench --all --cuda --json out/bench_cuda.json`: all GPU checks, in ten minutes
    """
    from lmeec_core.cli.exit_codes import run_command
    from lmeec_core.cli.plugins import provider

    def work() -> int:
        import torch

        from lmeec_core.bench import report, suite
        from lmeec_core.bench.measure import Case
        from lmeec_core.checkpoint import resolve_device

        if threads:
            torch.set_num_threads(threads)
        console = Console()
        kind = resolve_device(device).type
        presets, engines = _known(preset or ["nano" if method else "base_plus"], engine or ["auto"])
        if method:
            unused = {"--engine": engine, "--precision": precision, "--frames": frames,
                      "--reference": reference, "--node": node, "--all": everything,
                      "--cuda": cuda, "--plot": plot}  # fmt: skip
            _refuse([name for name, value in unused.items() if value])
            counts = list(product(objects or [1], targets or [1]))
            return _methods(method, presets, kind, counts, steps, candidates, json_file, console)
        if candidates is not None:
            raise InputError("--candidates given without --method omama, which it belongs to")
        if cuda and not everything:
            raise InputError("--cuda given without --all, which it belongs to")
        if cuda:
            return _on_a_gpu(kind, presets[0], steps, minutes * 60, json_file, console)
        if everything:
            cases = suite.cases(
                kind, _engines(engine, presets[0], kind, console), presets[0], steps
            )
        elif node and not (preset or engine or objects or targets):
            cases = []
        else:
            cases = [
                Case(p, kind, e, cast("Any", f), n, k, steps,
                     max(1, steps // 2) if reference else 0, frames=frames)
                for p, e, f, n, k in product(
                    presets, engines, precision or ["fp32", "bf16"], objects or [1], targets or [1]
                )
            ]  # fmt: skip
        results = _measured(cases, json_file, console)
        edge = provider("bench_node").bench_node(console) if node or everything else None
        checks = suite.checks(results, edge) if everything else []
        if checks:
            report.show_checks(checks, console)
        if json_file is not None:
            report.write(json_file, results, checks, edge)
        if plot is not None and results:
            report.plot(plot, results)
        return int(any(check["passed"] is False for check in checks))

    run_command(work)


def _measured(cases: list[Case], json_file: Path | None, console: Console) -> list[dict[str, Any]]:
    """Measure, and show what was found; a run that is stopped keeps its results in the file."""
    from lmeec_core.bench import report
    from lmeec_core.bench.measure import measure

    results = []
    for case in cases:
        console.print(f"measuring {_text(case)}", highlight=False)
        results.append(measure(case))
        if json_file is not None:
            report.write(json_file, results, [], None)
    if results:
        report.show(results, console)
    return results


def _refuse(given: list[str]) -> None:
    if given:
        raise InputError(f"{', '.join(given)} given with --method, where they have no effect")


def _methods(
    names: list[str], presets: list[str], device: str, counts: list[tuple[int, int]], steps: int,
    candidates: str | None, json_file: Path | None, console: Console,
) -> int:  # fmt: skip
    """Measure whole methods (`--method`); returns exit code 0."""
    from lmeec_core.bench import report
    from lmeec_core.bench.methods import MethodCase, measure_method
    from lmeec_core.methods import has_setting, method_name
    from lmeec_core.methods.candidates.settings import CandidateSettings

    known = [method_name(name) for name in names]
    if candidates not in (None, "regions", "sam2"):
        raise InputError(f"--candidates {candidates!r} given, regions or sam2 expected")
    if candidates and not any(has_setting(name, "candidates") for name in known):
        raise InputError("--candidates given, but none of the methods chooses among candidates")
    source: Any = candidates or "auto"
    results = []
    for name, own, (n, k) in product(known, presets, counts):
        console.print(f"measuring {name}, {own}, {device}, N={n} K={k}, {steps} steps")
        case = MethodCase(name, own, device, n, k, steps, CandidateSettings(source=source))
        results.append(measure_method(case))
        if json_file is not None:
            report.write(json_file, results, [], None)
    report.show_methods(results, console)
    return 0


def _on_a_gpu(
    device: str, preset: str, steps: int, seconds: float, json_file: Path | None, console: Console
) -> int:
    """Run `--all --cuda`; returns 0 if everything was run and passed."""
    from lmeec_core.bench import gpu, report, suite

    if device != "cuda":
        console.print("no CUDA device: checks that need one are not run")
    outcomes: list[dict[str, Any]] = []

    def results() -> list[dict[str, Any]]:
        return [outcome["result"] for outcome in outcomes if "result" in outcome]

    def record(outcome: dict[str, Any]) -> None:
        outcomes.append(outcome)
        value = f", {outcome['value']:.1e} apart" if "value" in outcome else ""
        step = outcome.get("result", {}).get("step_ms")
        value += f", {step['median']} ms a step" if step else ""
        why = f" ({outcome['why']})" if "why" in outcome else ""
        line = f"{outcome['name']}: {outcome['outcome']}{value}{why} [{outcome['seconds']} s]"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        if json_file is not None:
            report.write(json_file, results(), checks(), None, outcomes)

    def checks() -> list[dict[str, Any]]:
        rows = suite.checks(results(), None)
        return [row for row in rows if row["name"].startswith(("CUDA", "auto"))]

    gpu.run(gpu.plan(device, preset, steps), seconds, record)
    if results():
        report.show(results(), console)
    report.show_checks(checks(), console)
    passed = all(outcome["outcome"] == "passed" for outcome in outcomes)
    return int(not passed or any(check["passed"] is False for check in checks()))


def _known(presets: list[str], engines: list[str]) -> tuple[list[str], list[EngineName]]:
    """The presets and engines, unchanged.

    Raises:
        InputError: a name is unknown.
    """
    from lmeec_core.config import ENGINES
    from lmeec_core.config import preset as known

    for name in presets:
        known(name)
    for name in engines:
        if name not in ENGINES:
            raise InputError(f"--engine {name!r} given, one of {', '.join(ENGINES)} expected")
    return presets, cast("list[EngineName]", engines)


def _engines(
    asked: list[str] | None, preset: str, device: str, console: Console
) -> list[EngineName]:
    """The engines of --all: those asked for, or all whose libraries are installed.

    Each engine builds its files when it is loaded; `auto` comes last, so that it finds them.
    """
    if asked:
        return cast("list[EngineName]", asked)
    from lmeec_core.checkpoint import load_model
    from lmeec_core.engine.auto import ENGINES_OF
    from lmeec_core.engine.registry import make_engine
    from lmeec_core.errors import EngineError

    model = load_model(preset, device=device, precision="bf16", seed=0)
    usable: list[EngineName] = ["eager"]
    for name in ENGINES_OF[device]:
        try:
            make_engine(model, name)
            usable.append(name)
        except (EngineError, ImportError) as error:
            console.print(f"not measured: {error}", highlight=False, markup=False)
    return [*usable, "auto"]


def _text(case: Case) -> str:
    return (
        f"{case.preset}, {case.device}, {case.engine}, {case.precision}, N={case.objects} "
        f"K={case.targets}, {case.steps} steps, {case.reference_steps} of the reference"
    )
