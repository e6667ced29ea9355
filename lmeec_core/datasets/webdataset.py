"""WebDataset shards: tar files with one sample per tick.

shards/<episode>-0000.tar contains for each tick
<episode>/000000.<cam>.jpg    the camera's image
<episode>/000000.json         the objects' masks and measures, by camera and object
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmeec_core.datasets.episode import Part
from lmeec_core.datasets.frames import CameraTick, Episode, Plan, Tick
from lmeec_core.datasets.images import QUALITY, file_name, link_all, write_sides
from lmeec_core.takes.images import encode_jpeg

SAMPLES = 1000
"""Samples per shard."""


@dataclass(frozen=True)
class WebDataset:
    """A :class:`~lmeec_core.datasets.episode.Format`."""

    name: str = "webdataset"

    def check(self) -> None:
        """See :class:`~lmeec_core.datasets.episode.Format`."""

    def writer(self, folder: Path, plan: Plan, episode: Episode) -> ShardWriter:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        return ShardWriter(folder, plan, episode)

    def finish(
        self, out: Path, plan: Plan, parts: Sequence[Part], notes: Mapping[str, Any]
    ) -> None:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        for part in parts:
            link_all(part.folder / "shards", out / "shards")
        write_sides(out, notes)


class ShardWriter:
    """Writes the shards of an episode.

    Args:
        folder: the folder to write to; must exist.
        plan: the plan of the dataset.
        episode: the episode to write.
    """

    def __init__(self, folder: Path, plan: Plan, episode: Episode) -> None:
        self._folder, self._plan, self._episode = folder / "shards", plan, episode
        self._folder.mkdir()
        self._tar: tarfile.TarFile | None = None

    def add(self, tick: Tick) -> None:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        if tick.number % SAMPLES == 0:
            self.abort()
            name = f"{self._episode.label}-{tick.number // SAMPLES:04d}.tar"
            self._tar = tarfile.TarFile(self._folder / name, "w", format=tarfile.PAX_FORMAT)
        sample = f"{self._episode.label}/{tick.number:06d}"
        content: dict[str, Any] = {
            "episode": self._episode.name, "task": self._episode.task, "tick": tick.number,
            "timestamp": tick.number / self._plan.fps, "cameras": {},
        }  # fmt: skip
        for camera, seen in tick.cameras.items():
            self._file(f"{sample}.{file_name(camera)}.jpg", encode_jpeg(seen.image, QUALITY))
            content["cameras"][camera] = self._seen(seen)
        if self._plan.located:
            content["positions"] = {
                name: tick.objects["position"][slot].tolist()
                for slot, name in enumerate(self._plan.slots)
                if tick.objects["position_valid"][slot]
            }
        if self._plan.hand:
            content["hand"] = {
                field: [self._plan.slots[slot] for slot in np.flatnonzero(tick.objects[field])]
                for field in ("moves", "contact")
            }
        self._file(f"{sample}.json", json.dumps(content, ensure_ascii=False).encode())

    def close(self) -> dict[str, Any]:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        self.abort()
        return {}

    def abort(self) -> None:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        if self._tar is not None:
            self._tar.close()

    def _seen(self, seen: CameraTick) -> dict[str, Any]:
        rows = seen.rows
        objects = {
            name: {
                "visible": bool(rows.visible[slot]), "score": float(rows.score[slot]),
                "bbox": rows.bbox[slot].tolist(), "centroid": rows.centroid[slot].tolist(),
                "area": float(rows.area[slot]), "mask": rows.rles[slot],
            }
            for slot, name in enumerate(self._plan.slots)
            if rows.known[slot]
        }  # fmt: skip
        return {"stamp_ns": seen.stamp_ns, "objects": objects}

    def _file(self, name: str, data: bytes) -> None:
        assert self._tar is not None
        info = tarfile.TarInfo(name)  # without time and owner, the same input gives the same bytes
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
