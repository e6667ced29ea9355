"""`lmeec view`: a recording with masks on it, as a video and for Rerun."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmeec_core.cli.track import Direction
from lmeec_core.errors import InputError
from lmeec_core.takes.results import DIRECTIONS

if TYPE_CHECKING:
    from rich.console import Console

    from lmeec_core.viewing.moments import Moment, Predictions

SLOWEST = 4.0
"""Pictures per second at least: subsampled takes have one a second."""
LOOKED_AT = 20
SHOWN = 5


@dataclass(frozen=True)
class ViewOptions:
    """What `lmeec view` is asked for; see its --help."""

    source: Path
    predictions: Path | None = None
    out: Path | None = None
    rerun: Path | None = None
    direction: str | None = None
    query: str | None = None
    take: str | None = None
    split: str | None = None
    videos: Path | None = None
    params: Path | None = None
    node: str | None = None
    objects: tuple[str, ...] = ()
    height: int = 480
    fps: float | None = None


def view_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="A take, or one of a dataset or of EgoExo4D's relations_{split}.json; or a bag."
        ),
    ],
    predictions: Annotated[
        Path | None,
        typer.Argument(
            help="A result file (anyone's), or a bag of masks: what the node published or "
            "`lmeec track --bag` wrote.",
            show_default="none: query masks and truth alone",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The video (MP4).", show_default="<take or bag>.mp4")
    ] = None,
    rerun: Annotated[
        Path | None,
        typer.Option(
            help="Also a Rerun recording (.rrd): images, masks, presence and scores over time."
        ),
    ] = None,
    direction: Annotated[
        Direction, typer.Option(help="both: the one that the predictions have, or ego-exo.")
    ] = Direction.both,
    query: Annotated[
        str | None,
        typer.Option(help="Query camera of a take.", show_default="the direction's first"),
    ] = None,
    take: Annotated[
        str | None,
        typer.Option(help="Which take, where there are several.", show_default="the only one"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of a dataset.", show_default="all")
    ] = None,
    videos: Annotated[
        Path | None,
        typer.Option(
            help="For a relations file: the folder of the takes' videos.",
            show_default="takes/ beside or above the file",
        ),
    ] = None,
    object_name: Annotated[
        list[str] | None,
        typer.Option("--object", help="Only this object, may be repeated.", show_default="all"),
    ] = None,
    params: Annotated[
        Path | None, typer.Option(help="For a bag: the node's parameter file.")
    ] = None,
    node: Annotated[
        str | None,
        typer.Option(
            help="The node whose parameters in the file are meant, as /robot1/lmeec.",
            show_default="the file's node called lmeec",
        ),
    ] = None,
    height: Annotated[int, typer.Option(min=64, max=2160, help="Of a view, in pixels.")] = 480,
    fps: Annotated[
        float | None,
        typer.Option(min=0.1, max=120, help="Pace.", show_default="the recording's, at least 4"),
    ] = None,
) -> None:
    """Show a recording with its masks: the query view, beside it each target view.

    Outlined in white is the truth, where the take has it. The video is H.264 and plays in browsers.
    Exit code 1 if a part of the recording is not shown; it is named.

    **Examples**

    - `lmeec view take_7 take_7_predictions.json`: take_7.mp4
    - `lmeec view take_7 theirs.json --query cam01 --object cup --out theirs.mp4`
    - `lmeec view relations_val.json found.json --take <uid> --videos takes`
    - `lmeec view robot_bag masks_bag --params my.yaml`: what the node saw and answered
    - `lmeec view take_7 masks_bag --rerun take_7.rrd`, then `rerun take_7.rrd`
    """
    from rich.console import Console

    from lmeec_core.cli.exit_codes import run_command

    options = ViewOptions(
        source=source,
        predictions=predictions,
        out=out,
        rerun=rerun,
        direction=None if direction is Direction.both else direction.value,
        query=query,
        take=take,
        split=split,
        videos=videos,
        params=params,
        node=node,
        objects=tuple(object_name or ()),
        height=height,
        fps=fps,
    )
    run_command(lambda: run(options, Console()))


def run(options: ViewOptions, console: Console) -> int:
    """Write the video and the Rerun recording; return the exit code.

    Raises:
        TakeError, BagError, InputError: the source or the predictions cannot be shown.
    """
    from rich.progress import track

    from lmeec_core import overlay
    from lmeec_core.viewing.rerun_file import RerunWriter, tee
    from lmeec_core.viewing.video import Painter, pictures

    problems: list[str] = []
    notes: list[str] = []
    moments, count, name, said = _open(options, problems, notes)
    colours = overlay.Colours()
    out = options.out or Path(f"{name}.mp4")
    out.parent.mkdir(parents=True, exist_ok=True)
    moments = track(moments, "moments", total=count, console=console, transient=True)
    first, moments = _ahead(moments, LOOKED_AT)
    if not first:
        why = "; ".join(dict.fromkeys(problems)) or "no frames, or no sets"
        raise InputError(f"{options.source}: nothing to show: {why}")
    for name in first[0].query.masks:
        colours[name]  # gives it the next colour
    painter = Painter(colours, options.height, f"{name}, {said}")
    rate = _rate(first, options.fps)
    if options.rerun is None:
        written = overlay.write_video(out, pictures(moments, painter), rate)
    else:
        with RerunWriter(options.rerun, colours) as writer:
            written = overlay.write_video(out, pictures(tee(moments, writer), painter), rate)
    console.print(str(written), highlight=False)
    if options.rerun is not None:
        console.print(f"{options.rerun} (open it with: rerun {options.rerun})", highlight=False)
    for what, texts in (("note", notes), ("left out", problems)):
        texts = list(dict.fromkeys(texts))
        for text in texts[:SHOWN]:
            console.print(f"{what}: {text}", style="yellow", markup=False, soft_wrap=True)
        if len(texts) > SHOWN:
            console.print(f"{what}: and {len(texts) - SHOWN} more", style="yellow")
    return 1 if problems else 0


def _open(
    options: ViewOptions, problems: list[str], notes: list[str]
) -> tuple[Iterable[Moment], int, str, str]:
    """The moments, their number (at most), the recording's name, and what is shown of it."""
    from lmeec_core.offline.run import is_bag

    said = options.predictions.name if options.predictions else "no predictions"
    if not is_bag(options.source):
        return _open_take(options, said, problems)
    if options.take or options.split or options.videos:
        raise InputError(f"{options.source} is a bag: --take, --split and --videos belong to takes")
    from lmeec_ros.offline import bag_units, bag_view

    # The network is not loaded, so weights do not matter here.
    config = bag_units.read_config(
        options.source, options.params, {"max_objects": 1024}, options.node
    )
    plan = bag_units.plan_bag(options.source, config, options.direction)
    assert plan.recording is not None
    direction, take = plan.units[0].direction, plan.recording.name
    problems += plan.problems
    notes += plan.notes
    predictions = _predictions(options, direction, take, problems)
    moments = bag_view.bag_moments(
        options.source, config, predictions, problems.append, notes.append
    )
    moments = _then_unshown(moments, predictions, problems)
    return moments, plan.units[0].frames, options.source.resolve().name, said


def _open_take(
    options: ViewOptions, said: str, problems: list[str]
) -> tuple[Iterable[Moment], int, str, str]:
    from lmeec_core.takes import TakeError, is_ego, open_takes
    from lmeec_core.viewing.moments import choose_query, take_moments

    if options.params is not None or options.node is not None:
        raise InputError(
            f"{options.source}: is no bag (a folder with metadata.yaml, .mcap or .db3 files, or "
            "such a file); --params and --node belong to bags: a take has its cameras in folders"
        )
    wanted = () if options.take is None else (options.take,)
    takes = open_takes(options.source, options.split, names=wanted, videos=options.videos)
    if len(takes.names) > 1:
        listed = ", ".join(takes.names[:8])
        raise TakeError(
            options.source, f"which take? Name one of its {len(takes)} with --take: {listed}"
        )
    take = takes.open(takes.names[0])
    direction = options.direction or _direction_of(options.predictions) or DIRECTIONS[0]
    query, targets = choose_query(take, direction, options.query)
    direction = DIRECTIONS[0] if is_ego(query) else DIRECTIONS[1]
    for name in options.objects:
        take.mask_cameras(name)  # says that there is no such object
    objects = [name for name in take.objects if not options.objects or name in options.objects]
    predictions = _predictions(options, direction, take.name, problems, take.objects)
    moments = take_moments(take, query, targets, objects, predictions, problems.append)
    moments = _then_unshown(moments, predictions, problems)
    # A name of a relations file may be anything.
    name = take.name.replace("/", "_").replace("\0", "_")
    return moments, len(take.frames(query)), name, f"{said}; white outline: truth"


def _predictions(
    options: ViewOptions,
    direction: str,
    take: str,
    problems: list[str],
    objects: Collection[str] | None = None,
) -> Predictions:
    """Where predictions come from; those of other objects than the given ones are a problem."""
    from lmeec_core.takes import Results
    from lmeec_core.takes.keys import look_alike
    from lmeec_core.viewing.moments import NoPredictions, ResultPredictions

    path = options.predictions
    if path is None:
        return NoPredictions()
    from lmeec_core.offline.run import is_bag

    if path.is_dir() or is_bag(path):
        from lmeec_ros.offline.bag_view import MaskBagPredictions

        bag = MaskBagPredictions(path)
        problems += bag.lost
        return bag
    results = Results.read(path, direction)
    found = ResultPredictions(results, take, path, problems.append)
    for name in results.objects(take):
        if objects is not None and name not in objects:
            alike = look_alike(name, objects)
            problems.append(f"{path}: object {name!r}, which the take does not have{alike}")
    return found


def _then_unshown(
    moments: Iterable[Moment], predictions: Predictions, problems: list[str]
) -> Iterator[Moment]:
    """The moments; after the last, what of a result file was not shown is a problem."""
    from lmeec_core.viewing.moments import ResultPredictions

    yield from moments
    if isinstance(predictions, ResultPredictions):
        problems += predictions.unshown()


def _direction_of(path: Path | None) -> str | None:
    """The direction of a result file that has only one."""
    from lmeec_core.takes import Results, TakeError

    if path is None or not path.is_file():
        return None
    try:
        return Results.read(path).direction
    except TakeError:  # both, or nothing that can be read, which is said later
        return None


def _ahead(moments: Iterable[Moment], count: int) -> tuple[list[Moment], Iterator[Moment]]:
    """The first moments, and all of them."""
    iterator = iter(moments)
    first = list(islice(iterator, count))

    def everything() -> Iterator[Moment]:
        yield from first
        yield from iterator

    return first, everything()


def _rate(first: list[Moment], wanted: float | None) -> float:
    """Pictures per second: as asked for, else the recording's own."""
    if wanted is not None:
        return wanted
    steps = [b.seconds - a.seconds for a, b in zip(first, first[1:], strict=False)]
    step = statistics.median(steps) if steps else 0.0
    return min(60.0, max(SLOWEST, 1 / step if step > 0 else SLOWEST))
