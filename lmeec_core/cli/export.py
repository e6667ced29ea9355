"""`lmeec export`: write the network as ONNX graphs, and build TensorRT engines from them."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from lmeec_core.config import MemoryConfig, Precision
    from lmeec_core.engine.calls import StageCall
    from lmeec_core.engine.graphs import GraphStore
    from lmeec_core.engine.tensorrt_library import Library
    from lmeec_core.model import LMEEC

_WHAT = "The network"
_SHAPES = "What the graphs are for"
_TRT = "TensorRT"


def export_command(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the graphs, with a sub-folder for each network.",
            show_default="$LMEEC_CACHE, else ~/.cache/lmeec, where the engines look for them",
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help="Model preset.", rich_help_panel=_WHAT)] = "nano",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Weights.",
            show_default="the preset's own, if it has any",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Without other weights: use random weights from this seed, for tests.",
            show_default="none",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="Precision that the engine will use: fp32, bf16 or fp16. TensorRT graphs compute "
            "matrix products in it; CPU graphs compute in float32, for bf16 with rounded weights.",
            rich_help_panel=_WHAT,
        ),
    ] = "fp32",
    objects: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Objects per step. Without --objects and --targets the graphs have a batch size "
            "of one; they work for any number of objects and targets, one after another.",
            show_default="any number",
            rich_help_panel=_SHAPES,
        ),
    ] = None,
    targets: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Target cameras per step.",
            show_default="any number",
            rich_help_panel=_SHAPES,
        ),
    ] = None,
    frames_of_memory: Annotated[
        int,
        typer.Option(min=1, max=64, help="Capacity of the memory banks.", rich_help_panel=_SHAPES),
    ] = 6,
    fusion: Annotated[
        str,
        typer.Option(
            help="mv_moe, add or none, as in the tracker's settings.", rich_help_panel=_SHAPES
        ),
    ] = "mv_moe",
    tensorrt: Annotated[
        bool,
        typer.Option("--tensorrt", help="Also build TensorRT engines.", rich_help_panel=_TRT),
    ] = False,
    gpus: Annotated[
        str,
        typer.Option(
            "--for",
            help="With TensorRT for RTX: the GPU architectures to build for, for example "
            "sm86,sm89,sm120. Full TensorRT builds for this machine's GPU.",
            show_default="Ampere (sm80) and later",
            rich_help_panel=_TRT,
        ),
    ] = "",
) -> None:
    """Write the network as ONNX graphs, and check each against eager torch.

    The graphs are those of a step with a full memory: image encoder, target tokens, memory
    attention (view-specific, and full memory), fusion with decoder, and memory encoder (for given
    and for predicted masks). All shapes are fixed. A JSON record next to each graph holds shapes,
    hashes, versions, and the largest difference from eager torch.

    The engines onnxruntime, openvino and tensorrt build the files they need at first use, which
    takes minutes; with the engine auto, a node builds them in the background. This command builds
    them in advance.

    **Examples**

    - `lmeec export`: the bundled network, for the engines on this machine
    - `lmeec export --preset base_plus --checkpoint weights.pt --out graphs`
    - `LMEEC_CACHE=graphs lmeec demo`: let the engines use the graphs in that folder
    - `lmeec export --objects 4 --targets 2 --tensorrt`: engines for whole steps of that size
    - `lmeec export --tensorrt --for sm86,sm120 --out graphs`: engines for GPUs of other machines
    """
    from lmeec_core.cli.exit_codes import run_command

    def work() -> None:
        import torch
        from rich.console import Console

        from lmeec_core import load_model
        from lmeec_core.cache import cache_folder
        from lmeec_core.config import MemoryConfig, validated
        from lmeec_core.engine.graphs import GraphStore
        from lmeec_core.engine.onnx_export import require
        from lmeec_core.errors import InputError

        require("onnx", "onnxscript", "onnxruntime")
        given = {"capacity": frames_of_memory, "fusion": fusion}
        memory = validated(MemoryConfig, given, "memory")
        if gpus and not tensorrt:
            raise InputError(f"--for {gpus} given without --tensorrt, which it belongs to")
        if tensorrt:
            from lmeec_core.engine.tensorrt_library import load_tensorrt

            library = load_tensorrt()  # checked before the long export, not after
            kinds = library.targets([name for name in re.split(r"[,\s]+", gpus) if name])
            library.facts(torch.device("cuda") if torch.cuda.is_available() else None)
        here = "fp32" if precision == "fp16" else precision  # this command computes nothing in fp16
        model = load_model(preset, checkpoint, "cpu", cast("Precision", here), seed)
        model.precision = "fp16" if precision == "fp16" else model.precision
        folder = out or cache_folder()
        if folder is None:
            raise InputError(
                "there is no home folder to keep the graphs in; choose a folder with --out"
            )
        store = GraphStore(model, folder)
        calls = _calls(model, objects, targets, memory)
        console = Console()
        _write(store, calls, console)
        if tensorrt:
            own = GraphStore(model, folder, for_gpus=True)
            _build(own, calls, library, kinds, console)

    run_command(work)


def _calls(
    model: LMEEC, objects: int | None, targets: int | None, memory: MemoryConfig
) -> list[StageCall]:
    """The stage calls of a step with a full memory, without duplicates."""
    from lmeec_core.engine import step_calls

    whole = objects is not None or targets is not None
    calls = step_calls(model, objects or 1, targets or 1, memory)
    return list(dict.fromkeys(c.for_graph(c.batch if whole else 1) for c in calls))


def _write(store: GraphStore, calls: list[StageCall], console: Console) -> None:
    from lmeec_core.engine.records import graph_name, read_record

    def work(call: StageCall) -> str:
        started = time.monotonic()
        there = store.is_valid(call)
        path = store.get(call)
        record = read_record(path.with_suffix(".json"))
        made = "kept" if there else f"{time.monotonic() - started:.1f} s"
        return (
            f"{path.name}  {record['bytes'] / 1e6:.1f} MB, differs from eager torch by "
            f"{record['difference']:.1e} ({made})"
        )

    console.print(f"{store.folder}", highlight=False, soft_wrap=True)
    _each(calls, graph_name, work, console)


def _build(
    store: GraphStore, calls: list[StageCall], library: Library, kinds: list[str], console: Console
) -> None:
    from lmeec_core.engine.records import graph_name
    from lmeec_core.engine.tensorrt import engine_path, make_engine_file

    def work(call: StageCall) -> str:
        started = time.monotonic()
        graph = store.get(call)
        record = make_engine_file(library, graph, store.model.precision, kinds)
        name = engine_path(graph).name
        if record is None:
            return f"{name}  (kept)"
        return (
            f"{name}  {record['layers']} layers, {record['bytes'] / 1e6:.1f} MB "
            f"({time.monotonic() - started:.1f} s)"
        )

    served = ", ".join(kinds) or library.served
    console.print(f"{library.name}, for {served}", highlight=False, soft_wrap=True)
    _each(calls, lambda call: f"TensorRT: {graph_name(call)}", work, console)


def _each(
    calls: list[StageCall],
    name: Callable[[StageCall], str],
    work: Callable[[StageCall], str],
    console: Console,
) -> None:
    """Work on each call, with a progress bar; print the line that ``work`` returns."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(calls))
        for call in calls:
            progress.update(task, description=name(call))
            console.print(f"  {work(call)}", highlight=False, soft_wrap=True)
            progress.advance(task)
