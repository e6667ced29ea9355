"""Divides takes into units of work, with the settings used to track them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lmeec_core.methods import method_name, without_effect
from lmeec_core.offline.units import (
    NumFrames,
    Plan,
    Recording,
    Settings,
    TrackOptions,
    Unit,
    Work,
    weights_digest,
)
from lmeec_core.recordings import RecordingSource
from lmeec_core.takes import Take, TakeError, open_takes
from lmeec_core.takes.results import DIRECTIONS


def plan_takes(source: RecordingSource, options: TrackOptions) -> Work:
    """Inspect the takes and divide them into units.

    Raises:
        TakeError, CheckpointError, InputError: what was given cannot be used.
    """
    takes = open_takes(options.source, options.split, names=options.takes, videos=options.videos)
    settings = take_settings(options.changes, options.threads, options.num_frames)
    directions = [options.direction] if options.direction else list(DIRECTIONS)
    # One annotation in memory at a time.
    plans = [plan_take(take, directions, options.objects, settings.max_objects) for take in takes]
    plans += [Plan(None, [], (str(error),)) for error in takes.broken]
    known = {name for plan in plans if plan.recording for name in plan.recording.objects}
    missing = [name for name in options.objects if name not in known]
    if missing:
        raise TakeError(options.source, f"no object {missing[0]!r} in any take")
    return Work(source, settings, plans, method_notes(settings.method, options.changes))


def method_notes(method: str, given: Iterable[str]) -> tuple[str, ...]:
    """What to say of the node's parameters that were given and that the method does not have."""
    own = [name for name in given if name.partition(".")[0] in ("model", "memory")]
    # A device is given for the machine, not for the method.
    text = without_effect(method, [name for name in own if name != "model.device"])
    return (text,) if text else ()


def take_settings(
    changes: dict[str, Any], threads: int, num_frames: NumFrames = "stream"
) -> Settings:
    """Settings for takes from the node's parameters that were given.

    Raises:
        InputError: no weights, or a value that is wrong.
    """
    from lmeec_core.checkpoint import resolve_device
    from lmeec_core.config import MemoryConfig, preset

    model = {k.removeprefix("model."): v for k, v in changes.items() if k.startswith("model.")}
    memory = {k.removeprefix("memory."): v for k, v in changes.items() if k.startswith("memory.")}
    name, checkpoint = model.get("preset", "nano"), model.get("checkpoint") or None
    preset(name)
    seed = model.get("seed")
    method = method_name(changes.get("method", "lmeec"))
    return Settings(
        method=method,
        preset=name,
        checkpoint=checkpoint,
        weights=weights_digest(name, checkpoint, seed, method),
        device=str(resolve_device(model.get("device", "auto"))),
        precision=model.get("precision", "fp32"),
        engine=model.get("engine", "auto"),
        seed=seed,
        memory=MemoryConfig(**memory),
        presence_threshold=changes.get("presence_threshold", 0.5),
        num_frames=num_frames,
        threads=threads,
    )


def plan_take(
    take: Take, directions: Iterable[str], objects: Sequence[str], max_objects: int
) -> Plan:
    """Divide a take into units.

    A take that cannot be read gives a plan with a problem and no units; a camera without images,
    or whose video is broken, a problem and no units of this camera.

    Args:
        take: the recording.
        directions: of :data:`lmeec_core.takes.DIRECTIONS`.
        objects: only these; all if empty. Those that the take does not have are ignored.
        max_objects: maximum number of objects in a unit.
    """
    try:
        names = tuple(name for name in take.objects if not objects or name in objects)
        digest = take.digest()
        videos = None if take.videos is None else str(take.videos.resolve())
        shown, problems = _frames(take)
        units: list[Unit] = []
        frames: dict[str, list[int]] = {}
        for direction in directions:
            pairs = [pair for pair in take.pairs(direction) if shown.keys() >= set(pair)]
            numbers = {n for query, _ in pairs for n in shown[query]}
            frames[direction] = sorted(numbers)
            for query, target in pairs:
                asked = [name for name in names if take.mask_frames(name, query)]
                for start in range(0, len(asked), max_objects):
                    group = tuple(asked[start : start + max_objects])
                    units.append(
                        Unit(
                            "take", str(take.path.resolve()), take.name, direction, query, target,
                            group, len(shown[query]), digest, videos=videos,
                        )
                    )  # fmt: skip
    except (TakeError, AttributeError, TypeError, ValueError, KeyError) as error:
        text = str(error)
        if not isinstance(error, TakeError):
            text = f"{take.path}: take {take.name}: not as expected: {error!r}"
        return Plan(None, [], (text,))
    finally:
        take.close()
    return Plan(Recording(take.name, names, frames), units, problems)


def _frames(take: Take) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Frames of the cameras that have images, and what is wrong with the others."""
    shown: dict[str, tuple[int, ...]] = {}
    problems: list[str] = []
    if not take.has_images:
        raise TakeError(
            take.path,
            f"take {take.name}: no videos, as {take.image_path(take.cameras[0], 0)}; name the "
            "folder of the takes (--videos)",
        )
    for camera in take.cameras:
        try:
            frames = take.frames(camera)
        except TakeError as error:
            problems.append(str(error))
            continue
        if frames:
            shown[camera] = frames
        else:
            problems.append(
                f"{take.image_path(camera, 0)}: missing, as all images of camera {camera!r}"
            )
    return shown, tuple(dict.fromkeys((*problems, *take.left_out)))
