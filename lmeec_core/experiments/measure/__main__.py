"""Scores a file of weights on what it was not trained on.

Sources: ``takes`` (continuous simulated takes of held-out shapes, of the set that --set names),
``prototype`` (scenes of the program that --generator names, or of a folder of scenes that it
wrote), ``photographs`` (pairs made of photographs of installed packages: scikit-image,
scikit-learn, opencv-doc; --root names a folder into which a package was unpacked) and ``pictures``
(pairs made of the outlined pictures of --pictures). Results: WORK/measure.json, or --out. What is
scored is kept in WORK: the same command goes on where it was interrupted.

The set ``sealed`` is scored once for each network that is published; everything that is chosen is
chosen on ``development``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmeec_core.checkpoint import bundled_weights
from lmeec_core.errors import InputError
from lmeec_core.evaluation import FrameScore, Scores
from lmeec_core.experiments.measure import photographs, recordings
from lmeec_core.experiments.measure.report import by_group, change
from lmeec_core.experiments.measure.switches import SWITCHES, WHOLE
from lmeec_core.experiments.measure.units import Measured, digest, direction, queries
from lmeec_core.files import write_text
from lmeec_core.simulation.sets import PROTOTYPE_SEEDS, SETS

SOURCES = ("takes", "prototype", "photographs", "pictures")
LEAST_FRAMES = 60
"""Frames of a take from which it tells of memory that was full for long."""
Units = list[tuple[str, Any]]
"""Each part of a source that is scored by itself: its name, and what scores it with a switch."""


def _told(text: str) -> None:
    print(text, flush=True)


def _takes(args: argparse.Namespace, source: str) -> list[Path]:
    if source == "takes":
        root = args.work / "takes" / f"{args.set}_{args.frames}"
        return recordings.simulated(root, args.set, args.takes, args.frames, _told)
    if args.generator is None:
        raise InputError("--source prototype: --generator names its program, or a folder of scenes")
    root = args.work / "takes" / "prototype"
    return recordings.prototype(root, args.generator, args.takes, args.frames, _told)


def _parts(args: argparse.Namespace, source: str, report: dict[str, Any]) -> Iterator[Any]:
    """Functions of a :class:`Measured`, each of which gives scores, take by take."""
    if source in ("takes", "prototype"):
        for path in _takes(args, source):
            for query in queries(path):
                yield (
                    path.name,
                    lambda m, p=path, q=query: m.take(p, q, args.objects, args.frames, args.step),
                )
        return
    if source == "pictures":
        if args.pictures is None:
            raise InputError("--source pictures: --pictures names a folder with outlines.json")
        found = photographs.of_folder(args.pictures)
    else:
        found, report["missing"] = photographs.of_packages(args.root)
        report["licences"] = {n: p.licence for n, p in photographs.PACKAGES.items()}
        for name in report["missing"]:
            _told(f"left out: {name}: no such file")
    first = 0
    for picture in found:
        others = [other for other in found if other is not picture]
        yield picture.name, lambda m, p=picture, o=others, n=first: m.picture(p, o, n)
        first += len(picture.objects)


def _group(source: str, record: FrameScore) -> str:
    if source in ("takes", "prototype"):
        return direction(record)
    return f"{record.take}: {record.object_name}"


def _facts(args: argparse.Namespace, source: str) -> dict[str, Any]:
    if source in ("photographs", "pictures"):
        return {"views of each object": photographs.VIEWS}
    chosen = SETS[args.set]
    facts = {"takes": args.takes, "frames": args.frames, "step": args.step, "objects": args.objects}
    if source == "prototype":
        return facts | {"first seed": PROTOTYPE_SEEDS}
    return facts | {"set": args.set, "split": chosen.split, "first seed": chosen.first}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Score everything that is asked for; the report so far is written after each part.

    Raises:
        InputError: an option does not fit, or nothing is there to score.
        ExplainedError: a take could not be made.
    """
    report: dict[str, Any] = {
        "weights": {"file": args.weights.name, "sha256": digest(args.weights)}
    }
    for source in args.source:
        mine: dict[str, Any] = report.setdefault(source, _facts(args, source))
        found = {name: Scores(source) for name in args.switch}
        parts = list(_parts(args, source, mine))
        if not parts:
            raise InputError(f"--source {source}: nothing is there to score; see above")
        for number, (part, score) in enumerate(parts, start=1):
            for name in args.switch:
                measured = Measured(args.weights, name, args.work / "scores" / source)
                found[name].records += score(measured).records
            mine["parts done"] = f"{number} of {len(parts)}"
            for name, scores in found.items():
                mine[name] = by_group(scores, lambda r: _group(source, r))  # noqa: B023
                if name != WHOLE and WHOLE in found:
                    mine[name]["change"] = change(scores, found[WHOLE])
            write_text(args.out, json.dumps(report, indent=1))
            _told(f"{source}: {number} of {len(parts)}, {part}: {_line(mine[args.switch[0]])}")
    return report


def _line(groups: dict[str, Any]) -> str:
    def number(value: dict[str, Any] | None) -> str:
        return "-" if value is None else f"{value['mean']:.3f}"

    return f"IoU {number(groups['all']['iou'])}, existence {number(groups['all']['existence'])}"


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked.

    Raises:
        InputError: values that do not fit.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lmeec_core.experiments.measure", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("work", type=Path, help="folder of takes and results")
    parser.add_argument("--weights", type=Path, help="of nano; the bundled ones if not given")
    parser.add_argument("--source", action="append", choices=SOURCES, help="again for more")
    parser.add_argument("--set", default="development", choices=("development", "sealed"))
    parser.add_argument("--takes", type=int, default=20)
    parser.add_argument("--frames", type=int, default=LEAST_FRAMES, help="of each take")
    parser.add_argument("--step", type=int, default=1, help="track every so many frames")
    parser.add_argument("--objects", type=int, default=3, help="of each take")
    parser.add_argument("--generator", type=Path, help="program or folder of the other generator")
    parser.add_argument("--pictures", type=Path, help="folder of outlined pictures")
    parser.add_argument("--root", type=Path, action="append", default=[])
    parser.add_argument(
        "--switch", action="append", choices=[*SWITCHES, "all"],
        help="what is off; `all` for each by itself beside the whole network",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="JSON file; WORK/measure.json if not given")
    args = parser.parse_args(arguments)
    for name in ("takes", "frames", "step", "objects"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: 1 or more expected")
    args.source = list(dict.fromkeys(args.source or ["takes"]))
    wanted = args.switch or [WHOLE]
    args.switch = list(SWITCHES) if "all" in wanted else list(dict.fromkeys(wanted))
    args.out = args.out or args.work / "measure.json"
    weights = args.weights or bundled_weights("nano")
    if weights is None or not weights.is_file():
        raise InputError(f"--weights {weights}: no such file")
    args.weights = weights
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code is 0 when all is scored, 1 where photographs were missing."""
    args = read_arguments(arguments)
    report = measure(args)
    _told(f"results: {args.out}")
    return 1 if any(report[source].get("missing") for source in args.source) else 0


if __name__ == "__main__":
    raise SystemExit(main())
