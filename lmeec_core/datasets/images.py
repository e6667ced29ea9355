"""Images, and masks at the size of the images, for formats that consist of image files."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.datasets.frames import CameraTick, Episode, Plan
from lmeec_core.takes import encode_mask, resize_mask
from lmeec_core.takes.images import encode_jpeg
from lmeec_core.takes.rle import Rle
from lmeec_core.viewing.moments import Mask

QUALITY = 95
"""Quality of JPEG files."""


def file_name(name: str) -> str:
    """A camera's or a recording's name, made safe for file names."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name) or "_"


def sequence(episode: Episode, camera: str) -> str:
    """The name of a camera's video in an episode."""
    return f"{episode.label}_{file_name(camera)}"


def visible_masks(seen: CameraTick, plan: Plan, camera: str) -> Iterator[tuple[int, Mask]]:
    """(slot, mask at the image's size) of the visible objects."""
    for slot in np.flatnonzero(seen.rows.visible):
        mask = seen.rows.masks[int(slot)]
        assert mask is not None
        yield int(slot), resize_mask(mask, plan.sizes[camera])


def visible_rles(seen: CameraTick, plan: Plan, camera: str) -> Iterator[tuple[int, Rle]]:
    """(slot, run lengths at the image's size) of the visible objects, without empty masks."""
    for slot, mask in visible_masks(seen, plan, camera):
        own = seen.rows.rles[slot]
        if own is not None and tuple(own["size"]) == plan.sizes[camera]:
            yield slot, own
        elif mask.any():  # resizing may remove a small mask
            yield slot, encode_mask(mask)


def label_image(seen: CameraTick, plan: Plan, camera: str) -> tuple[NDArray[np.uint8], int]:
    """The visible objects as a label image, and the number of pixels with several objects.

    The label is the slot + 1, and the highest one for a pixel with several objects; 0 is
    background.
    """
    labels = np.zeros(plan.sizes[camera], np.uint8)
    overlap = 0
    for slot, mask in visible_masks(seen, plan, camera):
        overlap += int(np.count_nonzero(labels[mask]))
        labels[mask] = slot + 1
    return labels, overlap


def write_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image, RGB uint8 (H, W, 3), as JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_jpeg(image, QUALITY))


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def link_all(folder: Path, target: Path) -> None:
    """:func:`link` all files below a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            link(path, target / path.relative_to(folder))


def write_sides(out: Path, notes: Mapping[str, Any]) -> None:
    """Write the side files, one JSON file each."""
    import json

    for name, content in notes.items():
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (out / f"{name}.json").write_text(text, encoding="utf-8")
