"""Lists the images in a camera's folder: the file of each frame, and images that are not read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from lmeec_core.errors import InputError
from lmeec_core.takes.keys import frame_number, unique

READ = (".jpg", ".jpeg")
IMAGES = frozenset(
    (*READ, ".bmp", ".exr", ".gif", ".heic", ".jp2", ".pgm", ".png", ".pnm", ".ppm", ".tif",
     ".tiff", ".webp")
)  # fmt: skip


class Images(NamedTuple):
    """The images in a camera's folder, without hidden files and files that are not images.

    Attributes:
        files: file names by frame number, in increasing order.
        unread: names of images that are not frames: not JPEG, or not named by a number.
    """

    files: dict[int, str]
    unread: tuple[str, ...]


def list_images(folder: Path) -> Images:
    """List a camera's folder, ``<frame>.jpg``.

    Frame numbers may have leading zeros; ``.jpeg`` and upper case are accepted too.

    Raises:
        InputError: two files are the same frame; names them.
        OSError: the folder cannot be listed.
    """
    frames: list[tuple[int, str, str]] = []
    unread: list[str] = []
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if name.startswith(".") or suffix.lower() not in IMAGES:
            continue
        try:
            if suffix.lower() not in READ:
                raise InputError(f"{name} is not a JPEG")
            frames.append((frame_number(stem), name, name))
        except InputError:
            unread.append(name)
    return Images(unique(sorted(frames)), tuple(unread))


def looks_like_take(folder: Path) -> bool:
    """Whether a folder has a sub-folder with images named by frame numbers."""
    return any(
        os.path.splitext(image)[1].lower() in READ and os.path.splitext(image)[0].isdecimal()
        for camera in sorted(folder.iterdir())
        if camera.is_dir() and not camera.name.startswith(".")
        for image in os.listdir(camera)
    )


def unread_text(unread: tuple[str, ...]) -> str:
    """The message about images that are not read."""
    some = ", ".join(map(ascii, unread[:3])) + (", ..." if len(unread) > 3 else "")
    return (
        f"{len(unread)} images are not read ({some}); only JPEG files named by their frame number "
        "are, for example 30.jpg"
    )
