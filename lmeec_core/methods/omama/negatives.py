"""Chooses negatives for training: the candidates around the true mask are the hardest ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path
from scipy.spatial import Delaunay, QhullError

from lmeec_core.correspondence import Mask

SAME = 0.5
"""Minimum IoU with the true mask of a candidate that is the object itself, not a negative."""

Indices = npt.NDArray[np.int64]


def training_candidates(
    candidates: Mask, truth: Mask, count: int, rng: np.random.Generator, order: int = 2
) -> Indices:
    """Indices of the negatives for one object: those of :func:`hard_negatives` first, then any.

    If there are more neighbours than asked for, some of them are drawn. There may be fewer than
    `count`; none is repeated.

    Args:
        candidates: (N, H, W) masks of the target view.
        truth: (H, W) mask of the object there; empty if it is not visible, and then any candidate
            may be drawn.
        count: number of negatives.
        rng: random generator.
        order: maximum number of edges to a hard negative.
    """
    usable, hard, _ = hard_negatives(candidates, truth, order)
    return draw_negatives(usable, hard, count, rng)


class Negatives(NamedTuple):
    """The roles of N candidates for an object."""

    usable: npt.NDArray[np.bool_]
    """(N,) it can be a negative: it is not empty, and does not show the object (IoU of 0.5 or
    more), which as a negative would teach that it is not itself."""
    hard: npt.NDArray[np.bool_]
    """(N,) it is next to the object."""
    overlap: npt.NDArray[np.float32]
    """(N,) IoU with the object."""


def hard_negatives(candidates: Mask, truth: Mask, order: int = 2) -> Negatives:
    """Which candidates are negatives for an object, and which of them are hard ones.

    The object's place is the candidate whose box has the greatest IoU with the object's box. It
    and its neighbours, at most `order` edges away in the Delaunay graph of the candidates'
    centroids, are the hard ones. Empty candidates are left out.

    Args:
        candidates: (N, H, W) masks of the target view; N may be 0.
        truth: (H, W) mask of the object there, empty if it is not visible: then none is hard.
        order: edges.
    """
    sizes, shared = (masks.sum(axis=(1, 2)) for masks in (candidates, candidates & truth))
    overlap = (shared / np.maximum(sizes + truth.sum() - shared, 1)).astype(np.float32)
    usable = (sizes > 0) & ~((overlap >= SAME) & truth.any())
    hard = np.zeros(len(candidates), bool)
    shown = np.flatnonzero(sizes > 0)
    if truth.any() and usable.any():
        centroids = np.array([_centroid(candidates[i]) for i in shown])
        place = int(np.argmax([_box_iou(candidates[i], truth) for i in shown]))
        hard[shown[neighbours(centroids, order)[place]]] = True
        hard[shown[place]] = True
    return Negatives(usable, hard & usable, overlap)


def draw_negatives(
    usable: npt.NDArray[np.bool_],
    hard: npt.NDArray[np.bool_],
    count: int,
    rng: np.random.Generator,
) -> Indices:
    """Indices of at most `count` of the usable candidates, hard ones first; arguments (N,)."""
    first = np.flatnonzero(hard & usable)
    if len(first) >= count:
        return _drawn(rng, first, count)
    rest = np.flatnonzero(usable & ~hard)
    return np.concatenate((first, _drawn(rng, rest, count - len(first))))


def neighbours(points: npt.NDArray[np.float64], order: int = 2) -> npt.NDArray[np.bool_]:
    """Which points are at most `order` edges apart in their Delaunay graph, excluding themselves.

    Collinear points are linked along their line. Points at the same position have the same
    neighbours, and each other.

    Args:
        points: (N, 2), N may be 0.
        order: 1 or more.
    """
    places, index = np.unique(points.reshape(-1, 2), axis=0, return_inverse=True)
    edges = _edges(places)
    links = coo_array(
        (np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(places), len(places))
    )
    near = shortest_path(links.tocsr(), directed=False, unweighted=True) <= order
    index = index.reshape(-1)
    found: npt.NDArray[np.bool_] = near[np.ix_(index, index)]
    np.fill_diagonal(found, False)
    return found


def _edges(places: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Edges (E, 2) of the Delaunay graph of different places."""
    if len(places) < 2:
        return np.zeros((0, 2), np.int64)
    try:
        graph = Delaunay(places) if len(places) > 2 else None
    except QhullError:
        graph = None
    if graph is None:  # all on one line
        _, _, axes = np.linalg.svd(places - places.mean(axis=0), full_matrices=False)
        along = np.argsort(places @ axes[0], kind="stable")
        return np.stack((along[:-1], along[1:]), axis=1)
    corners: npt.NDArray[Any] = graph.simplices
    sides = np.concatenate([corners[:, pair] for pair in ((0, 1), (1, 2), (0, 2))])
    # Points too close to another one are in no triangle, but belong to the nearest corner.
    return np.concatenate((sides, graph.coplanar[:, [0, 2]]))


def _drawn(rng: np.random.Generator, indices: Indices, count: int) -> Indices:
    return rng.choice(indices, size=min(count, len(indices)), replace=False)


def _centroid(mask: Mask) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())


def _box(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _box_iou(one: Mask, other: Mask) -> float:
    a, b = _box(one), _box(other)
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b)]
    return shared / (sum(areas) - shared)
