"""Training clips from takes in the EgoExo4D processed layout.

A clip is a few consecutive annotated frames of an ego and an exo camera, one of which is the query
camera.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lmeec_core.preprocessing import prepare_masks, resize_image
from lmeec_core.takes import DIRECTIONS, Take, TakeError, is_ego
from lmeec_core.training.augment import (
    Augmentation,
    Change,
    change_image,
    change_mask,
    draw_change,
)
from lmeec_core.training.clips import Clip, Clips

ATTEMPTS = 100
"""Attempts to draw a clip, as takes may be broken or have nothing to learn from."""
IN_TAKE = 8
"""The first IN_TAKE attempts stay in the same take: often only one exo camera is annotated."""
OPEN_TAKES = 2
"""Number of takes whose (large) annotations a process keeps in memory."""
CPU = torch.device("cpu")


class Pair(NamedTuple):
    """A query and a target view of a take."""

    take: Path
    query: str
    target: str


class TakeClips(Clips):
    """An endless sequence of clips, numbered 0, 1, 2, ..., from all takes in a folder.

    In an epoch (as many numbers as there are :attr:`pairs`) each pair of an ego and an exo camera
    of each take occurs twice, once in each direction, in an order shuffled anew for every epoch.
    Start frame, objects and augmentation are drawn at random. An object belongs to a clip if it
    has a query mask on the clip's first frame and is annotated in the target camera at all. If the
    take allows it, at least one of the objects is visible in the target view. Frames whose mask is
    null in the file are ignored.

    Args:
        folder: contains the takes, one folder each.
        size: side S of the images, in pixels.
        frames: T, length of a clip.
        objects: N, maximum number of objects per clip.
        augmentation: see :class:`Augmentation`; None: no augmentation.
        seed: for all random choices.

    Raises:
        TakeError: the folder does not exist or contains no usable take.
    """

    attempts = ATTEMPTS

    def __init__(
        self,
        folder: Path,
        size: int,
        frames: int = 8,
        objects: int = 3,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.folder, self.seed = folder, seed
        self.size, self.frames, self.objects = size, frames, objects
        self.augmentation = augmentation
        self.errors: list[str] = []
        """Takes that cannot be used, one line each."""
        self.takes: list[Path] = []
        self.pairs: list[Pair] = []
        for path in list_takes(folder):
            try:
                there, back = map(Take.open(path).pairs, DIRECTIONS)
            except TakeError as error:
                self.errors.append(str(error))
                continue
            self.takes.append(path)
            for one, other in zip(there, back, strict=True):
                self.pairs += [Pair(path, *one), Pair(path, *other)]
        if not self.pairs:
            told = f"; the first problem: {self.errors[0]}" if self.errors else ""
            raise TakeError(folder, f"no take with an ego and an exo camera in it{told}")
        self._alike: dict[tuple[Path, bool], list[Pair]] = {}
        for pair in self.pairs:
            self._alike.setdefault((pair.take, is_ego(pair.query)), []).append(pair)
        self._empty: set[Pair] = set()
        self._open: OrderedDict[Path, Take] = OrderedDict()
        self._order: tuple[int, NDArray[np.int64]] | None = None

    @property
    def digest(self) -> str:
        """A hash of the takes, their cameras and the settings that determine the clips."""
        drawn = (self.size, self.frames, self.objects, self.seed, self.augmentation)
        pairs = [(pair.take.name, pair.query, pair.target) for pair in self.pairs]
        return hashlib.sha256(repr((drawn, pairs)).encode()).hexdigest()

    def draw(self, key: int, attempt: int, random: np.random.Generator, failed: bool) -> Any:
        """See :meth:`Clips.draw`; the key is the clip's number."""
        pair = first = self.pair(key)
        if attempt:
            stay = attempt < IN_TAKE and not failed
            pool = self._alike[first.take, is_ego(first.query)] if stay else self.pairs
            pair = pool[random.integers(len(pool))]
        if pair in self._empty:
            return None
        try:
            return self._read(pair, random)
        except TakeError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # Valid JSON may still contain anything anywhere.
            text = f"{type(error).__name__}: {error}"
            raise TakeError(pair.take / "annotation.json", text) from error

    def pair(self, number: int) -> Pair:
        """The views of a clip, used unless they are broken or have nothing to learn from."""
        epoch, place = divmod(number, len(self.pairs))
        if self._order is None or self._order[0] != epoch:
            random = np.random.default_rng((self.seed, epoch, ATTEMPTS))  # unlike any clip's
            self._order = (epoch, random.permutation(len(self.pairs)))
        return self.pairs[self._order[1][place]]

    def _take(self, path: Path) -> Take:
        take = self._open.pop(path, None) or Take(path)
        self._open[path] = take
        while len(self._open) > OPEN_TAKES:
            self._open.popitem(last=False)
        return take

    def _read(self, pair: Pair, random: np.random.Generator) -> Any:
        """Read a clip of two views; None if they have none. Subclasses may read something else."""
        take = self._take(pair.take)
        frames = annotated_frames(take, pair.query, pair.target)
        names = [
            name
            for name in take.objects
            if take.mask_frames(name, pair.query) and take.mask_frames(name, pair.target)
        ]
        chosen = choose(
            visible(take, names, pair.query, frames),
            visible(take, names, pair.target, frames),
            self.frames, self.objects, random,
        )  # fmt: skip
        if chosen is None:
            self._empty.add(pair)
            return None
        start, picked = chosen
        window = frames[start : start + self.frames]
        return self._load(take, pair, window, [names[i] for i in picked], random)

    def _load(
        self,
        take: Take,
        pair: Pair,
        window: Sequence[int],
        names: Sequence[str],
        random: np.random.Generator,
    ) -> Clip | None:
        cameras = (pair.query, pair.target)
        pictures = [[take.image(camera, frame) for camera in cameras] for frame in window]
        query, target = ([row[view].shape[:2] for row in pictures] for view in (0, 1))
        masks, given, _ = self._masks(take, names, pair.query, window, query)
        truth, known, lost = self._masks(take, names, pair.target, window, target)
        if not masks[0].reshape(len(names), -1).any(axis=1).all():
            return None  # a mask vanishes at this size
        change = self._draw(masks[0], random)
        images = np.stack([[self._image(view, change) for view in row] for row in pictures])
        shape = (self.frames, self.objects, self.size, self.size)
        full = np.zeros((2, *shape), dtype=bool)
        for t in range(self.frames):
            for i in range(len(names)):
                full[0, t, i] = change_mask(masks[t, i], change)
                full[1, t, i] = change_mask(truth[t, i], change)
        counts = np.zeros(shape[:2], dtype=np.float32)
        counts[:, : len(names)] = given & known & ~lost
        counts *= full[0].any(axis=(2, 3))
        return Clip(
            torch.from_numpy(images).permute(0, 1, 4, 2, 3).contiguous(),
            torch.from_numpy(full[0]), torch.from_numpy(full[1]), torch.from_numpy(counts),
            len(names), f"{take.path} {pair.query} to {pair.target}, frames {window[0]} to "
            f"{window[-1]}",
        )  # fmt: skip

    def _image(self, picture: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
        image = resize_image(picture, self.size, CPU)
        return change_image(image.permute(1, 2, 0).to(torch.uint8).numpy(), change)

    def _masks(
        self,
        take: Take,
        names: Sequence[str],
        camera: str,
        window: Sequence[int],
        images: Sequence[tuple[int, int]],
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Masks (T, n, S, S); (T, n) whether each is not null; (T, n) whether it vanished at S."""
        masks = np.zeros((len(window), len(names), self.size, self.size), dtype=bool)
        known = np.ones(masks.shape[:2], dtype=bool)
        lost = np.zeros(masks.shape[:2], dtype=bool)
        for t, frame in enumerate(window):
            for i, name in enumerate(names):
                mask = take.mask(name, camera, frame, image=images[t])
                if mask is None:
                    known[t, i] = not take.annotated(name, camera, frame)
                else:
                    masks[t, i] = prepare_masks([mask], self.size, CPU)[0].numpy() > 0
                    lost[t, i] = bool(mask.any()) and not masks[t, i].any()
        return masks, known, lost

    def _draw(self, masks: NDArray[np.bool_], random: np.random.Generator) -> Change:
        """Draw a change that leaves every query mask (n, S, S) of the first frame non-empty."""
        if self.augmentation is None:
            return Change(None)
        for _ in range(4):
            change = draw_change(self.augmentation, self.size, random)
            if all(change_mask(mask, change).any() for mask in masks):
                return change
        return change._replace(matrix=None)


def list_takes(folder: Path) -> list[Path]:
    """Folders of the takes in the folder of a split, sorted.

    Raises:
        TakeError: the folder does not exist, or is empty.
    """
    if not folder.is_dir():
        raise TakeError(folder, "no such folder; expected takes as <data>/<split>/<take>")
    paths = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not paths:
        raise TakeError(folder, "no takes in it; expected <take>/annotation.json")
    return paths


def annotated_frames(take: Take, *cameras: str) -> list[int]:
    """Frames that all cameras have and that, if the take lists annotated frames, are annotated."""
    listed = set(take.subsample_idx)
    return [f for f in take.common_frames(*cameras) if not listed or f in listed]


def visible(
    take: Take, names: Sequence[str], camera: str, frames: Sequence[int]
) -> NDArray[np.bool_]:
    """Whether objects have a mask: bool (objects, frames)."""
    table = [[take.rle(name, camera, frame) is not None for frame in frames] for name in names]
    return np.array(table, dtype=bool).reshape(len(names), len(frames))


def choose(
    query: NDArray[np.bool_],
    target: NDArray[np.bool_],
    length: int,
    count: int,
    random: np.random.Generator,
) -> tuple[int, list[int]] | None:
    """Draw a clip's start and objects.

    Args:
        query, target: (objects, frames) whether an object has a mask in the view.
        length: frames in the clip. count: maximum number of objects.

    Returns:
        index of the first frame and indices of the objects; if possible, the first object is
        visible in the target view within the clip. None if no clip begins with a query mask.
    """
    starts = query.shape[1] - length + 1
    if starts < 1 or not query.shape[0]:
        return None
    begins = query[:, :starts]
    seen = np.lib.stride_tricks.sliding_window_view(target, length, axis=1).any(axis=2)
    best = begins & seen if (begins & seen).any() else begins
    if not best.any():
        return None
    start = int(random.choice(np.flatnonzero(best.any(axis=0))))
    first = int(random.choice(np.flatnonzero(best[:, start])))
    others = np.setdiff1d(np.flatnonzero(begins[:, start]), [first])
    return start, [first, *(int(i) for i in random.permutation(others)[: count - 1])]
