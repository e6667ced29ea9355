"""Runs an ablation, from takes to results; finished parts are kept, so that it can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from lmeec_core.errors import ExplainedError
from lmeec_core.experiments.ablation.fusion import STAGE, Training, train_fusion
from lmeec_core.experiments.ablation.units import Unit, score_unit, sought_objects
from lmeec_core.experiments.ablation.variants import LINES, Table, Variant, variants_of
from lmeec_core.jobs import run_jobs
from lmeec_core.simulation.config import level, training_config
from lmeec_core.simulation.generate import generate_takes
from lmeec_core.simulation.sets import SETS
from lmeec_core.simulation.shards import render_many
from lmeec_core.takes import Take
from lmeec_core.training.rendering import EXO_CAMERAS, STRIDE
from lmeec_core.training.settings import SIZE


@dataclass(frozen=True)
class Settings:
    """Settings of an ablation, see `lmeec ablate --help`."""

    work: Path
    checkpoint: Path
    tables: tuple[Table, ...]
    takes: int
    frames: int
    lengths: tuple[int, ...]
    objects: int
    exo_cameras: int
    seeds: int
    steps: int
    scenes: int
    workers: int
    device: str


class Progress(Protocol):
    """A callback that shows progress."""

    def __call__(self, what: str, done: float, total: float) -> None:
        """Show that ``done`` of ``total`` of the work called ``what`` is done."""


def takes_of(settings: Settings, frames: int, progress: Progress) -> list[Path]:
    """Simulated test takes with ``frames`` frames; missing ones are generated.

    Raises:
        ExplainedError: a take could not be generated; says why.
    """
    root = settings.work / f"takes_{frames}"
    config = level("normal", exo_cameras=settings.exo_cameras)
    done = len(list(root.glob("test/sim_*/annotation.json")))
    what = f"takes of {frames} frames"
    progress(what, done, settings.takes)
    made = generate_takes(
        root, config, {"test": settings.takes}, frames, SIZE, SETS["ablation"].first,
        workers=settings.workers,
    )  # fmt: skip
    for result in made:
        if result.error is not None:
            raise ExplainedError(f"take of seed {result.job.seed}: {result.error}")
        done += 1
        progress(what, done, settings.takes)
    return sorted((root / "test").glob("sim_*"))[: settings.takes]


def _threads(settings: Settings) -> int:
    """Number of torch threads for each worker."""
    return max(1, torch.get_num_threads() // settings.workers)


def training_scenes(settings: Settings, progress: Progress) -> Path:
    """Folder of the scenes for training the fusion variants; missing ones are rendered.

    Raises:
        ExplainedError: no scene could be rendered.
    """
    folder = settings.work / "scenes"
    seeds = SETS["ablation_training"].seeds(settings.scenes)
    done = len(list(folder.glob("*.npy")))
    config = training_config(EXO_CAMERAS)
    for _ in render_many(
        seeds,
        config,
        STAGE.times,
        SIZE,
        "train",
        folder,
        settings.workers,
        clip=STAGE.times,
        stride=STRIDE,
    ):
        done += 1
        progress("training scenes", done, settings.scenes)
    if not any(folder.glob("*.npy")):
        raise ExplainedError(f"{folder}: no scene could be rendered")
    return folder


def checkpoints(settings: Settings, progress: Progress) -> dict[str, list[tuple[Path, int | None]]]:
    """Weights of every variant by name: one file, or one per training seed.

    Training runs in parallel on all workers.

    Raises:
        ExplainedError: training failed; says why.
    """
    found: dict[str, list[tuple[Path, int | None]]] = {
        v.name: [(settings.checkpoint, None)] for v in variants_of(settings.tables) if not v.trained
    }
    trained = [v for v in variants_of(settings.tables) if v.trained]
    if not trained:
        return found
    scenes = training_scenes(settings, progress)
    jobs = [
        Training(settings.checkpoint, v.fusion, seed, settings.steps, scenes, settings.scenes,
                 settings.work / f"{v.name}_{seed}", settings.device, _threads(settings))
        for seed in range(settings.seeds)
        for v in trained
    ]  # fmt: skip
    for variant in trained:
        mine = [job for job in jobs if job.fusion == variant.fusion]
        found[variant.name] = [(job.weights, job.seed) for job in mine]
    done = 0
    progress("fusion trainings", done, len(jobs))
    for result in run_jobs(train_fusion, jobs, settings.workers, timeout=24 * 3600):
        if result.error is not None:
            raise ExplainedError(f"{result.job.folder.name}: {result.error}")
        done += 1
        progress("fusion trainings", done, len(jobs))
    return found


def _units(
    settings: Settings, variant: Variant, weights: list[tuple[Path, int | None]], takes: list[Path]
) -> Iterator[Unit]:
    for path in takes:
        take = Take.open(path)
        objects = sought_objects(take, settings.objects)
        for file, seed in weights:
            for query in (take.ego, *take.exos):
                yield Unit(
                    variant, file, seed, path, query, objects, _threads(settings),
                    settings.device, settings.work / "units",
                )  # fmt: skip


def units_of(
    settings: Settings, weights: dict[str, list[tuple[Path, int | None]]], progress: Progress
) -> dict[Table, list[Unit]]:
    """The units of each table; tables with the same variant and takes share units."""
    plain = [t for t in settings.tables if t != "length"]
    standard = takes_of(settings, settings.frames, progress) if plain else []
    result: dict[Table, list[Unit]] = {}
    for table in settings.tables:
        takes = standard
        if table == "length":
            takes = [t for n in settings.lengths for t in takes_of(settings, n, progress)]
        variants = {line.variant.name: line.variant for line in LINES[table]}
        result[table] = [
            unit for v in variants.values() for unit in _units(settings, v, weights[v.name], takes)
        ]
    return result


def run(settings: Settings, progress: Progress) -> dict[Table, list[dict[str, Any]]]:
    """Run everything from generating takes to scoring the units of each table.

    Raises:
        ExplainedError: takes, scenes or units failed; names the first failure and its cause.
    """
    settings.work.mkdir(parents=True, exist_ok=True)
    weights = checkpoints(settings, progress)
    tables = units_of(settings, weights, progress)
    wanted = {unit.file: unit for units in tables.values() for unit in units}
    missing = [unit for unit in wanted.values() if not unit.file.is_file()]
    missing.sort(key=lambda unit: (unit.take, unit.query))  # keep the variants of a take together
    done = len(wanted) - len(missing)
    progress("scoring", done, len(wanted))
    failed = []
    for result in run_jobs(score_unit, missing, settings.workers, timeout=24 * 3600):
        if result.error is not None:
            failed.append(f"{result.job.file.name}: {result.error}")
        done += result.error is None
        progress("scoring", done, len(wanted))
    if failed:
        raise ExplainedError(f"{len(failed)} of {len(wanted)} units failed, the first: {failed[0]}")
    return {
        table: [json.loads(unit.file.read_text()) for unit in units]
        for table, units in tables.items()
    }
