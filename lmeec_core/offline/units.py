"""Settings and units of work, and how a take is cut into units."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from lmeec_core import __version__
from lmeec_core.config import EngineName, MemoryConfig, Precision
from lmeec_core.takes import Take, TakeError

NumFrames = Literal["stream", "take"]


class Settings(BaseModel):
    """Everything besides the recording that decides the masks.

    Attributes:
        preset, checkpoint, device, precision, engine, seed, require_mv_moe: see
            :func:`lmeec_core.load_model`; ``device`` is resolved (not "auto").
        engines: what engine ``auto`` has chosen, stage to engine: the same for every unit and every
            process, since each measurement may come out another way. None: nothing is chosen yet.
        weights: digest of the weights, which stands for ``checkpoint`` in comparisons.
        memory: the tracker's memory.
        presence_threshold: from which probability on an object is visible, 0 to 1.
        exclusive: each pixel belongs to one object only, the likeliest.
        max_objects: objects tracked together; a take with more has several sets of objects.
        num_frames: the length of recordings as the tracker is told it. "stream": not at all, as in
            the node. "take": the take's number of frames, as the release does; the masks of takes
            of less than 16 frames differ (:class:`lmeec_core.CorrespondenceTracker`).
        threads: threads of the network. More of them may change masks in their last pixels, so
            the number belongs to the settings and not to the machine.
        node: the node's parameters, for a bag.
        version: of this package.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = "nano"
    checkpoint: str | None = None
    weights: str = ""
    device: str = "cpu"
    precision: Precision = "fp32"
    engine: EngineName = "auto"
    engines: dict[str, EngineName] | None = None
    seed: int | None = None
    require_mv_moe: bool = True
    memory: MemoryConfig = MemoryConfig()
    presence_threshold: float = Field(0.5, ge=0.0, le=1.0)
    exclusive: bool = False
    max_objects: int = Field(32, ge=1)
    num_frames: NumFrames = "stream"
    threads: int = Field(1, ge=1)
    node: dict[str, Any] | None = None
    version: str = __version__

    def identity(self) -> dict[str, Any]:
        """All that decides the masks, flat: name to value, as JSON gives it back."""
        content = self.model_dump(mode="json", exclude={"checkpoint", "node", "memory"})
        content |= {f"memory.{k}": v for k, v in self.memory.model_dump(mode="json").items()}
        node = json.loads(json.dumps(self.node or {}))
        content |= {k: v for k, v in node.items() if k not in ("model.checkpoint", "model.device")}
        return content


def weights_digest(preset: str, checkpoint: str | None, seed: int | None) -> str:
    """A text that changes with the weights: the file's SHA-256, or the seed.

    Raises:
        InputError: no such checkpoint, or no weights at all.
    """
    from lmeec_core.checkpoint import CheckpointError, bundled_weights

    path = Path(checkpoint) if checkpoint else bundled_weights(preset)
    if path is not None:
        if not path.is_file():
            raise CheckpointError(f"checkpoint {path}: no such file")
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if seed is None:
        raise CheckpointError(
            f"no checkpoint given, and no weights come with the preset {preset!r}; give "
            "--checkpoint FILE, or --seed 0 for random weights whose masks mean nothing"
        )
    return f"seed:{seed}"


@dataclass(frozen=True)
class Unit:
    """One set of objects of one recording, from a query camera to a target camera.

    Attributes:
        kind: "take" or "bag".
        source: absolute path of the recording, or of the file that has it among others.
        take: name of the recording in the result file.
        direction: "ego-exo" or "exo-ego".
        query, target: cameras, as the result file names them.
        objects: the set of objects, in order.
        frames: frames to go through, for the progress bar.
        inputs: digest of what is read; other inputs give another outcome.
        names: (query, target) as messages name them, where that differs (bags).
        videos: absolute path of the folder of videos, where one was given.
    """

    kind: str
    source: str
    take: str
    direction: str
    query: str
    target: str
    objects: tuple[str, ...]
    frames: int
    inputs: str
    names: tuple[str, str] | None = None
    videos: str | None = None

    @property
    def key(self) -> str:
        """Name of the unit's file: the same for the same unit of work, whatever the settings."""
        what = (self.kind, self.take, self.direction, self.query, self.target, self.objects)
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]

    def identity(self) -> dict[str, Any]:
        """All but the paths, as JSON gives it back: a recording may be moved."""
        paths = ("source", "videos", "frames")
        content = {k: v for k, v in asdict(self).items() if k not in paths}
        content["names"] = list(self.names) if self.names else None
        return content | {"objects": list(self.objects)}

    def __str__(self) -> str:
        return f"{self.take}, {self.query} to {self.target}, {len(self.objects)} objects"


class Job(NamedTuple):
    """A unit to compute; goes to worker processes and other machines."""

    unit: Unit
    settings: Settings
    progress: str | None = None
    """File that takes the number of frames done, for the progress bar; None for none."""


class Recording(NamedTuple):
    """What goes into the result file of a recording besides masks.

    Attributes:
        name: of the take.
        objects: all objects asked for, in order; those without any query mask too.
        frames: by direction, the frames gone through; where the list is empty, those of the units.
    """

    name: str
    objects: tuple[str, ...]
    frames: dict[str, list[int]]


class Plan(NamedTuple):
    """A recording cut into units; no recording if it cannot be read."""

    recording: Recording | None
    units: list[Unit]
    problems: tuple[str, ...] = ()
    """What cannot be read: the recording, or single cameras or files of it."""
    notes: tuple[str, ...] = ()
    """What was unusual about it, though all of it can be read."""


def plan_take(
    take: Take, directions: Iterable[str], objects: Sequence[str], max_objects: int
) -> Plan:
    """Cut a take into units.

    A take that cannot be read gives a plan with a problem and no units; a camera without images,
    or whose video is broken, a problem and no units of this camera.

    Args:
        take: the recording.
        directions: of :data:`lmeec_core.takes.DIRECTIONS`.
        objects: only these; all if empty. Those that the take does not have are ignored.
        max_objects: most objects in a unit.
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
