"""Training data of O-MaMa's matcher: views of takes, described by frozen features and cached.

A view is described once: its tokens, the descriptors of its candidates, and for each object its
descriptor, its hard negatives and its overlap with each candidate. After that, training and scoring
need neither images nor masks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmeec_core.files import replacing
from lmeec_core.methods.omama.features import Features
from lmeec_core.methods.omama.negatives import hard_negatives
from lmeec_core.takes import Take, is_ego, resize_mask

Candidates = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]
Halves = NDArray[np.float16]


class DescribedView(NamedTuple):
    """One image with N candidates and K visible objects."""

    tokens: Halves
    """(C, h, w)."""
    candidates: Halves
    """(N, 2C) descriptors."""
    shown: NDArray[np.bool_]
    """(N,) whether a candidate is not empty."""
    names: NDArray[np.str_]
    """(K,) names of the objects."""
    objects: Halves
    """(K, 2C) descriptors of their true masks."""
    usable: NDArray[np.bool_]
    """(K, N) whether a candidate can be a negative, that is, neither empty nor the object."""
    hard: NDArray[np.bool_]
    """(K, N) whether a candidate is a hard negative, one next to the object."""
    overlap: NDArray[np.float32]
    """(K, N) IoU with the true mask."""

    def row(self, name: str) -> int | None:
        """The object's row; None if it is not visible."""
        found = np.flatnonzero(self.names == name)
        return int(found[0]) if len(found) else None


class DescribedViews:
    """Views of takes, each described when it is first requested.

    Args:
        folder: folder of the files. A file does not record the features and candidates it was made
            with, so use a separate folder for each combination.
        features: the frozen features.
        candidates: makes the candidate masks of an image, at any size.
    """

    def __init__(self, folder: Path, features: Features, candidates: Candidates) -> None:
        self.folder, self._features, self._candidates = folder, features, candidates
        self._take: Take | None = None

    def view(self, take: Path, camera: str, frame: int) -> DescribedView:
        """One image of a take; the take is opened only if the view has no file yet.

        Raises:
            TakeError: the image or one of its masks cannot be read.
        """
        path = self.folder / take.parent.name / take.name / camera / f"{frame}.npz"
        found = _read(path) if path.is_file() else None
        if found is None:
            if self._take is None or self._take.path != take:
                self._take = Take.open(take)
            found = self._describe(self._take, camera, frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial, partial.open("wb") as partial_file:
                np.savez(partial_file, **found._asdict())
        return found

    def _describe(self, take: Take, camera: str, frame: int) -> DescribedView:
        image = take.image(camera, frame)
        seen = self._features.see([image], [is_ego(camera)])[0]
        given = self._candidates(image)
        masks = {
            name: mask
            for name in take.objects
            if (mask := take.mask(name, camera, frame, image=image.shape[:2])) is not None
            and mask.any()
        }
        size = (given.shape[1], given.shape[2]) if len(given) else image.shape[:2]
        usable, hard, overlap = (np.zeros((len(masks), len(given)), kind) for kind in "??f")
        for row, mask in enumerate(masks.values()):
            truth = resize_mask(mask, size)
            usable[row], hard[row], overlap[row] = hard_negatives(given, truth)
        own = np.stack(list(masks.values())) if masks else np.zeros((0, *image.shape[:2]), bool)
        return DescribedView(
            half(seen.tokens), half(seen.describe(given)), np.asarray(given.any(axis=(1, 2))),
            np.array(list(masks), dtype=np.str_), half(seen.describe(own)), usable, hard, overlap,
        )  # fmt: skip


def half(values: Tensor) -> Halves:
    """The values as float16, same shape."""
    return values.detach().cpu().to(torch.float16).numpy()


def _read(path: Path) -> DescribedView | None:
    """The view stored in a file; None if it cannot be read, so that it is computed again."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return DescribedView(**{name: file[name] for name in DescribedView._fields})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
