"""`lmeec mark`: a web page to mark objects on, and to see them in all views."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console

from lmeec_core.cli.exit_codes import run_command
from lmeec_core.cli.options import (
    HOW,
    WHAT,
    Checkpoint,
    PromptCheckpoint,
    PromptPreset,
    Seed,
    Split,
    Videos,
)
from lmeec_core.cli.plugins import provider
from lmeec_core.cli.sources import is_bag
from lmeec_core.errors import InputError

if TYPE_CHECKING:
    from lmeec_core.marking.source import MarkSource

_WHERE = "Where the page is"
LOOPBACK = "127.0.0.1"


class _Network(NamedTuple):
    """Options of the network."""

    preset: str
    checkpoint: Path | None
    prompt_preset: str | None
    prompt_checkpoint: Path | None
    seed: int | None
    device: str
    engine: str


def mark_command(
    source: Annotated[
        Path | None,
        typer.Argument(
            help="A take, or one of a dataset or of EgoExo4D's relations_{split}.json.",
            show_default="with --live: none",
        ),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="The cameras of a running node (needs ROS).")
    ] = False,
    node: Annotated[str, typer.Option(help="With --live: the node's full name.")] = "/lmeec",
    prompts: Annotated[
        Path,
        typer.Option(
            help="The file that Save writes. If it is there, its prompts are shown first.",
            rich_help_panel=WHAT,
        ),
    ] = Path("prompts.json"),
    take: Annotated[
        str | None,
        typer.Option(
            help="Which take, where there are several.",
            show_default="the only one",
            rich_help_panel=WHAT,
        ),
    ] = None,
    split: Split = None,
    videos: Videos = None,
    preset: Annotated[
        str, typer.Option(help="The network: nano, base_plus.", rich_help_panel=HOW)
    ] = "nano",
    checkpoint: Checkpoint = None,
    prompt_preset: PromptPreset = None,
    prompt_checkpoint: PromptCheckpoint = None,
    seed: Seed = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.", rich_help_panel=HOW)] = "auto",
    engine: Annotated[
        str,
        typer.Option(
            help="The backend: eager, auto, cuda_graph, onnxruntime, openvino, tensorrt.",
            rich_help_panel=HOW,
        ),
    ] = "eager",
    host: Annotated[
        str,
        typer.Option(
            help="The address to be reached at; 0.0.0.0 is every one of this machine's.",
            rich_help_panel=_WHERE,
        ),
    ] = LOOPBACK,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0: any free one.", rich_help_panel=_WHERE)
    ] = 8080,
    browser: Annotated[
        bool, typer.Option("--browser", help="Open it in a browser.", rich_help_panel=_WHERE)
    ] = False,
) -> None:
    """Mark objects by clicks and boxes on a web page; their masks appear in all views.

    A click is on the object, a Shift or right click is not on it, a drag is a box. A recording has
    a time line: mark objects on any frame, correct them on others, let it be tracked, and save the
    prompts for `lmeec track --prompts`. With --live, the prompts go to the running node.

    The page is served on this machine only (127.0.0.1). It answers no other web pages (the headers
    Host and Origin are checked). With --host and another address, everybody who can reach the
    address and knows the token in the printed URL can use it; the connection is not encrypted, so
    in other than your own networks use `ssh -L 8080:127.0.0.1:8080` instead.

    **Examples**

    - `lmeec mark take_7`: then open the printed URL
    - `lmeec mark take_7 --prompts cups.json`, then `lmeec track take_7 --prompts cups.json`
    - `lmeec mark egoexo --take take_7 --preset base_plus --checkpoint weights.pt`
    - `lmeec mark --live --node /robot1/lmeec --host 0.0.0.0`
    """

    def work() -> None:
        from lmeec_core.marking.serving import serve

        console = Console()
        if live == (source is not None):
            raise InputError(
                f"{'both a recording and --live' if live else 'neither a recording nor --live'} "
                "given, one of them expected"
            )
        marked: MarkSource
        if source is None:
            marked = provider("live_marking").live_marking(node)
        else:
            console.print("loading the network ...", highlight=False)
            marked = _recording(
                source,
                prompts,
                take,
                split,
                videos,
                _Network(
                    preset, checkpoint, prompt_preset, prompt_checkpoint, seed, device, engine
                ),
            )

        def say(address: str) -> None:
            console.print(f"{marked.title}: {address}", highlight=False, soft_wrap=True)
            console.print("Ctrl-C ends it.", highlight=False)
            if browser:
                typer.launch(address)

        serve(marked, host, port, say)
        if marked.unsaved:
            console.print("The prompts that were not saved are lost.", style="yellow")

    run_command(work)


def _recording(
    source: Path,
    prompts: Path,
    take: str | None,
    split: str | None,
    videos: Path | None,
    network: _Network,
) -> MarkSource:
    from lmeec_core.checkpoint import load_model
    from lmeec_core.marking.opening import Networks, open_marking
    from lmeec_core.methods.lm_eec import load
    from lmeec_core.prompts import view_tracker
    from lmeec_core.takes import open_one

    if is_bag(source):
        raise InputError(
            f"{source}: is a bag, a take expected. Play it to a node (lmeec play {source}), and "
            "mark there (lmeec mark --live)"
        )
    if network.prompt_checkpoint is not None and network.prompt_preset is None:
        raise InputError("--prompt-checkpoint given without --prompt-preset; name its network, too")
    opened = open_one(source, split, take, videos)
    settings: dict[str, Any] = {
        name: getattr(network, name) for name in ("device", "seed", "engine")
    }
    method = load(network.preset, network.checkpoint, **settings)
    viewer = method.model
    if network.prompt_preset is not None:
        viewer = load_model(
            network.prompt_preset, network.prompt_checkpoint, require_mv_moe=False, **settings
        )
    networks = Networks(method, lambda: view_tracker(viewer), (method.model, viewer))
    return open_marking(opened, source, prompts, networks)
