"""Training clips from simulated scenes: crops of two views with objects for both directions."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lmeec_core.evaluation.scenes import MIN_AREA
from lmeec_core.training.augment import (
    change_colours,
    crop_image,
    crop_labels,
    crop_matrix,
    draw_colours,
)
from lmeec_core.training.clips import Clip, Clips
from lmeec_core.training.stages import Stage
from lmeec_core.training.store import LABELS, PERSON, Scene, areas, open_scene

SAME_TIME = 0.8
"""Share of single-frame clips whose two views show the same moment."""
WITH_EGO = 0.8
"""Share of clips with an ego and an exo camera; the others have two exo cameras."""
ANYTHING = 0.3
"""Share of pairs of views without a common object that are used nevertheless."""
APART = 0.08
"""Share of clips whose second view is of another scene, so that every sought object is absent."""


class SceneKey(NamedTuple):
    """Which clip to draw; everything else depends on the number and the seed."""

    number: int
    scenes: tuple[Path, ...]
    """One scene per attempt."""
    stage: Stage


class _Views(NamedTuple):
    """Source of a clip: scene, frames and camera of the first and of the second view."""

    scenes: tuple[Scene, Scene]
    frames: NDArray[np.int64]  # (T, 2)
    cameras: tuple[int, int]

    @property
    def apart(self) -> bool:
        """Whether the views are of different scenes, so that their labels are unrelated."""
        return self.scenes[0].path != self.scenes[1].path

    def area(self, view: int, time: int) -> NDArray[np.int64]:
        """Visible pixels of every label in a view."""
        return self.scenes[view].area(self.frames[time, view], self.cameras[view])


def draw_views(scene: Scene, other: Scene, times: int, random: np.random.Generator) -> _Views:
    """Draw two cameras in either order, and the frames: consecutive, forwards or backwards.

    Args:
        scene, other: scenes of the first and of the second view, usually the same.
        times: number of frames, without a jump in time.
        random: random generator.

    Raises:
        InputError: a scene has no run of ``times`` frames.
    """
    cameras = scene.packed.shape[1]
    exo = int(random.integers(1, cameras))
    first = 0
    if cameras > 2 and random.random() >= WITH_EGO:
        first = 1 + (exo - 1 + int(random.integers(1, cameras - 1))) % (cameras - 1)
    pair = (first, exo) if random.random() < 0.5 else (exo, first)
    start = np.array([random.choice(one.starts(times)) for one in (scene, other)])
    if scene is other and (times > 1 or random.random() < SAME_TIME):
        start[1] = start[0]
    order = np.arange(times) if times == 1 or random.random() < 0.5 else np.arange(times)[::-1]
    return _Views((scene, other), start[None] + order[:, None], pair)


def choose_objects(
    positive: NDArray[np.bool_],
    negative: NDArray[np.bool_],
    sought: int,
    count: int,
    share: float,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw the labels of ``count`` objects; 0 where there are too few.

    Each of the first ``sought`` objects is in the other view with probability ``share``, if there
    are objects of both kinds. The rest are always in the other view and differ from the first.

    Args:
        positive, negative: (LABELS,) bool, objects that are and that are not in the other view.
        sought, count, share: see above.
        random: random generator.
    """
    there = random.permutation(np.flatnonzero(positive))
    gone = random.permutation(np.flatnonzero(negative))[:sought]
    wanted = random.random(sought) < share
    chosen = np.zeros(count, dtype=np.int64)
    if len(there) and len(gone):
        turns = np.where(wanted, wanted.cumsum(), (~wanted).cumsum()) - 1
        chosen[:sought] = np.where(wanted, there[turns % len(there)], gone[turns % len(gone)])
    elif len(there) or len(gone):
        chosen[:sought] = np.resize(there if len(there) else gone, sought)
    rest = there[~np.isin(there, chosen[:sought])][: count - sought]
    chosen[sought : sought + len(rest)] = rest
    return chosen


def _any(seen: NDArray[np.bool_], random: np.random.Generator) -> int:
    """A random one of the labels; 0 if there are none."""
    return int(random.choice(np.flatnonzero(seen))) if seen.any() else 0


class SceneClips(Clips):
    """Clips of simulated scenes; a :class:`SceneKey` names the scenes and the stage.

    Args:
        seed: for all random choices.
    """

    attempts = 3

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def draw(
        self, key: SceneKey, attempt: int, random: np.random.Generator, failed: bool
    ) -> Clip | None:
        """See :meth:`Clips.draw`; the last attempt accepts whatever was drawn."""
        scene, stage = open_scene(key.scenes[attempt]), key.stage
        other = scene
        if random.random() < APART:
            other = open_scene(key.scenes[(attempt + 1) % self.attempts])
        views = draw_views(scene, other, stage.times, random)
        seen = [views.area(view, 0) > MIN_AREA for view in (0, 1)]
        shared = seen[0] & seen[1]
        if views.apart:
            anchors = tuple(_any(one, random) for one in seen)
        elif shared.any() or attempt + 1 == self.attempts or random.random() < ANYTHING:
            anchors = (_any(shared, random),) * 2
        else:
            return None
        images, labels = self._cut(views, anchors, stage, random)
        return _clip(images, labels, self._choose(labels, views, stage, random), views)

    def _cut(
        self, views: _Views, anchors: tuple[int, ...], stage: Stage, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images (T, 2, s, s, 3) and labels (T, 2, s, s); a view has the same crop in all frames.

        Crops are near the view's anchor object (anchor 0: anywhere).
        """
        side, size = views.scenes[0].packed.shape[2], stage.size
        times = len(views.frames)
        images = np.empty((times, 2, size, size, 3), dtype=np.uint8)
        labels = np.empty((times, 2, size, size), dtype=np.uint8)
        flip = 1.0 if random.random() < 0.5 else -1.0
        colours = draw_colours(random)
        for view, (scene, camera) in enumerate(zip(views.scenes, views.cameras, strict=True)):
            scale = random.uniform(*stage.crop)
            centre = np.zeros(2)
            if anchors[view]:
                there = scene.labels(views.frames[0, view], camera) == anchors[view]
                rows, columns = np.nonzero(there)
                centre = (np.array([columns.mean(), rows.mean()]) + 0.5) / side * 2 - 1
            room = max(0.0, 1 - scale)
            centre = (centre + random.uniform(-0.8, 0.8, 2) * scale).clip(-room, room)
            matrix = crop_matrix(centre, scale, flip, side, size, random)
            for t, frame in enumerate(views.frames[:, view]):
                cut = crop_image(scene.image(frame, camera), matrix, size)
                images[t, view] = change_colours(cut, colours, random)
                labels[t, view] = crop_labels(scene.labels(frame, camera), matrix, size)
        return images, labels

    def _choose(
        self, labels: NDArray[np.uint8], views: _Views, stage: Stage, random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Labels (2, N) of the objects whose masks are given in each view of the clip."""
        least = MIN_AREA * (stage.size / 256) ** 2
        visible = np.array([[areas(view) for view in frame] for frame in labels])  # (T, 2, LABELS)
        seen = visible.max(axis=0)
        chosen = []
        for view in (0, 1):
            given, other = visible[0, view] > 0.8 * least, seen[1 - view] * (not views.apart)
            chosen.append(
                choose_objects(
                    given & (other > 0.5 * least), given & (other == 0), stage.sought,
                    stage.objects, stage.positive_share, random,
                )
            )  # fmt: skip
        return np.stack(chosen)


def _clip(
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    objects: NDArray[np.int64],
    views: _Views,
) -> Clip:
    planes = labels[:, :, None, None] == objects[:, :, None, None].astype(np.uint8)
    planes &= (objects > 0)[:, :, None, None]  # (T, view, direction, N, s, s)
    masks = np.concatenate((planes[:, 0, 0], planes[:, 1, 1]), axis=1)
    truth = np.concatenate((planes[:, 1, 0], planes[:, 0, 1]), axis=1) & (not views.apart)
    regions = (labels > 0) + (labels == PERSON).astype(np.uint8)
    numbers = [zlib.crc32(scene.path.stem.encode()) for scene in views.scenes]
    identity = np.array(numbers)[:, None] * LABELS + objects  # of the query view's scene
    scenes = " and ".join(dict.fromkeys(str(scene.path) for scene in views.scenes))
    return Clip(
        torch.from_numpy(images).permute(0, 1, 4, 2, 3).contiguous(),
        torch.from_numpy(masks),
        torch.from_numpy(truth),
        torch.from_numpy(masks.any(axis=(2, 3)).astype(np.float32)),
        objects.size,
        f"{scenes} cameras {views.cameras}, frames {views.frames[0].tolist()}",
        torch.from_numpy(regions.astype(np.uint8)),
        torch.from_numpy(identity.flatten()),
    )
