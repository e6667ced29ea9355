"""What a dataset holds: the plan that all its episodes share, and the content of one tick."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmeec_core.calibration import Calibration, calibration_text, pose_row
from lmeec_core.datasets.faces import FaceModel
from lmeec_core.datasets.interaction import Interaction
from lmeec_core.geometry import GeometryError, centroid
from lmeec_core.takes import encode_mask
from lmeec_core.takes.rle import Rle
from lmeec_core.viewing.moments import Mask, View
from lmeec_core.viewing.options import ViewOptions


@dataclass(frozen=True)
class Plan:
    """What is the same in all episodes of a dataset.

    Attributes:
        fps: ticks per second of the common clock.
        fps_given: whether the user chose it, so that frames between the ticks are not missed.
        query: the query camera.
        cameras: names, the query camera first.
        sizes: (height, width) of each camera's images.
        slots: object ids; a slot has the same object in every episode.
        beyond: objects that have no slot, because there are too few.
        threshold: probability from which a predicted object counts as visible, 0 to 1.
        predicted: whether the target cameras' masks are predictions; else annotations.
        located: whether there are points in space: in some recording, two cameras have a lens and
            a pose.
        hand: the object that is a hand, so that what it touches and moves is told; empty: none.
        faces: the detector of the faces to blur; None: the images as they are.
    """

    fps: int
    fps_given: bool
    query: str
    cameras: tuple[str, ...]
    sizes: Mapping[str, tuple[int, int]]
    slots: tuple[str, ...]
    beyond: tuple[str, ...]
    threshold: float
    predicted: bool
    located: bool = False
    hand: str = ""
    faces: FaceModel | None = None

    @property
    def object_fields(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What :attr:`Tick.objects` holds: type, and shape of each object."""
        fields: dict[str, tuple[str, tuple[int, ...]]] = {}
        if self.located:
            fields |= {"position": ("float32", (3,)), "position_valid": ("bool", ())}
        if self.hand:
            fields |= {"moves": ("bool", ()), "contact": ("bool", ())}
        return fields

    def identity(self) -> dict[str, Any]:
        """All that the episodes' files depend on, as JSON returns it."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        found: dict[str, Any] = json.loads(json.dumps(content))
        return found


@dataclass(frozen=True)
class Episode:
    """One recording of a dataset.

    Attributes:
        options: how to open it.
        name: of the recording.
        label: the name as that of a file, unlike any other episode's.
        task: the sentence that says what is done in it.
        frames: largest number of moments, for the progress bar.
        inputs: a fingerprint of its files.
        calibration: lenses and poses of the plan's cameras; empty where none are known.
        calibrated_by: the file that they are from.
    """

    options: ViewOptions
    name: str
    label: str
    task: str
    frames: int
    inputs: str
    calibration: Calibration = field(default_factory=Calibration)
    calibrated_by: Path | None = None

    @property
    def key(self) -> str:
        """Name of its folder in the work folder."""
        what = (str(self.options.source.resolve()), self.options.take, self.options.query)
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]

    def identity(self) -> dict[str, Any]:
        """All that its files depend on besides the plan."""
        known = hashlib.sha256(calibration_text(self.calibration).encode()).hexdigest()
        return {"name": self.name, "label": self.label, "task": self.task, "inputs": self.inputs,
                "calibration": known}  # fmt: skip


class Rows(NamedTuple):
    """The N object slots of a dataset in one camera's image.

    Pixels are those of the camera's image, (0, 0) the centre of the top-left one. What is not
    visible has zeros.

    Attributes:
        known: bool (N,), whether anything was said of the object: a mask, or that it is not there.
        visible: bool (N,), whether it is there: probability at the threshold or above, and a mask.
        score: float32 (N,), the probability; of query masks and annotations 1 or 0.
        bbox: float32 (N, 4), x and y of the left upper and the right lower corner: the edges of
            the mask's pixels, so that width and height are differences.
        centroid: float32 (N, 2), x and y of the mask's mean pixel.
        area: float32 (N,), the mask's share of the image.
        rles: masks at their own size, as COCO run lengths; None without a mask.
        masks: the same, bool (h, w).
    """

    known: NDArray[np.bool_]
    visible: NDArray[np.bool_]
    score: NDArray[np.float32]
    bbox: NDArray[np.float32]
    centroid: NDArray[np.float32]
    area: NDArray[np.float32]
    rles: list[Rle | None]
    masks: list[Mask | None]


class CameraTick(NamedTuple):
    """One camera at one tick.

    Attributes:
        image: RGB uint8 (H, W, 3); black where there is none.
        stamp_ns: the image's own stamp; -1 where there is none.
        rows: the objects.
    """

    image: NDArray[np.uint8]
    stamp_ns: int
    rows: Rows


class Tick(NamedTuple):
    """One tick of the common clock.

    Attributes:
        number: within the episode, from 0.
        frame: number of the recording's frame that it shows.
        cameras: by name, in the plan's order.
        objects: (N, ...) of each of the plan's object fields. position: points in space, zeros
            where not position_valid. moves, contact: of :class:`.interaction.Touch`.
    """

    number: int
    frame: int
    cameras: Mapping[str, CameraTick]
    objects: Mapping[str, NDArray[Any]]


def rows_of(view: View, plan: Plan) -> Rows:
    """The object slots of a view.

    Args:
        view: of the query camera or a target camera.
        plan: the slots and the threshold; whether target cameras have predictions or annotations.
    """
    count = len(plan.slots)
    known, visible = np.zeros(count, bool), np.zeros(count, bool)
    score, area = np.zeros(count, np.float32), np.zeros(count, np.float32)
    bbox, middle = np.zeros((count, 4), np.float32), np.zeros((count, 2), np.float32)
    rles: list[Rle | None] = [None] * count
    masks: list[Mask | None] = [None] * count
    predicted = plan.predicted and view.camera != plan.query
    given = view.masks if predicted or view.camera == plan.query else view.truth or {}
    for slot, name in enumerate(plan.slots):
        mask = given.get(name)
        seen = mask is not None and bool(mask.any())
        known[slot] = name in view.presence if predicted else mask is not None
        score[slot] = view.presence.get(name, 0.0) if predicted else float(seen)
        if mask is None or not seen:
            continue
        masks[slot], rles[slot] = mask, encode_mask(mask)
        visible[slot] = score[slot] >= plan.threshold
        if visible[slot]:
            area[slot] = mask.mean()
            bbox[slot], middle[slot] = _place(mask, plan.sizes[view.camera])
    return Rows(known, visible, score, bbox, middle, area, rles, masks)


def _place(mask: Mask, size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Box and centroid of a mask in the pixels of an image of (height, width)."""
    scale = np.array([size[1] / mask.shape[1], size[0] / mask.shape[0]])
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    corners = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]) * scale
    middle = (np.array(centroid(mask)) + 0.5) * scale - 0.5
    return corners.reshape(4), middle


def positions(
    cameras: Mapping[str, CameraTick], plan: Plan, calibration: Calibration, frame: int
) -> dict[str, NDArray[Any]]:
    """Points in space of the objects that two or more calibrated cameras see, from centroids.

    Args:
        cameras: of one tick.
        plan: of the dataset.
        calibration: of the recording.
        frame: number of the recording's frame, for cameras that move.

    Returns:
        "position" and "position_valid"; nothing if the plan has none.
    """
    count = len(plan.slots)
    points, valid = np.zeros((count, 3), np.float32), np.zeros(count, bool)
    if not plan.located:
        return {}
    for slot in range(count):
        pixels = {
            name: (np.asarray(one.rows.centroid[slot], np.float64), plan.sizes[name][::-1])
            for name, one in cameras.items()
            if one.rows.visible[slot]
        }
        try:
            found = calibration.triangulate(frame, pixels)
        except GeometryError:  # that there is no point is what position_valid says
            continue
        points[slot], valid[slot] = found.point, True
    return {"position": points, "position_valid": valid}


def touches(
    cameras: Mapping[str, CameraTick], plan: Plan, rule: Interaction
) -> dict[str, NDArray[Any]]:
    """What moves, and what the hand touches.

    Returns:
        "moves" and "contact", bool (N,); nothing if the plan names no hand.
    """
    if not plan.hand:
        return {}
    hand = plan.slots.index(plan.hand)
    seen, hands = {}, {}
    for name, one in cameras.items():
        masks = {slot: m if one.rows.visible[slot] else None
                 for slot, m in enumerate(one.rows.masks)}  # fmt: skip
        hands[name] = masks.pop(hand)
        seen[name] = {plan.slots[slot]: mask for slot, mask in masks.items()}
    found = rule.step(seen, hands)
    moves, contact = np.zeros(len(plan.slots), bool), np.zeros(len(plan.slots), bool)
    for slot, name in enumerate(plan.slots):
        if name in found:
            moves[slot], contact[slot] = found[name]
    return {"moves": moves, "contact": contact}


def pose_rows(calibration: Calibration, frame: int) -> dict[str, list[float] | None]:
    """Where the cameras that move are in a frame, x, y, z and the quaternion x, y, z, w."""
    found: dict[str, list[float] | None] = {}
    for name, by_frame in calibration.moving.items():
        pose = by_frame.get(frame)
        found[name] = None if pose is None else pose_row(pose)
    return found


def object_spans(spans: dict[str, dict[str, list[int]]], tick: Tick, slots: Sequence[str]) -> None:
    """Note per object and camera the first and the last tick where it is visible, and how many."""
    for camera, one in tick.cameras.items():
        for slot in np.flatnonzero(one.rows.visible):
            span = spans.setdefault(slots[int(slot)], {}).setdefault(camera, [tick.number, 0, 0])
            span[1:] = tick.number, span[2] + 1
