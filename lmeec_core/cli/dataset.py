"""The options of `lmeec dataset`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmeec_core.cli.options import WHAT, Direction, NodeName, Objects, Parameters, Split, Videos
from lmeec_core.errors import InputError

if TYPE_CHECKING:
    from lmeec_core.datasets.episode import Format
    from lmeec_core.viewing.options import ViewOptions

_CONTENT = "What the dataset holds"
WITH_FIELDS = ("lerobot", "hdf5", "webdataset")
"""Formats that hold more of an object than its masks."""


class Anonymise(StrEnum):
    """What is made unrecognisable."""

    faces = "faces"


class FormatName(StrEnum):
    """Formats of datasets."""

    lerobot = "lerobot"
    hdf5 = "hdf5"
    coco = "coco"
    davis = "davis"
    mots = "mots"
    webdataset = "webdataset"


def dataset_command(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="Takes, folders or datasets of takes, relations_{split}.json, or bags; and, at "
            "most one, a result file or a bag of masks, with the masks of the target cameras.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new dataset.")],
    format_name: Annotated[
        FormatName, typer.Option("--format", help="Which programs it is for.")
    ] = FormatName.lerobot,
    enrich: Annotated[
        Path | None,
        typer.Option(
            help="A LeRobot dataset whose episodes are these recordings, in this order: the new "
            "one is a copy with the objects added; its videos are not touched.",
            show_default="none",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a dataset that this command made.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with an episode.")] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Run on a Ray cluster instead: its address, auto (the one this machine belongs "
            "to), or local (start one). Its nodes must see the recordings and OUT's folder under "
            "the same path.",
            show_default="none",
        ),
    ] = None,
    fps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=240,
            help="Rate of the common clock, Hz.",
            rich_help_panel=_CONTENT,
            show_default="the fastest recording's",
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Number of object slots.",
            rich_help_panel=_CONTENT,
            show_default="as many as there are objects",
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            rich_help_panel=_CONTENT,
            help="Probability from which a predicted object counts as visible.",
        ),
    ] = 0.5,
    task: Annotated[
        str | None,
        typer.Option(
            help="A sentence that says what is done.",
            rich_help_panel=_CONTENT,
            show_default="the recording's name",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Calibration file of the cameras, for points in space.",
            rich_help_panel=_CONTENT,
            show_default="each recording's own: calibration.yaml of a take, geometry.calibration "
            "of a bag's parameters",
        ),
    ] = None,
    hand: Annotated[
        str | None,
        typer.Option(
            help="The object that is a hand: adds what it touches and what moves.",
            rich_help_panel=_CONTENT,
            show_default="none",
        ),
    ] = None,
    anonymise: Annotated[
        Anonymise | None,
        typer.Option(
            help="Blur the faces that OpenCV's detector finds in the images of all cameras; with "
            "--face-model.",
            rich_help_panel=_CONTENT,
            show_default="nothing",
        ),
    ] = None,
    face_model: Annotated[
        Path | None,
        typer.Option(
            help="YuNet model (.onnx) of OpenCV's model zoo.",
            rich_help_panel=_CONTENT,
            show_default="none",
        ),
    ] = None,
    direction: Annotated[
        Direction,
        typer.Option(
            help="both: the direction of the predictions, else ego-exo.", rich_help_panel=WHAT
        ),
    ] = Direction.both,
    query: Annotated[
        str | None,
        typer.Option(
            help="Query camera of takes.",
            show_default="the direction's first",
            rich_help_panel=WHAT,
        ),
    ] = None,
    take: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this take; may be repeated.", show_default="all", rich_help_panel=WHAT
        ),
    ] = None,
    split: Split = None,
    videos: Videos = None,
    object_name: Objects = None,
    params: Parameters = None,
    node: NodeName = None,
) -> None:
    """Make a dataset of recordings with their masks, for programs that train robots.

    Every recording is an episode on a clock of constant rate. Masks of the query camera are the
    recording's own; those of the target cameras are the predictions, or without any, the take's
    annotations. Which ones, and with which checkpoint, is in the dataset's provenance.json.

    Finished episodes are kept in OUT.work until the dataset is complete: after Ctrl-C or a kill,
    run the same command again. Exit code 1 if a part of the recordings is not in the dataset; it
    is named.

    **Examples**

    - `lmeec dataset take_7 take_7_predictions.json --out set`: LeRobot, one episode
    - `lmeec dataset takes found.json --split train --workers 4 --task "set the table" --out set`
    - `lmeec dataset robot_bag masks_bag --params my.yaml --calibration cameras.yaml --out set`
    - `lmeec dataset bags/* found.json --params my.yaml --enrich recorded --out set`: a dataset that
      LeRobot has recorded gets masks
    - `lmeec dataset take_7 --out truth`: masks of all cameras from the annotations
    """
    from rich.console import Console

    from lmeec_core.cli.exit_codes import run_command
    from lmeec_core.cli.sources import find_predictions, source_of
    from lmeec_core.datasets.plan import DatasetOptions
    from lmeec_core.datasets.run import run
    from lmeec_core.viewing.options import ViewOptions

    def work() -> int:
        _check_faces(anonymise, face_model, enrich)
        recordings, predictions = _sorted(sources)
        kind, rate = _format(format_name, enrich, fps)
        if hand is not None and format_name.value not in WITH_FIELDS:
            raise InputError(
                f"--hand {hand}: --format {format_name.value} has no place for what it touches; "
                f"one of {', '.join(WITH_FIELDS)} expected"
            )
        views: list[ViewOptions] = []
        for path in recordings:
            for name in _takes(path, split, tuple(take or ()), videos):
                views.append(
                    ViewOptions(
                        source=path, predictions=predictions, direction=direction.one, query=query,
                        take=name, split=None if name is None else split, videos=videos,
                        params=params, node=node, objects=tuple(object_name or ()),
                    )
                )  # fmt: skip
        options = DatasetOptions(
            tuple(views), rate, slots, threshold, task, calibration, hand, face_model
        )
        readers = [source_of(view.source) for view in views]
        return run(
            options, readers, find_predictions, kind, out, workers, overwrite, Console(), cluster
        )

    run_command(work)


def _check_faces(what: Anonymise | None, model: Path | None, enrich: Path | None) -> None:
    if what is not None and model is None:
        raise InputError(
            "--anonymise faces: --face-model FILE expected, a YuNet model such as "
            "face_detection_yunet_2023mar.onnx of OpenCV's model zoo"
        )
    if what is None and model is not None:
        raise InputError(f"--face-model {model}: is for --anonymise faces, which is not given")
    if what is not None and enrich is not None:
        raise InputError(f"--anonymise faces: the videos of {enrich} are not touched by --enrich")


def _format(name: FormatName, enrich: Path | None, fps: int | None) -> tuple[Format, int | None]:
    """The format, and the rate of its clock; None where it is open."""
    from lmeec_core.datasets.enrich import Enrichment
    from lmeec_core.datasets.formats import format_named

    if enrich is None:
        return format_named(name.value), fps
    if name is not FormatName.lerobot or fps is not None:
        raise InputError(
            f"--enrich {enrich}: is for --format lerobot, and without --fps: the rate is that of "
            "the dataset"
        )
    made = Enrichment.of(enrich)
    return made, made.fps


def _sorted(sources: list[Path]) -> tuple[list[Path], Path | None]:
    """The recordings, and the predictions among what was given."""
    masks = [path for path in sources if _holds_masks_only(path)]
    if len(masks) > 1:
        raise InputError(
            f"{', '.join(map(str, masks))}: only one result file or bag of masks can be given"
        )
    recordings = [path for path in sources if path not in masks]
    if not recordings:
        raise InputError(
            f"{masks[0]}: holds masks, but no images; give the take or the bag that they belong to "
            "as well"
        )
    return recordings, masks[0] if masks else None


def _holds_masks_only(path: Path) -> bool:
    """Whether a path is a result file, or a bag with masks and no images."""
    from lmeec_core.cli.sources import is_bag
    from lmeec_core.takes.json_scan import top_level
    from lmeec_core.takes.results import DIRECTIONS

    if path.is_file() and not is_bag(path):
        return top_level(path, (*DIRECTIONS, "annotations")) in DIRECTIONS
    if not is_bag(path):
        return False
    from lmeec_core.bags.bag import MASKS_TYPE, BagReader

    with BagReader(path) as bag:
        types = {topic.type for topic in bag.topics.values()}
    images = {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"}
    return MASKS_TYPE in types and not types & images


def _takes(
    path: Path, split: str | None, names: tuple[str, ...], videos: Path | None
) -> list[str | None]:
    """Names of the takes at a path; None for a bag."""
    from lmeec_core.cli.sources import is_bag
    from lmeec_core.takes import open_takes

    if is_bag(path):
        return [names[0]] if names else [None]  # which the bag's source refuses
    return list(open_takes(path, split, names=names, videos=videos).names)
