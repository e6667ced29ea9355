"""The takes that networks are scored on: simulated ones, and those of another generator."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmeec_core.errors import ExplainedError, InputError
from lmeec_core.simulation import level
from lmeec_core.simulation.generate import FRAME_STEP, generate_takes
from lmeec_core.simulation.sets import PROTOTYPE_SEEDS, SETS, SetName
from lmeec_core.takes import TakeWriter
from lmeec_core.takes.json_file import read_json

SIZE = 320
"""Side of the images, in pixels."""
CAMERAS = {"ego": "aria01", "exo0": "cam01", "exo1": "cam02"}
"""Camera names of the other generator, and their names in takes."""
Told = Callable[[str], None]
"""Called with a message on what was done."""


def simulated(root: Path, name: SetName, count: int, frames: int, told: Told) -> list[Path]:
    """Continuous takes of a set, with one exo camera; missing ones are generated.

    Raises:
        InputError: the set is too small, or the folder's takes were made with other options.
        ExplainedError: a take could not be generated.
    """
    chosen = SETS[name]
    seeds = chosen.seeds(count)
    config = level("normal", exo_cameras=1)
    made = generate_takes(root, config, {chosen.split: count}, frames, SIZE, seeds.start, workers=1)
    for result in made:
        if result.error is not None:
            raise ExplainedError(f"take of seed {result.job.seed}: {result.error}")
        told(f"made take {result.job.seed}")
    return sorted((root / chosen.split).glob("sim_*"))[:count]


def prototype(root: Path, source: Path, count: int, frames: int, told: Told) -> list[Path]:
    """Scenes of the other generator, as takes.

    Args:
        root: folder for the takes; existing ones are reused.
        source: the generator's program, which is run, or a folder with scenes that it wrote.
        count, frames: number of scenes, and frames per scene.
        told: called for each generated scene.

    Raises:
        InputError: ``source`` is neither, has too few scenes, or a scene is invalid.
        ExplainedError: the program failed; says how.
    """
    if source.is_dir():
        scenes = sorted(path.parent for path in source.glob("*/masks.json"))[:count]
        if len(scenes) < count:
            raise InputError(
                f"{source}: {len(scenes)} scenes with masks.json in it, {count} expected; ask for "
                "fewer takes"
            )
        return [_imported(scene, root / scene.name, frames) for scene in scenes]
    if not source.is_file():
        raise InputError(f"{source}: no generator's program and no folder of its scenes")
    paths = []
    for seed in range(PROTOTYPE_SEEDS, PROTOTYPE_SEEDS + count):
        path = root / f"{frames}_frames" / f"prototype_{seed}"
        if not path.exists():
            with tempfile.TemporaryDirectory() as folder:
                _generate(source, seed, frames, Path(folder) / "scene")
                _imported(Path(folder) / "scene", path, frames)
            told(f"made scene {seed} of the other generator")
        paths.append(path)
    return paths


def _generate(program: Path, seed: int, frames: int, out: Path) -> None:
    command = [sys.executable, str(program), "take", "--seed", str(seed), "--frames", str(frames),
               "--size", str(SIZE), "--out", str(out)]  # fmt: skip
    environment = {"MUJOCO_GL": "osmesa", "OMP_NUM_THREADS": "1"} | os.environ
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        last = (ran.stderr.strip() or "no message").splitlines()[-1]
        raise ExplainedError(f"{program}: exit code {ran.returncode} for seed {seed}: {last}")


def _imported(scene: Path, path: Path, frames: int) -> Path:
    """Convert a scene to a take, unless the take exists already."""
    if path.exists():
        return path
    content = read_json(scene / "masks.json")
    try:
        _write(scene, content, path, frames)
    except (KeyError, IndexError, OSError) as error:
        raise InputError(
            f"{scene}: not a scene of {frames} frames of the other generator: {error!r}"
        ) from error
    return path


def _write(scene: Path, content: dict[str, Any], path: Path, frames: int) -> None:
    names = [f"{kind}_{number}" for number, kind in enumerate(content["kinds"], start=1)]
    facts = {"moved": names[: content["ntarget"]]}
    size = [content["size"], content["size"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with TakeWriter(path, extra={"simulated": True, "simulation": facts}) as take:
        for name in names:
            take.add_object(name)
        for camera, called in CAMERAS.items():
            for frame in range(frames):
                picture = scene / camera / f"{frame:05d}.jpg"
                take.image(called, FRAME_STEP * frame, picture.read_bytes())
                for number, counts in content["masks"][camera][frame].items():
                    rle = {"size": size, "counts": counts}
                    take.mask(names[int(number)], called, FRAME_STEP * frame, rle)
