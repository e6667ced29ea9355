"""Candidates without a segmentation network: homogeneous regions of an image, at all scales.

The image is divided into small homogeneous pieces. The two most similar neighbouring pieces are
merged repeatedly until one is left; every intermediate piece is a candidate. Pieces are compared by
colour. (Adding the embedding of the compact network did not improve the candidates.)
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from lmeec_core.correspondence import Mask
from lmeec_core.methods.candidates.limits import CandidateLimits

SIDE = 160
"""Longer side to which an image is reduced before it is divided, in pixels."""
STEP = 6
"""Distance of the seeds of the pieces, in pixels of that size."""


@dataclass(frozen=True)
class Regions:
    """Makes candidates from an image.

    Attributes:
        limits: which candidates are kept.
        step: see :data:`STEP`.
    """

    limits: CandidateLimits = CandidateLimits()
    step: int = STEP

    def __call__(self, image: npt.NDArray[np.uint8]) -> Mask:
        """Candidates (N, h, w) of a uint8 RGB image, best first, at up to :data:`SIDE` pixels a
        side."""
        height, width = image.shape[:2]
        scale = min(1.0, SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        pieces = _pieces(small, self.step)
        tree = _merge(pieces, cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))
        members = np.zeros((len(tree), pieces.max() + 1), bool)
        for i, (parts, _) in enumerate(tree):
            members[i, list(parts)] = True
        quality = np.array([contrast for _, contrast in tree], np.float32)
        share = np.bincount(pieces.ravel()) / pieces.size
        return members[self.limits.chosen(members, share, quality)][:, pieces]


def _pieces(image: npt.NDArray[np.uint8], step: int) -> npt.NDArray[np.int64]:
    """Label of each pixel's piece, from 0; pieces grow from an even grid up to edges."""
    height, width = image.shape[:2]
    seeds = np.zeros((height, width), np.int32)
    rows, columns = (np.arange(min(step // 2, n - 1), n, step) for n in (height, width))
    grid = np.arange(1, 1 + len(rows) * len(columns), dtype=np.int32)
    seeds[np.ix_(rows, columns)] = grid.reshape(len(rows), len(columns))
    found = cv2.watershed(np.ascontiguousarray(image), seeds)
    # The watershed leaves edges of one pixel, which get the label of the greatest neighbour.
    edges = found <= 0
    grown = cv2.dilate(found.astype(np.float32), np.ones((3, 3), np.uint8))
    labels = np.where(edges, np.maximum(grown, 1), found).astype(np.int64)
    return np.unique(labels, return_inverse=True)[1].reshape(height, width)


Colour = tuple[float, float, float]


def _merge(
    pieces: npt.NDArray[np.int64], image: npt.NDArray[Any]
) -> list[tuple[frozenset[int], float]]:
    """Every region on the way from the pieces to the whole image, and its contrast: how much less
    alike it is to what it was merged with than its parts are to each other."""
    count = int(pieces.max()) + 1
    area = np.bincount(pieces.ravel(), minlength=count)
    sums = [np.bincount(pieces.ravel(), one, count) / area for one in image.reshape(-1, 3).T]
    mean: dict[int, Colour] = dict(enumerate(zip(*(one.tolist() for one in sums), strict=True)))
    size: dict[int, float] = dict(enumerate(area.tolist()))
    parts: dict[int, frozenset[int]] = {i: frozenset([i]) for i in range(count)}
    born: dict[int, float] = dict.fromkeys(range(count), 0.0)
    links: dict[int, set[int]] = {i: set() for i in range(count)}
    for here, beside in ((pieces[:, :-1], pieces[:, 1:]), (pieces[:-1], pieces[1:])):
        differ = here != beside
        for i, j in np.unique(np.stack((here[differ], beside[differ]), axis=1), axis=0).tolist():
            links[i].add(j)
            links[j].add(i)

    def apart(i: int, j: int) -> float:
        distance = math.dist(mean[i], mean[j])
        # Small pieces first (as Ward's method), but large ones stay comparable.
        return distance * (size[i] * size[j] / (size[i] + size[j])) ** 0.25

    heap = [(apart(i, j), i, j) for i in links for j in links[i] if i < j]
    heapq.heapify(heap)
    # A single piece has no parts; the usual difference between parts is assumed.
    least = float(np.median([cost for cost, _, _ in heap])) if heap else 1.0
    found: list[tuple[frozenset[int], float]] = []
    new = count
    while heap:
        cost, i, j = heapq.heappop(heap)
        if i not in links or j not in links:
            continue
        for k in (i, j):
            found.append((parts[k], cost / max(born[k], least, 1e-6)))
        size[new] = size[i] + size[j]
        a, b = size[i] / size[new], size[j] / size[new]
        (l0, a0, b0), (l1, a1, b1) = mean[i], mean[j]
        mean[new] = (a * l0 + b * l1, a * a0 + b * a1, a * b0 + b * b1)
        parts[new], born[new] = parts.pop(i) | parts.pop(j), max(cost, born[i], born[j])
        around = (links.pop(i) | links.pop(j)) - {i, j}
        links[new] = around
        for k in around:
            links[k] -= {i, j}
            links[k].add(new)
            heapq.heappush(heap, (apart(k, new), k, new))
        new += 1
    found += [(own, 0.0) for key, own in parts.items() if key in links]
    return found
