"""Simulated takes on disk: the processed EgoExo4D layout, split files and a manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmeec_core.calibration import calibration_text
from lmeec_core.depth.images import encode_depth
from lmeec_core.errors import InputError
from lmeec_core.files import write_text
from lmeec_core.jobs import JobResult, run_jobs
from lmeec_core.simulation.backend import choose_backend
from lmeec_core.simulation.config import SPLITS, SimulationConfig
from lmeec_core.simulation.descriptions import describe
from lmeec_core.simulation.render import shots
from lmeec_core.simulation.scene import PERSON, Scene
from lmeec_core.simulation.shapes import TRAINING_KINDS, kinds
from lmeec_core.simulation.textures import HELD_OUT_TEXTURES, TRAINING_TEXTURES
from lmeec_core.simulation.truth import TRUTH, Truth
from lmeec_core.takes import TakeWriter
from lmeec_core.takes.json_file import read_json

FRAME_STEP = 30
"""Frame numbers are 0, 30, 60, ...: one frame per second of 30 fps video, as in EgoExo4D."""

MANIFEST, SPLIT_FILE = "manifest.json", "split.json"


@dataclass(frozen=True)
class TakeJob:
    """One take to generate."""

    seed: int
    config: SimulationConfig
    split: str
    frames: int
    size: int
    quality: int
    path: str
    depth: bool = False


def take_name(split: str, seed: int) -> str:
    """Name of a take; determined by split and seed."""
    return f"sim_{split}_{seed:06d}"


def write_take(job: TakeJob) -> dict[str, Any]:
    """Render a take and write it; it gets its final name only when it is complete.

    Images and masks are (size, size). An object has a mask wherever at least one of its pixels is
    visible. Depth images are exact, in whole millimetres. Returns the take's entry in the manifest.
    Raises FileExistsError if the take exists.
    """
    scene = Scene(job.seed, job.config, job.split, job.size, job.frames)
    facts: dict[str, Any] = {
        "seed": job.seed,
        "split": job.split,
        "level": job.config.level,
        "size": job.size,
        "layout": scene.layout.kind,
        "kinds": {o.name: o.kind for o in scene.objects},
        "moved": [o.name for o in scene.objects[: scene.moved]],
    }
    extra = {"simulated": True, "scenario": f"simulated {scene.layout.kind}", "simulation": facts,
             "descriptions": {o.name: describe(o) for o in scene.objects}}  # fmt: skip
    with TakeWriter(job.path, quality=job.quality, extra=extra) as take:
        for spec in scene.objects:
            take.add_object(spec.name)
        truth = Truth(scene)
        for step, number, rgb, labels, depth in shots(scene, range(job.frames), job.depth):
            camera, frame = scene.cameras[number], step * FRAME_STEP
            take.image(camera, frame, rgb)
            if depth is not None:
                take.depth(camera, frame, encode_depth(depth))
            if number == 0:
                truth.note(step, frame)
            truth.person(camera, frame, labels == PERSON)
            visible = np.unique(labels)
            for label, spec in enumerate(scene.objects, start=1):
                if label in visible:
                    take.mask(spec.name, camera, frame, labels == label)
        take.calibration(calibration_text(truth.calibration()))
        take.extra[TRUTH] = truth.content
    return facts


def _check_manifest(root: Path, recipe: dict[str, Any]) -> None:
    """Raise InputError if the folder contains takes made with another recipe."""
    path = root / MANIFEST
    if not path.exists():
        return
    there = {"depth": False, **(read_json(path).get("recipe") or {})}  # missing in older takes
    wanted = json.loads(json.dumps(recipe))
    for key in wanted:
        if there.get(key) != wanted[key]:
            raise InputError(
                f"{path}: its takes were made with {key} = {there.get(key)}, asked for is "
                f"{wanted[key]}; give the same options to add to it, or another folder"
            )


def _finish(root: Path, recipe: dict[str, Any]) -> None:
    """Write split.json and manifest.json for the existing takes."""
    splits: dict[str, list[str]] = {s: [] for s in SPLITS}
    takes: dict[str, Any] = {}
    for split in SPLITS:
        for annotation in sorted((root / split).glob("sim_*/annotation.json")):
            name = annotation.parent.name
            splits[split].append(name)
            takes[name] = json.loads(annotation.read_text())["simulation"]
    write_text(root / SPLIT_FILE, json.dumps(splits, indent=1))
    manifest = {
        "simulated": True,
        "recipe": recipe,
        "training_kinds": list(TRAINING_KINDS),
        "held_out_kinds": list(kinds("test")),
        "training_textures": list(TRAINING_TEXTURES),
        "held_out_textures": list(HELD_OUT_TEXTURES),
        "note": "test draws held-out kinds alone, and held-out textures or patterns of its own",
        "takes": takes,
    }
    write_text(root / MANIFEST, json.dumps(manifest, indent=1))


def generate_takes(
    root: str | Path,
    config: SimulationConfig,
    counts: dict[str, int],
    frames: int = 60,
    size: int = 480,
    first_seed: int = 0,
    quality: int = 90,
    workers: int = 1,
    timeout: float = 3600.0,
    depth: bool = False,
) -> Iterator[JobResult]:
    """Generate `counts[split]` takes per split as `root`/<split>/<take>; yields each when finished.

    Seeds start at `first_seed` in each split (the splits' random streams differ). Existing takes
    are kept; incomplete ones never appear under their final name. `depth` adds a depth image to
    each image. At the end, split.json and manifest.json are written. Raises InputError if the
    options are invalid or differ from those of the existing takes.
    """
    for name, value, least in (("frames", frames, 1), ("size", size, 32), ("workers", workers, 1)):
        if value < least:
            raise InputError(f"{name} is {value}, expected {least} or more")
    unknown = set(counts) - set(SPLITS)
    if unknown:
        raise InputError(f"unknown splits {sorted(unknown)}, expected {', '.join(SPLITS)}")
    choose_backend()
    base = Path(root)
    base.mkdir(parents=True, exist_ok=True)
    recipe = {"config": asdict(config), "frames": frames, "size": size, "quality": quality,
              "frame_step": FRAME_STEP, "depth": depth}  # fmt: skip
    _check_manifest(base, recipe)
    _finish(base, recipe)
    for left_over in base.glob("*/.sim_*.partial"):
        shutil.rmtree(left_over, ignore_errors=True)
    yield from run_jobs(
        write_take, missing_jobs(base, config, counts, frames, size, first_seed, quality, depth),
        workers, timeout,
    )  # fmt: skip
    _finish(base, recipe)


def missing_jobs(
    root: Path, config: SimulationConfig, counts: dict[str, int], frames: int, size: int,
    first_seed: int, quality: int, depth: bool = False,
) -> Sequence[TakeJob]:  # fmt: skip
    """The takes that do not exist yet."""
    jobs = []
    for split in SPLITS:
        for seed in range(first_seed, first_seed + counts.get(split, 0)):
            path = root / split / take_name(split, seed)
            if not path.exists():
                jobs.append(TakeJob(seed, config, split, frames, size, quality, str(path), depth))
    return jobs
