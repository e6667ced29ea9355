"""Training scenes as arrays on disk, one file per scene, so that training can start early.

A shard is `<split>_<seed>.npy`, uint8 (F, C, S, S, 4): red, green, blue, label. Names and seeds are
in `<split>_<seed>.json` beside it. The .npy is written last and renamed into place, so a scene is
complete if it exists.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.files import replacing, write_text
from lmeec_core.jobs import JobResult, run_jobs
from lmeec_core.simulation.backend import choose_backend
from lmeec_core.simulation.config import SPLITS, SimulationConfig
from lmeec_core.simulation.render import SceneArrays, render_scene
from lmeec_core.simulation.shapes import kinds
from lmeec_core.simulation.textures import HELD_OUT_TEXTURES
from lmeec_core.takes.json_file import read_json


@dataclass(frozen=True)
class ShardJob:
    """One scene to render; see `render_scene`."""

    seed: int
    config: SimulationConfig
    frames: int
    size: int
    split: str
    clip: int
    stride: int
    steps: int
    out_dir: str


def shard_path(out_dir: Path, split: str, seed: int) -> Path:
    """Path of a scene's array."""
    return out_dir / f"{split}_{seed:08d}.npy"


def write_shard(arrays: SceneArrays, out_dir: Path) -> Path:
    """Write one scene atomically; returns the path of its array."""
    target = shard_path(out_dir, arrays.split, arrays.seed)
    meta: dict[str, Any] = {
        "seed": arrays.seed,
        "split": arrays.split,
        "steps": arrays.steps,
        "cameras": arrays.cameras,
        "objects": arrays.names,
        "kinds": arrays.kinds,
        "moved": arrays.moved,
    }
    write_text(target.with_suffix(".json"), json.dumps(meta))
    packed = np.concatenate([arrays.rgb, arrays.labels[..., None]], axis=-1)
    with replacing(target) as partial, open(partial, "wb") as file:
        np.save(file, packed)
    return target


def read_shard(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8], dict[str, Any]]:
    """rgb (F, C, S, S, 3), labels (F, C, S, S) and the metadata; the arrays are memory maps."""
    packed = np.load(path, mmap_mode="r")
    return packed[..., :3], packed[..., 3], json.loads(path.with_suffix(".json").read_text())


def render_shard(job: ShardJob) -> float:
    """Render and write one scene; returns the seconds it took."""
    start = time.perf_counter()
    arrays = render_scene(
        job.seed, job.config, job.frames, job.size, job.split, job.clip, job.stride, job.steps
    )
    write_shard(arrays, Path(job.out_dir))
    return time.perf_counter() - start


def render_many(
    seeds: Sequence[int],
    config: SimulationConfig,
    frames: int,
    size: int,
    split: str,
    out_dir: str | Path,
    workers: int,
    clip: int = 1,
    stride: int = 1,
    steps: int = 160,
    timeout: float = 120.0,
) -> Iterator[JobResult]:
    """Render scenes in parallel; yields a JobResult per scene (job.seed, error or None).

    Scenes with an existing shard are skipped and not yielded. If a seed fails, its result has the
    error. Rendering only proceeds while the iterator is consumed.
    """
    choose_backend()
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(out, config, split, {"frames": frames, "size": size, "clip": clip,
                                        "stride": stride, "steps": steps})  # fmt: skip
    jobs = (
        ShardJob(s, config, frames, size, split, clip, stride, steps, str(out))
        for s in seeds
        if not shard_path(out, split, s).exists()
    )
    yield from run_jobs(render_shard, jobs, workers, timeout)


def write_manifest(
    out: Path, config: SimulationConfig, split: str, options: dict[str, Any]
) -> None:
    """Write `<split>.manifest.json`: the configuration, and which kinds and textures are held out.

    Raises InputError if the folder contains scenes of the split made with other options.
    """
    manifest = {
        "split": split,
        "config": asdict(config),
        "options": options,
        "kinds": list(kinds(split)),
        "held_out_kinds": list(kinds("test")),
        "held_out_textures": list(HELD_OUT_TEXTURES),
    }
    manifest = json.loads(json.dumps(manifest))
    path = out / f"{split}.manifest.json"
    if path.exists() and read_json(path) != manifest:
        raise InputError(
            f"{path} was written with other options; give the same options to resume it, or use "
            "another output folder"
        )
    write_text(path, json.dumps(manifest, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Render scenes for a range of seeds; prints progress every 5 seconds."""
    import argparse

    from lmeec_core.simulation.config import LEVELS, training_config

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out")
    parser.add_argument("--seeds", default="0:100", help="first:end (end is excluded)")
    parser.add_argument("--split", default="train", choices=SPLITS)
    parser.add_argument("--level", default="normal", choices=LEVELS)
    parser.add_argument("--exo-cameras", type=int, default=2)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    for name, value in (("frames", 6), ("size", 256), ("clip", 1), ("stride", 1), ("steps", 160)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args(arguments)
    first, last = (int(v) for v in args.seeds.split(":"))
    config = training_config(args.exo_cameras, args.level)
    start = shown = time.monotonic()
    done = failed = 0
    results = render_many(range(first, last), config, args.frames, args.size, args.split, args.out,
                          args.workers, args.clip, args.stride, args.steps)  # fmt: skip
    for result in results:
        done, failed = done + 1, failed + (result.error is not None)
        if result.error is not None:
            print(f"seed {result.job.seed}: {result.error}", flush=True)
        now = time.monotonic()
        if now - shown > 5:
            shown = now
            print(f"{done} scenes, {failed} failed, {done / (now - start):.1f} per s", flush=True)
        if now - start > args.seconds:
            break
    results.close()  # type: ignore[attr-defined]
    spent = time.monotonic() - start
    print(f"{done} scenes, {failed} failed, {spent:.1f} s, {done / spent:.2f} per s")
    return 0 if failed < max(1, done) else 1


if __name__ == "__main__":
    raise SystemExit(main())
