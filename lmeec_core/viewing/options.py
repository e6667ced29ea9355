"""The options of `lmeec view`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ViewOptions:
    """See `lmeec view --help`; ``beside`` are the predictions of further methods."""

    source: Path
    predictions: Path | None = None
    beside: tuple[Path, ...] = ()
    out: Path | None = None
    rerun: Path | None = None
    html: Path | None = None
    calibration: Path | None = None
    direction: str | None = None
    query: str | None = None
    take: str | None = None
    split: str | None = None
    videos: Path | None = None
    params: Path | None = None
    node: str | None = None
    objects: tuple[str, ...] = ()
    height: int = 480
    fps: float | None = None
