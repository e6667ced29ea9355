"""`lmeec ablate`: the paper's ablations from the command line."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from lmeec_core.errors import InputError
from lmeec_core.experiments.ablation.variants import TABLES, Table

_SIZE = "Size of the ablation"


def _size(text: str, **limits: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=_SIZE, **limits)


def ablate_command(
    work: Annotated[Path, typer.Argument(help="Folder for takes, weights and results; resumed.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Weights of the preset nano.", show_default="the bundled ones"),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Table to make; may be repeated: {', '.join(TABLES)}.", show_default="all"
        ),
    ] = None,
    takes: Annotated[int, _size("Number of takes (of each length).", min=1)] = 8,
    frames: Annotated[int, _size("Frames per take.", min=2)] = 60,
    length: Annotated[
        list[int] | None,
        _size(
            "Frames per take for the length table; may be repeated.",
            show_default="120, 400, 700",
        ),
    ] = None,
    objects: Annotated[int, _size("Objects per take.", min=1)] = 3,
    exo_cameras: Annotated[int, _size("Exo cameras.", min=1, max=4)] = 1,
    seeds: Annotated[int, _size("Training runs per fusion.", min=1)] = 3,
    steps: Annotated[int, _size("Steps per training run.", min=1)] = 300,
    scenes: Annotated[int, _size("Scenes to train on.", min=1)] = 400,
    workers: Annotated[
        int, typer.Option(min=0, help="Number of processes; 0: one per processor.")
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
) -> None:
    """Repeat the paper's ablations with the small network on simulated takes.

    Compares fusion (without the other view, addition, MV-MoE; each trained for the same number of
    steps from the same weights), memory banks, frames per bank, compression, and association
    accuracy by length of the take. The takes have shapes and textures not used in training.

    **Examples**

    - `lmeec ablate runs/ablate`: all tables; about a day on two cores, most of it for the length
      table. A GPU is used if there is one
    - `lmeec ablate runs/ablate --table stores --table size --table compression`: no training
    - `lmeec ablate runs/try --takes 2 --frames 10 --table stores`: a short test of a few minutes

    Results: WORK/ablation.md (tables next to the paper's), ablation.png (plots), ablation.json.
    Finished parts are kept: run the same command again to resume. Tables added later use the same
    takes. Needs MuJoCo and Matplotlib: pip install 'lmeec[simulation,evaluation]'.
    """
    from lmeec_core.cli.exit_codes import run_command

    def run() -> None:
        _run(work, checkpoint, table, {
            "takes": takes, "frames": frames, "lengths": tuple(length or (120, 400, 700)),
            "objects": objects, "exo_cameras": exo_cameras, "seeds": seeds, "steps": steps,
            "scenes": scenes, "workers": workers or os.cpu_count() or 1, "device": device,
        })  # fmt: skip

    try:
        run_command(run, error_code=2)
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to resume", err=True)
        raise typer.Exit(130) from None


def _tables(given: list[str] | None) -> tuple[Table, ...]:
    """The tables asked for, in the paper's order.

    Raises:
        InputError: a name is unknown.
    """
    unknown = sorted(set(given or ()) - set(TABLES))
    if unknown:
        raise InputError(f"--table {unknown[0]}: expected one of {', '.join(TABLES)}")
    return tuple(t for t in TABLES if given is None or t in given)


def _weights(given: Path | None) -> Path:
    """The checkpoint to start from.

    Raises:
        InputError: none is given and none is bundled, or the file does not exist.
    """
    from lmeec_core.checkpoint import bundled_weights

    path = given or bundled_weights("nano")
    if path is None:
        raise InputError("no weights are bundled for the preset nano; give --checkpoint FILE")
    if not path.is_file():
        raise InputError(f"--checkpoint {path}: no such file")
    return path.resolve()


def _run(
    work: Path, checkpoint: Path | None, table: list[str] | None, size: dict[str, Any]
) -> None:
    """Run with a progress bar and print where the results are."""
    tables, weights = _tables(table), _weights(checkpoint)
    for module, extra in (("mujoco", "simulation"), ("matplotlib", "evaluation")):
        if importlib.util.find_spec(module) is None:
            raise InputError(f"{module} is not installed: pip install 'lmeec[{extra}]'")
    from rich.console import Console
    from rich.markdown import Markdown

    from lmeec_core.checkpoint import resolve_device
    from lmeec_core.cli.progress import counting
    from lmeec_core.experiments.ablation import report, run
    from lmeec_core.experiments.ablation.fusion import BATCH

    device = resolve_device(size.pop("device"))
    settings = run.Settings(
        work=work.resolve(), checkpoint=weights, tables=tables, device=str(device), **size
    )
    console = Console()
    with counting(console) as bar:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: float, total: float) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        results = run.run(settings, progress)
    facts = {
        "weights": weights.name,
        "takes": f"{settings.takes} of {settings.frames} frames, {settings.objects} objects, "
        f"{settings.exo_cameras} exo",
    }
    if "length" in tables:
        facts["lengths"] = ", ".join(str(n) for n in settings.lengths)
    if "fusion" in tables:
        facts["fusion"] = (
            f"{settings.seeds} seeds, {settings.steps} steps of {BATCH[device.type]} clips each, "
            "from the same weights with an untrained MV-MoE, image encoder frozen"
        )
    written = report.write(results, facts, settings.work)
    console.print(Markdown((settings.work / "ablation.md").read_text()))
    console.print("written: " + ", ".join(str(p) for p in written), soft_wrap=True)
