"""Moments as a single HTML file that plays in a browser, from disk and offline."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.files import WholeOrNothing
from lmeec_core.overlay import Colour
from lmeec_core.takes import resize_mask
from lmeec_core.takes.images import encode_jpeg
from lmeec_core.viewing.moments import Mask, Moment, View, ViewName, true_iou

TEMPLATE = Path(__file__).with_name("player.html")
PLACE = "<!-- moments -->\n"
"""Marks where the moments are inserted into the template."""
QUALITY = 80
LARGE = 200_000_000
"""Size in bytes above which browsers become slow."""


class HtmlWriter(WholeOrNothing):
    """Write moments into a page that appears under its name only once it is complete.

    Images are stored as JPEG and masks as polygons, one moment per line; only one moment is in
    memory at a time. If several methods are shown
    (:func:`lmeec_core.viewing.comparison.side_by_side`), the page compares them.

    Args:
        path: the file.
        colours: by object; colours are assigned in the order in which objects appear.
        height: height of each view, pixels.
        title: title of the page.
    """

    def __init__(self, path: Path, colours: Mapping[str, Colour], height: int, title: str) -> None:
        self.path = path
        self._colours, self._height, self._title = colours, height, title
        self._sizes: dict[str, tuple[int, int]] = {}
        self._names: list[ViewName] = []
        self._objects: dict[str, None] = {}
        self._truth = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        head, self._tail = TEMPLATE.read_text(encoding="utf-8").split(PLACE)
        self._file = self._partial.open("w", encoding="utf-8")
        self._file.write(head)

    def add(self, moment: Moment) -> None:
        """Write one moment."""
        views = [moment.query, *moment.targets]
        self._names = self._names or [view.name for view in views]
        asked = {name for name, mask in moment.query.masks.items() if mask is not None}
        first: dict[str, int] = {}  # camera -> the view that holds its image and truth
        shown = {}
        for view in views:
            place = self._names.index(view.name)
            source = first.setdefault(view.camera, place)
            shown[view.name] = self._view(view, asked, None if source == place else source)
        row = {
            "f": moment.frame,
            "t": round(moment.seconds, 6),
            "v": [shown.get(name) or _NOTHING for name in self._names],
        }
        self._script(f"F.push({_json(row)})")

    def close(self) -> None:
        """Finish the file and give it its name."""
        meta = {
            "title": self._title,
            "cameras": [camera for camera, _ in self._names],
            "from": [method for _, method in self._names],
            "methods": list(dict.fromkeys(m for _, m in self._names if m is not None)),
            "sizes": [
                self._sizes.get(camera, (self._height * 4 // 3, self._height))
                for camera, _ in self._names
            ],
            "objects": [[name, _hex(self._colours[name])] for name in self._objects],
            "truth": self._truth,
        }
        self._script(f"const META = {_json(meta)}")
        self._file.write(self._tail)
        self._file.close()
        os.replace(self._partial, self.path)

    def abort(self) -> None:
        """Remove the unfinished file."""
        self._file.close()
        self._partial.unlink(missing_ok=True)

    @property
    def too_large(self) -> str | None:
        """A remark if the finished file is so large that browsers open it slowly; else None."""
        size = self.path.stat().st_size
        if size < LARGE:
            return None
        return f"{self.path}: {size / 1e6:.0f} MB, slow in a browser; reduce --height"

    def _view(self, view: View, asked: Collection[str], source: int | None) -> dict[str, Any]:
        """A view's content. If ``source``, the number of an earlier view of the same camera, is
        given, the view refers to it instead of repeating the image and the truth."""
        picture, size = None, self._sizes.get(view.camera)
        if view.image is not None:
            height, width = view.image.shape[:2]
            size = max(2, round(self._height * width / height)), self._height
            self._sizes.setdefault(view.camera, size)
            picture = _jpeg(view.image, size) if source is None else None
        self._objects.update(dict.fromkeys(view.masks))
        self._truth |= any(mask is not None for mask in (view.truth or {}).values())
        drawn = {} if size is None else {
            "m": _outlines(view.masks, size),
            "u": _outlines(view.truth or {}, size) if source is None else {},
        }  # fmt: skip
        presence = {name: round(float(p), 4) for name, p in view.presence.items()}
        ious = {
            name: round(iou, 4)
            for name, truth in (view.truth or {}).items()
            if (name in asked or name in presence)
            and (iou := true_iou(view.masks.get(name), truth)) is not None
        }
        repeated = {} if source is None else {"s": source}
        return {**_NOTHING, **drawn, "i": picture, "p": presence, "q": ious, **repeated}

    def _script(self, text: str) -> None:
        self._file.write(f"<script>{text}</script>\n")


_NOTHING: dict[str, Any] = {"i": None, "m": {}, "u": {}, "p": {}, "q": {}}


def _jpeg(image: NDArray[np.uint8], size: tuple[int, int]) -> str:
    """An image resized to (width, height), as a data URL."""
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    data = encode_jpeg(np.asarray(small, np.uint8), QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def _json(content: Any) -> str:
    """JSON for use inside a script element; characters that could end the element are escaped."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def _outlines(
    masks: Mapping[str, Mask | None], size: tuple[int, int]
) -> dict[str, list[list[int]]]:
    """Masks as polygons [x, y, x, y, ...], holes too, in an image of (width, height)."""
    found: dict[str, list[list[int]]] = {}
    for name, mask in masks.items():
        if mask is None or not mask.any():
            continue
        small = resize_mask(mask, (size[1], size[0])).astype(np.uint8)
        lines, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        found[name] = [[int(n) for n in line.ravel()] for line in lines]
    return found
