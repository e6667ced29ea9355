"""Writer of a take in the EgoExo4D processed layout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.files import NewFolder, WholeOrNothing
from lmeec_core.takes.annotation import ANNOTATION
from lmeec_core.takes.errors import TakeError
from lmeec_core.takes.images import encode_jpeg
from lmeec_core.takes.keys import frame_number
from lmeec_core.takes.rle import Rle, encode_mask
from lmeec_core.takes.take import CALIBRATION, DEPTH


class TakeWriter(WholeOrNothing):
    """Write a take, which gets its final name only once it is complete.

        with TakeWriter("out/take_7") as take:
            take.image("aria01", 0, rgb)
            take.mask("cup", "aria01", 0, mask)

    Files are written to a hidden folder next to ``path``, which is renamed when the block ends and
    removed if it raises.

    Args:
        path: folder of the take.
        overwrite: replace an existing take; otherwise FileExistsError is raised.
        quality: JPEG quality, 1 to 100.
        extra: more entries for annotation.json, such as {"scenario": ...}.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        quality: int = 90,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise FileExistsError(f"{self.path} exists; remove it, or write with overwrite=True")
        self.quality = quality
        self.extra = dict(extra or {})
        self._masks: dict[str, dict[str, dict[str, Rle | None]]] = {}
        self._frames: set[int] = set()
        self._folder = NewFolder(self.path)
        self._folder.content.mkdir()

    def image(self, camera: str, frame: int, image: NDArray[np.uint8] | bytes) -> None:
        """Add an image: RGB uint8 (H, W, 3), or the bytes of a JPEG file."""
        if not camera or "/" in camera or "\0" in camera or camera.startswith("."):
            raise TakeError(self.path, f"{camera!r} cannot be a camera name (it names a folder)")
        folder = self._folder.content / camera
        folder.mkdir(exist_ok=True)
        data = image if isinstance(image, bytes) else encode_jpeg(image, self.quality)
        number = frame_number(int(frame))
        (folder / f"{number}.jpg").write_bytes(data)
        self._frames.add(number)

    def depth(self, camera: str, frame: int, png: bytes) -> None:
        """Add the depth for an image that was added before: 16-bit PNG, millimetres."""
        folder = self._folder.content / camera / DEPTH
        folder.mkdir(exist_ok=True)
        (folder / f"{frame_number(int(frame))}.png").write_bytes(png)

    def calibration(self, text: str) -> None:
        """Add the cameras' lenses and poses: the text of a calibration file."""
        (self._folder.content / CALIBRATION).write_text(text, encoding="utf-8")

    def mask(
        self, object_name: str, camera: str, frame: int, mask: NDArray[Any] | Rle | None
    ) -> None:
        """Add a mask: (H, W) (nonzero = object), run lengths, or None for null.

        Do not add an entry for an object that is absent from an image: the benchmark regards an
        object as present in a target image that has an entry.
        """
        entry = encode_mask(mask) if isinstance(mask, np.ndarray) else mask
        key = str(frame_number(int(frame)))
        self._masks.setdefault(object_name, {}).setdefault(camera, {})[key] = entry

    def add_object(self, object_name: str) -> None:
        """List an object, even if it gets no mask. Determines the order of the objects."""
        self._masks.setdefault(object_name, {})

    def close(self) -> None:
        """Write annotation.json and give the take its final name."""
        content = {**self.extra, "masks": self._masks, "subsample_idx": sorted(self._frames)}
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        (self._folder.content / ANNOTATION).write_text(text, encoding="utf-8")
        self._folder.publish()

    def abort(self) -> None:
        """Remove the unfinished take."""
        self._folder.discard()
