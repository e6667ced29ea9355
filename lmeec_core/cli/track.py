"""`lmeec track`: find objects in the other cameras of a recording, offline."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lmeec_core.cli.options import (
    METHOD_PANEL,
    RECORDING_PANEL,
    Candidates,
    Checkpoint,
    CropLayers,
    Direction,
    Follow,
    Matcher,
    MaxCandidates,
    MethodName,
    NodeName,
    Objects,
    Parameters,
    PromptCheckpoint,
    PromptPreset,
    Seed,
    Split,
    Text,
    TextEncoder,
    TextWeights,
    Videos,
    candidate_options,
    text_options,
)

_OUT = "Outputs"
_EXECUTION = "Where it runs"


class Length(StrEnum):
    """Whether the tracker knows a take's length in advance."""

    stream = "stream"
    take = "take"


def track_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="A take, a folder of takes, a dataset with split.json, EgoExo4D's "
            "relations_{split}.json or its folder, or a bag."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The result file.", show_default="<source>_predictions.json", rich_help_panel=_OUT
        ),
    ] = None,
    bag: Annotated[
        Path | None,
        typer.Option(
            help="Also write the masks to a bag, as the lmeec/CorrespondenceMaskArray messages "
            "that the node would publish, with the target images' stamps; for several takes, a "
            "folder of bags.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace existing outputs even if this command did not make them.",
            rich_help_panel=_OUT,
        ),
    ] = False,
    direction: Annotated[
        Direction,
        typer.Option(
            help="Directions to track; for a bag, they follow from the names of its cameras.",
            rich_help_panel=RECORDING_PANEL,
        ),
    ] = Direction.both,
    split: Split = None,
    take: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this take; may be repeated.",
            show_default="all",
            rich_help_panel=RECORDING_PANEL,
        ),
    ] = None,
    object_name: Objects = None,
    videos: Videos = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A file of prompts (docs/recordings.md), used instead of the recording's query "
            "masks: each object is tracked from its prompts in the camera in which it was marked.",
            rich_help_panel=RECORDING_PANEL,
        ),
    ] = None,
    prompt_preset: PromptPreset = None,
    prompt_checkpoint: PromptCheckpoint = None,
    params: Parameters = None,
    node: NodeName = None,
    method: MethodName = None,
    candidates: Candidates = None,
    max_candidates: MaxCandidates = None,
    crop_layers: CropLayers = None,
    matcher: Matcher = None,
    follow: Follow = False,
    text: Text = None,
    text_weights: TextWeights = None,
    text_encoder: TextEncoder = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="The network: nano, base_plus.", show_default="nano", rich_help_panel=METHOD_PANEL
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    seed: Seed = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda or auto.", show_default="auto", rich_help_panel=METHOD_PANEL),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, bf16 or fp16.", show_default="fp32", rich_help_panel=METHOD_PANEL),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="The backend: auto, eager, cuda_graph, onnxruntime, openvino, tensorrt.",
            show_default="auto",
            rich_help_panel=METHOD_PANEL,
        ),
    ] = None,
    compression: Annotated[
        str | None,
        typer.Option(
            help="How a full memory bank is compressed: keep_first, average, fifo, iou, cluster.",
            show_default="keep_first",
            rich_help_panel=METHOD_PANEL,
        ),
    ] = None,
    capacity: Annotated[
        int | None,
        typer.Option(
            min=1, help="Frames in a memory bank.", show_default="6", rich_help_panel=METHOD_PANEL
        ),
    ] = None,
    cycle_check: Annotated[
        bool,
        typer.Option(
            "--cycle-check",
            help="Search for each mask found in the query view again, and lower the presence where "
            "the result does not overlap the query mask.",
            rich_help_panel=METHOD_PANEL,
        ),
    ] = False,
    num_frames: Annotated[
        Length,
        typer.Option(
            help="Whether the tracker knows the number of frames in advance. stream: no, as in the "
            "node; take: yes, as in the LM-EEC release. Results differ only for takes of fewer "
            "than 16 frames.",
            rich_help_panel=METHOD_PANEL,
        ),
    ] = Length.stream,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Processes on this machine; 0: one per core, or one for a GPU.",
            rich_help_panel=_EXECUTION,
        ),
    ] = 0,
    threads: Annotated[
        int,
        typer.Option(
            min=1,
            help="Threads of the network in each process. Another number may change a few pixels "
            "of the masks; the number of workers never does.",
            rich_help_panel=_EXECUTION,
        ),
    ] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Run on a Ray cluster instead: its address, auto (the one this machine belongs "
            "to), or local (start one). Its machines must see the recordings at the same path.",
            rich_help_panel=_EXECUTION,
        ),
    ] = None,
    scaling: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Only measure the speed-up: run the same units with each of these numbers of "
            "workers, time them, and compare the results byte by byte. No result is written.",
            rich_help_panel=_EXECUTION,
        ),
    ] = None,
) -> None:
    """Find the objects of a recording in its other cameras, offline.

    A take is tracked in both directions between its ego camera and each exo camera, on the frames
    and masks of the query camera. With --prompts, each object is tracked in the camera in which it
    was marked, and found in the others. A bag is paired and processed as in the node, with the
    node's parameter file; options override its values. The same recording and settings give the
    same bytes, in one process or in many.

    The work is divided into units (take, set of objects, camera). Finished units are kept in
    OUT.work: after Ctrl-C, a kill or a power cut, run the same command again to resume. Units from
    another checkpoint or other settings are not reused, and the command says so.

    **Examples**

    - `lmeec track take_7`: both directions, take_7_predictions.json
    - `lmeec track egoexo --split test --preset base_plus --checkpoint weights.pt --out test.json`
    - `lmeec track egoexo4d --split val --videos takes`: the raw annotations and videos
    - `lmeec track take_7 --prompts prompts.json`: one click instead of query masks
    - `lmeec track robot_bag --params my.yaml --bag masks_bag`: what the node would have published
    - `lmeec track take_7 --scaling 1,2,4`: measure the speed-up from more processes
    - `lmeec view take_7 take_7_predictions.json`: make a video of the result

    The exit code is 1 if a recording, a part of a bag, a frame or a prompt could not be read or
    used (it is named and left out); if nothing in a bag was paired, or less than half of what could
    have been (the node's reason and remedy are shown); or if a unit failed (nothing is written).
    """
    from rich.console import Console

    from lmeec_core.cli.exit_codes import run_command
    from lmeec_core.cli.sources import source_of
    from lmeec_core.offline import run as command
    from lmeec_core.offline import scaling as measure
    from lmeec_core.offline.units import TrackOptions

    given = {
        "method": method,
        "model.preset": preset,
        "model.checkpoint": None if checkpoint is None else str(checkpoint.resolve()),
        "model.seed": seed,
        "model.device": device,
        "model.precision": precision,
        "model.engine": engine,
        "memory.compression": compression,
        "memory.capacity": capacity,
        **candidate_options(candidates, max_candidates, crop_layers),
        "omama.matcher": matcher,
        "omama.follow": follow or None,
        **text_options(text, text_weights, text_encoder),
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    options = TrackOptions(
        source=source,
        out=out or Path(f"{source.resolve().name.removesuffix('.json')}_predictions.json"),
        bag=bag,
        direction=direction.single,
        params=params,
        node=node,
        split=split,
        takes=tuple(take or ()),
        videos=videos,
        objects=tuple(object_name or ()),
        changes=changes,
        num_frames=num_frames.value,
        cycle_check=cycle_check,
        threads=threads,
        workers=workers,
        cluster=cluster,
        overwrite=overwrite,
        prompts=prompts,
        prompt_preset=prompt_preset,
        prompt_checkpoint=prompt_checkpoint,
    )
    console = Console()
    if scaling is not None:
        counts = [int(text) for text in scaling.split(",") if text.strip().isdecimal()]
        run_command(lambda: measure.run(source_of(source), options, counts, console))
    else:
        run_command(lambda: command.run(source_of(source), options, console))
