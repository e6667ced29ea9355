"""Divides takes into units of work, with the settings used to track them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmeec_core.errors import InputError
from lmeec_core.methods import has_setting, method_name, without_effect
from lmeec_core.methods.candidates.settings import CandidateSettings
from lmeec_core.methods.omama.settings import OMaMaSettings
from lmeec_core.offline.prompt_plan import Usable, read_given, usable_prompts
from lmeec_core.offline.units import (
    NumFrames,
    Plan,
    PromptSettings,
    Recording,
    Settings,
    TrackOptions,
    Unit,
    Work,
    weights_digest,
)
from lmeec_core.recordings import RecordingSource
from lmeec_core.takes import Take, TakeError, Takes, open_takes
from lmeec_core.takes.keys import look_alike
from lmeec_core.takes.results import DIRECTIONS

if TYPE_CHECKING:
    from lmeec_core.prompts import Prompts


def plan_takes(source: RecordingSource, options: TrackOptions) -> Work:
    """Inspect the takes and divide them into units.

    Raises:
        TakeError, CheckpointError, InputError: the takes or the options cannot be used.
    """
    prompts, how = read_given(options)
    takes = open_takes(options.source, options.split, names=options.takes, videos=options.videos)
    if prompts is not None:
        _select_marked_take(takes, prompts, options)
    settings = take_settings(options.changes, options.threads, options.num_frames, how)
    settings = settings.model_copy(update={"cycle_check": options.cycle_check})
    if settings.candidates.file and (prompts is not None or settings.cycle_check):
        raise InputError(
            "candidates from a file cannot be combined with prompts or a cycle check, because they "
            "cover only the target views for the take's own query masks; --candidates regions or "
            "sam2 expected"
        )
    directions = [options.direction] if options.direction else list(DIRECTIONS)
    # Takes are opened one by one: only one annotation is in memory at a time.
    plans = [
        plan_take(take, directions, options.objects, settings.max_objects, prompts)
        for take in takes
    ]
    plans += [Plan(None, [], (str(error),)) for error in takes.broken]
    known = {name for plan in plans if plan.recording for name in plan.recording.objects}
    missing = [name for name in options.objects if name not in known]
    if missing:
        raise TakeError(options.source, f"no object {missing[0]!r} in any take")
    unknown = [name for name in settings.text if name not in known]
    if unknown:
        raise TakeError(
            options.source,
            f"text of {unknown[0]!r}: no such object is tracked in any take"
            f"{look_alike(unknown[0], sorted(known))}",
        )
    return Work(source, settings, plans, method_notes(settings, options.changes))


def method_notes(settings: Settings, given: Iterable[str]) -> tuple[str, ...]:
    """Remarks about options that have no effect: parameters that the method does not have, and
    descriptions of objects that it cannot take into account.

    Raises:
        InputError: the descriptions cannot be used at all.
    """
    own = [
        name
        for name in given
        if name.partition(".")[0] in ("model", "memory", "candidates", "omama", "text")
    ]
    notes = [without_effect(settings.method, own)]
    if settings.text and has_setting(settings.method, "text"):
        from lmeec_core.methods.omama.texts import text_note

        notes.append(text_note(settings.text, settings.omama))
    return tuple(note for note in notes if note)


def take_settings(
    changes: dict[str, Any],
    threads: int,
    num_frames: NumFrames = "stream",
    prompts: PromptSettings | None = None,
) -> Settings:
    """Settings for takes, from the node parameters set by options.

    Raises:
        InputError: there are no weights, or a value is wrong.
    """
    from lmeec_core.checkpoint import resolve_device
    from lmeec_core.config import MemoryConfig, preset

    model = {k.removeprefix("model."): v for k, v in changes.items() if k.startswith("model.")}
    memory = {k.removeprefix("memory."): v for k, v in changes.items() if k.startswith("memory.")}
    groups = {
        group: {k.removeprefix(f"{group}."): v for k, v in changes.items()
                if k.startswith(f"{group}.")}
        for group in ("candidates", "omama", "text")
    }  # fmt: skip
    candidates = CandidateSettings(**groups["candidates"])
    omama = OMaMaSettings(**groups["omama"])
    name, checkpoint = model.get("preset", "nano"), model.get("checkpoint") or None
    preset(name)
    seed = model.get("seed")
    method = method_name(changes.get("method", "lmeec"))
    return Settings(
        method=method,
        preset=name,
        checkpoint=checkpoint,
        weights=weights_digest(name, checkpoint, seed, method) + more_digests(candidates, omama),
        device=str(resolve_device(model.get("device", "auto"))),
        precision=model.get("precision", "fp32"),
        engine=model.get("engine", "auto"),
        seed=seed,
        memory=MemoryConfig(**memory),
        presence_threshold=changes.get("presence_threshold", 0.5),
        num_frames=num_frames,
        threads=threads,
        prompts=prompts,
        candidates=candidates,
        omama=omama,
        text=groups["text"],
    )


def more_digests(candidates: CandidateSettings, omama: OMaMaSettings) -> str:
    """Fingerprints of the matcher, the text weights and the candidate file, to detect changes.

    Raises:
        InputError: a file does not exist.
    """
    found = ""
    for name, given in (
        ("omama.matcher", omama.matcher), ("omama.text_weights", omama.text_weights),
        ("candidates.file", candidates.file),
    ):  # fmt: skip
        path = Path(given or "bundled")
        if path.is_dir() or str(path) == "bundled":
            continue
        if not path.is_file():
            raise InputError(f"{name}: {path}: no such file")
        found += f" {name.partition('.')[2]} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return found


def _select_marked_take(takes: Takes, prompts: Prompts, options: TrackOptions) -> None:
    """Reduce several takes to the one in which the prompts were placed.

    Raises:
        TakeError: the prompts' take does not exist, or the prompts do not name it.
    """
    name, there = prompts.recording, ", ".join(map(repr, takes.names[:5]))
    there += ", ..." if len(takes) > 5 else ""
    if name is None and len(takes) > 1:
        raise TakeError(
            options.prompts or "",
            f"does not name its recording; name one of {there} in the file "
            '("recording": ...) or with --take',
        )
    if name is not None and name not in takes.names:
        raise TakeError(
            options.prompts or "",
            f"is for the recording {name!r}; {options.source} has {there}"
            + look_alike(name, takes.names),
        )
    if name is not None:
        takes.names = (name,)


def plan_take(
    take: Take,
    directions: Iterable[str],
    objects: Sequence[str],
    max_objects: int,
    prompts: Prompts | None = None,
) -> Plan:
    """Divide a take into units.

    A take that cannot be read gives a plan with a problem and no units. A camera without images, or
    with a broken video, gives a problem and no units for this camera. A prompt that cannot be used
    gives a problem.

    Args:
        take: the recording.
        directions: from :data:`lmeec_core.takes.DIRECTIONS`; with prompts, directions in which no
            object is marked are skipped.
        objects: only track these; all if empty. Objects that the take does not have are ignored.
        max_objects: maximum number of objects in a unit.
        prompts: used instead of the take's query masks.
    """
    try:
        known = take.objects if prompts is None else prompts.objects
        names = tuple(name for name in known if not objects or name in objects)
        digest = take.digest()
        videos = None if take.videos is None else str(take.videos.resolve())
        shown, problems = _frames(take)
        usable = None if prompts is None else usable_prompts(take, prompts, names, shown)
        units: list[Unit] = []
        frames: dict[str, list[int]] = {}
        for direction in directions:
            pairs = [pair for pair in take.pairs(direction) if shown.keys() >= set(pair)]
            asked = {query: _asked(take, names, usable, query) for query, _ in pairs}
            if usable is not None and not any(asked.values()):
                continue
            numbers = {n for query, _ in pairs for n in shown[query]}
            frames[direction] = sorted(numbers)
            for query, target in pairs:
                for start in range(0, len(asked[query]), max_objects):
                    group = tuple(asked[query][start : start + max_objects])
                    units.append(
                        Unit(
                            "take", str(take.path.resolve()), take.name, direction, query, target,
                            group, len(shown[query]), digest, videos=videos,
                            prompts=usable.of(group) if usable else (),
                        )
                    )  # fmt: skip
    except (TakeError, AttributeError, TypeError, ValueError, KeyError) as error:
        text = str(error)
        if not isinstance(error, TakeError):
            text = f"{take.path}: take {take.name}: unexpected content: {error!r}"
        return Plan(None, [], (text,))
    finally:
        take.close()
    recording = Recording(take.name, names, frames)
    if usable is None:
        return Plan(recording, units, problems)
    return Plan(recording, units, (*problems, *usable.problems), usable.notes)


def _asked(take: Take, names: Sequence[str], usable: Usable | None, camera: str) -> list[str]:
    """Objects that have masks, or prompts, in a query camera."""
    if usable is None:
        return [name for name in names if take.mask_frames(name, camera)]
    return usable.objects(camera)


def _frames(take: Take) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Frames of the cameras that have images, and a text for each problem with the others."""
    shown: dict[str, tuple[int, ...]] = {}
    problems: list[str] = []
    if not take.has_images:
        raise TakeError(
            take.path,
            f"take {take.name}: no videos (expected {take.image_path(take.cameras[0], 0)}, for "
            "example); give the folder of the takes with --videos",
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
                f"{take.image_path(camera, 0)}: missing, like all images of camera {camera!r}"
            )
    return shown, tuple(dict.fromkeys((*problems, *take.left_out)))
