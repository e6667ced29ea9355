"""Configuration of simulated scenes: one frozen dataclass with three named levels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from lmeec_core.errors import InputError

SPLITS = ("train", "val", "test")
"""Splits, numbered in their random streams; `test` draws held-out shapes and textures only."""


@dataclass(frozen=True)
class SimulationConfig:
    """The distribution of scenes. Pairs are inclusive ranges, shares are in [0, 1].

    The defaults are the level `normal`; see `level()` for the others.
    """

    level: str = "normal"
    exo_cameras: int = 2  # 1 to 4
    moved: tuple[int, int] = (1, 2)  # objects the person moves
    distractors: tuple[int, int] = (3, 6)  # objects that stay in place, except look-alikes
    look_alikes: tuple[int, int] = (0, 2)  # twins (same, recoloured, ...) per moved object
    max_objects: int = 12
    occluders: tuple[int, int] = (0, 1)  # tall boxes on the surface
    bin_share: float = 0.15  # scenes with an open box; its inside is visible only from above
    exit_share: float = 0.35  # actions that put an object out of sight (pocket, box, stool)
    absent_steps: tuple[int, int] = (6, 20)  # how long a hidden object stays hidden
    glance_share: float = 0.15  # share of the time in which the wearer looks elsewhere
    glance_steps: tuple[int, int] = (4, 14)
    tight_share: float = 0.15  # exo cameras that show only part of the surface
    shadow_share: float = 0.5  # scenes in which a light casts shadows (the most expensive effect)
    reflect_share: float = 0.1  # scenes with a reflective surface
    multisamples: int = 4  # samples per pixel of the colour image: 0, 2 or 4
    blur: float = 0.6  # base blur of the lens, in pixels at 256 px
    motion_blur: float = 0.15  # share of ego frames with motion blur
    noise: tuple[float, float] = (0.0, 3.0)  # standard deviation of the sensor noise, grey levels
    distortion: float = 0.05  # largest radial distortion of the ego lens (0: pinhole)
    jpeg_share: float = 0.0  # frames passed through a JPEG codec before being stored as arrays

    def __post_init__(self) -> None:
        if not 1 <= self.exo_cameras <= 4:
            raise InputError(f"exo_cameras is {self.exo_cameras}, expected 1 to 4")
        if self.multisamples not in (0, 2, 4):
            raise InputError(f"multisamples is {self.multisamples}, expected 0, 2 or 4")
        if not 1 <= self.max_objects <= 32:
            raise InputError(f"max_objects is {self.max_objects}, expected 1 to 32")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and (len(value) != 2 or value[0] > value[1]):
                raise InputError(f"{field.name} is {value}, expected a pair (low, high)")
            if field.name.endswith("_share") and not 0 <= value <= 1:
                raise InputError(f"{field.name} is {value}, expected a share from 0 to 1")


_NORMAL = SimulationConfig()
_LEVELS: dict[str, SimulationConfig] = {
    "easy": dataclasses.replace(
        _NORMAL, level="easy", moved=(1, 2), distractors=(1, 4), look_alikes=(0, 0),
        occluders=(0, 0), bin_share=0.0, exit_share=0.2, glance_share=0.1, tight_share=0.15,
        motion_blur=0.0, noise=(0.0, 2.0), distortion=0.0,
    ),
    "normal": _NORMAL,
    "hard": dataclasses.replace(
        _NORMAL, level="hard", moved=(2, 4), distractors=(5, 12), look_alikes=(1, 3),
        max_objects=18, occluders=(1, 3), bin_share=0.5, exit_share=0.5, absent_steps=(10, 40),
        glance_share=0.35, tight_share=0.55, motion_blur=0.5, noise=(2.0, 9.0), distortion=0.15,
    ),
}  # fmt: skip
LEVELS = tuple(_LEVELS)


def level(name: str, **changes: Any) -> SimulationConfig:
    """The named level (`easy`, `normal`, `hard`), with individual fields changed.

    Raises InputError for an unknown level, TypeError for an unknown field.
    """
    if name not in _LEVELS:
        raise InputError(f"unknown level {name!r}, expected one of {', '.join(LEVELS)}")
    return dataclasses.replace(_LEVELS[name], **changes)


def training_config(exo_cameras: int = 2, name: str = "normal") -> SimulationConfig:
    """A level tuned for rendering speed: few shadows, no multisampling, the rest unchanged."""
    return level(
        name, exo_cameras=exo_cameras, shadow_share=0.12, reflect_share=0.04, multisamples=0,
        jpeg_share=0.3,
    )  # fmt: skip
