"""Copy trained weights into the package, with their scores and a model card.

``python -m lmeec_core.training.bundle OUT`` reads what ``lmeec train`` wrote to OUT (weights,
metrics.json, done.json) and writes lmeec_core/weights/nano.safetensors, nano.json and nano.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from lmeec_core.checkpoint import load_model
from lmeec_core.config import preset
from lmeec_core.errors import InputError
from lmeec_core.evaluation.live import track_take
from lmeec_core.files import replacing, write_text
from lmeec_core.methods.lm_eec import LmEec
from lmeec_core.simulation.sets import SETS, SetName
from lmeec_core.takes import Take
from lmeec_core.training.output import METRICS, read_header, run_header, write_json
from lmeec_core.training.recipes.nano_run import DONE, WEIGHTS

PACKAGE = Path(__file__).resolve().parents[1]
FOLDER = PACKAGE / "weights"
SAMPLE_TAKE = PACKAGE.parent / "test" / "data" / "sample_take"
SAMPLE_OBJECTS = ("pail_1", "teapot_1", "camera_1")
SAMPLE_FRAMES = 15
CARD_SETS: tuple[SetName, ...] = ("training", "fitting_presence", "fitting", "development")
LEAST = {"iou": 0.5, "existence": 0.8}
"""Scores on held-out scenes, in each direction, below which weights are called interim."""


def check_header(weights: Path, run: dict[str, Any]) -> None:
    """Check that the weights and the metrics come from the same run.

    Raises:
        InputError: the weights' header describes another run than ``run`` (metrics.json).
    """
    told, wanted = read_header(weights), run_header(run["steps"], run["minutes"])
    found = {name: told.get(name) for name in wanted}
    if found != wanted:
        raise InputError(
            f"{weights}: its header tells of a run of {found['steps']} steps in {found['minutes']} "
            f"minutes, {METRICS} of one of {wanted['steps']} in {wanted['minutes']}: card, numbers "
            "and weights must be of one run; give the folder in which that run wrote them"
        )


def sample_scores(weights: Path, take: Path = SAMPLE_TAKE) -> dict[str, float]:
    """IoU on the first frames of the sample take (held-out shapes), per direction."""
    model, opened = load_model("nano", weights, device="cpu"), Take.open(take)
    scores = {}
    for name, query in (("ego to exo", opened.ego), ("exo to ego", opened.exos[0])):
        found = track_take(LmEec(model), opened, query, SAMPLE_OBJECTS, SAMPLE_FRAMES)
        scores[name] = round(found.iou, 4)
    return scores


def _line(name: str, numbers: dict[str, Any]) -> str:
    cells = []
    for direction in ("ego_to_exo", "exo_to_ego"):
        cells += [
            f"{numbers[f'{direction} {key}']:.3f}" if f"{direction} {key}" in numbers else ""
            for key in ("iou", "contour", "existence")
        ]
    return f"| {name} | " + " | ".join(cells) + " |"


def _areas(results: dict[str, Any]) -> list[str]:
    rows = ["| visible pixels in the target view | IoU | objects |", "| --- | --- | --- |"]
    for area, numbers in results["test tracker"]["by target area"].items():
        rows.append(f"| {area} | {numbers['iou']:.3f} | {numbers['count']} |")
    return rows


def _curve(history: list[dict[str, Any]]) -> list[str]:
    rows = ["| minutes | stage | IoU, ego to exo | IoU, exo to ego |", "| --- | --- | --- | --- |"]
    for record in history:
        if "eval ego_to_exo iou" in record:
            rows.append(
                f"| {record['minutes']:.1f} | {record['stage']} | "
                f"{record['eval ego_to_exo iou']:.3f} | {record['eval exo_to_ego iou']:.3f} |"
            )
    return rows


def verdict(scores: dict[str, float]) -> str:
    """A paragraph on the scores that are below :data:`LEAST`; empty if none are."""
    lacking = [
        f"{name.replace('_', ' ').replace('iou', 'IoU')} {scores[name]:.3f} of {least:.2f}"
        for key, least in LEAST.items()
        for name in (f"ego_to_exo {key}", f"exo_to_ego {key}")
        if scores[name] < least
    ]
    if not lacking:
        return ""
    return (
        "**These are interim weights.** They miss these goals: "
        f"{', '.join(lacking)}. `--set start=bundled` trains them further.\n\n"
    )


def card(run: dict[str, Any], results: dict[str, Any], facts: dict[str, Any]) -> str:
    """The model card as Markdown."""
    machine, test = run["machine"], results["test tracker"]["all"]
    device = machine["gpu"] or f"{machine['cores']} CPU cores"
    counts = [int(test[f"{d} {k}"]) for k in ("present", "absent")
              for d in ("ego_to_exo", "exo_to_ego")]  # fmt: skip
    template = (Path(__file__).parent / "configs" / "nano_card.md").read_text()
    return template.format(
        parameters=facts["parameters"] / 1e6,
        side=preset("nano").image_size,
        rendered=run["size"],
        frames=run["settings"]["frames"],
        **{name: SETS[name].first for name in CARD_SETS},
        verdict=verdict(test),
        missed=100 * results["test tracker"]["missed"],
        megabytes=facts["bytes"] / 1e6,
        scenes=run["scenes"],
        minutes=run["minutes"],
        steps=run["steps"],
        device=device,
        torch=machine["torch"],
        seed=run["schedule"]["seed"],
        test_scenes=facts["test scenes"],
        present=counts[0] + counts[1],
        absent=counts[2] + counts[3],
        tracker=_line("tracker", test),
        single=_line(
            "single frames, no memory; masks before the presence rule",
            results["test single frame"]["all"],
        ),
        areas="\n".join(_areas(results)),
        curve="\n".join(_curve(run["history"])),
        shifts=", ".join(f"{s:+.2f}" for s in results["calibration"]["presence shifts"]) or "none",
        mask_shift=results["calibration"]["mask shift"],
        baselines=facts["baselines"],
        history=_start(run["settings"]),
        presence=_fitted(results.get("presence", {})),
    )


def _fitted(presence: dict[str, int]) -> str:
    """A sentence on the data that the second look was fitted to; empty if it was not fitted."""
    if not presence:
        return ""
    return (
        f"The second look was fitted at the end, to what the tracker found in {presence['scenes']} "
        f"scenes that it was not trained on ({presence['correspondences']} correspondences, "
        f"{presence['absent']} of them absent). "
    )


def _start(settings: dict[str, Any]) -> str:
    """A sentence on the weights that training started from."""
    names = {None: "random weights", "bundled": "the weights that came with the package before"}
    return f"It began with {names.get(settings['start'], settings['start'])}."


def baseline_lines(path: Path | None) -> str:
    """Rows of the card's table for the simple methods, from the baselines' result file."""
    if path is None:
        return ""
    rows, content = [], json.loads(path.read_text())
    for name, found in content["scores"].items():
        name = f"{name} ({len(content['scenes'])} scenes)"
        rows.append(_line(name, {
            f"{direction} {key}": found[direction][key]
            for direction in found for key in ("iou", "contour", "existence")
            if key in found[direction]
        }))  # fmt: skip
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder with the results of a finished training")
    parser.add_argument("--baselines", type=Path, help="result file of experiments.baselines")
    args = parser.parse_args(arguments)
    run, results = (json.loads((args.out / name).read_text()) for name in (METRICS, DONE))
    run.pop("results", None)
    check_header(args.out / WEIGHTS, run)
    FOLDER.mkdir(exist_ok=True)
    weights = FOLDER / WEIGHTS
    with replacing(weights) as partial:
        shutil.copyfile(args.out / WEIGHTS, partial)
    parameters = sum(p.numel() for p in load_model("nano", weights, device="cpu").parameters())
    facts = {
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "bytes": weights.stat().st_size,
        "parameters": parameters,
        "test scenes": run["settings"]["test_scenes"],
        "sample take": {"objects": SAMPLE_OBJECTS, "frames": SAMPLE_FRAMES,
                        "iou": sample_scores(weights)},
        "baselines": baseline_lines(args.baselines),
    }  # fmt: skip
    write_text(FOLDER / "nano.md", card(run, results, facts))
    del facts["baselines"]
    write_json(FOLDER / "nano.json", {**facts, "scores": results, "run": _without_steps(run)})
    print(f"{weights}: {facts['bytes']} bytes, {json.dumps(facts['sample take'])}")


def _without_steps(run: dict[str, Any]) -> dict[str, Any]:
    """The run without the thousands of points between validations in its curve."""
    curve = [r for r in run["history"] if any(k.startswith("eval ") for k in r)]
    return {**run, "history": curve}


if __name__ == "__main__":
    main()
