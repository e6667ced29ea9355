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

from lmeec_core.files import write_text
from lmeec_core.takes.errors import TakeError
from lmeec_core.takes.json_file import frame_numbers, is_frame, read_json
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
        """The mask, bool (H, W).

        Raises:
            ValueError: if its run lengths are broken.
        """
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
        """List an object; the benchmark wants every object of a take, also without predictions."""
        entry = self._takes.setdefault(take, {"masks": {}, "subsample_idx": []})
        entry["masks"].setdefault(object_name, {})

    def set_frames(self, take: str, frames: list[int]) -> None:
        """Set a take's ``subsample_idx``: the frames of the recording that were gone through."""
        entry = self._takes.setdefault(take, {"masks": {}, "subsample_idx": []})
        entry["subsample_idx"] = [int(frame) for frame in frames]

    def frames(self, take: str) -> tuple[int, ...]:
        """A take's ``subsample_idx``; () if it has none."""
        return tuple(int(n) for n in self._takes[take].get("subsample_idx") or ())

    def objects(self, take: str) -> tuple[str, ...]:
        """Objects that a take's part lists, also those without predictions."""
        return tuple(self._masks(take))

    def pairs(self, take: str, object_name: str) -> tuple[str, ...]:
        """Names "<query>_<target>" of an object's camera pairs."""
        return tuple(self._masks(take).get(object_name) or {})

    def pair_frames(self, take: str, object_name: str, pair: str) -> tuple[int, ...]:
        """Frames with a prediction, increasing."""
        return tuple(sorted(map(int, self._entries(take, object_name, pair))))

    def predictions(self, take: str | None = None) -> Iterator[Prediction]:
        """All predictions, or those of one take, frames in increasing order per object and pair."""
        for name in self._takes if take is None else (take,):
            for object_name in self.objects(name):
                for pair in self.pairs(name, object_name):
                    for frame in self.pair_frames(name, object_name, pair):
                        found = self.prediction(name, object_name, pair, frame)
                        assert found is not None
                        yield found

    def get(
        self, take: str, object_name: str, query: str, target: str, frame: int
    ) -> Prediction | None:
        """One prediction, or None if there is none."""
        return self.prediction(take, object_name, f"{query}_{target}", frame)

    def prediction(self, take: str, object_name: str, pair: str, frame: int) -> Prediction | None:
        """One prediction by the pair's name, or None if there is none.

        Raises:
            ValueError: if it has no mask or no confidence.
        """
        entry = self._entries(take, object_name, pair).get(str(frame))
        if entry is None:
            return None
        try:
            rle, confidence = entry["pred_mask"], float(entry["confidence"])
            if not abs(confidence) <= 1e6:  # NaN fails the comparison, too
                raise ValueError(f"confidence {confidence}")
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise ValueError(f"no pred_mask and confidence ({error!r:.200})") from error
        return Prediction(take, object_name, pair, frame, rle, confidence)

    def rle(self, take: str, object_name: str, pair: str, frame: int) -> Rle | None:
        """Run lengths of one mask by the pair's name, whatever its confidence; None without."""
        entry = self._entries(take, object_name, pair).get(str(frame))
        return entry.get("pred_mask") if isinstance(entry, dict) else None

    def _masks(self, take: str) -> dict[str, Any]:
        return dict(self._takes.get(take, {"masks": {}})["masks"])

    def _entries(self, take: str, object_name: str, pair: str) -> dict[str, Any]:
        pairs = self._takes.get(take, {"masks": {}})["masks"].get(object_name) or {}
        return pairs.get(pair) or {}

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
            TakeError: if the file is missing or broken or lacks the direction. Run lengths are
                looked into only when a mask is asked for.
        """
        parts = cls.read_all(path)
        if direction is None and len(parts) == 1:
            direction = next(iter(parts))
        if direction is None or direction not in parts:
            raise TakeError(path, f"no results for direction {direction!r}; it has {list(parts)}")
        return parts[direction]

    @classmethod
    def read_all(cls, path: str | os.PathLike[str]) -> dict[str, Results]:
        """Read all directions of a result file (anyone's).

        Raises:
            TakeError: if the file is missing or broken or has no direction.
        """
        content = read_json(path)
        found = [name for name in DIRECTIONS if name in content]
        if not found:
            raise TakeError(
                path, f'is no result file, {{"ego-exo": {{"results": ...}}}}; no part {DIRECTIONS}'
            )
        return {name: cls._of(path, name, content[name]) for name in found}

    @classmethod
    def _of(cls, path: str | os.PathLike[str], direction: str, part: Any) -> Results:
        if not isinstance(part, dict) or not isinstance(part.get("results"), dict):
            raise TakeError(path, f"{direction!r} holds no 'results' by take")
        results = cls(direction)
        results.version = str(part.get("version", ""))
        results.challenge = str(part.get("challenge", ""))
        for take, entry in part["results"].items():
            where = f"{direction}, take {take!r}"
            if not isinstance(entry, dict) or not isinstance(entry.get("masks"), dict):
                raise TakeError(path, f"{where} holds no 'masks' by object")
            problem = _problem(entry["masks"])
            if problem:
                raise TakeError(path, f"{where}, {problem}")
            entry["subsample_idx"] = list(frame_numbers(path, entry.get("subsample_idx")))
            results._takes[take] = entry
        return results


def _problem(masks: dict[str, Any]) -> str:
    """What is wrong with the shape of a take's predictions, empty if nothing is."""
    for name, pairs in masks.items():
        if not isinstance(pairs, dict | None):
            return f"object {name!r}: no masks by pair of cameras"
        for pair, frames in (pairs or {}).items():
            where = f"object {name!r}, pair {pair!r}"
            if not isinstance(frames, dict | None):
                return f"{where}: no masks by frame"
            for frame in frames or {}:
                if not is_frame(frame):
                    return f"{where}: {frame[:80]!r} is no frame number"
    return ""


def write_results(path: str | os.PathLike[str], *results: Results) -> None:
    """Write a result file with one or both directions; it is replaced in one step."""
    content = {one.direction: one.content for one in results}
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, json.dumps(content, ensure_ascii=False))
