"""Settings of a run: read from YAML with changes, checked, and stored in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from lmeec_core.config import Fusion, ModelConfig, preset, shortened, validated
from lmeec_core.errors import InputError
from lmeec_core.files import write_text
from lmeec_core.training.augment import Augmentation

CONFIGS = Path(__file__).parent / "configs"
SETTINGS = "train.yaml"
"""File with the settings of a run, in its folder."""
SIZE = 320
"""Side of rendered images in pixels; larger than the network's input, as crops are trained on."""


class Settings(BaseModel):
    """Base class of all settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainConfig(Settings):
    """Settings of a run on simulated scenes; configs/nano_sim.yaml explains each."""

    may_change: ClassVar[frozenset[str]] = frozenset(
        {"device", "workers", "render", "session_minutes", "evaluate_every", "report_every",
         "tensorboard"}
    )  # fmt: skip
    """Settings that may change when a run is resumed; the others affect what is learned."""

    recipe: Literal["simulation"] = "simulation"
    minutes: float = Field(ge=0)
    steps: int | None = Field(None, ge=1)
    stages: Literal["auto", "gpu", "gpu_more", "cpu", "cpu_more", "cpu_clips", "cpu_pairs"] = "auto"
    rate: float | None = Field(None, gt=0)
    start: str | None = None
    seed: int = Field(0, ge=0)
    device: str = "auto"
    scenes: int = Field(4_000, ge=1)
    frames: int = Field(8, ge=4)
    size: int = Field(SIZE, ge=64, le=1024)
    start_at: int = Field(150, ge=1)
    val_scenes: int = Field(24, ge=1)
    presence_scenes: int = Field(400, ge=0)
    test_scenes: int = Field(60, ge=1)
    workers: int | None = Field(None, ge=1)
    render: bool = True
    session_minutes: float | None = Field(None, gt=0)
    evaluate_every: float = Field(3.0, gt=0)
    report_every: float = Field(10.0, ge=0)
    tensorboard: bool = True


class LossSettings(Settings):
    """Weights of the four losses."""

    focal: float = Field(20, ge=0)
    dice: float = Field(1, ge=0)
    iou: float = Field(1, ge=0)
    presence: float = Field(1, ge=0)


def _data_given(value: object) -> object:
    if not value:
        raise ValueError("the folder with the takes must be given: --set data=/path")
    return value


class TakeTrainConfig(Settings):
    """Settings of a run on takes; configs/egoexo4d.yaml explains each."""

    may_change: ClassVar[frozenset[str]] = frozenset(
        {"data", "val_split", "batch", "accumulate", "recompute", "device", "workers",
         "max_corrupt", "save_steps", "report_steps", "validate_steps", "val_takes",
         "tensorboard"}
    )  # fmt: skip

    recipe: Literal["takes"]
    data: str
    train_split: str = "train"
    val_split: str | None = "val"

    preset: str = "base_plus"
    model: dict[str, Any] = {}
    checkpoint: str | None = None

    frames: int = Field(8, ge=2)
    objects: int = Field(3, ge=1)
    batch: int = Field(8, ge=1)
    accumulate: int = Field(1, ge=1)
    capacity: int = Field(6, ge=1)
    fusion: Fusion = "mv_moe"
    augment: Augmentation | None = Augmentation()  # type: ignore[call-arg]

    epochs: float = Field(60, gt=0)
    steps: int | None = Field(None, ge=1)
    rate: float = Field(5e-6, gt=0)
    encoder_rate: float = Field(3e-6, gt=0)
    floor: float = Field(0.1, ge=0, le=1)
    layer_decay: float = Field(0.9, gt=0, le=1)
    weight_decay: float = Field(0.1, ge=0)
    clip: float = Field(0.1, gt=0)
    loss: LossSettings = LossSettings()  # type: ignore[call-arg]
    seed: int = Field(0, ge=0)

    bf16: bool = True
    recompute: bool = False
    device: str = "auto"
    workers: int = Field(4, ge=0)
    max_corrupt: float = Field(0.02, ge=0, le=1)
    save_steps: int = Field(100, ge=1)
    report_steps: int = Field(20, ge=1)
    validate_steps: int = Field(1000, ge=1)
    val_takes: int = Field(4, ge=0)
    tensorboard: bool = True

    _given = field_validator("data", mode="before")(_data_given)

    def network(self) -> ModelConfig:
        """The network's configuration: the preset with the changes in ``model``.

        Raises:
            InputError: there is no such preset, or the values are inconsistent.
        """
        changed = preset(self.preset).model_dump() | self.model
        return validated(ModelConfig, changed, f"model, with preset {self.preset}")

    def folder(self, split: str) -> Path:
        """Folder of the takes of a split."""
        return Path(self.data) / split


class MatchTrainConfig(Settings):
    """Settings of a run of O-MaMa's matcher on takes; configs/omama.yaml explains each."""

    may_change: ClassVar[frozenset[str]] = frozenset(
        {"data", "val_split", "views", "device", "workers", "max_corrupt", "save_steps",
         "report_steps", "validate_steps", "val_takes", "tensorboard"}
    )  # fmt: skip

    recipe: Literal["omama"]
    data: str
    train_split: str = "train"
    val_split: str | None = "val"
    views: str | None = None

    features: Literal["nano", "dinov2"] = "dinov2"
    weights: str | None = None
    start: str | None = None
    direction: Literal["both", "ego-exo", "exo-ego"] = "both"

    candidates: int = Field(32, ge=2)
    temperature: float = Field(0.07, gt=0)
    none: bool = False
    align: float = Field(0.0, ge=0)
    batch: int = Field(24, ge=1)
    steps: int = Field(ge=1)
    rate: float = Field(8e-5, gt=0)
    floor: float = Field(0.0125, ge=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(10.0, gt=0)
    seed: int = Field(0, ge=0)

    device: str = "auto"
    workers: int = Field(0, ge=0)
    max_corrupt: float = Field(0.02, ge=0, le=1)
    save_steps: int = Field(100, ge=1)
    report_steps: int = Field(20, ge=1)
    validate_steps: int = Field(500, ge=1)
    val_takes: int = Field(8, ge=0)
    tensorboard: bool = True

    _given = field_validator("data", mode="before")(_data_given)

    def folder(self, split: str) -> Path:
        """Folder of the takes of a split."""
        return Path(self.data) / split


AnyConfig = TrainConfig | TakeTrainConfig | MatchTrainConfig

RECIPES: dict[str, type[TrainConfig] | type[TakeTrainConfig] | type[MatchTrainConfig]] = {
    "simulation": TrainConfig,
    "takes": TakeTrainConfig,
    "omama": MatchTrainConfig,
}
"""Settings class by the file's ``recipe``; the first is the default."""
GONE = {"keep": "the scenes now stay on the disk; lower `scenes` if they need too much room"}
"""Removed settings, and what to tell the user about them."""


def find_config(name: str) -> Path:
    """The file of that name, or the one included in the package.

    Raises:
        InputError: there is neither; names the files included in the package.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.name for p in CONFIGS.glob("*.yaml")))
    raise InputError(f"--config {name}: no such file; the package brings {known}")


def read_config(path: Path, changes: Sequence[str] = ()) -> AnyConfig:
    """Read and check settings, of the class that the file's ``recipe`` names.

    Args:
        path: a YAML file.
        changes: ``name=value`` strings, the value in YAML; ``a.b=value`` sets b inside a.

    Raises:
        InputError: invalid YAML, an unknown name or an invalid value; says which.
    """
    content = _read_yaml(path)
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"--set {change}: expected name=value")
        _set(content, name.strip(), _parse_yaml(value, f"--set {change}"))
    recipe = content.get("recipe", "simulation")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        known = ", ".join(sorted(RECIPES))
        raise InputError(f"{path}: recipe: {shortened(recipe)} given, one of {known} expected")
    for name in content.keys() & GONE.keys() - RECIPES[recipe].model_fields.keys():
        raise InputError(f"{path}: {name}: there is no such setting any more: {GONE[name]}")
    return validated(RECIPES[recipe], content, str(path))


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date
        raise InputError(f"{where}: not YAML: {error}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text in UTF-8: {error}") from error
    content = _parse_yaml(text, str(path))
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f"{path}: a mapping of names to values was expected")
    return content


def _set(content: dict[str, Any], name: str, value: Any) -> None:
    """Set a value; dots in the name lead to nested values."""
    *outer, last = name.split(".")
    for part in outer:
        inner = content.get(part)
        content[part] = dict(inner) if isinstance(inner, dict) else {}
        content = content[part]
    content[last] = value


def remember(config: AnyConfig, work: Path) -> None:
    """Store the settings in the run's folder, or compare them with those stored there.

    Raises:
        InputError: settings that must not change differ from those of the run; names them.
    """
    path, now = work / SETTINGS, config.model_dump()
    if path.is_file():
        before = _read_yaml(path)
        other = [k for k, v in now.items() if k not in config.may_change and before.get(k) != v]
        if other:
            told = ", ".join(
                f"{k} {shortened(before.get(k))} (now {shortened(now[k])})" for k in other
            )
            raise InputError(
                f"{work} holds a run with other settings: {told}; give the same to resume it, "
                "or use another folder"
            )
    write_text(path, yaml.safe_dump(now, sort_keys=False))
