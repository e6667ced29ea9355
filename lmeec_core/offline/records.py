"""The file of a unit of work: one line of JSON per frame, between a header and a footer.

First line: the unit and the settings it was computed with. Then one line per frame. Last line: the
number of frames, the problems met, and notices. A file without its last line is incomplete and
never used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmeec_core.evaluation import benchmark_size
from lmeec_core.takes import encode_mask, resize_mask
from lmeec_core.takes.rle import Rle


@dataclass(frozen=True)
class ObjectRecord:
    """One object in one target image.

    Attributes:
        object_id: the object.
        label: its value in label images, from 1.
        asked: whether the benchmark expects a prediction, because the query view has an annotation
            of the object on this frame.
        visible: whether the object is judged to be in the target view.
        presence: probability that the object is in the target view, 0 to 1.
        score: predicted IoU, 0 to 1.
        small: the mask at the benchmark's size.
        mask: the mask at the target image's size; None if not visible.
    """

    object_id: str
    label: int
    asked: bool
    visible: bool
    presence: float
    score: float
    small: Rle
    mask: Rle | None


@dataclass(frozen=True)
class QueryRecord:
    """One object in the query image, if its mask is tracked from prompts.

    Attributes:
        object_id: the object.
        presence: probability that the object is in the query view, 0 to 1.
        small: the mask at the benchmark's size.
    """

    object_id: str
    presence: float
    small: Rle


@dataclass(frozen=True)
class Stamp:
    """A message's header: nanoseconds and frame id."""

    ns: int
    frame_id: str


@dataclass(frozen=True)
class FrameRecord:
    """All objects of a unit in one target image.

    Attributes:
        frame: the frame's number in the result file.
        size: (height, width) of the target image, pixels.
        objects: in the order of the unit's objects.
        image: whether there is a target image; without one every object is absent.
        stamp, query_stamp: headers of the target and of the query image, for bags.
        tracked: objects in the query image, if they are tracked from prompts.
    """

    frame: int
    size: tuple[int, int]
    objects: list[ObjectRecord]
    image: bool = True
    stamp: Stamp | None = None
    query_stamp: Stamp | None = None
    tracked: list[QueryRecord] = field(default_factory=list)


class UnitData(NamedTuple):
    """A finished unit, as stored."""

    head: dict[str, Any]
    frames: list[FrameRecord]
    problems: list[str]
    notices: list[str]
    """Remarks about the recording; nothing was left out."""


@dataclass
class Small:
    """Encodes masks at the benchmark's size; empty masks are encoded once per size."""

    _empty: dict[tuple[int, int], Rle] = field(default_factory=dict)

    def of(self, mask: NDArray[np.bool_] | None, size: tuple[int, int]) -> Rle:
        """The mask (H, W) at the benchmark's size; an empty one for None.

        Args:
            mask: bool (H, W) or None.
            size: (H, W).
        """
        if mask is not None and mask.any():
            return encode_mask(resize_mask(mask, benchmark_size(*size)))
        if size not in self._empty:
            self._empty[size] = encode_mask(np.zeros(benchmark_size(*size), bool))
        return self._empty[size]


def dump(
    head: Mapping[str, Any], frames: Iterable[FrameRecord], problems: list[str], notices: list[str]
) -> bytes:
    """The bytes of a unit's file; ``problems`` and ``notices`` are read after the last frame."""
    lines = [_line(head)]
    lines += [_line(asdict(frame)) for frame in frames]
    lines.append(_line({"end": len(lines) - 1, "problems": problems, "notices": notices}))
    return b"".join(lines)


def frame_count(data: bytes) -> int:
    """The number of frames with a target image in a unit's file."""
    return data.count(b'"image":true')  # inside strings, the quotes would be escaped


def parse(data: bytes) -> UnitData:
    """Read a unit's file.

    Raises:
        ValueError: the file is incomplete, or of another version.
    """
    lines = data.split(b"\n")
    if len(lines) < 3 or lines[-1]:
        raise ValueError("cut off")
    head, end = json.loads(lines[0]), json.loads(lines[-2])
    if not isinstance(end, dict) or end.get("end") != len(lines) - 3:
        raise ValueError("cut off")
    try:
        frames, notices = list(_frames(lines[1:-2])), list(end["notices"])
        return UnitData(head, frames, list(end["problems"]), notices)
    except (KeyError, TypeError) as error:
        raise ValueError(f"of another version ({error!r})") from error


def _frames(lines: list[bytes]) -> Iterator[FrameRecord]:
    for line in lines:
        content = json.loads(line)
        content["objects"] = [ObjectRecord(**entry) for entry in content["objects"]]
        content["tracked"] = [QueryRecord(**entry) for entry in content["tracked"]]
        content["size"] = tuple(content["size"])
        for name in ("stamp", "query_stamp"):
            if content[name] is not None:
                content[name] = Stamp(**content[name])
        yield FrameRecord(**content)


def _line(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8") + b"\n"
