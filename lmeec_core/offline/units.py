"""Settings and units of work."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lmeec_core import __version__
from lmeec_core.config import EngineName, MemoryConfig, Precision
from lmeec_core.methods import has_setting
from lmeec_core.methods.candidates.settings import CandidateSettings
from lmeec_core.methods.omama.settings import OMaMaSettings
from lmeec_core.recordings import RecordingSource

if TYPE_CHECKING:
    from lmeec_core.prompts import PlacedPrompt

PATHS = ("model.checkpoint", "model.device", "prompts.checkpoint")
"""Node parameters that are not part of a unit's identity; files are compared by digest instead."""
NumFrames = Literal["stream", "take"]


class PromptSettings(BaseModel):
    """How marked objects are tracked in the view in which they were marked.

    Attributes:
        digest: digest of the prompts.
        preset: the network that tracks them; None: the network that finds correspondences.
        checkpoint, weights: of that network, as in :class:`Settings`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    preset: str | None = None
    checkpoint: str | None = None
    weights: str | None = None

    def identity(self) -> dict[str, Any]:
        """Everything that the masks depend on."""
        return {f"prompts.{k}": v for k, v in self.model_dump(exclude={"checkpoint"}).items()}


class Settings(BaseModel):
    """Everything besides the recording that the masks depend on.

    Attributes:
        method: see :func:`lmeec_core.methods.load_method`.
        preset, checkpoint, device, precision, engine, seed, require_mv_moe: see
            :func:`lmeec_core.load_model`; ``device`` is resolved (not "auto"). A method ignores
            those that do not apply to it.
        engines: the engines that ``auto`` chose, by stage. All units and processes use the same
            ones, because each measurement may give another choice. None: nothing is chosen yet.
        weights: digest of the weights, compared instead of ``checkpoint``.
        memory: the tracker's memory.
        presence_threshold: minimum presence probability of a visible object, 0 to 1.
        exclusive: each pixel belongs to at most one object, the most likely one.
        max_objects: maximum number of objects tracked together; a take with more is tracked in
            several sets of objects.
        num_frames: whether the tracker knows the number of frames in advance. "stream": no, as in
            the node. "take": yes, as in the release; the masks differ only for takes of fewer than
            16 frames (:class:`lmeec_core.CorrespondenceTracker`).
        cycle_check: whether each mask found is searched for again in the query view
            (:mod:`lmeec_core.methods.cycle`).
        threads: threads of the network. Their number may change a few pixels of the masks, so it
            is a setting and does not depend on the machine.
        node: the node's parameters, for a bag.
        prompts: settings for prompts; None if the recording's query masks are used.
        candidates, omama: settings of the method omama.
        text: descriptions of the objects' appearance, by object.
        version: version of this package.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "lmeec"
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
    cycle_check: bool = False
    threads: int = Field(1, ge=1)
    node: dict[str, Any] | None = None
    prompts: PromptSettings | None = None
    candidates: CandidateSettings = CandidateSettings()
    omama: OMaMaSettings = OMaMaSettings()
    text: dict[str, str] = {}
    version: str = __version__

    @field_validator("precision", mode="before")
    @classmethod
    def _same_everywhere(cls, given: Any) -> Any:
        """Offline, ``auto`` is always fp32, so that results do not depend on the machine."""
        return "fp32" if given == "auto" else given

    def identity(self) -> dict[str, Any]:
        """Everything that the masks depend on: a flat mapping of names to JSON values."""
        others = {"checkpoint", "node", "memory", "prompts", "cycle_check"}
        others |= {"candidates", "omama", "text"}
        content = self.model_dump(mode="json", exclude=others)
        content |= {"cycle_check": True} if self.cycle_check else {}
        content |= {f"memory.{k}": v for k, v in self.memory.model_dump(mode="json").items()}
        content |= {} if self.prompts is None else self.prompts.identity()
        for name, own in (("candidates", self.candidates), ("omama", self.omama)):
            changed = own.model_dump(mode="json", exclude_defaults=True)
            content |= {f"{name}.{k}": v for k, v in changed.items()}
        content |= {f"text.{k}": v for k, v in self.text.items()}
        node = json.loads(json.dumps(self.node or {}))
        content |= {k: v for k, v in node.items() if k not in PATHS}
        return content


def weights_digest(
    preset: str,
    checkpoint: str | None,
    seed: int | None,
    method: str = "lmeec",
    option: str = "--checkpoint",
) -> str:
    """A fingerprint of the weights: the file's SHA-256, or the seed; "" for a method without.

    Args:
        preset, checkpoint, seed: see :func:`lmeec_core.load_model`.
        method: name of the method.
        option: the option that sets the checkpoint, for the message.

    Raises:
        CheckpointError: there is no such checkpoint, or no weights at all.
    """
    from lmeec_core.checkpoint import CheckpointError, bundled_weights

    if not has_setting(method, "checkpoint"):
        return ""
    path = Path(checkpoint) if checkpoint else bundled_weights(preset)
    if path is not None:
        if not path.is_file():
            raise CheckpointError(f"checkpoint {path}: no such file")
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if seed is None:
        raise CheckpointError(
            f"no checkpoint given, and no weights come with the preset {preset!r}; give "
            f"{option} FILE, or --seed 0 for random weights, whose masks mean nothing"
        )
    return f"seed:{seed}"


@dataclass(frozen=True)
class Unit:
    """One set of objects of one recording, from a query camera to a target camera.

    Attributes:
        kind: "take" or "bag".
        source: absolute path of the recording, or of the file that contains it.
        take: name of the recording in the result file.
        direction: "ego-exo" or "exo-ego".
        query, target: names of the cameras in the result file.
        objects: the set of objects, in order.
        frames: number of frames to process, for the progress bar.
        inputs: digest of the input data; a unit with other inputs is not reused.
        names: names of (query, target) in messages, if they differ (bags).
        videos: absolute path of the folder of videos, if one was given.
        prompts: prompts for the objects, if used instead of query masks.
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
    prompts: tuple[PlacedPrompt, ...] = ()

    @property
    def key(self) -> str:
        """Name of the unit's file; it does not depend on the settings."""
        what = (self.kind, self.take, self.direction, self.query, self.target, self.objects)
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]

    def identity(self) -> dict[str, Any]:
        """The fields as JSON values, without paths, because a recording may be moved, and without
        prompts, whose digest is in the settings."""
        left = ("source", "videos", "frames", "prompts")
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left}
        content["names"] = list(self.names) if self.names else None
        return content | {"objects": list(self.objects)}

    def __str__(self) -> str:
        return f"{self.take}, {self.query} to {self.target}, {len(self.objects)} objects"


class Job(NamedTuple):
    """A unit to compute; sent to worker processes and other machines."""

    source: RecordingSource
    unit: Unit
    settings: Settings
    progress: str | None = None
    """File to write the number of frames done to, for the progress bar; None: no such file."""


class Recording(NamedTuple):
    """The contents of the result file for a recording, apart from masks.

    Attributes:
        name: name of the take.
        objects: all requested objects, in order, including those without any query mask.
        frames: the frames processed, by direction; if a list is empty, the frames of the units.
    """

    name: str
    objects: tuple[str, ...]
    frames: dict[str, list[int]]


class Plan(NamedTuple):
    """A recording divided into units; no recording if it cannot be read."""

    recording: Recording | None
    units: list[Unit]
    problems: tuple[str, ...] = ()
    """Texts about what cannot be read: the recording, or single cameras or files."""
    notes: tuple[str, ...] = ()
    """Remarks about unusual but readable content."""


@dataclass(frozen=True)
class TrackOptions:
    """The options of `lmeec track`; see its --help. None means the default, or the value in the
    parameter file of a bag."""

    source: Path
    out: Path
    bag: Path | None = None
    direction: str | None = None
    params: Path | None = None
    node: str | None = None
    split: str | None = None
    takes: tuple[str, ...] = ()
    videos: Path | None = None
    objects: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    """Node parameters set by options, by full name."""
    num_frames: NumFrames = "stream"
    cycle_check: bool = False
    threads: int = 1
    workers: int = 0
    cluster: str | None = None
    overwrite: bool = False
    prompts: Path | None = None
    """The file of prompts that are used instead of query masks."""
    prompt_preset: str | None = None
    prompt_checkpoint: Path | None = None


@dataclass(frozen=True)
class Work:
    """All units of a command, their settings, and the kind of recording."""

    source: RecordingSource
    settings: Settings
    plans: list[Plan]
    notes: tuple[str, ...] = ()
    """Remarks about the settings."""

    @property
    def units(self) -> list[Unit]:
        """All units, in the order of the result file."""
        return [unit for plan in self.plans for unit in plan.units]

    @property
    def recordings(self) -> list[Recording]:
        """The recordings that can be read."""
        return [plan.recording for plan in self.plans if plan.recording is not None]

    @property
    def problems(self) -> list[str]:
        """Recordings and cameras that cannot be read."""
        return [text for plan in self.plans for text in plan.problems]
