"""`lmeec view`: a recording with its masks as a video, a Rerun recording or a web page."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmeec_core.cli.options import Direction, NodeName, Objects, Parameters, Split, Videos
from lmeec_core.cli.sources import find_predictions, source_of
from lmeec_core.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from lmeec_core.calibration import Calibration
    from lmeec_core.recordings import Viewed
    from lmeec_core.viewing.moments import Moment, MomentWriter, Predictions
    from lmeec_core.viewing.options import ViewOptions

MIN_FPS = 4.0
"""Minimum frame rate of the video: subsampled takes have one frame per second."""
LOOKAHEAD = 20
"""Moments that are read first, to estimate the frame rate."""
SHOWN = 5
"""Maximum number of problems and of notes that are printed."""


def view_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="A take; a dataset or EgoExo4D's relations_{split}.json, with --take; or a bag."
        ),
    ],
    predictions: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A result file of any method, or a bag of masks, published by the node or written "
            "by `lmeec track --bag`. Several are shown side by side.",
            show_default="none: only query masks and truth",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The video (MP4).", show_default="<take or bag>.mp4")
    ] = None,
    rerun: Annotated[
        Path | None,
        typer.Option(
            help="Also write a Rerun recording (.rrd): images, masks, presence and scores over "
            "time and, with a calibration, the cameras and objects in 3D."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Also write a page (.html) that plays in a browser, without a server, with a time "
            "slider, a switch for each object, curves of presence and IoU, and a list of the worst "
            "frames."
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Calibration file of the cameras, for --rerun.",
            show_default="the recording's own: calibration.yaml of a take, geometry.calibration of "
            "a bag's parameters",
        ),
    ] = None,
    direction: Annotated[
        Direction,
        typer.Option(help="both: the direction of the predictions; without any, ego-exo."),
    ] = Direction.both,
    query: Annotated[
        str | None,
        typer.Option(help="Query camera of a take.", show_default="the direction's first"),
    ] = None,
    take: Annotated[
        str | None,
        typer.Option(help="Which take, if there are several.", show_default="the only one"),
    ] = None,
    split: Split = None,
    videos: Videos = None,
    object_name: Objects = None,
    params: Parameters = None,
    node: NodeName = None,
    height: Annotated[
        int, typer.Option(min=64, max=2160, help="Height of each view, in pixels.")
    ] = 480,
    fps: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=120, help="Frames per second.", show_default="the recording's, at least 4"
        ),
    ] = None,
) -> None:
    """Make a video of a recording with its masks: the query view next to each target view.

    True masks, where the take has them, are outlined in white. The video is H.264 and plays in
    browsers. The exit code is 1 if any part of the recording is not shown; these parts are named.

    **Examples**

    - `lmeec view take_7 take_7_predictions.json`: take_7.mp4
    - `lmeec view take_7 theirs.json --query cam01 --object cup --out theirs.mp4`
    - `lmeec view relations_val.json found.json --take <uid> --videos takes`
    - `lmeec view robot_bag masks_bag --params my.yaml`: what the node saw and answered
    - `lmeec view take_7 found.json --html take_7.html`: open it in a browser
    - `lmeec view take_7 lmeec.json omama.json --html both.html`: compare methods frame by frame
    - `lmeec view take_7 masks_bag --rerun take_7.rrd`, then `rerun take_7.rrd`
    """
    from rich.console import Console

    from lmeec_core.cli.exit_codes import run_command
    from lmeec_core.viewing.options import ViewOptions

    options = ViewOptions(
        source=source,
        predictions=predictions[0] if predictions else None,
        beside=tuple(predictions[1:] if predictions else ()),
        out=out,
        rerun=rerun,
        html=html,
        calibration=calibration,
        direction=direction.single,
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

    def work() -> int:
        if calibration is not None and rerun is None:
            raise InputError(
                f"--calibration {calibration}: is used for the 3D scene of a Rerun recording; "
                "--rerun FILE.rrd expected as well"
            )
        return run(options, Console())

    run_command(work)


def run(options: ViewOptions, console: Console) -> int:
    """Write the video and the other outputs; return the exit code.

    Raises:
        TakeError, BagError, InputError: the source or the predictions cannot be shown.
    """
    from rich.progress import track

    from lmeec_core import overlay
    from lmeec_core.viewing.html_file import HtmlWriter
    from lmeec_core.viewing.moments import tee
    from lmeec_core.viewing.rerun_file import RerunWriter
    from lmeec_core.viewing.video import Painter, pictures

    problems: list[str] = []
    notes: list[str] = []
    viewed = _open(options, problems, notes)
    moments = viewed.moments
    legend = ", ".join(path.name for path in _files(options)) or "no predictions"
    legend += "; white outline: truth" if viewed.truth else ""
    colours = overlay.Colours()
    out = options.out or Path(f"{viewed.name}.mp4")
    out.parent.mkdir(parents=True, exist_ok=True)
    shown = track(moments, "moments", total=viewed.count, console=console, transient=True)
    first, moments = _peek(shown, LOOKAHEAD)
    if not first:
        why = "; ".join(dict.fromkeys(problems)) or "no frames, or no sets"
        raise InputError(f"{options.source}: nothing to show: {why}")
    for name in first[0].query.masks:
        colours[name]  # assigns the next colour
    title = f"{viewed.name}, {legend}"
    painter = Painter(colours, options.height, title)
    rate = _rate(first, options.fps)
    with contextlib.ExitStack() as stack:
        writers: list[MomentWriter] = []
        if options.rerun is not None:
            known = _calibration(options, viewed, problems, notes)
            scene = RerunWriter(options.rerun, colours, known, problems.append, notes.append)
            writers.append(stack.enter_context(scene))
        if options.html is not None:
            page = HtmlWriter(options.html, colours, options.height, title)
            writers.append(stack.enter_context(page))
        written = overlay.write_video(out, pictures(tee(moments, writers), painter), rate)
    console.print(str(written), highlight=False)
    if options.rerun is not None:
        console.print(f"{options.rerun} (open it with: rerun {options.rerun})", highlight=False)
    if options.html is not None:
        console.print(f"{options.html} (open it in a browser)", highlight=False)
        notes += filter(None, [page.too_large])
    _print_problems(console, notes, problems)
    return 1 if problems else 0


def _print_problems(console: Console, notes: list[str], problems: list[str]) -> None:
    for what, texts in (("note", notes), ("left out", problems)):
        texts = list(dict.fromkeys(texts))
        for text in texts[:SHOWN]:
            console.print(f"{what}: {text}", style="yellow", markup=False, soft_wrap=True)
        if len(texts) > SHOWN:
            console.print(f"{what}: and {len(texts) - SHOWN} more", style="yellow")


def _files(options: ViewOptions) -> list[Path]:
    return [path for path in (options.predictions, *options.beside) if path is not None]


def _calibration(
    options: ViewOptions, viewed: Viewed, problems: list[str], notes: list[str]
) -> Calibration | None:
    """The calibration for the Rerun recording; None, and a note or problem, if there is none.

    Raises:
        CalibrationError: the file given with --calibration cannot be used.
    """
    from lmeec_core.calibration import CalibrationError, read_calibration

    if options.calibration is not None:
        return read_calibration(options.calibration)
    without = f"{options.rerun} shows images and curves, but no cameras and objects in 3D"
    if viewed.calibration is None:
        notes.append(
            f"{options.source} has no calibration: {without}; give a file of lenses and poses with "
            "--calibration"
        )
        return None
    try:
        return read_calibration(viewed.calibration)
    except CalibrationError as error:
        problems.append(f"{error}; {without}")
        return None


def _open(options: ViewOptions, problems: list[str], notes: list[str]) -> Viewed:
    """The recording with the predictions; those of several methods are side by side."""
    from lmeec_core.viewing.comparison import labels, side_by_side

    paths = _files(options)
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise InputError(f"{twice[0]}: given twice; different predictions expected")
    source = source_of(options.source)
    opened: list[Viewed] = []
    for path in paths or (None,):
        found: list[Predictions] = []

        def predictions(
            direction: str, take: str, objects: Collection[str] | None, path: Path | None = path,
            found: list[Predictions] = found,
        ) -> Predictions:  # fmt: skip
            found.append(find_predictions(path, direction, take, objects, problems))
            return found[-1]

        viewed = source.open(options, predictions, problems, notes)
        viewed.moments = _then_unshown(viewed.moments, found[-1], problems)
        opened.append(viewed)
    if len(opened) > 1:
        names = labels(paths)
        moments = {name: one.moments for name, one in zip(names, opened, strict=True)}
        opened[0].moments = side_by_side(moments, notes.append)
    return opened[0]


def _then_unshown(
    moments: Iterable[Moment], predictions: Predictions, problems: list[str]
) -> Iterator[Moment]:
    """The moments; after the last one, predictions that were not shown are reported."""
    from lmeec_core.viewing.moments import ResultPredictions

    yield from moments
    if isinstance(predictions, ResultPredictions):
        problems += predictions.unshown()


def _peek(moments: Iterable[Moment], count: int) -> tuple[list[Moment], Iterator[Moment]]:
    """The first ``count`` moments, and an iterator over all moments."""
    iterator = iter(moments)
    first = list(islice(iterator, count))

    def everything() -> Iterator[Moment]:
        yield from first
        yield from iterator

    return first, everything()


def _rate(first: list[Moment], wanted: float | None) -> float:
    """Frames per second: as requested, else the recording's own, from MIN_FPS to 60."""
    if wanted is not None:
        return wanted
    steps = [b.seconds - a.seconds for a, b in zip(first, first[1:], strict=False)]
    step = statistics.median(steps) if steps else 0.0
    return min(60.0, max(MIN_FPS, 1 / step if step > 0 else MIN_FPS))
