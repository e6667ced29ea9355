"""The ``lmeec`` command.

Sub-commands that need ROS (play, record, demo, soak) come from the ROS package by its entry point.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lmeec_core.cli.ablate import ablate_command
from lmeec_core.cli.bench import bench_command
from lmeec_core.cli.dataset import dataset_command
from lmeec_core.cli.evaluate import evaluate_command
from lmeec_core.cli.exit_codes import run_command
from lmeec_core.cli.export import export_command
from lmeec_core.cli.mark import mark_command
from lmeec_core.cli.options import Overwrite, QueryCamera, TargetCameras
from lmeec_core.cli.plugins import plugins
from lmeec_core.cli.simulate import simulate_command
from lmeec_core.cli.track import track_command
from lmeec_core.cli.train import train_command
from lmeec_core.cli.view import view_command
from lmeec_core.cli.weights import weights_app

app = typer.Typer(
    name="lmeec",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Correspondence masks between ego and exo cameras: given masks of objects in the query "
    "view, find the same objects in the target views.\n\n"
    "First steps, in two terminals (`lmeec COMMAND --help` shows more examples):\n\n"
    "- `lmeec info take_7`: show what a take or a bag contains\n"
    "- `lmeec bag take_7 take_7_bag`: convert a take to a ROS 2 bag\n"
    "- `lmeec play take_7_bag --wait 30`: publish it; a running node answers with masks\n"
    "- `lmeec record masks_bag`: record the node's masks while it plays\n"
    "- `lmeec demo --take take_7`: all of this in one command, including the node\n"
    "- `lmeec track take_7`: find the masks for a whole recording, offline\n"
    "- `lmeec mark take_7`: mark objects by clicks on a web page\n"
    "- `lmeec view take_7 take_7_predictions.json`: make a video of the masks\n"
    "- `lmeec dataset take_7 take_7_predictions.json --out set`: a dataset for robot learning\n"
    "- `lmeec simulate takes --train 3`: make simulated takes\n"
    "- `lmeec train runs/nano`: train the small network that comes with the package\n"
    "- `lmeec evaluate masks.json take_7`: score masks and write a report\n"
    "- `lmeec ablate runs/ablate`: repeat the paper's ablations with the small network\n"
    "- `lmeec soak`: run the node under random faults for half an hour\n"
    "- `lmeec bench`: measure the time of a step\n"
    "- `lmeec export`: export the network as ONNX graphs, for other engines\n"
    "- `lmeec weights list`: list the released checkpoints and how to get them",
)


class Masks(StrEnum):
    """How query masks are written into a bag."""

    image = "image"
    array = "array"


TakePath = Annotated[Path, typer.Argument(help="Folder of a take (EgoExo4D processed layout).")]


@app.command()
def info(
    path: Annotated[
        Path,
        typer.Argument(help="A take, a dataset folder, a raw relations file or a ROS 2 bag."),
    ],
    offsets: Annotated[
        bool,
        typer.Option(
            "--offsets",
            help="For a bag: estimate the offsets between the cameras' clocks from the motion seen "
            "in its first minute (parameter `cameras.<name>.time_offset`).",
        ),
    ] = False,
) -> None:
    """Print the contents of takes or of a bag. The exit code is 1 if anything in them is broken."""
    from lmeec_core.cli import info as inspection

    run_command(lambda: inspection.show(path, Console(), offsets))


@app.command()
def bag(
    take: TakePath,
    out: Annotated[Path, typer.Argument(help="Folder of the new bag.")],
    query: QueryCamera = "ego",
    target: TargetCameras = None,
    object_name: Annotated[
        list[str] | None,
        typer.Option(
            "--object",
            help="Object to mark in the query view; may be repeated.",
            show_default="all",
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write decoded rgb8 images, not the take's JPEG files.")
    ] = False,
    masks: Annotated[
        Masks,
        typer.Option(
            help="Write query masks as label images, or as lmeec/CorrespondenceMaskArray, which "
            "also keeps overlapping masks."
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
                f"  note: {made.overlaps} mask pixels belong to several objects and were given to "
                "the highest label; --masks array keeps all of them"
            )
        for text in opened.left_out:
            console.print(f"left out: {text}", style="yellow", markup=False, soft_wrap=True)
        return int(bool(opened.left_out))

    run_command(work)


app.command("track")(track_command)
app.command("view")(view_command)
app.command("dataset")(dataset_command)
app.command("mark")(mark_command)
app.command("evaluate")(evaluate_command)
app.command("simulate")(simulate_command)
app.command("train")(train_command)
app.command("ablate")(ablate_command)
app.command("bench")(bench_command)
app.command("export")(export_command)
app.add_typer(weights_app, name="weights")


for plugin in plugins():
    if hasattr(plugin, "register"):
        plugin.register(app)


def main() -> int:
    """Entry point of the ``lmeec`` command."""
    app()
    return 0
