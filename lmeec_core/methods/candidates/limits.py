"""Limits on the number and the size of candidates, and which of them are kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from lmeec_core.correspondence import Mask

Floats = npt.NDArray[np.floating]


class CandidateLimits(BaseModel):
    """Which candidates are kept.

    Attributes:
        most: candidates per image.
        min_area, max_area: share of the image.
        same: of two candidates with at least this IoU, the better one is kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    most: int = Field(100, ge=1, le=1000)
    min_area: float = Field(0.0003, ge=0.0, le=1.0)
    max_area: float = Field(0.5, ge=0.0, le=1.0)
    same: float = Field(0.9, gt=0.0, le=1.0)

    def keep(self, masks: Mask, quality: Floats) -> Mask:
        """The candidates within the limits, best first.

        Args:
            masks: (N, H, W); N may be 0.
            quality: (N,), greater is better.
        """
        if not len(masks):
            return masks
        flat = masks.reshape(len(masks), -1)
        return masks[self.chosen(flat, np.full(flat.shape[1], 1 / flat.shape[1]), quality)]

    def chosen(self, members: Mask, share: Floats, quality: Floats) -> npt.NDArray[np.int64]:
        """Indices of the candidates within the limits, best first.

        Args:
            members: (N, K) which of K pieces of the image belong to each candidate.
            share: (K,) each piece's share of the image's area.
            quality: (N,), greater is better.
        """
        areas = members @ share
        fits = (areas > 0) & (areas >= self.min_area) & (areas <= self.max_area)
        order = np.flatnonzero(fits)[np.argsort(-quality[fits], kind="stable")]
        kept: list[int] = []
        weighed = members[order] * share.astype(np.float32)
        for i, one in enumerate(order):
            if len(kept) == self.most:
                break
            shared = weighed[kept] @ members[one]
            union = areas[order[kept]] + areas[one] - shared
            if not (shared >= self.same * union).any():
                kept.append(i)
        return np.asarray(order[kept])
