"""`lmeec weights`: list released checkpoints and download them into the cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lmeec_core.cli.exit_codes import run_command

if TYPE_CHECKING:
    from rich.table import Table

    from lmeec_core.downloads.catalogue import Released
    from lmeec_core.downloads.weights import Kept

weights_app = typer.Typer(
    no_args_is_help=True,
    help="List the released checkpoints of SAM 2.1 and LM-EEC, and download them.",
)


@weights_app.command("list")
def list_command() -> None:
    """List the released checkpoints, their licences, and which of them are in the cache."""

    def work() -> None:
        from lmeec_core.downloads.weights import weights_folder

        console = _console()
        console.print(_table())
        console.print(
            f"The cache: {weights_folder()} (under LMEEC_CACHE, if that is set). The preset nano "
            f"needs no download: its weights come with the package.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    run_command(work)


@weights_app.command("get")
def get_command(
    name: Annotated[str, typer.Argument(help="A name from `lmeec weights list`.")],
    file: Annotated[
        Path | None,
        typer.Option(help="Check and copy this file, which you downloaded yourself."),
    ] = None,
    url_base: Annotated[
        str | None,
        typer.Option(
            help="URL of a mirror: a folder with the same files.",
            show_default="$LMEEC_WEIGHTS_URL, else the authors' server",
        ),
    ] = None,
) -> None:
    """Download a checkpoint into the cache, check it, and say how to use it.

    An interrupted download is resumed. The file's SHA-256 is compared with the known one; if none
    is known, that of the first download is recorded, shown, and used for later comparisons. The
    file is then loaded, and must match its preset.

    **Examples**

    - `lmeec weights get sam2_tiny`: 156 MB
    - `lmeec weights get lm_eec`: show the page from which a browser can download it
    - `lmeec weights get lm_eec --file ~/Downloads/checkpoint.pt`: use the downloaded file
    - `lmeec weights get sam2_large --url-base http://mirror.local/sam2`: from another server

    The exit code is 1 if the checkpoint is not in the cache afterwards; the message says why, and
    what to do.
    """

    def work() -> None:
        from lmeec_core.downloads.catalogue import released
        from lmeec_core.downloads.weights import keep

        weights, console = released(name), _console()
        kept = _download(weights, url_base, console) if file is None else keep(weights, file)
        _explain(weights, kept, console)

    run_command(work)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=200)  # so that URLs are not wrapped


def _table() -> Table:
    from rich.table import Table

    from lmeec_core.downloads.catalogue import CATALOGUE

    table = Table("name", "preset", "size", "licence", "in the cache", "source", box=None)
    for column in table.columns[4:]:
        column.overflow = "fold"
    for weights in CATALOGUE.values():
        size = "unknown" if weights.size is None else _megabytes(weights.size)
        source = weights.url() or f"{weights.source} (with a browser)"
        table.add_row(
            weights.name, weights.preset, size, weights.licence, _in_the_cache(weights), source
        )
    return table


def _in_the_cache(weights: Released) -> str:
    from lmeec_core.downloads.weights import held

    there = held(weights)
    if there.size is not None:
        if weights.size not in (None, there.size):
            return f"{there.path.name}, another file ({there.size:,} bytes)"
        return there.path.name
    return f"{_megabytes(there.partial)} of it, `get` resumes" if there.partial else "no"


def _download(weights: Released, base: str | None, console: Console) -> Kept:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from lmeec_core.downloads.weights import held, obtain

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
        bar = progress.add_task(weights.file, total=weights.size, visible=False)
        try:
            return obtain(
                weights,
                base,
                lambda done, whole: progress.update(bar, completed=done, total=whole, visible=True),
                lambda text: progress.console.print(text, style="yellow", markup=False),
            )
        except KeyboardInterrupt:
            left = held(weights).partial
            if left:
                text = f"stopped: {_megabytes(left)} kept; run the same command again to resume"
                progress.console.print(text, markup=False)
            raise


def _explain(weights: Released, kept: Kept, console: Console) -> None:
    """Print where the checkpoint is, what was checked, and how to use it."""
    checked = (
        "matches the known one"
        if kept.known
        else "recorded now: none is published, so only later downloads can be compared with it"
    )
    lines = [
        f"{weights.name}: {kept.path} ({_megabytes(kept.size)})",
        f"SHA-256 {kept.sha256} ({checked})",
        f"It fits the preset {weights.preset}. Licence: {weights.licence} ({weights.page})",
        *([] if weights.mv_moe else _SAM2),
        "",
        "In the node's parameter file:",
        f"  model.preset: {weights.preset}",
        f"  model.checkpoint: {kept.path}",
        *([] if weights.mv_moe else ["  model.require_mv_moe: false"]),
    ]
    if weights.mv_moe:
        lines += [
            "Offline:",
            f"  lmeec track RECORDING --preset {weights.preset} --checkpoint {kept.path}",
        ]
    else:
        lines += [
            "In Python:",
            f"  model = lm.load_model({weights.preset!r}, {str(kept.path)!r}, "
            f"require_mv_moe=False)",
            "  tracker = lm.PromptTracker(model)",
        ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


_SAM2 = (
    "SAM 2.1 tracks marked objects within one view. It has no MV-MoE, so it cannot find them in "
    "other views unless it is trained for that; lm_eec can.",
)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.0f} kB"
