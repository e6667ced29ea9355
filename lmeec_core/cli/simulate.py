"""`lmeec simulate`: simulated takes from the command line."""

from __future__ import annotations

import dataclasses
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

_SCENE = "What happens in a take (where not given: as the level has it)"
_SIZE = "Size of the data"


class Level(StrEnum):
    """Named levels of difficulty."""

    easy = "easy"
    normal = "normal"
    hard = "hard"


def simulate_command(
    out: Annotated[Path, typer.Argument(help="Folder of the takes; made, or added to.")],
    train: Annotated[int, typer.Option(min=0, help="Training takes.", rich_help_panel=_SIZE)] = 8,
    val: Annotated[
        int,
        typer.Option(
            min=0, help="Validation takes: kinds of training, new scenes.", rich_help_panel=_SIZE
        ),
    ] = 1,
    test: Annotated[
        int,
        typer.Option(
            min=0,
            help="Test takes: kinds and textures that training never sees.",
            rich_help_panel=_SIZE,
        ),
    ] = 1,
    frames: Annotated[
        int, typer.Option(min=1, help="Frames per take, one per second.", rich_help_panel=_SIZE)
    ] = 60,
    size: Annotated[
        int,
        typer.Option(min=64, help="Side of the square images and masks.", rich_help_panel=_SIZE),
    ] = 480,
    exo_cameras: Annotated[
        int, typer.Option(min=1, max=4, help="Fixed cameras.", rich_help_panel=_SIZE)
    ] = 2,
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="JPEG quality.", rich_help_panel=_SIZE)
    ] = 90,
    level: Annotated[
        Level,
        typer.Option(
            help="Number of distractors and look-alikes, occlusion, exits, blur, noise.",
            rich_help_panel=_SCENE,
        ),
    ] = Level.normal,
    distractors: Annotated[
        tuple[int, int] | None,
        typer.Option(
            help="Objects that stay where they are, least and most.", rich_help_panel=_SCENE
        ),
    ] = None,
    look_alikes: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Twins of each moved object, least and most.", rich_help_panel=_SCENE),
    ] = None,
    moved: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Objects that the person moves, least and most.", rich_help_panel=_SCENE),
    ] = None,
    occluders: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Tall boxes on the surface, least and most.", rich_help_panel=_SCENE),
    ] = None,
    exit_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of actions that take an object out of sight.",
            rich_help_panel=_SCENE,
        ),
    ] = None,
    absent_steps: Annotated[
        tuple[int, int] | None,
        typer.Option(
            help="Frames for which it stays away, least and most.", rich_help_panel=_SCENE
        ),
    ] = None,
    glance_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of time for which the wearer looks elsewhere.",
            rich_help_panel=_SCENE,
        ),
    ] = None,
    motion_blur: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of ego frames with motion blur.", rich_help_panel=_SCENE
        ),
    ] = None,
    noise: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Sensor noise in grey levels, least and most.", rich_help_panel=_SCENE),
    ] = None,
    bin_share: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of scenes with an open box.", rich_help_panel=_SCENE
        ),
    ] = None,
    tight_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of exo cameras that frame a part of the surface only.",
            rich_help_panel=_SCENE,
        ),
    ] = None,
    distortion: Annotated[
        float | None,
        typer.Option(
            min=0, help="Largest radial distortion of the ego lens.", rich_help_panel=_SCENE
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="First seed; takes have seeds seed, seed + 1, ...")
    ] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 is one per processor.")] = 0,
) -> None:
    """Make simulated ego-exo takes: a person moves objects about, two or more cameras watch.

    Each take is a scene drawn from its seed: room, surface, objects, look-alikes, lights, cameras,
    and what happens. Objects leave the views for many frames and come back. Masks are exact, at
    full image size. The same seed and options give the same pixels.

    **Examples**

    - `lmeec simulate out/sim` (10 takes: 8 train, 1 val, 1 test)
    - `lmeec simulate out/sim --train 100 --val 10 --test 10` (the 10 are kept)
    - `lmeec simulate out/hard --level hard --exo-cameras 4 --frames 300`
    - `lmeec simulate out/long --train 0 --val 0 --test 5 --frames 900 --size 256`

    **What is written** (processed EgoExo4D layout)

    - `out/sim/train/sim_train_000000/aria01/0.jpg`, `30.jpg`, ...: the wearer's camera
    - `out/sim/train/sim_train_000000/cam01/0.jpg`, ...: fixed cameras
    - `out/sim/train/sim_train_000000/annotation.json`: masks, seed, kinds, moved objects
    - `out/sim/split.json`, `out/sim/manifest.json`: takes per split; seeds and options

    A stopped run goes on where it was: finished takes are kept, half-written ones never show.
    Rendering uses MUJOCO_GL if it is set (egl, osmesa), else EGL with an NVIDIA GPU, else OSMesa
    (Debian, Ubuntu: apt-get install libosmesa6).
    """
    from lmeec_core.simulation.config import level as named_level

    changes: dict[str, Any] = {
        "distractors": distractors, "look_alikes": look_alikes, "moved": moved,
        "occluders": occluders, "exit_share": exit_share, "absent_steps": absent_steps,
        "glance_share": glance_share, "motion_blur": motion_blur, "noise": noise,
        "bin_share": bin_share, "tight_share": tight_share, "distortion": distortion,
    }  # fmt: skip
    given = {k: v for k, v in changes.items() if v is not None}
    from lmeec_core.cli.exit_codes import run_command

    def run() -> int:
        config = dataclasses.replace(named_level(level.value), exo_cameras=exo_cameras, **given)
        counts = {"train": train, "val": val, "test": test}
        failed = _run(
            out, config, counts, frames, size, seed, quality, workers or os.cpu_count() or 1
        )
        return int(failed > 0)

    run_command(run, error_code=2)


def _run(
    out: Path, config: Any, counts: dict[str, int], frames: int, size: int, seed: int,
    quality: int, workers: int,
) -> int:  # fmt: skip
    """Make the takes under a progress bar; returns how many failed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from lmeec_core.simulation.generate import generate_takes, missing_jobs

    console = Console()
    missing = len(missing_jobs(out, config, counts, frames, size, seed, quality))
    kept = sum(counts.values()) - missing
    failed = 0
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("takes", total=missing)
        results = generate_takes(
            out, config, counts, frames, size, seed, quality, max(1, min(workers, missing))
        )
        for result in results:
            progress.advance(task)
            if result.error is not None:
                failed += 1
                console.print(f"{Path(result.job.path).name}: {result.error}", markup=False)
    made = missing - failed
    console.print(f"{out}: {made} takes made, {kept} kept, {failed} failed", highlight=False)
    return failed
