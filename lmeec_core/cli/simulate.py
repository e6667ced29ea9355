"""`lmeec simulate`: simulated takes from the command line."""

from __future__ import annotations

import dataclasses
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

_SCENE = "Contents of a take (default: set by --level)"
_SIZE = "Size of the data"


class Level(StrEnum):
    """Named levels of difficulty."""

    easy = "easy"
    normal = "normal"
    hard = "hard"


def _size(text: str, **limits: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=_SIZE, **limits)


def _scene(text: str, **limits: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=_SCENE, **limits)


def _share(text: str) -> Any:
    return _scene(text, min=0, max=1)


Range = tuple[int, int] | None


def simulate_command(
    out: Annotated[Path, typer.Argument(help="Folder for the takes; created, or added to.")],
    train: Annotated[int, _size("Training takes.", min=0)] = 8,
    val: Annotated[
        int, _size("Validation takes: same object kinds as training, new scenes.", min=0)
    ] = 1,
    test: Annotated[
        int, _size("Test takes: object kinds and textures not used in training.", min=0)
    ] = 1,
    frames: Annotated[int, _size("Frames per take, one per second.", min=1)] = 60,
    size: Annotated[int, _size("Side of the square images and masks.", min=64)] = 480,
    exo_cameras: Annotated[int, _size("Fixed cameras.", min=1, max=4)] = 2,
    quality: Annotated[int, _size("JPEG quality.", min=1, max=100)] = 90,
    depth: Annotated[
        bool,
        typer.Option(
            "--depth", help="Also write a depth image of each image.", rich_help_panel=_SIZE
        ),
    ] = False,
    level: Annotated[
        Level, _scene("Number of distractors and look-alikes, occlusion, exits, blur, noise.")
    ] = Level.normal,
    distractors: Annotated[Range, _scene("Objects that do not move: minimum and maximum.")] = None,
    look_alikes: Annotated[
        Range, _scene("Look-alikes of each moved object: minimum and maximum.")
    ] = None,
    moved: Annotated[Range, _scene("Objects that the person moves: minimum and maximum.")] = None,
    occluders: Annotated[Range, _scene("Tall boxes on the surface: minimum and maximum.")] = None,
    exit_share: Annotated[
        float | None, _share("Share of actions that take an object out of sight.")
    ] = None,
    absent_steps: Annotated[
        Range, _scene("Frames for which it stays out of sight: minimum and maximum.")
    ] = None,
    glance_share: Annotated[
        float | None, _share("Share of time during which the wearer looks elsewhere.")
    ] = None,
    motion_blur: Annotated[float | None, _share("Share of ego frames with motion blur.")] = None,
    noise: Annotated[
        tuple[float, float] | None, _scene("Sensor noise in grey levels: minimum and maximum.")
    ] = None,
    bin_share: Annotated[float | None, _share("Share of scenes with an open box.")] = None,
    tight_share: Annotated[
        float | None, _share("Share of exo cameras that see only part of the surface.")
    ] = None,
    distortion: Annotated[
        float | None, _scene("Largest radial distortion of the ego lens.", min=0)
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="First seed; takes have seeds seed, seed + 1, ...")
    ] = 0,
    workers: Annotated[
        int, typer.Option(min=0, help="Number of processes; 0: one per processor.")
    ] = 0,
) -> None:
    """Make simulated ego-exo takes: a person moves objects in view of two or more cameras.

    Each take is a scene drawn from its seed: room, surface, objects, look-alikes, lights, cameras
    and actions. Objects leave the views for many frames and come back. Masks are exact, at
    full image size. The same seed and options give the same pixels.

    **Examples**

    - `lmeec simulate out/sim` (10 takes: 8 train, 1 val, 1 test)
    - `lmeec simulate out/sim --train 100 --val 10 --test 10` (keeps those 10)
    - `lmeec simulate out/hard --level hard --exo-cameras 4 --frames 300`
    - `lmeec simulate out/long --train 0 --val 0 --test 5 --frames 900 --size 256`

    **What is written** (processed EgoExo4D layout)

    - `out/sim/train/sim_train_000000/aria01/0.jpg`, `30.jpg`, ...: the wearer's camera
    - `out/sim/train/sim_train_000000/cam01/0.jpg`, ...: fixed cameras
    - `out/sim/train/sim_train_000000/annotation.json`: masks, descriptions, seed, kinds, moved
      objects; the true centre of each object and what the hand holds, by frame
    - `out/sim/train/sim_train_000000/calibration.yaml`: lenses and poses
    - with `--depth`, `.../aria01/depth/0.png`, ...: exact depth, 16 bits, millimetres
    - `out/sim/split.json`, `out/sim/manifest.json`: takes per split; seeds and options

    Run the same command again to resume: finished takes are kept, unfinished ones are made again.
    Rendering uses MUJOCO_GL if it is set (egl, osmesa), else EGL with an NVIDIA GPU, else OSMesa
    (Debian, Ubuntu: apt-get install libosmesa6).
    """
    from lmeec_core.cli.exit_codes import run_command
    from lmeec_core.simulation.config import level as named_level

    changes: dict[str, Any] = {
        "distractors": distractors, "look_alikes": look_alikes, "moved": moved,
        "occluders": occluders, "exit_share": exit_share, "absent_steps": absent_steps,
        "glance_share": glance_share, "motion_blur": motion_blur, "noise": noise,
        "bin_share": bin_share, "tight_share": tight_share, "distortion": distortion,
    }  # fmt: skip
    given = {k: v for k, v in changes.items() if v is not None}

    def run() -> int:
        config = dataclasses.replace(named_level(level.value), exo_cameras=exo_cameras, **given)
        counts = {"train": train, "val": val, "test": test}
        failed = _run(
            out, config, counts, frames, size, seed, quality, depth, workers or os.cpu_count() or 1
        )
        return int(failed > 0)

    run_command(run, error_code=2)


def _run(
    out: Path, config: Any, counts: dict[str, int], frames: int, size: int, seed: int,
    quality: int, depth: bool, workers: int,
) -> int:  # fmt: skip
    """Make the takes with a progress bar; returns the number that failed."""
    from rich.console import Console

    from lmeec_core.cli.progress import counting
    from lmeec_core.simulation.generate import generate_takes, missing_jobs

    console = Console()
    missing = len(missing_jobs(out, config, counts, frames, size, seed, quality))
    kept = sum(counts.values()) - missing
    failed = 0
    with counting(console) as progress:
        task = progress.add_task("takes", total=missing)
        results = generate_takes(
            out,
            config,
            counts,
            frames,
            size,
            seed,
            quality,
            max(1, min(workers, missing)),
            depth=depth,
        )
        for result in results:
            progress.advance(task)
            if result.error is not None:
                failed += 1
                console.print(f"{Path(result.job.path).name}: {result.error}", markup=False)
    made = missing - failed
    console.print(f"{out}: {made} takes made, {kept} kept, {failed} failed", highlight=False)
    return failed
