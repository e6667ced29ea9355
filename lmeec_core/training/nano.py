"""Rendering, training, calibration and evaluation of the small network as one resumable command.

``python -m lmeec_core.training.nano --work DIR --out DIR --minutes M`` renders simulated scenes
in processes of their own, trains on them while they come, picks the masks' threshold on validation
scenes, fits the presence verdict to what the tracker finds in scenes it was not trained on, picks
its threshold, scores the network on held-out scenes and writes weights (float16 safetensors),
numbers and a log to ``--out``. It can be stopped at any moment; the same command goes on from the
last checkpoint. With ``--detach`` the work runs in a session of its own, and the command only
waits, so that several short commands in a row add up to one run.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lmeec_core.checkpoint import CheckpointError, bundled_weights, read_state_dict
from lmeec_core.config import Precision, preset
from lmeec_core.errors import ExplainedError
from lmeec_core.files import write_text
from lmeec_core.model import LMEEC
from lmeec_core.training.evaluate import (
    Row,
    balanced_accuracy,
    best_mask_bias,
    best_threshold,
    by_area,
    evaluate_pairs,
    evaluate_tracker,
    shift_masks,
    shift_presence,
    summary,
)
from lmeec_core.training.monitor import Monitor
from lmeec_core.training.presence import fit_presence
from lmeec_core.training.rendering import (
    EXO_CAMERAS,
    PRESENCE,
    SIZE,
    check_presence_scenes,
    render,
    start_rendering,
)
from lmeec_core.training.stages import STAGES
from lmeec_core.training.store import SceneStore
from lmeec_core.training.trainer import Schedule, Trainer

logger = logging.getLogger(__name__)

LOG, PID, DONE = "nano.log", "nano.pid", "done.json"
WEIGHTS, METRICS = "nano.safetensors", "metrics.json"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="scenes, checkpoint, log")
    parser.add_argument("--out", type=Path, required=True, help="weights and numbers go here")
    parser.add_argument(
        "--minutes", type=float, default=21.0, help="training time in all; 0: only score"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--stages", default="auto", choices=("auto", *STAGES))
    parser.add_argument("--start", help="weights to begin with: a file, or `bundled`")
    parser.add_argument("--scenes", type=int, default=12_000, help="training scenes")
    parser.add_argument("--frames", type=int, default=8, help="of a scene, a multiple of 4")
    parser.add_argument("--size", type=int, default=SIZE, help="side of rendered images, in pixels")
    parser.add_argument("--keep", type=int, default=4_000, help="scenes kept on disk for a resume")
    parser.add_argument("--start-at", type=int, default=150, help="scenes before training starts")
    parser.add_argument("--val-scenes", type=int, default=24)
    parser.add_argument("--test-scenes", type=int, default=60)
    parser.add_argument(
        "--presence-scenes", type=int, default=400,
        help="scenes to fit the presence verdict to, at the end; 0: leave it",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--no-render", action="store_true", help="take the scenes that are there")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--session-minutes", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--evaluate-every", type=float, default=3.0, help="minutes")
    parser.add_argument("--report-every", type=float, default=10.0, help="seconds")
    parser.add_argument("--detach", action="store_true", help="work in a session of its own")
    parser.add_argument("--wait", type=float, default=9.3, help="with --detach: minutes to wait")
    parser.add_argument("--render-only", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


# -- results -----------------------------------------------------------------------------------


def write_json(path: Path, content: Any) -> None:
    """Write atomically."""
    write_text(path, json.dumps(content, indent=1))


def export(model: LMEEC, path: Path, metadata: dict[str, str]) -> None:
    """Write a network's weights as float16 safetensors, atomically."""
    state = {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(state, partial, metadata)
    partial.chmod(0o644)
    os.replace(partial, path)


def machine(device: torch.device) -> dict[str, Any]:
    """What the run ran on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"gpu": gpu, "cores": os.cpu_count(), "python": platform.python_version(),
            "torch": torch.__version__}  # fmt: skip


def calibrate_masks(model: LMEEC, store: SceneStore, scenes: int, monitor: Monitor) -> float:
    """Shift mask logits to what is best on validation scenes; returns by how much."""
    monitor.phase("mask threshold")
    bias = best_mask_bias(model, store, scenes)
    shift_masks(model, bias)
    logger.info("calibration: mask logits %+.1f", bias)
    return bias


def calibrate_presence(
    model: LMEEC, store: SceneStore, scenes: int, monitor: Monitor
) -> dict[str, Any]:
    """Shift presence logits to what is best on validation scenes."""
    monitor.phase("presence threshold")
    shifts, report = [], {}
    for _ in range(2):  # the threshold changes what is remembered, hence twice
        rows = evaluate_tracker(model, store, scenes, report=monitor.part)
        if not rows:
            break
        threshold = best_threshold(rows)
        before, after = balanced_accuracy(rows), balanced_accuracy(rows, threshold)
        report = {"before the last shift": summary(rows)}
        shift_presence(model, threshold)
        shifts.append(threshold)
        logger.info("calibration: %.3f at 0, %.3f at %.3f", before, after, threshold)
    return {"presence shifts": shifts} | report


def scores(rows: list[Row]) -> dict[str, Any]:
    """All numbers of an evaluation."""
    present = [row.iou for row in rows if row.target_area > 0]
    missed = sum(iou < 0.1 for iou in present) / max(1, len(present))
    return {"all": summary(rows), "by target area": by_area(rows), "missed": missed}


def snapshot(trainer: Trainer, args: argparse.Namespace, report: dict[str, Any] | None) -> None:
    """Write weights and numbers so far."""
    args.out.mkdir(parents=True, exist_ok=True)
    note = {"preset": "nano", "minutes": f"{trainer.spent / 60:.2f}", "steps": str(trainer.step)}
    export(trainer.averaged, args.out / WEIGHTS, note)
    content = {
        "minutes": trainer.spent / 60, "steps": trainer.step, "scenes": trainer.store.count,
        "size": trainer.store.size,
        "rejected scenes": trainer.store.rejected, "machine": machine(trainer.device),
        "schedule": asdict(trainer.schedule), "results": report, "history": trainer.history,
    }  # fmt: skip
    write_json(args.out / METRICS, content)


# -- the command -------------------------------------------------------------------------------


def scenes_that_fit(args: argparse.Namespace, device: torch.device) -> int:
    """The wanted number of training scenes, or as many as fit if that is less.

    They may fill half of the main memory, or three quarters of what is free on a GPU.
    """
    if device.type == "cuda":
        memory, share = torch.cuda.mem_get_info(device)[0], 0.75
    else:
        memory, share = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 0.5
    scene = args.frames * (1 + EXO_CAMERAS) * args.size**2 * 4
    fit = max(1, int(memory * share / scene))
    if fit < args.scenes:
        logger.warning("scenes: %d given, %d of %.1f MB fit in memory and are used", args.scenes,
                       fit, scene / 1e6)  # fmt: skip
    return min(args.scenes, fit)


def open_stores(args: argparse.Namespace, device: torch.device) -> dict[str, SceneStore]:
    """The scenes of all splits, filled in the background as they come."""
    stores = {
        "train": SceneStore(args.work / "train", args.scenes, device, args.keep),
        "val": SceneStore(args.work / "val", args.val_scenes, device),
        "test": SceneStore(args.work / "test", args.test_scenes, device),
    }
    for store in stores.values():
        store.watch()
    return stores


def wait_for_scenes(
    args: argparse.Namespace,
    store: SceneStore,
    renderer: subprocess.Popen[bytes] | None,
    monitor: Monitor,
) -> None:
    """Wait for the first training scenes.

    Raises:
        ExplainedError: hardly any came within five minutes.
    """
    wanted = min(args.start_at, args.scenes)
    for _ in range(60):
        stopped = renderer is None or renderer.poll() is not None
        ready = store.wait_for(wanted, 5)
        monitor.scenes(store.count, wanted)
        if ready or stopped:
            break
    if store.count < min(wanted, 8):
        raise ExplainedError(f"only {store.count} scenes; see {args.work / LOG}")


def start_weights(name: str | None) -> dict[str, torch.Tensor] | None:
    """Weights to begin with, as float32: None, a file, or those that come with the package.

    Raises:
        lmeec_core.CheckpointError: there are none, or they cannot be read.
    """
    if name is None:
        return None
    path = bundled_weights("nano") if name == "bundled" else Path(name)
    if path is None:
        raise CheckpointError("start: bundled given, but no weights come with this package")
    return {k: v.float() if v.is_floating_point() else v for k, v in read_state_dict(path).items()}


def finish(
    trainer: Trainer, args: argparse.Namespace, stores: dict[str, SceneStore], monitor: Monitor
) -> None:
    """Calibrate and score the trained network, and write everything."""
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()  # for the processes that track
    model, test = trainer.averaged, stores["test"]
    bias = calibrate_masks(model, stores["val"], args.val_scenes, monitor)
    report: dict[str, Any] = {"calibration": {"mask shift": bias}}
    if args.presence_scenes:  # what it is fitted to has those masks
        monitor.phase("presence")
        fresh = SceneStore(args.work / PRESENCE, args.presence_scenes, trainer.device)
        fresh.load_new()
        precision: Precision = "bf16" if trainer.schedule.bf16 else "fp32"
        report["presence"] = fit_presence(
            model, fresh, args.presence_scenes, args.seed, precision, monitor.part
        )
    report["calibration"] |= calibrate_presence(model, stores["val"], args.val_scenes, monitor)
    monitor.phase("held-out scenes, single frames")
    report["test single frame"] = scores(evaluate_pairs(model, test, args.test_scenes, step=4))
    snapshot(trainer, args, report)
    monitor.phase("held-out scenes, tracker")
    rows = evaluate_tracker(model, test, args.test_scenes, report=monitor.part)
    report["test tracker"] = scores(rows)
    logger.info("test %s", json.dumps(report))
    snapshot(trainer, args, report)
    write_json(args.out / DONE, report)


def work(args: argparse.Namespace, monitor: Monitor | None = None) -> bool:
    """Render, train, evaluate; returns whether everything is done."""
    monitor = monitor or Monitor()
    begun = time.monotonic()
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    )
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    gpu, start = device.type == "cuda", start_weights(args.start)
    name = args.stages
    if name == "auto":
        name = device.type if device.type == "cpu" else "gpu"
        name += "" if start is None else "_more"
    # Small batches on weights that are good already: a smaller rate. Fewer steps: a shorter mean.
    schedule = Schedule(
        STAGES[name], args.minutes, 1e-3 if name == "cpu_more" else 1.5e-3,
        ema={"gpu": 0.998, "gpu_more": 0.99}.get(name, 0.995), seed=args.seed,
    )  # fmt: skip
    args.scenes = scenes_that_fit(args, device)
    check_presence_scenes(args)
    renderer = None if args.no_render else start_rendering(args, args.work / LOG)
    stores = open_stores(args, device)
    try:
        wait_for_scenes(args, stores["train"], renderer, monitor)

        def evaluate(model: LMEEC) -> dict[str, float]:
            snapshot(trainer, args, None)
            rows = evaluate_pairs(model, stores["val"], *((20, 4) if gpu else (4, 8)))
            monitor.examples(model, stores["val"], trainer.step)
            return summary(rows) if rows else {}

        trainer = Trainer(
            preset("nano"), schedule, stores["train"], args.work, device, evaluate,
            args.evaluate_every, lambda record: monitor.record(record, trainer.progress), start,
        )  # fmt: skip
        logger.info("%s, %d scenes, stages %s", device, stores["train"].count,
                    [s.name for s in schedule.stages])  # fmt: skip
        left = args.session_minutes - (time.monotonic() - begun) / 60
        over = trainer.run(left, report_every=args.report_every)
        snapshot(trainer, args, None)
        if over:
            if renderer is not None:
                renderer.terminate()
            finish(trainer, args, stores, monitor)
        return over
    finally:
        if renderer is not None:
            renderer.terminate()
            renderer.wait(20)
        for store in stores.values():
            store.close()


def alive(pid: Path) -> bool:
    """Whether the process whose number is in the file runs."""
    try:
        state = Path(f"/proc/{int(pid.read_text())}/stat").read_text()
    except (OSError, ValueError):
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def detach(args: argparse.Namespace, arguments: list[str]) -> None:
    """Start the work in a session of its own unless it runs or is done, wait, copy the results."""
    args.work.mkdir(parents=True, exist_ok=True)
    inner, log = args.work / "out", args.work / LOG
    end = time.monotonic() + 60 * args.wait
    if not alive(args.work / PID) and not (inner / DONE).is_file():
        command = [sys.executable, "-m", "lmeec_core.training.nano"]
        command += [a for a in arguments if a != "--detach"]
        command += ["--work", str(args.work), "--out", str(inner)]
        # The work goes on while the checkout may be written anew: it runs from a copy.
        package = Path(__file__).parents[1]
        shutil.copytree(package, args.work / "code" / package.name, dirs_exist_ok=True)
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        with open(log, "ab") as file:
            child = subprocess.Popen(
                command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=environment,
                cwd=args.work / "code", start_new_session=True,
            )  # fmt: skip
        write_text(args.work / PID, str(child.pid))
        reap = child
    else:
        reap = None
    shown = 0
    while time.monotonic() < end and not (inner / DONE).is_file():
        if (reap.poll() is not None) if reap else not alive(args.work / PID):
            break
        time.sleep(2)
        if log.is_file() and log.stat().st_size > shown:
            text = log.read_bytes()[shown:]
            shown += len(text)
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()
    args.out.mkdir(parents=True, exist_ok=True)
    for path in (*inner.glob("*.*"), log):
        if path.is_file() and not path.name.startswith("."):
            partial = args.out / f".{path.name}.{os.getpid()}"
            shutil.copy(path, partial)
            os.replace(partial, args.out / path.name)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns 0 when all is done, 3 when there is more to do."""
    given = sys.argv[1:] if arguments is None else arguments
    args = parse(given)
    args.work, args.out = args.work.resolve(), args.out.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.render_only:
        render(args)
        return 0
    if args.detach:
        detach(args, given)
        return 0 if (args.work / "out" / DONE).is_file() else 3
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout
    )
    return 0 if work(args) else 3


if __name__ == "__main__":
    raise SystemExit(main())
