"""COCO video instances: images, and JSON files of masks with the objects' identities.

    images/<episode>_<cam>/000000.jpg
    instances.json        images and annotations for pycocotools; images also have "video_id" and
                          "frame_id", annotations "instance_id" and "video_id"
    video_instances.json  an annotation for each object and video (YouTube-VIS): "segmentations",
                          "bboxes" and "areas" are lists with an entry for each frame, null if the
                          object is not visible

A category is an object; its id is the slot + 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lmeec_core.datasets.episode import Part
from lmeec_core.datasets.frames import Episode, Plan, Tick
from lmeec_core.datasets.images import (
    link_all,
    sequence,
    visible_rles,
    write_jpeg,
    write_sides,
)

ROWS = "masks.jsonl"
"""File of an episode's masks; a line for each tick and camera: [tick, camera, [[slot, run lengths],
...]]."""


@dataclass(frozen=True)
class Coco:
    """A :class:`~lmeec_core.datasets.episode.Format`."""

    name: str = "coco"

    def check(self) -> None:
        """See :class:`~lmeec_core.datasets.episode.Format`."""

    def writer(self, folder: Path, plan: Plan, episode: Episode) -> CocoWriter:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        return CocoWriter(folder, plan, episode)

    def finish(
        self, out: Path, plan: Plan, parts: Sequence[Part], notes: Mapping[str, Any]
    ) -> None:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        for part in parts:
            link_all(part.folder / "images", out / "images")
        videos = list(_videos(plan, parts))
        head = {
            "info": {"description": "made by lmeec; see provenance.json"},
            "videos": videos,
            "categories": [
                {"id": slot + 1, "name": name} for slot, name in enumerate(plan.slots)
            ],
        }  # fmt: skip
        ids = {(video["part"], video["camera"]): video["id"] for video in videos}
        for video in videos:
            del video["part"]
        with (out / "instances.json").open("w", encoding="utf-8") as file:
            images = _images(plan, parts, ids)
            _write(file, head, images=images, annotations=_annotations(plan, parts, ids))
        with (out / "video_instances.json").open("w", encoding="utf-8") as file:
            _write(file, head, annotations=_tracks(plan, parts, ids))
        write_sides(out, notes)


class CocoWriter:
    """Writes the images of an episode, and its masks line by line.

    Args:
        folder: the folder to write to; must exist.
        plan: the plan of the dataset.
        episode: the episode to write.
    """

    def __init__(self, folder: Path, plan: Plan, episode: Episode) -> None:
        self._folder, self._plan, self._episode = folder, plan, episode
        self._file = (folder / ROWS).open("w", encoding="utf-8")

    def add(self, tick: Tick) -> None:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        for camera, seen in tick.cameras.items():
            place = self._folder / "images" / sequence(self._episode, camera)
            write_jpeg(place / f"{tick.number:06d}.jpg", seen.image)
            row = [tick.number, camera, list(visible_rles(seen, self._plan, camera))]
            self._file.write(json.dumps(row, separators=(",", ":")) + "\n")

    def close(self) -> dict[str, Any]:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        self._file.close()
        return {}

    def abort(self) -> None:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        self._file.close()


def _videos(plan: Plan, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
    number = 0
    for index, part in enumerate(parts):
        for camera in plan.cameras:
            number += 1
            name, (height, width) = sequence(part.episode, camera), plan.sizes[camera]
            files = [f"{name}/{tick:06d}.jpg" for tick in range(part.facts["length"])]
            yield {
                "id": number, "name": name, "width": width, "height": height,
                "length": len(files), "file_names": files, "camera": camera,
                "recording": part.episode.name, "part": index,
            }  # fmt: skip


def _rows(part: Part) -> Iterator[tuple[int, str, list[tuple[int, Any]]]]:
    with (part.folder / ROWS).open(encoding="utf-8") as file:
        for line in file:
            yield tuple(json.loads(line))


Ids = Mapping[tuple[int, str], int]


def _images(plan: Plan, parts: Sequence[Part], ids: Ids) -> Iterator[dict[str, Any]]:
    number = 0
    for index, part in enumerate(parts):
        for tick, camera, _ in _rows(part):
            number += 1
            height, width = plan.sizes[camera]
            yield {
                "id": number, "file_name": f"{sequence(part.episode, camera)}/{tick:06d}.jpg",
                "width": width, "height": height, "video_id": ids[index, camera],
                "frame_id": tick,
            }  # fmt: skip


def _annotations(plan: Plan, parts: Sequence[Part], ids: Ids) -> Iterator[dict[str, Any]]:
    image = number = 0
    for index, part in enumerate(parts):
        for _, camera, masks in _rows(part):
            image += 1
            for slot, rle in masks:
                number += 1
                box, area = _measures(rle)
                video = ids[index, camera]
                yield {
                    "id": number, "image_id": image, "video_id": video, "category_id": slot + 1,
                    "instance_id": _instance(plan, video, slot), "iscrowd": 0,
                    "segmentation": rle, "bbox": box, "area": area,
                }  # fmt: skip


def _tracks(plan: Plan, parts: Sequence[Part], ids: Ids) -> Iterator[dict[str, Any]]:
    """An annotation for each object and video; only one episode's masks are in memory at a time."""
    for index, part in enumerate(parts):
        found: dict[tuple[str, int], dict[int, Any]] = {}
        for tick, camera, masks in _rows(part):
            for slot, rle in masks:
                found.setdefault((camera, slot), {})[tick] = rle
        for (camera, slot), by_tick in sorted(found.items()):
            video, (height, width) = ids[index, camera], plan.sizes[camera]
            rles = [by_tick.get(tick) for tick in range(part.facts["length"])]
            measures = [(None, None) if rle is None else _measures(rle) for rle in rles]
            yield {
                "id": _instance(plan, video, slot), "video_id": video, "category_id": slot + 1,
                "iscrowd": 0, "width": width, "height": height, "length": 1,
                "segmentations": rles, "bboxes": [box for box, _ in measures],
                "areas": [area for _, area in measures],
            }  # fmt: skip


def _instance(plan: Plan, video: int, slot: int) -> int:
    """A number for each object of each video, from 1."""
    return (video - 1) * len(plan.slots) + slot + 1


def _measures(rle: Mapping[str, Any]) -> tuple[list[float], int]:
    """Box (x, y, width, height) and area of a mask."""
    from pycocotools import mask as coco

    given: Any = dict(rle)
    return [float(n) for n in coco.toBbox(given)], int(coco.area(given))


def _write(file: IO[str], head: Mapping[str, Any], **lists: Iterable[dict[str, Any]]) -> None:
    """Write a JSON object whose long lists are generated one entry at a time."""
    file.write(json.dumps(head, ensure_ascii=False)[:-1])
    for name, entries in lists.items():
        file.write(f',\n"{name}": [')
        for number, entry in enumerate(entries):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(entry, separators=(",", ":")))
        file.write("]")
    file.write("}\n")
