"""`lmeec dataset`: make a dataset for robot learning from recordings and their masks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmeec_core.cli.options import (
    RECORDING_PANEL,
    Direction,
    NodeName,
    Objects,
    Parameters,
    Split,
    Videos,
)
from lmeec_core.errors import InputError

if TYPE_CHECKING:
    from lmeec_core.datasets.episode import Format
    from lmeec_core.viewing.options import ViewOptions

_CONTENT = "What the dataset holds"
WITH_FIELDS = ("lerobot", "hdf5", "webdataset")
"""Formats with fields for more than an object's masks."""


class Anonymise(StrEnum):
    """What `--anonymise` can blur."""

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
            help="Takes, folders or datasets of takes, relations_{split}.json files, or bags; plus "
            "at most one result file or bag of masks with the target cameras' masks.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new dataset.")],
    format_name: Annotated[
        FormatName, typer.Option("--format", help="Format of the dataset.")
    ] = FormatName.lerobot,
    enrich: Annotated[
        Path | None,
        typer.Option(
            help="A LeRobot dataset whose episodes are these recordings, in this order. The new "
            "dataset is a copy with the objects added; the videos are unchanged.",
            show_default="none",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a dataset that this command made.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Episodes made in parallel.")] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Run on a Ray cluster instead: its address, auto (the one this machine belongs "
            "to), or local (start one). Its machines must see the recordings and OUT's folder at "
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
            show_default="that of the fastest recording",
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Number of object slots.",
            rich_help_panel=_CONTENT,
            show_default="the number of objects",
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            rich_help_panel=_CONTENT,
            help="Minimum presence probability of a predicted object that counts as visible.",
        ),
    ] = 0.5,
    task: Annotated[
        str | None,
        typer.Option(
            help="A sentence that describes the task.",
            rich_help_panel=_CONTENT,
            show_default="the recording's name",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Calibration file of the cameras, for 3D points.",
            rich_help_panel=_CONTENT,
            show_default="each recording's own: calibration.yaml of a take, geometry.calibration "
            "of a bag's parameters",
        ),
    ] = None,
    hand: Annotated[
        str | None,
        typer.Option(
            help="Name of the object that is a hand; adds which objects it touches and which move.",
            rich_help_panel=_CONTENT,
            show_default="none",
        ),
    ] = None,
    anonymise: Annotated[
        Anonymise | None,
        typer.Option(
            help="Blur the faces that OpenCV's detector finds in the images of all cameras; needs "
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
            help="both: the direction of the predictions; without any, ego-exo.",
            rich_help_panel=RECORDING_PANEL,
        ),
    ] = Direction.both,
    query: Annotated[
        str | None,
        typer.Option(
            help="Query camera of takes.",
            show_default="the direction's first",
            rich_help_panel=RECORDING_PANEL,
        ),
    ] = None,
    take: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this take; may be repeated.",
            show_default="all",
            rich_help_panel=RECORDING_PANEL,
        ),
    ] = None,
    split: Split = None,
    videos: Videos = None,
    object_name: Objects = None,
    params: Parameters = None,
    node: NodeName = None,
) -> None:
    """Make a dataset for robot learning from recordings and their masks.

    Every recording becomes an episode with a constant frame rate. The query camera's masks are the
    recording's own. The target cameras' masks are the predictions or, without predictions, the
    take's annotations; provenance.json in the dataset records which, and the checkpoint used.

    Finished episodes are kept in OUT.work until the dataset is complete: after Ctrl-C or a kill,
    run the same command again to resume. The exit code is 1 if any part of the recordings is not in
    the dataset; each missing part is named.

    **Examples**

    - `lmeec dataset take_7 take_7_predictions.json --out set`: LeRobot, one episode
    - `lmeec dataset takes found.json --split train --workers 4 --task "set the table" --out set`
    - `lmeec dataset robot_bag masks_bag --params my.yaml --calibration cameras.yaml --out set`
    - `lmeec dataset bags/* found.json --params my.yaml --enrich recorded --out set`: add masks to
      a dataset recorded with LeRobot
    - `lmeec dataset take_7 --out truth`: take the masks of all cameras from the annotations
    """
    from rich.console import Console

    from lmeec_core.cli.exit_codes import run_command
    from lmeec_core.cli.sources import find_predictions, source_of
    from lmeec_core.datasets.plan import DatasetOptions
    from lmeec_core.datasets.run import run
    from lmeec_core.viewing.options import ViewOptions

    def work() -> int:
        _check_faces(anonymise, face_model, enrich)
        recordings, predictions = _separate(sources)
        kind, rate = _format(format_name, enrich, fps)
        if hand is not None and format_name.value not in WITH_FIELDS:
            raise InputError(
                f"--hand {hand}: --format {format_name.value} cannot store what a hand touches; "
                f"one of {', '.join(WITH_FIELDS)} expected"
            )
        views: list[ViewOptions] = []
        for path in recordings:
            for name in _takes(path, split, tuple(take or ()), videos):
                views.append(
                    ViewOptions(
                        source=path, predictions=predictions, direction=direction.single,
                        query=query, take=name, split=None if name is None else split,
                        videos=videos, params=params, node=node, objects=tuple(object_name or ()),
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
        raise InputError(
            f"--anonymise faces: cannot be combined with --enrich {enrich}, which copies the "
            "videos unchanged"
        )


def _format(name: FormatName, enrich: Path | None, fps: int | None) -> tuple[Format, int | None]:
    """The format, and its frame rate; None if the recordings decide."""
    from lmeec_core.datasets.enrich import Enrichment
    from lmeec_core.datasets.formats import format_named

    if enrich is None:
        return format_named(name.value), fps
    if name is not FormatName.lerobot or fps is not None:
        raise InputError(
            f"--enrich {enrich}: needs --format lerobot and no --fps; the frame rate is that of "
            "the dataset"
        )
    made = Enrichment.of(enrich)
    return made, made.fps


def _separate(sources: list[Path]) -> tuple[list[Path], Path | None]:
    """The recordings, and the predictions if one of the sources is that."""
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
        return [names[0]] if names else [None]  # the bag source rejects a name
    return list(open_takes(path, split, names=names, videos=videos).names)
