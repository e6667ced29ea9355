"""Scores a weights file on data that it was not trained on.

Sources: ``takes`` (continuous simulated takes of held-out shapes, from the set given by --set),
``prototype`` (scenes from the program given by --generator, or from a folder of its scenes),
``photographs`` (pairs made from photographs in installed packages: scikit-image, scikit-learn,
opencv-doc; --root names a folder into which a package was unpacked), ``wallpapers`` (the same from
other packages, kept for a verdict: lomiri-wallpapers-16.04 and -20.04, mate-backgrounds,
plasma-workspace-wallpapers) and ``pictures`` (pairs made
from the outlined pictures in --pictures). Results are written to WORK/measure.json, or --out.
Finished parts are kept in WORK; run the same command again to resume.

The set ``sealed`` is scored once for each published network; all choices are made on
``development``.
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
from lmeec_core.experiments.measure.report import by_group, change, gain
from lmeec_core.experiments.measure.switches import SWITCHES, WHOLE
from lmeec_core.experiments.measure.units import Measured, digest, direction, queries
from lmeec_core.files import write_text
from lmeec_core.simulation.sets import PROTOTYPE_SEEDS, SETS

SOURCES = ("takes", "prototype", "photographs", "wallpapers", "pictures")
LEAST_FRAMES = 60
"""Default number of frames: enough to score a memory that has been full for a long time."""
Units = list[tuple[str, Any]]
"""Separately scored parts of a source: the name, and a function that scores it with a switch."""


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
    """Names of the parts, each with a function that scores the part for a :class:`Measured`."""
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
        boxes = photographs.BOXES if source == "photographs" else photographs.WALLPAPERS
        found, report["missing"] = photographs.of_packages(args.root, boxes)
        report["licences"] = {name: photographs.PACKAGES[name].licence for name in boxes}
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
    if source in ("photographs", "wallpapers", "pictures"):
        return {"views of each object": photographs.VIEWS}
    chosen = SETS[args.set]
    facts = {"takes": args.takes, "frames": args.frames, "step": args.step, "objects": args.objects}
    if source == "prototype":
        return facts | {"first seed": PROTOTYPE_SEEDS}
    return facts | {"set": args.set, "split": chosen.split, "first seed": chosen.first}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Score everything that was requested; the report is updated on disk after each part.

    Raises:
        InputError: an option is invalid, or there is nothing to score.
        ExplainedError: a take could not be generated.
    """
    report: dict[str, Any] = {
        "weights": {"file": args.weights.name, "sha256": digest(args.weights)}
    }
    if args.against is not None:
        report["against"] = {"file": args.against.name, "sha256": digest(args.against)}
    for source in args.source:
        mine: dict[str, Any] = report.setdefault(source, _facts(args, source))
        found = {name: Scores(source) for name in args.switch}
        before = Scores(source)
        parts = list(_parts(args, source, mine))
        if not parts:
            raise InputError(f"--source {source}: nothing is there to score; see above")
        for number, (part, score) in enumerate(parts, start=1):
            for name in args.switch:
                measured = Measured(args.weights, name, args.work / "scores" / source)
                found[name].records += score(measured).records
            if args.against is not None:
                other = Measured(args.against, WHOLE, args.work / "scores" / source)
                before.records += score(other).records
            mine["parts done"] = f"{number} of {len(parts)}"
            for name, scores in found.items():
                mine[name] = by_group(scores, lambda r: _group(source, r))  # noqa: B023
                if name != WHOLE and WHOLE in found:
                    mine[name]["change"] = change(scores, found[WHOLE])
            if args.against is not None:
                mine["against"] = by_group(before, lambda r: _group(source, r))  # noqa: B023
                first = found[args.switch[0]]
                mine["gain"] = gain(first, before, lambda r: _group(source, r))  # noqa: B023
            write_text(args.out, json.dumps(report, indent=1))
            _told(f"{source}: {number} of {len(parts)}, {part}: {_line(mine, args.switch[0])}")
    return report


def _line(mine: dict[str, Any], switch: str) -> str:
    """The scores so far, and how much better they are than the other weights' if there are any."""

    def number(value: dict[str, Any] | None, sign: str = "") -> str:
        return "-" if value is None else f"{value['mean']:{sign}.3f}"

    def text(groups: dict[str, Any], sign: str = "") -> str:
        found = groups["all"]
        return f"IoU {number(found['iou'], sign)}, existence {number(found['existence'], sign)}"

    difference = f"; difference: {text(mine['gain'], '+')}" if "gain" in mine else ""
    return text(mine[switch]) + difference


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the options.

    Raises:
        InputError: a value is invalid.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lmeec_core.experiments.measure", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("work", type=Path, help="folder for takes and results")
    parser.add_argument("--weights", type=Path, help="weights of nano; default: the bundled ones")
    parser.add_argument(
        "--against", type=Path,
        help="other weights of nano, scored on the same; `bundled`: the package's",
    )  # fmt: skip
    parser.add_argument(
        "--source", action="append", choices=SOURCES, help="can be given several times"
    )
    parser.add_argument("--set", default="development", choices=("development", "sealed"))
    parser.add_argument("--takes", type=int, default=20)
    parser.add_argument("--frames", type=int, default=LEAST_FRAMES, help="per take")
    parser.add_argument("--step", type=int, default=1, help="track every n-th frame")
    parser.add_argument("--objects", type=int, default=3, help="per take")
    parser.add_argument("--generator", type=Path, help="other generator or its scenes")
    parser.add_argument("--pictures", type=Path, help="folder of outlined pictures")
    parser.add_argument("--root", type=Path, action="append", default=[])
    parser.add_argument(
        "--switch", action="append", choices=[*SWITCHES, "all"],
        help="part to switch off; `all`: none, then each part in turn",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="JSON file; default: WORK/measure.json")
    args = parser.parse_args(arguments)
    for name in ("takes", "frames", "step", "objects"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: 1 or more expected")
    args.source = list(dict.fromkeys(args.source or ["takes"]))
    wanted = args.switch or [WHOLE]
    args.switch = list(SWITCHES) if "all" in wanted else list(dict.fromkeys(wanted))
    args.out = args.out or args.work / "measure.json"
    args.weights = _weights("--weights", args.weights or "bundled")
    if args.against is not None:
        args.against = _weights("--against", args.against)
    return args


def _weights(option: str, given: Path | str) -> Path:
    """The file that is meant; ``bundled`` is the package's."""
    path = bundled_weights("nano") if str(given) == "bundled" else Path(given)
    if path is None or not path.is_file():
        raise InputError(f"{option} {path or given}: no such file")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code is 0 when everything is scored, 1 if photographs were missing."""
    args = read_arguments(arguments)
    report = measure(args)
    _told(f"results: {args.out}")
    return 1 if any(report[source].get("missing") for source in args.source) else 0


if __name__ == "__main__":
    raise SystemExit(main())
