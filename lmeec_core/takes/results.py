"""The benchmark's result file.

{"ego-exo": {"version": ..., "challenge": ..., "results": {take: {
    "masks": {object: {"<query>_<target>": {frame: {"pred_mask": RLE, "confidence": p}}}},
    "subsample_idx": [frame, ...]}}}}

If query masks were tracked from prompts, a take also has
``"query_masks": {object: {camera: {frame: {"pred_mask": RLE, "confidence": p}}}}``, which the
benchmark ignores.

Frame keys may have leading zeros. A confidence may also be a list with one number (the result of
``tolist()`` for a tensor with one element), text, or true and false.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.files import write_text
from lmeec_core.takes.cameras import DIRECTIONS
from lmeec_core.takes.errors import TakeError
from lmeec_core.takes.json_file import read_json
from lmeec_core.takes.keys import by_frame, frame_number, frame_numbers
from lmeec_core.takes.rle import Rle, check_form, decode_mask, encode_mask

__all__ = ["DIRECTIONS", "Prediction", "Results", "write_results"]

VERSION = "00"
CHALLENGE = "xview"
QUERY_MASKS = "query_masks"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class Prediction(NamedTuple):
    """One predicted mask. Its format is checked; the run lengths are checked when it is decoded.

    Attributes:
        take, object_name, pair, frame: the object and the image; ``pair`` is "<query>_<target>".
        rle: the mask as COCO run lengths.
        confidence: the file's probability that the object is in the target image, in [0, 1]; values
            from -1e6 to 1e6 are accepted.
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
            InputError: the run lengths are broken.
        """
        return decode_mask(self.rle)


class Results:
    """Predictions of one direction, to be written as or read from a result file.

    Args:
        direction: "ego-exo" (the query is the ego view) or "exo-ego".
    """

    def __init__(self, direction: str) -> None:
        if direction not in DIRECTIONS:
            raise InputError(f"direction {direction!r} was given, expected one of {DIRECTIONS}")
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
        frames[frame_number(int(frame))] = {"pred_mask": rle, "confidence": float(confidence)}

    def add_query(
        self,
        take: str,
        object_name: str,
        camera: str,
        frame: int,
        mask: NDArray[Any] | Rle,
        confidence: float,
    ) -> None:
        """Add the mask that was tracked in the query view; see :meth:`add`."""
        entry = self._takes.setdefault(take, {"masks": {}, "subsample_idx": []})
        masks = entry.setdefault(QUERY_MASKS, {})
        frames = masks.setdefault(object_name, {}).setdefault(camera, {})
        rle = encode_mask(mask) if isinstance(mask, np.ndarray) else mask
        frames[frame_number(int(frame))] = {"pred_mask": rle, "confidence": float(confidence)}

    def tracked(self, take: str) -> bool:
        """Whether the take's query masks were tracked from prompts."""
        return bool(self._takes[take].get(QUERY_MASKS)) if take in self._takes else False

    def query_places(self, take: str) -> Iterator[tuple[str, str, int]]:
        """(object, camera, frame) of the query masks tracked from prompts, frames increasing."""
        for name, cameras in (self._takes[take].get(QUERY_MASKS) or {}).items():
            for camera, frames in cameras.items():
                for frame in sorted(frames):
                    yield name, camera, frame

    def query_rle(self, take: str, object_name: str, camera: str, frame: int) -> Rle | None:
        """A mask that was tracked in the query view; None if there is none.

        Raises:
            InputError: the entry is not a dictionary.
        """
        masks = (self._takes[take].get(QUERY_MASKS) or {}) if take in self._takes else {}
        return _mask_of((masks.get(object_name) or {}).get(camera, {}).get(frame))

    def add_object(self, take: str, object_name: str) -> None:
        """List an object; the benchmark requires all objects of a take, with or without masks."""
        entry = self._takes.setdefault(take, {"masks": {}, "subsample_idx": []})
        entry["masks"].setdefault(object_name, {})

    def set_frames(self, take: str, frames: list[int]) -> None:
        """Set a take's ``subsample_idx``: the frames that were processed."""
        entry = self._takes.setdefault(take, {"masks": {}, "subsample_idx": []})
        entry["subsample_idx"] = [int(frame) for frame in frames]

    def frames(self, take: str) -> tuple[int, ...]:
        """A take's ``subsample_idx``; () if it has none."""
        return tuple(int(n) for n in self._takes[take].get("subsample_idx") or ())

    def objects(self, take: str) -> tuple[str, ...]:
        """Objects listed for a take, including those without predictions."""
        return tuple(self._masks(take))

    def pairs(self, take: str, object_name: str) -> tuple[str, ...]:
        """Names "<query>_<target>" of an object's camera pairs."""
        return tuple(self._masks(take).get(object_name) or {})

    def pair_frames(self, take: str, object_name: str, pair: str) -> tuple[int, ...]:
        """Frames with a prediction, increasing."""
        return tuple(sorted(self._entries(take, object_name, pair)))

    def places(self, take: str | None = None) -> Iterator[tuple[str, str, str, int]]:
        """(take, object, pair, frame) of all predictions, or of those of one take."""
        for name in self._takes if take is None else (take,):
            for object_name in self.objects(name):
                for pair in self.pairs(name, object_name):
                    for frame in self.pair_frames(name, object_name, pair):
                        yield name, object_name, pair, frame

    def predictions(self, take: str | None = None) -> Iterator[Prediction]:
        """All predictions, or those of one take, frames in increasing order per object and pair.

        Raises:
            InputError: a prediction cannot be read.
        """
        for place in self.places(take):
            yield self.at(*place)

    def get(
        self, take: str, object_name: str, query: str, target: str, frame: int
    ) -> Prediction | None:
        """One prediction, or None if there is none."""
        return self.prediction(take, object_name, f"{query}_{target}", frame)

    def prediction(self, take: str, object_name: str, pair: str, frame: int) -> Prediction | None:
        """One prediction by the pair's name, or None if there is none.

        Raises:
            InputError: the prediction has a wrong format; shows it.
        """
        there = frame in self._entries(take, object_name, pair)
        return self.at(take, object_name, pair, frame) if there else None

    def at(self, take: str, object_name: str, pair: str, frame: int) -> Prediction:
        """The prediction at one of :meth:`places`.

        Raises:
            InputError: the prediction has a wrong format; shows it.
            KeyError: there is no such prediction.
        """
        entry = self._entries(take, object_name, pair)[frame]
        if not isinstance(entry, dict) or not {"pred_mask", "confidence"} <= entry.keys():
            raise InputError(
                f"a prediction is {reprlib.repr(entry)}, "
                '{"pred_mask": mask, "confidence": number} expected'
            )
        check_form(entry["pred_mask"])
        confidence = read_confidence(entry["confidence"])
        return Prediction(take, object_name, pair, frame, entry["pred_mask"], confidence)

    def rle(self, take: str, object_name: str, pair: str, frame: int) -> Rle | None:
        """Run lengths of a mask by the pair's name, whatever its confidence; None if there is none.

        Raises:
            InputError: the entry is not a dictionary.
        """
        return _mask_of(self._entries(take, object_name, pair).get(frame))

    def _masks(self, take: str) -> dict[str, Any]:
        return self._takes[take]["masks"] if take in self._takes else {}

    def _entries(self, take: str, object_name: str, pair: str) -> dict[int, Any]:
        return (self._masks(take).get(object_name) or {}).get(pair) or {}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically."""
        write_results(path, self)

    @property
    def content(self) -> dict[str, Any]:
        """The content of the file for this direction."""
        return {"version": self.version, "challenge": self.challenge, "results": self._takes}

    @classmethod
    def read(cls, path: str | os.PathLike[str], direction: str | None = None) -> Results:
        """Read a result file of any method.

        Args:
            path: the file.
            direction: the direction to read; optional if the file has only one.

        Raises:
            TakeError: the file is missing or broken, or lacks the direction. Run lengths are
                checked only when a mask is decoded.
        """
        parts = cls.read_all(path)
        if direction is None and len(parts) == 1:
            direction = next(iter(parts))
        if direction is None or direction not in parts:
            raise TakeError(path, f"no results for direction {direction!r}; it has {list(parts)}")
        return parts[direction]

    @classmethod
    def read_all(cls, path: str | os.PathLike[str]) -> dict[str, Results]:
        """Read all directions of a result file of any method.

        Raises:
            TakeError: the file is missing or broken, has no direction, or has results under an
                unknown direction.
        """
        content = read_json(path)
        found = [name for name in DIRECTIONS if name in content]
        others = [name for name, part in content.items() if name not in found and _is_part(part)]
        if others or not found:
            there = reprlib.repr(list(content))
            raise TakeError(
                path,
                f'is not a result file, {{"ego-exo": {{"results": ...}}}}: the keys {DIRECTIONS} '
                f"are expected, it has {there}",
            )
        return {name: cls._of(path, name, content[name]) for name in found}

    @classmethod
    def _of(cls, path: str | os.PathLike[str], direction: str, part: Any) -> Results:
        if not isinstance(part, dict) or not isinstance(part.get("results"), dict):
            raise TakeError(path, f"{direction!r} has no 'results' by take")
        results = cls(direction)
        results.version = str(part.get("version", ""))
        results.challenge = str(part.get("challenge", ""))
        for take, entry in part["results"].items():
            where = f"{direction}, take {take!r}"
            if not isinstance(entry, dict) or not isinstance(entry.get("masks"), dict):
                raise TakeError(path, f"{where} has no 'masks' by object")
            try:
                masks = _by_number(entry["masks"])
                listed = list(frame_numbers(entry.get("subsample_idx")))
                queries = _by_number(entry.get(QUERY_MASKS) or {})
            except InputError as error:
                raise TakeError(path, f"{where}, {error}") from error
            results._takes[take] = {**entry, "masks": masks, "subsample_idx": listed}
            if queries:
                results._takes[take][QUERY_MASKS] = queries
        return results


def read_confidence(given: object) -> float:
    """A confidence as a number, from any of the accepted formats; see the module.

    Raises:
        InputError: it is not a number from -1e6 to 1e6.
    """
    value = given
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    # NaN fails the comparison as well. An int can be too large for a float.
    if not isinstance(value, int | float) or not abs(value) <= 1e6:
        raise InputError(
            f"the prediction's confidence is {reprlib.repr(given)}; a number from 0 to 1 expected "
            "for each mask"
        )
    return float(value)


def _mask_of(entry: Any) -> Rle | None:
    if not isinstance(entry, dict | None):
        raise InputError(f'{reprlib.repr(entry)} given, {{"pred_mask": mask}} expected')
    return None if entry is None else entry.get("pred_mask")


def _is_part(part: object) -> bool:
    return isinstance(part, dict) and isinstance(part.get("results"), dict)


def _by_number(masks: dict[str, Any]) -> dict[str, dict[str, dict[int, Any]]]:
    """A take's predictions with frame numbers as keys.

    Raises:
        InputError: the structure is different; says where.
    """
    found: dict[str, dict[str, dict[int, Any]]] = {}
    for name, pairs in masks.items():
        if not isinstance(pairs, dict | None):
            raise InputError(f"object {name!r}: no masks by pair of cameras")
        found[name] = {}
        for pair, frames in (pairs or {}).items():
            try:
                found[name][pair] = by_frame(frames)
            except InputError as error:
                where = f"object {name!r}, pair {pair!r}"
                raise InputError(f"{where}: no masks by frame: {error}") from error
    return found


def write_results(path: str | os.PathLike[str], *results: Results) -> None:
    """Write a result file with one or both directions, atomically."""
    content = {one.direction: one.content for one in results}
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, json.dumps(content, ensure_ascii=False))
