"""Interaction of a hand with objects: which are touched, and which move, by a rule on masks.

An object **moves** at a tick if it has moved since the tick before. A camera judges that it has if

1. the displacement of the mask's centroid is larger than :data:`FAR` of the object's size (the
   square root of its area) and than :data:`LEAST` pixels. The camera's own motion is subtracted
   first: the median displacement of all objects, if it sees at least three; and
2. the earlier mask overlaps the new mask better when shifted by the object's displacement than when
   shifted by the camera's motion. So an object that a hand begins to cover does not count as
   moving.

A camera that does not see the object at both ticks is ignored. A worn camera is used only if no
other camera sees the object, because objects at different distances have different displacements in
it, and only if it sees at least three objects. The object moves if at least half of the cameras
used judge that it has moved.

An object is in **contact** with the hand if the hand's mask, widened by :data:`REACH` of the
image's diagonal, overlaps the object's mask in every camera that sees both: a hand in front of an
object overlaps it only in some views. An object that moves and is in contact is **in the hand**.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.geometry import centroid
from lmeec_core.takes import is_ego, resize_mask

FAR = 0.15
LEAST = 1.5
ENOUGH = 3
"""Minimum number of objects from which a camera's own motion is estimated."""
REACH = 0.01
Mask = NDArray[np.bool_]


class Touch(NamedTuple):
    """The interaction with an object at a tick.

    Attributes:
        moves: the object has moved since the tick before.
        contact: the hand touches the object.
    """

    moves: bool
    contact: bool

    @property
    def in_hand(self) -> bool:
        """Whether the object is touched and moves."""
        return self.moves and self.contact


class Interaction:
    """Applies the rule to the masks of a recording, tick by tick."""

    def __init__(self) -> None:
        self._before: dict[str, Mapping[str, Mask]] = {}

    def step(
        self,
        cameras: Mapping[str, Mapping[str, Mask | None]],
        hand: Mapping[str, Mask | None],
    ) -> dict[str, Touch]:
        """Process the next tick.

        Args:
            cameras: masks, bool (H, W), by camera and object; of one size within a camera.
            hand: the hand's mask by camera, of any size with the same aspect ratio.

        Returns:
            the interaction with each object that a camera sees.
        """
        seen: dict[str, Mapping[str, Mask]] = {
            camera: {n: m for n, m in masks.items() if m is not None and m.any()}
            for camera, masks in cameras.items()
        }
        moves: dict[str, list[bool]] = {}
        worn_moves: dict[str, list[bool]] = {}
        contact: dict[str, list[bool]] = {}
        for camera, masks in seen.items():
            worn = is_ego(camera)
            for name, says in moving(self._before.get(camera, {}), masks, worn).items():
                (worn_moves if worn else moves).setdefault(name, []).append(says)
            reach = _reach(hand.get(camera), masks)
            if reach is not None:
                for name, mask in masks.items():
                    contact.setdefault(name, []).append(bool((mask & reach).any()))
        self._before, moves = seen, {**worn_moves, **moves}
        names = dict.fromkeys(name for masks in seen.values() for name in masks)
        return {
            name: Touch(
                2 * sum(moves.get(name, ())) >= max(1, len(moves.get(name, ()))),
                bool(contact.get(name)) and all(contact[name]),
            )
            for name in names
        }


def moving(before: Mapping[str, Mask], now: Mapping[str, Mask], worn: bool) -> dict[str, bool]:
    """Which of the objects seen at both of two ticks have moved, for one camera; see the module.

    Args:
        before, now: masks by object, none empty.
        worn: whether the camera is worn, and may move.
    """
    both = [name for name in now if name in before and before[name].shape == now[name].shape]
    if worn and len(both) < ENOUGH:
        return {}
    ways = {n: np.subtract(centroid(now[n]), centroid(before[n])) for n in both}
    own = np.median(list(ways.values()), axis=0) if len(both) >= ENOUGH else np.zeros(2)
    found = {}
    for name in both:
        size = np.sqrt((before[name].sum() + now[name].sum()) / 2)
        far = np.linalg.norm(ways[name] - own) > max(FAR * size, LEAST)
        found[name] = bool(far) and (
            _cover(before[name], now[name], ways[name]) > _cover(before[name], now[name], own)
        )
    return found


def _cover(before: Mask, now: Mask, way: NDArray[np.float64]) -> float:
    """IoU of a mask, shifted by ``way``, with another mask."""
    x, y = (round(float(value)) for value in way)
    turn = np.array([[1, 0, x], [0, 1, y]], np.float32)
    size = (before.shape[1], before.shape[0])
    moved = cv2.warpAffine(before.astype(np.uint8), turn, size, flags=cv2.INTER_NEAREST) > 0
    return float((moved & now).sum() / max(1, (moved | now).sum()))


def _reach(hand: Mask | None, masks: Mapping[str, Mask]) -> Mask | None:
    """The widened mask of the hand, at the size of the objects' masks."""
    if hand is None or not hand.any() or not masks:
        return None
    size = next(iter(masks.values())).shape
    small = resize_mask(hand, (size[0], size[1])).astype(np.uint8)
    width = max(1, round(REACH * float(np.hypot(*size))))
    return cv2.dilate(small, np.ones((2 * width + 1, 2 * width + 1), np.uint8)) > 0
