"""`lmeec mark`: a web page for marking objects and seeing their masks in all views."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console

from lmeec_core.cli.exit_codes import run_command
from lmeec_core.cli.options import (
    METHOD_PANEL,
    RECORDING_PANEL,
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

_SERVER = "Where the page is served"
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
            help="A take; or a dataset or EgoExo4D's relations_{split}.json, with --take.",
            show_default="with --live: none",
        ),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Use the cameras of a running node (needs ROS).")
    ] = False,
    node: Annotated[str, typer.Option(help="With --live: the node's full name.")] = "/lmeec",
    prompts: Annotated[
        Path,
        typer.Option(
            help="The file that Save writes. If it exists, its prompts are loaded at the start.",
            rich_help_panel=RECORDING_PANEL,
        ),
    ] = Path("prompts.json"),
    take: Annotated[
        str | None,
        typer.Option(
            help="Which take, if there are several.",
            show_default="the only one",
            rich_help_panel=RECORDING_PANEL,
        ),
    ] = None,
    split: Split = None,
    videos: Videos = None,
    preset: Annotated[
        str, typer.Option(help="The network: nano, base_plus.", rich_help_panel=METHOD_PANEL)
    ] = "nano",
    checkpoint: Checkpoint = None,
    prompt_preset: PromptPreset = None,
    prompt_checkpoint: PromptCheckpoint = None,
    seed: Seed = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda or auto.", rich_help_panel=METHOD_PANEL)
    ] = "auto",
    engine: Annotated[
        str,
        typer.Option(
            help="The backend: eager, auto, cuda_graph, onnxruntime, openvino, tensorrt.",
            rich_help_panel=METHOD_PANEL,
        ),
    ] = "eager",
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; 0.0.0.0: all addresses of this machine.",
            rich_help_panel=_SERVER,
        ),
    ] = LOOPBACK,
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Port; 0: any free port.", rich_help_panel=_SERVER),
    ] = 8080,
    browser: Annotated[
        bool,
        typer.Option("--browser", help="Open the page in a browser.", rich_help_panel=_SERVER),
    ] = False,
) -> None:
    """Mark objects by clicks and boxes on a web page; their masks appear in all views.

    Click on an object, Shift-click or right-click on what does not belong to it, or drag a box
    around it. For a recording, the page has a timeline: mark objects on any frame, correct them on
    others, track them, and save the prompts for `lmeec track --prompts`. With --live, the prompts
    go to the running node.

    The page is served on this machine only (127.0.0.1), and requests from other web pages are
    rejected (the Host and Origin headers are checked). With --host and another address, anyone who
    can reach that address and knows the token in the printed URL can use the page. The connection
    is not encrypted: outside your own network, use `ssh -L 8080:127.0.0.1:8080` instead.

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
                "given, exactly one of them expected"
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
            console.print("Press Ctrl-C to stop.", highlight=False)
            if browser:
                typer.launch(address)

        serve(marked, host, port, say)
        if marked.unsaved:
            console.print("Unsaved prompts are lost.", style="yellow")

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
            f"{source}: is a bag, a take expected. Play the bag to a node (lmeec play {source}), "
            "and mark objects there (lmeec mark --live)"
        )
    if network.prompt_checkpoint is not None and network.prompt_preset is None:
        raise InputError("--prompt-checkpoint given without --prompt-preset; give both")
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
