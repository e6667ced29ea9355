"""The content of a dataset: the plan that all episodes share, and the data of one tick."""

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
    """The properties that all episodes of a dataset share.

    Attributes:
        fps: ticks per second of the common clock.
        fps_given: whether the user chose ``fps``; then dropping frames between ticks is no problem.
        query: the query camera.
        cameras: camera names, the query camera first.
        sizes: (height, width) of each camera's images.
        slots: object ids; a slot has the same object in every episode.
        beyond: objects without a slot, because there are too few slots.
        threshold: minimum presence probability of a visible predicted object, 0 to 1.
        predicted: whether the target cameras' masks are predictions; else annotations.
        located: whether there are 3D points, because at least one recording has two cameras with a
            lens and a pose.
        hand: the object that is a hand, to record what it touches and moves; "" for none.
        faces: the detector of the faces to blur; None: faces are not blurred.
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
        """The fields of :attr:`Tick.objects`: type, and shape per object."""
        fields: dict[str, tuple[str, tuple[int, ...]]] = {}
        if self.located:
            fields |= {"position": ("float32", (3,)), "position_valid": ("bool", ())}
        if self.hand:
            fields |= {"moves": ("bool", ()), "contact": ("bool", ())}
        return fields

    def identity(self) -> dict[str, Any]:
        """Everything that the episodes' files depend on, as JSON values."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        found: dict[str, Any] = json.loads(json.dumps(content))
        return found


@dataclass(frozen=True)
class Episode:
    """One recording of a dataset.

    Attributes:
        options: how to open the recording.
        name: name of the recording.
        label: the name as a unique file name.
        task: a sentence that describes the task.
        frames: maximum number of moments, for the progress bar.
        inputs: a fingerprint of the recording's files.
        calibration: lenses and poses of the plan's cameras; empty if unknown.
        calibrated_by: the file of the calibration.
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
        """Name of the episode's folder in the work folder."""
        what = (str(self.options.source.resolve()), self.options.take, self.options.query)
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]

    def identity(self) -> dict[str, Any]:
        """Everything besides the plan that the episode's files depend on."""
        known = hashlib.sha256(calibration_text(self.calibration).encode()).hexdigest()
        return {"name": self.name, "label": self.label, "task": self.task, "inputs": self.inputs,
                "calibration": known}  # fmt: skip


class Rows(NamedTuple):
    """The N object slots of a dataset in one camera's image.

    Coordinates are pixels of the camera's image; (0, 0) is the centre of the top-left pixel.
    Objects that are not visible have zeros.

    Attributes:
        known: bool (N,), whether it is known if the object is visible: there is a prediction or an
            annotation, which may be empty.
        visible: bool (N,), whether the object is visible: its presence probability is at least the
            threshold, and it has a mask.
        score: float32 (N,), the presence probability; 1 or 0 for query masks and annotations.
        bbox: float32 (N, 4), x and y of the upper left and the lower right corner: the edges of
            the mask's pixels, so that width and height are differences.
        centroid: float32 (N, 2), x and y of the mask's centroid.
        area: float32 (N,), the mask's share of the image.
        rles: masks at their own size, as COCO run lengths; None without a mask.
        masks: the same masks, bool (h, w).
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
        image: RGB uint8 (H, W, 3); black if there is no image.
        stamp_ns: the image's own stamp; -1 if there is no image.
        rows: the objects.
    """

    image: NDArray[np.uint8]
    stamp_ns: int
    rows: Rows


class Tick(NamedTuple):
    """One tick of the common clock.

    Attributes:
        number: number of the tick within the episode, from 0.
        frame: the frame number in the recording.
        cameras: by name, in the plan's order.
        objects: the plan's object fields, (N, ...). position: 3D points, zero unless
            position_valid. moves, contact: see :class:`.interaction.Touch`.
    """

    number: int
    frame: int
    cameras: Mapping[str, CameraTick]
    objects: Mapping[str, NDArray[Any]]


def rows_of(view: View, plan: Plan) -> Rows:
    """The object slots of a view.

    Args:
        view: a view of the query camera or a target camera.
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
    """3D points of the objects visible in two or more calibrated cameras, from mask centroids.

    Args:
        cameras: the cameras of one tick.
        plan: the plan of the dataset.
        calibration: the calibration of the recording.
        frame: the frame number in the recording, for moving cameras.

    Returns:
        "position" and "position_valid"; empty if the dataset has no 3D points.
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
        except GeometryError:  # position_valid stays False
            continue
        points[slot], valid[slot] = found.point, True
    return {"position": points, "position_valid": valid}


def touches(
    cameras: Mapping[str, CameraTick], plan: Plan, rule: Interaction
) -> dict[str, NDArray[Any]]:
    """Which objects move, and which the hand touches.

    Returns:
        "moves" and "contact", bool (N,); empty if none of the objects is a hand.
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
    """Poses of the moving cameras in a frame: x, y, z and the quaternion x, y, z, w."""
    found: dict[str, list[float] | None] = {}
    for name, by_frame in calibration.moving.items():
        pose = by_frame.get(frame)
        found[name] = None if pose is None else pose_row(pose)
    return found


def object_spans(spans: dict[str, dict[str, list[int]]], tick: Tick, slots: Sequence[str]) -> None:
    """Update the first and last tick, and the number of ticks, on which each object is visible in
    each camera."""
    for camera, one in tick.cameras.items():
        for slot in np.flatnonzero(one.rows.visible):
            span = spans.setdefault(slots[int(slot)], {}).setdefault(camera, [tick.number, 0, 0])
            span[1:] = tick.number, span[2] + 1
