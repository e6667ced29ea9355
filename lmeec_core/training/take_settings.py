"""Settings of training on takes; configs/egoexo4d.yaml explains each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lmeec_core.config import Fusion, ModelConfig, preset, validated
from lmeec_core.training.losses import LossWeights
from lmeec_core.training.take_augment import Augmentation


class AugmentSettings(BaseModel):
    """Ranges of :class:`Augmentation`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flip: float = Field(0.5, ge=0, le=1)
    degrees: float = Field(25, ge=0, le=180)
    shear: float = Field(20, ge=0, lt=90)
    brightness: float = Field(0.1, ge=0, lt=1)
    contrast: float = Field(0.03, ge=0, lt=1)
    saturation: float = Field(0.03, ge=0, lt=1)
    grey: float = Field(0.05, ge=0, le=1)

    def ranges(self) -> Augmentation:
        """The same for the data."""
        return Augmentation(**self.model_dump())


class LossSettings(BaseModel):
    """Weights of the four losses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    focal: float = Field(20, ge=0)
    dice: float = Field(1, ge=0)
    iou: float = Field(1, ge=0)
    presence: float = Field(1, ge=0)

    def weights(self) -> LossWeights:
        """The same for the loss."""
        return LossWeights(**self.model_dump())


class TakeTrainConfig(BaseModel):
    """Settings of a run on takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    augment: AugmentSettings | None = AugmentSettings()  # type: ignore[call-arg]

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

    @field_validator("data", mode="before")
    @classmethod
    def _given(cls, value: object) -> object:
        if not value:
            raise ValueError("the folder with the takes must be given: --set data=/path")
        return value

    def network(self) -> ModelConfig:
        """The network: the preset with the changes of ``model``.

        Raises:
            InputError: no such preset, or values that do not fit together.
        """
        changed = preset(self.preset).model_dump() | self.model
        return validated(ModelConfig, changed, f"model, with preset {self.preset}")

    def folder(self, split: str) -> Path:
        """Where the takes of a split lie."""
        return Path(self.data) / split
