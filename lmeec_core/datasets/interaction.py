"""From hand to object: what is touched, and what moves, by a stated rule on masks.

An object **moves** at a tick if it has moved since the tick before. A camera says so if

1. the mask's centroid has gone farther than :data:`FAR` of the object's size (the root of its area)
   and :data:`LEAST` pixels, less what the camera itself has moved: the median of all objects' ways,
   where it sees three or more; and
2. the mask of before, put at the new centroid, covers the new one better than where it would be if
   only the camera had moved. So an object that a hand begins to cover does not count as moving.

A camera that lacks the object at one of the ticks says nothing. A worn camera is asked only where
no other one can tell, since things at other distances pass it at another pace; it says nothing if
it sees fewer than three objects. The object moves if at least half of the cameras asked say so.

An object is in **contact** with the hand if the hand's mask, made wider by :data:`REACH` of the
image's diagonal, overlaps its mask in every camera that sees both: a hand in front of an object
overlaps it in some views only. What is in contact and moves is **in the hand**.
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
"""Objects that tell a camera's own motion."""
REACH = 0.01
Mask = NDArray[np.bool_]


class Touch(NamedTuple):
    """What the masks say of an object at a tick.

    Attributes:
        moves: it has moved since the tick before.
        contact: the hand touches it.
    """

    moves: bool
    contact: bool

    @property
    def in_hand(self) -> bool:
        """Touched, and moving."""
        return self.moves and self.contact


class Interaction:
    """Follows the masks of a recording from tick to tick."""

    def __init__(self) -> None:
        self._before: dict[str, Mapping[str, Mask]] = {}

    def step(
        self,
        cameras: Mapping[str, Mapping[str, Mask | None]],
        hand: Mapping[str, Mask | None],
    ) -> dict[str, Touch]:
        """Go one tick further.

        Args:
            cameras: by camera and object the masks, bool (H, W); those of a camera have one size.
            hand: the hand's mask by camera, of any size of the same shape.

        Returns:
            by object, of those that a camera sees.
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
    """What a camera says of the objects that it sees at both of two ticks; see the module.

    Args:
        before, now: masks by object, none empty.
        worn: whether the camera may move.
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
    """IoU of a mask that has gone some way with another one."""
    x, y = (round(float(value)) for value in way)
    turn = np.array([[1, 0, x], [0, 1, y]], np.float32)
    size = (before.shape[1], before.shape[0])
    moved = cv2.warpAffine(before.astype(np.uint8), turn, size, flags=cv2.INTER_NEAREST) > 0
    return float((moved & now).sum() / max(1, (moved | now).sum()))


def _reach(hand: Mask | None, masks: Mapping[str, Mask]) -> Mask | None:
    """The hand's mask, wider, at the size of the objects' masks."""
    if hand is None or not hand.any() or not masks:
        return None
    size = next(iter(masks.values())).shape
    small = resize_mask(hand, (size[0], size[1])).astype(np.uint8)
    width = max(1, round(REACH * float(np.hypot(*size))))
    return cv2.dilate(small, np.ones((2 * width + 1, 2 * width + 1), np.uint8)) > 0
