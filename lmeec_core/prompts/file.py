"""The file prompts.json: saves the prompts for a recording, to track it from them.

    {"version": 1, "recording": "take_7", "prompts": [
        {"frame": 30, "camera": "aria01", "object": "cup", "points": [[412.5, 300]], "labels": [1]},
        {"frame": 30, "camera": "aria01", "object": "knife", "box_xyxy": [10, 20, 110, 80]},
        {"frame": 60, "camera": "cam01", "object": "cup", "mask": {"size": [H, W], "counts": "..."}}
    ]}

``recording`` is the name of the take or bag, and optional. ``frame`` is the frame number as in the
result file. For a bag, ``stamp`` can be used instead: the stamp of the camera's image in
nanoseconds. Points are x and y in pixels of the image; labels are 1 (on the object) or 0 (not on
it), by default all 1. ``box_xyxy`` is x0, y0, x1, y1 in pixels (unlike COCO's ``bbox``, which has a
width and a height), and can be combined with points. A mask is in COCO's run-length encoding,
compressed (text) or uncompressed (a list), and cannot be combined with points or a box. Prompts for
one object in one image are applied in the order of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from lmeec_core.config import shortened, validated
from lmeec_core.errors import InputError
from lmeec_core.files import write_text
from lmeec_core.prompts.prompt import Prompt
from lmeec_core.takes import TakeError, decode_mask, encode_mask
from lmeec_core.takes.json_file import read_json
from lmeec_core.takes.keys import frame_number

VERSION = 1

_Name = Annotated[str, Field(min_length=1)]
_Point = Annotated[list[float], Field(min_length=2, max_length=2)]
_HINTS = {
    "bbox": "box_xyxy (x0, y0, x1, y1; COCO's bbox has a width and a height)",
    "box": "box_xyxy (x0, y0, x1, y1)",
    "segmentation": 'mask ({"size": [H, W], "counts": ...})',
    "rle": "mask",
    "object_id": "object",
    "point": "points ([[x, y], ...])",
}


@dataclass(frozen=True, eq=False)
class PlacedPrompt:
    """A prompt, and its place in a recording.

    Attributes:
        camera: the camera in whose image the object is marked.
        prompt: the object, and where it is in the image.
        frame: the frame number in the result file.
        stamp: for a bag, the stamp of the camera's image, nanoseconds. Either ``frame`` or
            ``stamp`` is None.
    """

    camera: str
    prompt: Prompt
    frame: int | None = None
    stamp: int | None = None

    def __str__(self) -> str:
        place = f"stamp {self.stamp}" if self.frame is None else f"frame {self.frame}"
        return f"prompt for {self.prompt.object_id!r} in camera {self.camera!r}, {place}"


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of one recording.

    Attributes:
        recording: name of the take or bag; None if unknown.
        prompts: in the order in which they are applied.
    """

    recording: str | None = None
    prompts: tuple[PlacedPrompt, ...] = ()

    @property
    def objects(self) -> tuple[str, ...]:
        """Ids of the objects, in the order of their first prompts."""
        return tuple(dict.fromkeys(one.prompt.object_id for one in self.prompts))

    @cached_property
    def digest(self) -> str:
        """A hash of the prompts, which does not depend on the formatting of the file."""
        text = json.dumps([_entry(one) for one in self.prompts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _File(_Strict):
    version: int
    recording: _Name | None = None
    prompts: list[dict[str, Any]]


class _Entry(_Strict):
    camera: _Name
    object: _Name
    frame: int | str | None = None
    stamp: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    points: Annotated[list[_Point], Field(min_length=1)] | None = None
    labels: list[Annotated[int, Field(ge=0, le=1)]] | None = None
    box_xyxy: Annotated[list[float], Field(min_length=4, max_length=4)] | None = None
    mask: dict[str, Any] | None = None


def read_prompts(path: str | os.PathLike[str]) -> Prompts:
    """Read a file of prompts.

    Raises:
        TakeError: the file cannot be read, or an entry is invalid; names the file and the entry.
    """
    content = read_json(path)
    try:
        _check_keys(_File, content, "the file")
        file = validated(_File, content, "not as expected")
        if file.version != VERSION:
            raise InputError(f"version {file.version} given, {VERSION} expected")
        prompts = tuple(_placed(f"prompts[{i}]", entry) for i, entry in enumerate(file.prompts))
    except InputError as error:
        raise TakeError(path, str(error)) from error
    return Prompts(file.recording, prompts)


def write_prompts(path: str | os.PathLike[str], prompts: Prompts) -> None:
    """Write a file of prompts, atomically.

    Raises:
        InputError: an entry is invalid; names it. Nothing is written then.
        OSError: the file cannot be written.
    """
    entries = [_entry(one) for one in prompts.prompts]
    for i, entry in enumerate(entries):
        _placed(f"prompts[{i}]", entry)
    content = {"version": VERSION, "recording": prompts.recording, "prompts": entries}
    validated(_File, content, "prompts")
    lines = ",\n".join(f"  {json.dumps(entry, ensure_ascii=False)}" for entry in entries)
    head = json.dumps({k: v for k, v in content.items() if k != "prompts"}, ensure_ascii=False)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, f'{head[:-1]}, "prompts": [\n{lines}\n]}}\n')


def _entry(one: PlacedPrompt) -> dict[str, Any]:
    """A prompt as an entry of the file."""
    prompt = one.prompt
    entry: dict[str, Any] = {"frame": one.frame, "stamp": one.stamp, "camera": one.camera}
    entry["object"] = prompt.object_id
    if prompt.points:
        entry["points"] = [[float(x) for x in point] for point in prompt.points]
        entry["labels"] = [int(label) for label in prompt.labels] or [1] * len(prompt.points)
    elif prompt.labels:
        entry["labels"] = [int(label) for label in prompt.labels]
    if prompt.box is not None:
        entry["box_xyxy"] = [float(x) for x in prompt.box]
    if prompt.mask is not None:
        entry["mask"] = encode_mask(prompt.mask)
    return {key: value for key, value in entry.items() if value is not None}


def _placed(where: str, content: Mapping[str, Any]) -> PlacedPrompt:
    """The prompt of an entry of the file.

    Raises:
        InputError: the entry is invalid; names it.
    """
    _check_keys(_Entry, content, where)
    entry = validated(_Entry, content, where)
    try:
        return PlacedPrompt(
            entry.camera,
            _prompt(entry),
            None if entry.frame is None else frame_number(entry.frame),
            entry.stamp,
        )
    except InputError as error:
        raise InputError(f"{where} (object {entry.object!r}): {error}") from error


def _prompt(entry: _Entry) -> Prompt:
    """The prompt of an entry; checks that its parts are consistent."""
    points, labels, box = entry.points or [], entry.labels, entry.box_xyxy
    if (entry.frame is None) == (entry.stamp is None):
        raise InputError("either frame or, in a bag, stamp expected")
    if entry.mask is not None and (points or labels or box):
        raise InputError("a mask and points or box_xyxy given; a mask must be given alone")
    if entry.mask is None and not points and box is None:
        raise InputError("points, box_xyxy or mask expected")
    if labels is not None and len(labels) != len(points):
        raise InputError(
            f"{len(labels)} labels given, one for each of {len(points)} points expected"
        )
    if box is not None and not (box[0] < box[2] and box[1] < box[3]):
        raise InputError(f"box_xyxy {box} given, x0 < x1 and y0 < y1 expected")
    return Prompt(
        entry.object,
        tuple((x, y) for x, y in points),
        tuple([1] * len(points) if labels is None else labels),
        None if box is None else (box[0], box[1], box[2], box[3]),
        None if entry.mask is None else decode_mask(entry.mask),
    )


def _check_keys(kind: type[BaseModel], content: Mapping[str, Any], where: str) -> None:
    for key in content:
        if key not in kind.model_fields:
            known = _HINTS.get(key) or f"one of {', '.join(kind.model_fields)}"
            raise InputError(f"{where}: unknown key {shortened(key)}, {known} expected")
