"""Label images in folders (DAVIS), and MOTS text files.

    JPEGImages/<episode>_<cam>/00000.jpg
    Annotations/<episode>_<cam>/00000.png   palette images; the label is the slot + 1 (davis)
    ImageSets/train.txt                     the names of the folders (davis)
    instances_txt/<episode>_<cam>.txt       "frame id class height width rle" (mots)

Each pixel has one object here. Pixels that belong to several objects get the highest slot, and
their number is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from lmeec_core.datasets.episode import Part
from lmeec_core.datasets.frames import CameraTick, Episode, Plan, Tick
from lmeec_core.datasets.images import label_image, link_all, sequence, write_jpeg, write_sides
from lmeec_core.errors import InputError
from lmeec_core.takes import encode_mask

MOST = 255
"""Maximum label in an 8-bit image."""
CLASS = 1
"""The class of all objects in MOTS files, whose ids are 1000 * class + label."""


@dataclass(frozen=True)
class Labels:
    """A :class:`~lmeec_core.datasets.episode.Format`: davis or mots."""

    name: str

    def check(self) -> None:
        """See :class:`~lmeec_core.datasets.episode.Format`."""

    def writer(self, folder: Path, plan: Plan, episode: Episode) -> LabelWriter:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        if len(plan.slots) > MOST:
            raise InputError(
                f"{len(plan.slots)} object slots, but {self.name} can store at most {MOST}: use "
                f"--slots {MOST}"
            )
        return LabelWriter(folder, plan, episode, mots=self.name == "mots")

    def finish(
        self, out: Path, plan: Plan, parts: Sequence[Part], notes: Mapping[str, Any]
    ) -> None:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        for part in parts:
            link_all(part.folder / "files", out)
        if self.name == "davis":
            names = [sequence(part.episode, camera) for part in parts for camera in plan.cameras]
            (out / "ImageSets").mkdir()
            (out / "ImageSets" / "train.txt").write_text("".join(f"{n}\n" for n in names))
        write_sides(out, notes)


class LabelWriter:
    """Writes an episode.

    Args:
        folder: the folder to write to; must exist.
        plan: the plan of the dataset.
        episode: the episode to write.
        mots: whether to write MOTS text files instead of label images.
    """

    def __init__(self, folder: Path, plan: Plan, episode: Episode, mots: bool) -> None:
        self._folder, self._plan, self._episode = folder / "files", plan, episode
        self._overlaps = dict.fromkeys(plan.cameras, 0)
        self._texts: dict[str, IO[str]] = {}
        self._palette = _palette()
        if mots:
            place = self._folder / "instances_txt"
            place.mkdir(parents=True)
            for camera in plan.cameras:
                self._texts[camera] = (place / f"{sequence(episode, camera)}.txt").open("w")

    def add(self, tick: Tick) -> None:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        for camera, seen in tick.cameras.items():
            name = sequence(self._episode, camera)
            write_jpeg(self._folder / "JPEGImages" / name / f"{tick.number:05d}.jpg", seen.image)
            if camera in self._texts:
                self._write_text(tick, camera, seen)
            else:
                self._write_labels(tick, camera, seen, name)

    def close(self) -> dict[str, Any]:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        self.abort()
        texts = [
            f"camera {camera}: {count} pixels belong to several objects and were given to the "
            "highest slot; the formats lerobot, hdf5 and coco keep all of them"
            for camera, count in self._overlaps.items()
            if count
        ]
        return {"problems": texts}

    def abort(self) -> None:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        for file in self._texts.values():
            file.close()

    def _write_labels(self, tick: Tick, camera: str, seen: CameraTick, name: str) -> None:
        from PIL import Image

        labels, overlap = label_image(seen, self._plan, camera)
        self._overlaps[camera] += overlap
        image = Image.frombytes("P", labels.shape[::-1], labels.tobytes())
        image.putpalette(self._palette)
        place = self._folder / "Annotations" / name
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{tick.number:05d}.png")

    def _write_text(self, tick: Tick, camera: str, seen: CameraTick) -> None:
        labels, overlap = label_image(seen, self._plan, camera)
        self._overlaps[camera] += overlap
        height, width = labels.shape
        for label in np.unique(labels[labels > 0]).tolist():
            counts = encode_mask(labels == label)["counts"]
            line = (tick.number, 1000 * CLASS + label, CLASS, height, width, counts)
            self._texts[camera].write(" ".join(map(str, line)) + "\n")


def _palette() -> list[int]:
    """The colours of DAVIS and PASCAL VOC: the bits of a label, spread over red, green and blue."""
    colours = []
    for label in range(MOST + 1):
        for channel in range(3):
            bits = (label >> (3 * place + channel) & 1 for place in range(8))
            colours.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return colours
