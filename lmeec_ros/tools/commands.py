"""The sub-commands of `lmeec` that need ROS, which is imported only when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lmeec_core.cli.exit_codes import run_command
from lmeec_core.cli.options import MethodName, Overwrite, QueryCamera, TargetCameras


def play_command(
    bag_path: Annotated[
        Path, typer.Argument(metavar="BAG", help="Folder, .mcap, .db3 or .bag file.")
    ],
    topics: Annotated[
        list[str] | None, typer.Option("--topic", help="Only this topic; may be repeated.")
    ] = None,
    remap: Annotated[
        list[str] | None,
        typer.Option(help="Publish a topic under another name, FROM:=TO; may be repeated."),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.0, help="Factor on the recorded rate; 0: as fast as possible.")
    ] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Start over at the end, until stopped.")] = (
        False
    ),
    clock: Annotated[bool, typer.Option("--clock", help="Publish the bag's time on /clock.")] = (
        False
    ),
    wait: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Wait up to this many seconds for subscriptions: the node's on all its input "
            "topics, or any on every topic that is played.",
        ),
    ] = 2.0,
    node: Annotated[
        str,
        typer.Option(
            help="Node that processes the messages: its full name, or a name without namespace "
            "for all nodes of that name. If it runs, the command ends when it has processed the "
            "last set."
        ),
    ] = "lmeec",
) -> None:
    """Publish a bag over ROS 2.

    All publishers are reliable. Topics whose message types are not installed are skipped and named.
    A truncated or damaged bag is played as far as it can be read; the exit code is then 1.

    **Examples**

    - `lmeec play take_7_bag --rate 0.2 --wait 30`
    - `lmeec play robot_bag --topic /head/image_raw --remap /head/image_raw:=/ego/image_raw --loop`
    """

    def work() -> int:
        from lmeec_ros.tools import bag_commands

        pairs = dict(_remap(entry) for entry in remap or ())
        return bag_commands.play(
            bag_path,
            topics=topics,
            remap=pairs,
            rate=rate,
            loop=loop,
            clock=clock,
            wait=wait,
            answering=node,
            console=Console(stderr=True),
        )

    run_command(work)


def record_command(
    out: Annotated[Path, typer.Argument(metavar="BAG", help="Folder of the new bag.")],
    topics: Annotated[
        list[str] | None, typer.Argument(help="Topics.", show_default="the node's masks")
    ] = None,
    node: Annotated[
        str, typer.Option(help="Name of the node whose masks are recorded by default.")
    ] = "lmeec",
    everything: Annotated[
        bool, typer.Option("--all", help="Record all outputs of the node, not only masks.")
    ] = False,
    duration: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after this many seconds.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Record topics into a ROS 2 bag (MCAP) until Ctrl-C.

    Topics that appear later are recorded too. The bag is completed when the recording ends (Ctrl-C,
    SIGTERM, --duration), and contains everything received until then. The exit code is 1 if a
    topic cannot be recorded.
    """

    def work() -> int:
        from lmeec_ros.tools import bag_commands

        return bag_commands.record(
            out,
            topics or None,
            of_node=node,
            everything=everything,
            duration=duration,
            overwrite=overwrite,
            console=Console(stderr=True),
        )

    run_command(work)


def demo_command(
    take: Annotated[
        Path | None, typer.Option(help="Folder of a take.", show_default="the sample take")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/demo"),
    method: MethodName = None,
    preset: Annotated[str, typer.Option(help="Model preset.")] = "nano",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights.", show_default="the preset's own, if it has any")
    ] = None,
    query: QueryCamera = "ego",
    target: TargetCameras = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File of prompts (docs/recordings.md): each object is marked once.",
            show_default="prompts.json in the take's folder",
        ),
    ] = None,
    masks: Annotated[
        bool,
        typer.Option("--masks", help="Send the take's own query masks on every frame instead."),
    ] = False,
    object_name: Annotated[
        list[str] | None,
        typer.Option(
            "--object",
            help="Object to mark in the query view; may be repeated.",
            show_default="the first ones",
        ),
    ] = None,
    max_objects: Annotated[
        int,
        typer.Option(min=0, help="Number of objects without --object; 0: all."),
    ] = 4,
    rate: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Factor on the recorded rate; slow machines then drop frames, which are counted. "
            "0: publish the next frame when the masks of the last one have arrived.",
        ),
    ] = 0.0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    raw: Annotated[bool, typer.Option("--raw", help="Raw images instead of JPEG.")] = False,
) -> None:
    """Start the node, play a take to it over DDS, and collect the masks.

    Objects are marked by prompts, by one click each in the sample take, and tracked from there; a
    take without prompts sends its query masks on every frame.

    Writes to the results folder: the bags, masks.json (the benchmark's result file), overlays
    (contact_sheet.png, overlay.mp4), report.json and the node's log. The exit code is 0 only if
    masks arrived, the node counted every pair of images without masks as dropped, and every prompt
    was used.

    **Examples**

    - `lmeec demo`
    - `lmeec demo --masks`
    - `lmeec demo --take take_7 --prompts prompts.json`
    - `lmeec demo --take take_7 --query exo --checkpoint weights.pt --preset base_plus`
    """

    def work() -> int:
        from lmeec_ros.tools.demo import DemoOptions, run

        options = DemoOptions(
            take=take,
            out=out,
            method=method or "lmeec",
            preset=preset,
            checkpoint=checkpoint,
            query=query,
            targets=tuple(target or ()),
            prompts=prompts,
            masks=masks,
            objects=tuple(object_name or ()),
            max_objects=max_objects,
            rate=rate,
            device=device,
            raw=raw,
        )
        return run(options, Console())

    run_command(work)


def soak_command(
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Duration; longer if needed for every fault to occur.")
    ] = 30.0,
    take: Annotated[
        Path | None, typer.Option(help="Folder of a take.", show_default="the sample take")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/soak"),
    preset: Annotated[str, typer.Option(help="Model preset.")] = "mini",
    seed: Annotated[int, typer.Option(help="Seed of all random choices.")] = 0,
    rate: Annotated[float, typer.Option(min=0.5, help="Frames per second.")] = 10.0,
    patience: Annotated[
        float,
        typer.Option(min=1.0, help="Seconds within which masks must arrive again after a fault."),
    ] = 30.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="Only this fault; may be repeated.", show_default="all of them"),
    ] = None,
) -> None:
    """Test the node for a long time: play a take to it and inject random faults.

    The node runs in a separate process. Its memory and number of threads must not grow, masks must
    arrive again after every fault, and its counters must add up. Writes report.json, soak.png and
    the logs to the results folder; the exit code is 0 only if every check passed.

    **Examples**

    - `lmeec soak --minutes 30 --seed 1`
    - `lmeec soak --minutes 1 --fault kill_feeder --fault corrupt_images`
    """

    def work() -> int:
        from lmeec_ros.tools.soak.run import SoakOptions, run

        options = SoakOptions(
            minutes=minutes,
            take=take,
            out=out,
            preset=preset,
            seed=seed,
            rate=rate,
            patience=patience,
            faults=tuple(fault or ()),
        )
        return run(options, Console())

    run_command(work)


def _remap(entry: str) -> tuple[str, str]:
    source, separator, name = entry.partition(":=")
    if not separator or not source or not name:
        raise typer.BadParameter(f"--remap {entry!r}: expected FROM:=TO")
    return source, name
