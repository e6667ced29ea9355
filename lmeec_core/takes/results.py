"""The benchmark's result file.

{"ego-exo": {"version": ..., "challenge": ..., "results": {take: {
    "masks": {object: {"<query>_<target>": {frame: {"pred_mask": RLE, "confidence": p}}}},
    "subsample_idx": [frame, ...]}}}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmeec_core.takes.errors import TakeError
from lmeec_core.takes.rle import Rle, decode_mask, encode_mask

DIRECTIONS = ("ego-exo", "exo-ego")
VERSION = "00"
CHALLENGE = "xview"


class Prediction(NamedTuple):
    """One predicted mask.

    Attributes:
        take, object_name, pair, frame: what it belongs to; ``pair`` is "<query>_<target>".
        rle: the mask as COCO run lengths.
        confidence: probability in [0, 1] that the object is in the target image.
    """

    take: str
    object_name: str
    pair: str
    frame: int
    rle: Rle
    confidence: float

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask, bool (H, W)."""
        return decode_mask(self.rle)


class Results:
    """Predictions of one direction, to be written as or read from a result file.

    Args:
        direction: "ego-exo" (the query is the ego view) or "exo-ego".
    """

    def __init__(self, direction: str) -> None:
        if direction not in DIRECTIONS:
            raise ValueError(f"direction {direction!r} was given, expected one of {DIRECTIONS}")
        self.direction = direction
        self.version = VERSION
        self.challenge = CHALLENGE
        self._takes: dict[str, dict[str, Any]] = {}

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the takes with predictions."""
        return tuple(self._takes)

    def add(
        self,
        take: str,
        object_name: str,
        query: str,
        target: str,
        frame: int,
        mask: NDArray[Any] | Rle,
        confidence: float,
    ) -> None:
        """Add the predicted mask (H, W), or its run lengths, of an object in a target frame."""
        entry = self._takes.setdefault(take, {"masks": {}, "subsample_idx": []})
        frames = entry["masks"].setdefault(object_name, {}).setdefault(f"{query}_{target}", {})
        rle = encode_mask(mask) if isinstance(mask, np.ndarray) else mask
        frames[str(int(frame))] = {"pred_mask": rle, "confidence": float(confidence)}

    def add_object(self, take: str, object_name: str) -> None:
        """List an object, also if no prediction of it follows. Fixes the order of the objects."""
        entry = self._takes.setdefault(take, {"masks": {}, "subsample_idx": []})
        entry["masks"].setdefault(object_name, {})

    def set_frames(self, take: str, frames: list[int]) -> None:
        """Set a take's ``subsample_idx``: the frames of the recording that were gone through."""
        entry = self._takes.setdefault(take, {"masks": {}, "subsample_idx": []})
        entry["subsample_idx"] = [int(frame) for frame in frames]

    def frames(self, take: str) -> tuple[int, ...]:
        """A take's ``subsample_idx``."""
        return tuple(int(n) for n in self._takes[take].get("subsample_idx") or ())

    def predictions(self, take: str | None = None) -> Iterator[Prediction]:
        """All predictions, or those of one take, frames in increasing order per object and pair."""
        for name in self._takes if take is None else (take,):
            for object_name, pairs in self._takes.get(name, {"masks": {}})["masks"].items():
                for pair, frames in pairs.items():
                    for frame in sorted(frames, key=int):
                        entry = frames[frame]
                        yield Prediction(
                            name,
                            object_name,
                            pair,
                            int(frame),
                            entry["pred_mask"],
                            float(entry["confidence"]),
                        )

    def get(
        self, take: str, object_name: str, query: str, target: str, frame: int
    ) -> Prediction | None:
        """One prediction, or None if there is none."""
        pair = f"{query}_{target}"
        masks = self._takes.get(take, {"masks": {}})["masks"]
        entry = masks.get(object_name, {}).get(pair, {}).get(str(frame))
        if entry is None:
            return None
        confidence = float(entry["confidence"])
        return Prediction(take, object_name, pair, frame, entry["pred_mask"], confidence)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file; it is replaced in one step."""
        write_results(path, self)

    @property
    def content(self) -> dict[str, Any]:
        """What the file holds under the direction."""
        return {"version": self.version, "challenge": self.challenge, "results": self._takes}

    @classmethod
    def read(cls, path: str | os.PathLike[str], direction: str | None = None) -> Results:
        """Read a result file (anyone's).

        Args:
            path: the file.
            direction: which part to read; may be left out if the file has only one.

        Raises:
            TakeError: if the file is missing or broken or lacks the direction.
        """
        try:
            content = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise TakeError(path, f"cannot be read: {error}") from error
        except ValueError as error:
            raise TakeError(path, f"is not valid JSON: {error}") from error
        found = [name for name in DIRECTIONS if isinstance(content, dict) and name in content]
        if direction is None and len(found) == 1:
            direction = found[0]
        if direction not in found:
            raise TakeError(path, f"no results for direction {direction!r}; it has {found}")
        part = content[direction]
        if not isinstance(part, dict) or not isinstance(part.get("results"), dict):
            raise TakeError(path, f"{direction!r} holds no 'results' by take")
        results = cls(direction)
        results.version = str(part.get("version", ""))
        results.challenge = str(part.get("challenge", ""))
        for take, entry in part["results"].items():
            if not isinstance(entry, dict) or not isinstance(entry.get("masks"), dict):
                raise TakeError(path, f"take {take!r} holds no 'masks' by object")
            results._takes[take] = entry
        return results


def write_results(path: str | os.PathLike[str], *results: Results) -> None:
    """Write a result file with one or both directions; it is replaced in one step."""
    content = {one.direction: one.content for one in results}
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, target)
