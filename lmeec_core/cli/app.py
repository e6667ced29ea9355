"""The ``lmeec`` command.

The sub-commands that use ROS (play, record, demo, soak) live in lmeec_ros and are imported when
called.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lmeec_core.cli.ablate import ablate_command
from lmeec_core.cli.bench import bench_command
from lmeec_core.cli.evaluate import evaluate_command
from lmeec_core.cli.exit_codes import run_command
from lmeec_core.cli.export import export_command
from lmeec_core.cli.simulate import simulate_command
from lmeec_core.cli.track import track_command
from lmeec_core.cli.view import view_command
from lmeec_core.training.command import train_command

app = typer.Typer(
    name="lmeec",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Correspondence masks between ego and exo cameras: find in the target views the objects "
    "whose masks are given in the query view.\n\n"
    "A first walk, in two terminals (--help after a command shows more examples):\n\n"
    "- `lmeec info take_7`: what a take or a bag holds\n"
    "- `lmeec bag take_7 take_7_bag`: make a ROS 2 bag of a take\n"
    "- `lmeec play take_7_bag --wait 30`: publish it; a running node answers with masks\n"
    "- `lmeec record masks_bag`: meanwhile, record the masks\n"
    "- `lmeec demo --take take_7`: all of it at once, node included\n"
    "- `lmeec track take_7`: masks for a whole recording, offline\n"
    "- `lmeec view take_7 take_7_predictions.json`: a video of them\n"
    "- `lmeec simulate takes --train 3`: makes takes to try things on\n"
    "- `lmeec train runs/nano`: trains the small network that comes with the package\n"
    "- `lmeec evaluate masks.json take_7`: scores masks, writes a report\n"
    "- `lmeec ablate runs/ablate`: repeats the paper's ablations with it\n"
    "- `lmeec soak`: the node under random faults for half an hour\n"
    "- `lmeec bench`: what a step costs\n"
    "- `lmeec export`: the network as ONNX graphs, for other engines",
)


class Masks(StrEnum):
    """How query masks are written into a bag."""

    image = "image"
    array = "array"


TakePath = Annotated[Path, typer.Argument(help="Folder of a take (EgoExo4D processed layout).")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the bag if it is there.")]


@app.command()
def info(
    path: Annotated[
        Path,
        typer.Argument(help="A take, a dataset folder, a raw relations file or a ROS 2 bag."),
    ],
) -> None:
    """Say what takes or a bag hold. The exit code is 1 if any of them is broken."""
    from lmeec_core.cli import info as inspection

    run_command(lambda: inspection.show(path, Console()))


@app.command()
def bag(
    take: TakePath,
    out: Annotated[Path, typer.Argument(help="Folder of the new bag.")],
    query: Annotated[
        str, typer.Option(help="Query camera: ego, exo (the first one) or a name.")
    ] = "ego",
    target: Annotated[
        list[str] | None,
        typer.Option(help="Target camera, may be repeated.", show_default="all of the other kind"),
    ] = None,
    object_name: Annotated[
        list[str] | None,
        typer.Option("--object", help="Object to ask for, may be repeated.", show_default="all"),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Decoded rgb8 images instead of the take's JPEG files.")
    ] = False,
    masks: Annotated[
        Masks,
        typer.Option(
            help="Query masks as a label image, or as lmeec/CorrespondenceMaskArray, which also "
            "keeps masks that overlap."
        ),
    ] = Masks.image,
    overwrite: Overwrite = False,
) -> None:
    """Write a take as a ROS 2 bag (MCAP): images of the cameras and masks of the query camera.

    Frame number f gets the stamp f / 30 s + 1 s. No ROS installation is needed.

    **Examples**

    - `lmeec bag take_7 take_7_bag`
    - `lmeec bag take_7 take_7_back --query exo --target ego --object "red cup"`
    """

    def work() -> int:
        from lmeec_core.bags.take_bags import bag_from_take
        from lmeec_core.takes import Take

        opened = Take.open(take)
        made = bag_from_take(
            opened,
            out,
            query=query,
            targets=target,
            objects=object_name,
            raw=raw,
            masks="label_image" if masks is Masks.image else "mask_array",
            overwrite=overwrite,
        )
        console = Console()
        console.print(f"{out}: {len(made.frames)} frames, query camera {made.query}")
        for name, topic in made.image_topics.items():
            count = made.counts[topic]
            some = "" if count == len(made.frames) else f": {count} of {len(made.frames)} frames"
            console.print(f"  {topic}  (camera {made.cameras[name]}{some})", highlight=False)
        console.print(f"  {made.mask_topic}  (query masks, {made.mask_type})", highlight=False)
        objects = ", ".join(f"{label}:{name}" for label, name in made.objects.items())
        console.print(f"  objects {objects}", highlight=False, markup=False)
        if made.overlaps:
            console.print(
                f"  note: {made.overlaps} mask pixels belong to several objects and went to the "
                "highest label; --masks array keeps them all"
            )
        for text in opened.left_out:
            console.print(f"left out: {text}", style="yellow", markup=False, soft_wrap=True)
        return int(bool(opened.left_out))

    run_command(work)


@app.command()
def play(
    bag_path: Annotated[
        Path, typer.Argument(metavar="BAG", help="Folder, .mcap, .db3 or .bag file.")
    ],
    topics: Annotated[
        list[str] | None, typer.Option("--topic", help="Only this topic, may be repeated.")
    ] = None,
    remap: Annotated[
        list[str] | None,
        typer.Option(help="Publish a topic under another name, FROM:=TO, may be repeated."),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.0, help="Pace; 2 is twice as fast, 0 does not wait at all.")
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
            help="Wait up to this many seconds for subscribers: the node's, to all topics that it "
            "takes, or to every topic.",
        ),
    ] = 2.0,
    node: Annotated[
        str,
        typer.Option(
            help="The node that answers: with its namespace, or every one of the name. Where it "
            "runs, the command ends when it has answered the last set."
        ),
    ] = "lmeec",
) -> None:
    """Publish a bag over ROS 2.

    All publishers are reliable. Topics whose message types are not installed are skipped and named.
    Of a bag that is cut off or damaged what can be read is played; the exit code is then 1.

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


@app.command()
def record(
    out: Annotated[Path, typer.Argument(metavar="BAG", help="Folder of the new bag.")],
    topics: Annotated[
        list[str] | None, typer.Argument(help="Topics.", show_default="the node's masks")
    ] = None,
    node: Annotated[
        str, typer.Option(help="Name of the node whose masks are recorded by default.")
    ] = "lmeec",
    everything: Annotated[
        bool, typer.Option("--all", help="By default all outputs of the node, not only masks.")
    ] = False,
    duration: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after this many seconds.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Record topics into a ROS 2 bag (MCAP) until Ctrl-C.

    Topics that appear later are taken up. The bag appears when the recording ends (Ctrl-C,
    SIGTERM, --duration) with all that had arrived by then.
    """

    def work() -> None:
        from lmeec_ros.tools import bag_commands

        bag_commands.record(
            out,
            topics or None,
            of_node=node,
            everything=everything,
            duration=duration,
            overwrite=overwrite,
            console=Console(stderr=True),
        )

    run_command(work)


@app.command()
def demo(
    take: Annotated[
        Path | None, typer.Option(help="Folder of a take.", show_default="the sample take")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/demo"),
    preset: Annotated[str, typer.Option(help="Model preset.")] = "nano",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights.", show_default="the preset's own, if it has any")
    ] = None,
    query: Annotated[str, typer.Option(help="Query camera: ego, exo or a name.")] = "ego",
    target: Annotated[
        list[str] | None,
        typer.Option(help="Target camera, may be repeated.", show_default="all of the other kind"),
    ] = None,
    object_name: Annotated[
        list[str] | None,
        typer.Option(
            "--object", help="Object to ask for, may be repeated.", show_default="the first ones"
        ),
    ] = None,
    max_objects: Annotated[
        int,
        typer.Option(min=0, help="Without --object, ask for so many objects; 0: for all."),
    ] = 4,
    rate: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Pace of the recording, 1 is its own; slow machines then drop frames, which is "
            "counted. 0: publish the next frame when the masks of the last one are back.",
        ),
    ] = 0.0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    raw: Annotated[bool, typer.Option("--raw", help="Raw images instead of JPEG.")] = False,
) -> None:
    """The whole path once: node process, recording played to it over DDS, masks collected.

    Leaves in the results folder: the bags, masks.json (the benchmark's result file), overlays
    (contact_sheet.png, overlay.mp4), report.json and the node's log. The exit code is 0 only if
    masks came back and every pair of images without masks was counted as dropped by the node.

    **Examples**

    - `lmeec demo`
    - `lmeec demo --take take_7 --query exo --checkpoint weights.pt --preset base_plus`
    """

    def work() -> int:
        from lmeec_ros.tools.demo import DemoOptions, run

        options = DemoOptions(
            take=take,
            out=out,
            preset=preset,
            checkpoint=checkpoint,
            query=query,
            targets=tuple(target or ()),
            objects=tuple(object_name or ()),
            max_objects=max_objects,
            rate=rate,
            device=device,
            raw=raw,
        )
        return run(options, Console())

    run_command(work)


@app.command()
def soak(
    minutes: Annotated[
        float, typer.Option(min=0.1, help="How long, at least until every fault was there.")
    ] = 30.0,
    take: Annotated[
        Path | None, typer.Option(help="Folder of a take.", show_default="the sample take")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/soak"),
    preset: Annotated[str, typer.Option(help="Model preset.")] = "mini",
    seed: Annotated[int, typer.Option(help="Decides all that is random.")] = 0,
    rate: Annotated[float, typer.Option(min=0.5, help="Frames per second.")] = 10.0,
    patience: Annotated[
        float, typer.Option(min=1.0, help="Seconds in which masks have to flow after a fault.")
    ] = 30.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="Only this fault, may be repeated.", show_default="all of them"),
    ] = None,
) -> None:
    """Play a recording to the node for a long time, with random faults, and watch it.

    The node runs as a process of its own. Its memory and threads have to stay flat, masks have to
    flow again after every fault, its counters have to add up. Leaves report.json, soak.png and the
    logs in the results folder; the exit code is 0 only if every check passed.

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


app.command("track")(track_command)
app.command("view")(view_command)
app.command("evaluate")(evaluate_command)
app.command("simulate")(simulate_command)
app.command("train")(train_command)
app.command("ablate")(ablate_command)
app.command("bench")(bench_command)
app.command("export")(export_command)


def main() -> int:
    """Entry point of the ``lmeec`` command."""
    app()
    return 0
