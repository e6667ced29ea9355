"""Rendering of training, validation and test scenes in processes beside the training."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from lmeec_core.errors import ExplainedError

PRESENCE = "presence"
"""Scenes like those of training, which the network is not trained on."""

FIRST_SEED = {"train": 0, PRESENCE: 5_000_000, "val": 10_000_000, "test": 20_000_000}
"""Where the seeds of each set of scenes begin."""

EXO_CAMERAS = 2

SIZE = 320
"""Side of the images, in pixels; crops of them train, so it is larger than the network's own."""


def working_backend() -> str:
    """The OpenGL back end that really renders here: the given one, else EGL, else OSMesa."""
    given = os.environ.get("MUJOCO_GL")
    if given:
        return given
    script = "import mujoco; c = mujoco.GLContext(64, 64); c.make_current(); c.free()"
    for name in ("egl", "osmesa"):
        environment = os.environ | {"MUJOCO_GL": name}
        try:
            done = subprocess.run(
                [sys.executable, "-c", script], env=environment, capture_output=True, timeout=60
            )
        except subprocess.TimeoutExpired:
            print(f"render: MUJOCO_GL={name} hangs", flush=True)
            continue
        if done.returncode == 0:
            return name
        print(f"render: MUJOCO_GL={name} fails: {done.stderr.decode()[-300:]}", flush=True)
    raise SystemExit("render: neither EGL nor OSMesa works here")


def render(args: argparse.Namespace) -> None:
    """Render validation and test scenes, those that training starts with, presence, the rest."""
    from lmeec_core.simulation.config import training_config
    from lmeec_core.simulation.shards import render_many

    os.nice(5)
    parent = os.getppid()
    os.environ["MUJOCO_GL"] = working_backend()
    print(f"render: MUJOCO_GL={os.environ['MUJOCO_GL']}, {args.workers} workers", flush=True)
    first = min(args.start_at, args.scenes)
    wanted = [
        ("val", range(args.val_scenes)), ("test", range(args.test_scenes)), ("train", range(first)),
        (PRESENCE, range(args.presence_scenes)), ("train", range(first, args.scenes)),
    ]  # fmt: skip
    for name, numbers in wanted:
        split = "train" if name == PRESENCE else name
        done = failed = 0
        start = time.monotonic()
        seeds = range(FIRST_SEED[name] + numbers.start, FIRST_SEED[name] + numbers.stop)
        results = render_many(
            seeds, training_config(EXO_CAMERAS), args.frames, args.size, split,
            args.work / name, args.workers, clip=min(4, args.frames), stride=3,
        )  # fmt: skip
        for result in results:
            done, failed = done + 1, failed + (result.error is not None)
            if result.error is not None and failed < 20:
                print(f"render {name} seed {result.job.seed}: {result.error}", flush=True)
            if done in (10, 100) or done % 500 == 0:
                speed = done / (time.monotonic() - start)
                print(f"render {name}: {done} scenes, {failed} failed, {speed:.2f}/s", flush=True)
            if os.getppid() != parent:  # the trainer is gone
                return


def start_rendering(args: argparse.Namespace, log: Path) -> subprocess.Popen[bytes]:
    """Render in a process of its own."""
    command = [sys.executable, "-m", "lmeec_core.training.nano", "--render-only"]
    for name in ("work", "out", "scenes", "val_scenes", "test_scenes", "presence_scenes",
                 "start_at", "workers", "frames", "size"):  # fmt: skip
        command += ["--" + name.replace("_", "-"), str(getattr(args, name))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
    with open(log, "ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def check_presence_scenes(args: argparse.Namespace) -> None:
    """Raise RuntimeError where scenes for the verdict are wanted, missing, and not rendered."""
    folder = args.work / PRESENCE
    if args.no_render and args.presence_scenes and not any(folder.glob("*.npy")):
        first = FIRST_SEED[PRESENCE]
        raise ExplainedError(
            f"{folder} holds no scenes, {args.presence_scenes} expected to fit the presence "
            "verdict to; render them: python -m lmeec_core.simulation.shards "
            f"{folder} --seeds {first}:{first + args.presence_scenes} --split train "
            f"--frames {args.frames} --size {args.size} --clip 4 --stride 3; or set "
            "presence_scenes to 0, which leaves the verdict as it is"
        )
