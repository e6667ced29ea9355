"""Measures the benefit of MV-MoE in a space-time memory network, like the paper's Table 8 for STCN.

``python -m lmeec_core.experiments.space_time WORK`` renders scenes, stores the frozen features of
the bundled network, trains each variant with each seed for the same number of steps, and scores
them on scenes of held-out shapes. Finished parts are kept in WORK; run the same command again to
resume. Results are written to WORK/space_time.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lmeec_core.checkpoint import load_model
from lmeec_core.config import Fusion
from lmeec_core.errors import ExplainedError, InputError
from lmeec_core.evaluation.scenes import DIRECTIONS
from lmeec_core.evaluation.statistics import Counts, Estimate, balanced_estimate, record_of
from lmeec_core.experiments.ablation.statistics import difference, estimate
from lmeec_core.experiments.ablation.variants import METRICS
from lmeec_core.experiments.space_time.training import Run, score, train
from lmeec_core.files import write_text
from lmeec_core.networks import build_model
from lmeec_core.simulation.config import training_config
from lmeec_core.simulation.sets import SETS, SetName
from lmeec_core.simulation.shards import render_many
from lmeec_core.training.rendering import STRIDE
from lmeec_core.training.settings import SIZE
from lmeec_core.training.store import SceneStore

VARIANTS: dict[Fusion, str] = {
    "mv_moe": "MV-MoE", "add": "addition", "none": "memory alone",
}  # fmt: skip
BASE: Fusion = "add"
"""The variant that the others are compared with."""
IMAGE = 224
"""Side of the trunk's input images in pixels; a multiple of 16."""


def scenes(work: Path, name: SetName, count: int, frames: int) -> SceneStore:
    """The first ``count`` scenes of a set, with one exo camera; missing ones are rendered.

    Raises:
        ExplainedError: a scene could not be rendered; says why.
    """
    chosen, folder = SETS[name], work / name
    results = render_many(
        chosen.seeds(count), training_config(1), frames, SIZE, chosen.split, folder, 1,
        clip=frames, stride=STRIDE,
    )  # fmt: skip
    for result in results:
        if result.error is not None:
            raise ExplainedError(f"scene of seed {result.job.seed}: {result.error}")
    store = SceneStore(folder, count)
    store.refresh()
    return store


def _existence(units: Sequence[dict[str, Any]]) -> Counts:
    counts: dict[str, np.ndarray] = {}
    for unit in units:
        there, said = np.array(unit["existing"], bool), np.array(unit["predicted"], bool)
        own = [(there & said).sum(), there.sum(), (~there & ~said).sum(), (~there).sum()]
        counts[unit["take"]] = counts.get(unit["take"], np.zeros(4, int)) + own
    return {take: (int(a), int(b), int(c), int(d)) for take, (a, b, c, d) in counts.items()}


def summary(units: Mapping[Fusion, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Per direction and variant: means over the frames of all seeds with 95 % intervals over
    scenes, the difference in IoU from addition, paired by scene, and the IoU of each seed."""
    result: dict[str, Any] = {}
    for name, ego in zip(DIRECTIONS, (True, False), strict=True):
        mine = {f: [u for u in own if (u["query"] == 0) == ego] for f, own in units.items()}
        result[name] = {}
        for fusion, own in mine.items():
            found: dict[str, Estimate | None] = {m: estimate(own, m) for m in METRICS}
            found["existence"] = balanced_estimate(_existence(own))
            if fusion != BASE and BASE in mine:
                found["iou difference"] = difference(own, mine[BASE], "iou")
            seeds = sorted({unit["seed"] for unit in own})
            each = [estimate([u for u in own if u["seed"] == seed], "iou") for seed in seeds]
            result[name][fusion] = {
                "iou by seed": [None if one is None else one.mean for one in each],
                **{metric: record_of(one) for metric, one in found.items()},
            }
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code is 0 when all variants are trained and scored."""
    parser = argparse.ArgumentParser(
        prog="python -m lmeec_core.experiments.space_time", description=__doc__
    )
    parser.add_argument("work", type=Path, help="folder for scenes, features, weights and results")
    parser.add_argument("--scenes", type=int, default=120, help="number of training scenes")
    parser.add_argument("--frames", type=int, default=3, help="per training scene")
    parser.add_argument("--test", type=int, default=24, help="number of scenes to score")
    parser.add_argument("--test-frames", type=int, default=5, help="per scored scene")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(arguments)
    for name, least in (("scenes", 1), ("test", 1), ("steps", 1), ("seeds", 1), ("frames", 2),
                        ("test_frames", 2)):  # fmt: skip
        if getattr(args, name) < least:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} {getattr(args, name)}: {least} or more expected")
    console = Console()
    bundled = load_model("nano", device="cpu")
    model = build_model(bundled.config.model_copy(update={"image_size": IMAGE}))
    model.load_state_dict(bundled.state_dict())
    model.eval()
    learned = scenes(args.work, "space_time_training", args.scenes, args.frames)
    asked = scenes(args.work, "space_time", args.test, args.test_frames)
    found: dict[Fusion, list[dict[str, Any]]] = {}
    for seed in range(args.seeds):
        for fusion, title in VARIANTS.items():
            run = Run(fusion, seed, args.steps)
            losses: list[float] = []
            for numbers in train(run, learned, model, args.work):
                losses.append(numbers["loss"])
                if numbers["step"] % 50 == 0:
                    mean = sum(losses[-50:]) / len(losses[-50:])
                    text = f"{title}, seed {seed}: step {numbers['step']:.0f}, loss {mean:.3f}"
                    console.print(text, highlight=False)
            found[fusion] = found.get(fusion, []) + score(run, asked, model, args.work)
            content = {
                "settings": {k: v for k, v in vars(args).items() if k != "work"},
                "scores": summary(found),
            }
            write_text(args.work / "space_time.json", json.dumps(content, indent=1))
    console.print_json(data=content)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
