"""`lmeec evaluate`: score a result file from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from lmeec_core.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from lmeec_core.evaluation.evaluate import Evaluation
    from lmeec_core.evaluation.strips import Scored, Strip
    from lmeec_core.evaluation.truth import ResultsTruths
    from lmeec_core.evaluation.validation import Problem
    from lmeec_core.takes import Results, TakeError, Takes

LISTED = 5


class ProtocolName(StrEnum):
    """Scoring rules."""

    official = "official"
    lm_eec = "lm_eec"


class Direction(StrEnum):
    """Which view holds the query."""

    ego_exo = "ego-exo"
    exo_ego = "exo-ego"


def evaluate_command(
    predictions: Annotated[
        list[Path],
        typer.Argument(
            help="Result file (JSON) of any method. Several files become rows of one table, and "
            "the report compares them frame by frame; its groups and problems are those of the "
            "first file."
        ),
    ],
    truth: Annotated[
        Path,
        typer.Argument(
            help="A take, a dataset folder, EgoExo4D's relations_{split}.json or its folder, the "
            "benchmark's truth file or, for lm_eec, a truth file in the format of a result file."
        ),
    ],
    protocol: Annotated[
        ProtocolName,
        typer.Option(help="Scoring rules; scores of different protocols are not comparable."),
    ] = ProtocolName.official,
    direction: Annotated[
        Direction | None,
        typer.Option(help="Direction to score.", show_default="every direction in the file"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the dataset folder.", show_default="all takes")
    ] = None,
    videos: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the takes' videos, for the pictures.",
            show_default="takes/ beside or above the relations file",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("out/evaluate"),
    worst: Annotated[
        int,
        typer.Option(
            min=0,
            help="Number of takes to show pictures of: the worst or, with several files, those on "
            "which the files differ most.",
        ),
    ] = 6,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Exit with 0 even if predictions are missing, as long as none is broken or for an "
            "unknown take or object.",
        ),
    ] = False,
) -> None:
    """Score a result file: IoU, location error, contour accuracy, existence, association accuracy.

    The file may come from any method. It is first checked as in the benchmark: the same takes, the
    same objects, a prediction for every frame with a query mask. Missing or unreadable predictions
    are named and count as empty masks; broken takes are named and skipped. If most predictions
    cannot be read, or none matches the truth, the reason is printed instead of a score. In each of
    these cases the exit code is 1.

    **Protocols**

    - `official`: the EgoExo4D benchmark's evaluation: only frames annotated in the target view,
      long side 480; an object is predicted as present if its confidence is above 0.5
    - `lm_eec`: the LM-EEC release's evaluation: only frames that have a prediction, everything
      resized to 480 x 480; an object is predicted as present if its mask covers more than 0.1 %
      of the image

    **Examples**

    - `lmeec evaluate out/demo/masks.json take_7`
    - `lmeec evaluate lmeec.json omama.json sift.json take_7`: methods side by side
    - `lmeec evaluate masks.json egoexo4d --split val --direction exo-ego`
    - `lmeec evaluate masks.json relations_test.json --videos takes --out out/test`

    **What is written**

    - `report.html`: one page with the scores next to the paper's, scores by object size, scenario
      and take length, plots, and pictures of the worst takes; with several files, their scores,
      pictures and per-frame IoU side by side
    - `report.json`: all numbers of the report; `scores.csv`: one line per group; `frames.csv`: one
      line per scored frame; the last two name the result file in each line
    """
    from lmeec_core.cli.exit_codes import run_command

    def work() -> int:
        twice = [path for path in predictions if predictions.count(path) > 1]
        if twice:
            raise InputError(f"{twice[0]}: given twice; different result files expected")
        found = _evaluate(predictions, truth, protocol.value, direction, split, videos, out, worst)
        return max(_code(evaluation, allow_missing) for evaluation in found)

    run_command(work)


def _evaluate(
    paths: list[Path], truth: Path, protocol: str, direction: Direction | None, split: str | None,
    videos: Path | None, out: Path, worst: int,
) -> list[Evaluation]:  # fmt: skip
    """Score, print and write the report; the first file determines the directions."""
    from lmeec_core.evaluation.report import Report
    from lmeec_core.evaluation.truth import open_truth

    console, errors = Console(), Console(stderr=True)
    parts = _read(paths, direction, console)
    first = str(paths[0])
    report, done = Report(first, str(truth), protocol, []), []

    def report_skipped(error: TakeError) -> None:
        errors.print(f"[bold red]skipped:[/] {escape(str(error))}", soft_wrap=True)

    for name in parts[first]:
        scored: dict[str, Scored] = {}
        for title, own in parts.items():  # broken takes are named once
            named = report_skipped if title == first else _silent
            takes = open_truth(truth, name, split=split, videos=videos, on_error=named)
            scored[title] = _scored(own[name], takes, protocol, console)
        rows = {title: one for title, one in scored.items() if one.evaluation.void is None}
        if first in rows:
            report.strips[name] = _draw(rows, worst, console)
        evaluations = {title: one.evaluation for title, one in rows.items()}
        if evaluations:
            show(evaluations, console)
        printed: set[str] = set()
        for title, one in scored.items():
            evaluation = one.evaluation
            show_problems(evaluation, console, printed, title if len(scored) > 1 else None)
            if evaluation.void is not None:
                text = f"{escape(title)}, {name}: no score: {escape(evaluation.void)}"
                errors.print(f"[bold red]error:[/] {text}", highlight=False, soft_wrap=True)
                report.void[name if title == first else f"{name}, {title}"] = evaluation.void
            done.append(evaluation)
        if (mine := evaluations.pop(first, None)) is not None:
            report.evaluations = [*report.evaluations, mine]
            report.others[name] = evaluations
    if report.evaluations:
        files = report.write(out)
        console.print(f"report: {files['report.html']}", highlight=False, soft_wrap=True)
    return done


def _silent(_: TakeError) -> None:
    pass


def _read(
    paths: list[Path], direction: Direction | None, console: Console
) -> dict[str, dict[str, Results]]:
    """The results by file path and direction; prints which directions will not be scored.

    Raises:
        TakeError: a file cannot be read, or lacks a direction to be scored.
    """
    from lmeec_core.takes import DIRECTIONS, Results, TakeError

    found = {str(path): Results.read_all(path) for path in paths}
    wanted = list(found[str(paths[0])]) if direction is None else [direction.value]
    for path in paths:
        own = found[str(path)]
        for name in wanted:
            if name not in own:
                raise TakeError(path, f"no results for direction {name}; it has {list(own)}")
        if direction is None:
            for name in DIRECTIONS:
                if (name in own) != (name in wanted) or (name not in own and path == paths[0]):
                    lack = "not in the first file" if name in own else f"no part {name}"
                    text = f"{escape(str(path))}: {lack}; that direction is not scored"
                    console.print(text, highlight=False, soft_wrap=True)
    return {title: {name: own[name] for name in wanted} for title, own in found.items()}


def _code(evaluation: Evaluation, allow_missing: bool) -> int:
    """The exit code: 0 if everything was scored, apart from predictions that may be missing."""
    from lmeec_core.evaluation.validation import MISSING

    allowed = MISSING if allow_missing else ()
    wrong = any(problem.kind not in allowed for problem in evaluation.problems)
    void = evaluation.void is not None or not evaluation.scores.ious
    return int(wrong or bool(evaluation.skipped) or void)


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _scored(
    results: Results, takes: Takes | ResultsTruths, protocol: str, console: Console
) -> Scored:
    """Scores of one direction of a file, under a progress bar."""
    from lmeec_core.evaluation.evaluate import evaluate
    from lmeec_core.evaluation.strips import Scored

    with _progress(console) as progress:
        task = progress.add_task(results.direction, total=1.0)

        def advance(take: str, share: float) -> None:
            progress.update(
                task, completed=share, description=f"{results.direction} {escape(take[:40])}"
            )

        return Scored(results, takes, evaluate(results, takes, protocol, advance))


def _draw(scored: dict[str, Scored], worst: int, console: Console) -> list[Strip]:
    """Pictures of the worst takes, or of the takes on which several files differ most."""
    from lmeec_core.evaluation.strips import differing_takes, draw_strip, worst_takes
    from lmeec_core.takes import TakeError

    first = next(iter(scored.values()))
    evaluations = [one.evaluation for one in scored.values()]
    several = len(evaluations) > 1
    chosen = (
        differing_takes(evaluations, worst) if several else worst_takes(first.evaluation, worst)
    )
    strips = []
    with _progress(console) as progress:
        task = progress.add_task("pictures", total=len(chosen))
        for take, pair in chosen:
            truth = first.takes.open(take.records[0].take)
            strips.append(draw_strip(scored, truth, take, pair))
            if strips[-1].error is not None:
                first.takes.report(TakeError(truth.path, strips[-1].error))
            progress.advance(task)
    first.evaluation.skipped = list(first.takes.broken)
    return strips


def show(evaluations: Mapping[str, Evaluation], console: Console) -> None:
    """Print the table: result files of one direction by path, and the paper's rows."""
    from rich.table import Table

    from lmeec_core.evaluation.published import TABLE_1
    from lmeec_core.evaluation.report import TITLES, number, percent

    evaluation = next(iter(evaluations.values()))
    scores, protocol = evaluation.scores, evaluation.scores.protocol
    table = Table(
        title=f"{TITLES[evaluation.direction]}, protocol {protocol}", title_justify="left"
    )
    table.add_column("method", no_wrap=True)
    for column in ("IoU %", "LE", "CA", "BA %", "AA %"):
        table.add_column(column, justify="right")
    alone = {f"this result file ({protocol})": evaluation}
    rows = evaluations if len(evaluations) > 1 else alone
    for i, (title, one) in enumerate(rows.items(), start=1):
        own = one.scores
        table.add_row(
            escape(title), percent(own.iou), number(own.location_error),
            number(own.contour_accuracy), percent(own.existence_balanced_accuracy),
            percent(own.association_accuracy), style="bold", end_section=i == len(rows),
        )  # fmt: skip
    for row in TABLE_1[evaluation.direction]:
        table.add_row(
            f"paper: {row.method}", f"{row.iou:.2f}", f"{row.location_error:.3f}",
            f"{row.contour_accuracy:.3f}", f"{row.existence_balanced_accuracy:.2f}", "",
            style="dim",
        )  # fmt: skip
    console.print(table)
    console.print(
        "LE location error, CA contour accuracy, BA balanced accuracy of existence, AA association "
        "accuracy (IoU > 0.5). The paper's rows: Table 1, EgoExo4D test split.",
        highlight=False,
    )
    intervals = {title: one.iou_interval for title, one in rows.items()}
    texts = [f"{title} {percent(i[0])} to {percent(i[1])}" for title, i in intervals.items() if i]
    if texts:
        intervals_text = escape("; ".join(texts))
        console.print(f"IoU %, 95 % over takes: {intervals_text}", highlight=False, soft_wrap=True)
    masks, takes = len(scores.ious), len(evaluation.takes)
    console.print(
        f"{scores.frames} frames of {takes} takes scored, {masks} of them with a true mask; "
        f"existence accuracy {percent(scores.existence_accuracy)} % ({protocol}).",
        highlight=False,
    )
    if (text := evaluation.tracked_text()) is not None:
        console.print(text, highlight=False)
    if evaluation.unlisted:
        console.print(
            f"{len(evaluation.unlisted)} takes have no lists of annotated frames: all their frames "
            "with images were scored. Give relations_{split}.json as truth for the exact numbers.",
            highlight=False,
        )
    if not scores.ious:
        console.print("No scored frame has a true mask: IoU, LE, CA and AA have no value.")


def show_problems(
    evaluation: Evaluation, console: Console, printed: set[str], name: str | None = None
) -> None:
    """Print what is missing, broken or ignored: some of each kind, and how many more.

    Args:
        evaluation: the evaluation of one file.
        console: where to print.
        printed: notes already printed for other files; they are skipped, and new ones are added.
        name: the file's name if there are several files.
    """
    kinds: dict[str, list[Problem]] = {}
    for problem in evaluation.problems:
        kinds.setdefault(problem.kind, []).append(problem)
    notes = [text for text in evaluation.notes if text not in printed]
    printed.update(notes)
    if name is not None and (kinds or notes):
        console.print(f"[bold]{escape(name)}[/]:", highlight=False, soft_wrap=True)
    if evaluation.missing or "take unknown" in kinds or "object unknown" in kinds:
        console.print(
            f"[bold yellow]incomplete:[/] {evaluation.missing} predictions are missing or broken; "
            "the benchmark would reject this file"
        )
    for kind, problems in kinds.items():
        for problem in problems[:LISTED]:
            console.print(f"  {escape(str(problem))}", highlight=False, soft_wrap=True)
        if len(problems) > LISTED:
            console.print(f"  {kind}: and {len(problems) - LISTED} more, see report.json")
    for text in notes[:LISTED]:
        console.print(f"  not scored: {escape(text)}", highlight=False, soft_wrap=True)
    if len(notes) > LISTED:
        console.print(f"  not scored: and {len(notes) - LISTED} more, see report.json")
