"""One HDF5 file with the layout of robomimic: data/demo_<episode>/obs/<key>.

<cam>              uint8 (T, H, W, 3), one chunk per frame, gzip
<cam>_mask_<slot>  bool (T, H, W), likewise; the attribute "object" holds the object's id
<cam>_<field>      the fields of :class:`lmeec_core.datasets.frames.Rows`, (T, N, ...)
<cam>_stamp        int64 (T,), nanoseconds; -1: no image
position, position_valid   3D points, if the cameras are calibrated
moves, contact             if one of the objects is a hand
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmeec_core.datasets.episode import Part
from lmeec_core.datasets.frames import Episode, Plan, Tick
from lmeec_core.datasets.images import file_name, visible_masks, write_sides

FILE = "data.hdf5"
FIELDS = ("known", "visible", "score", "bbox", "centroid", "area")


@dataclass(frozen=True)
class Hdf5:
    """A :class:`~lmeec_core.datasets.episode.Format`."""

    name: str = "hdf5"

    def check(self) -> None:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        import h5py  # noqa: F401

    def writer(self, folder: Path, plan: Plan, episode: Episode) -> Hdf5Writer:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        return Hdf5Writer(folder, plan, episode)

    def finish(
        self, out: Path, plan: Plan, parts: Sequence[Part], notes: Mapping[str, Any]
    ) -> None:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        import h5py

        with h5py.File(out / FILE, "w") as file:
            data = file.create_group("data")
            for number, part in enumerate(parts):
                with h5py.File(part.folder / FILE, "r") as own:
                    own.copy("demo", data, name=f"demo_{number}")
            data.attrs["total"] = sum(part.facts["length"] for part in parts)
            data.attrs["fps"] = plan.fps
            data.attrs["objects"] = json.dumps(plan.slots, ensure_ascii=False)
        write_sides(out, notes)


class Hdf5Writer:
    """Writes an episode into its own file.

    Args:
        folder: the folder to write to; must exist.
        plan: the plan of the dataset.
        episode: the episode to write.
    """

    def __init__(self, folder: Path, plan: Plan, episode: Episode) -> None:
        import h5py

        self._plan = plan
        self._file: Any = h5py.File(folder / FILE, "w")
        self._demo = self._file.create_group("demo")
        self._demo.attrs["recording"] = episode.name
        self._demo.attrs["task"] = episode.task
        self._obs = self._demo.create_group("obs")
        self._columns: dict[str, list[Any]] = {}
        for camera in plan.cameras:
            size, name = plan.sizes[camera], file_name(camera)
            self._frames(name, (*size, 3), "uint8")
            for slot, one in enumerate(plan.slots):
                self._frames(f"{name}_mask_{slot}", size, "bool").attrs["object"] = one

    def add(self, tick: Tick) -> None:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        for camera, seen in tick.cameras.items():
            name = file_name(camera)
            self._put(name, tick.number)[tick.number] = seen.image
            masks = dict(visible_masks(seen, self._plan, camera))
            for slot in range(len(self._plan.slots)):
                frames = self._put(f"{name}_mask_{slot}", tick.number)
                if slot in masks:  # chunks that are never written read as False and need no space
                    frames[tick.number] = masks[slot]
            self._columns.setdefault(f"{name}_stamp", []).append(np.int64(seen.stamp_ns))
            for field in FIELDS:
                self._columns.setdefault(f"{name}_{field}", []).append(getattr(seen.rows, field))
        for field, values in tick.objects.items():
            self._columns.setdefault(field, []).append(values)

    def close(self) -> dict[str, Any]:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        for name, values in self._columns.items():
            self._obs.create_dataset(name, data=np.stack(values))
        self._demo.attrs["num_samples"] = len(next(iter(self._columns.values())))
        self._file.close()
        return {}

    def abort(self) -> None:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        self._file.close()

    def _frames(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        return self._obs.create_dataset(
            name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape),
            compression="gzip", compression_opts=4,
        )  # fmt: skip

    def _put(self, name: str, number: int) -> Any:
        """An HDF5 dataset, extended by one frame."""
        frames = self._obs[name]
        frames.resize(number + 1, axis=0)
        return frames
