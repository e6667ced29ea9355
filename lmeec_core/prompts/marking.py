"""From points, a box or a mask to the mask of an object, with the compact network.

A view is matched with itself: what lies at the click is the query mask, the same view is the target
view, and what is found becomes the next query mask.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmeec_core.compact import CompactLMEEC
from lmeec_core.model import NO_OBJECT_LOGIT, Prediction, ViewFeatures
from lmeec_core.model.stages import StageRunner
from lmeec_core.preprocessing import prepare_masks
from lmeec_core.prompts.checks import Marked

ROUNDS = 3
"""How often what was found becomes the next query mask."""
DISC = 0.02
"""Radius of what is taken for the object around a click, as a share of the image's side."""
LARGEST = 0.5
"""Share of the image that no mask made from points exceeds."""
_LOGIT = 10.0


class Marker:
    """Makes masks of prompts.

    Args:
        model: a compact network.
    """

    def __init__(self, model: CompactLMEEC) -> None:
        self.model = model

    def mark(
        self,
        image: Tensor,
        views: ViewFeatures,
        prepared: Tensor,
        marked: Marked,
        size: tuple[int, int],
        run: StageRunner | None,
    ) -> tuple[Prediction, Tensor]:
        """An object in one view.

        Args:
            image: (1, 3, S, S), model input. views, prepared: what was computed of it.
            marked: the prompt. size: (height, width) of the image that it refers to.
            run: computes the stages.

        Returns:
            the prediction of one object, and its mask (S, S) of 0 and 1.
        """
        side = self.model.config.image_size
        if marked.mask is not None:
            full = prepare_masks([marked.mask], side, self.model.device)[0]
            return self._answer(full, views), full
        height, width = size
        scale = (side / width, side / height)
        seeds, barred = self._seeds(marked, np.asarray(scale), side)
        query, answer = seeds, seeds
        for _ in range(ROUNDS):
            logits = self._match_itself(views, prepared, query, run)
            answer = self._kept(logits, seeds, barred)
            query = answer
        full = torch.from_numpy(answer).to(self.model.device).float()
        return self._answer(full, views), full

    def _seeds(self, marked: Marked, scale: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """What is the object for certain, and what is not: (S, S) uint8 each."""
        seeds, barred = np.zeros((2, side, side), np.uint8)
        radius = max(1, round(DISC * side))
        if marked.box is not None:
            (x0, y0), (x1, y1) = np.rint(marked.box * scale).astype(int)
            barred[:] = 1
            barred[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = 0
            if 1 not in marked.labels:
                middle = (round((x0 + x1) / 2), round((y0 + y1) / 2))
                axes = (max(1, round((x1 - x0) / 4)), max(1, round((y1 - y0) / 4)))
                cv2.ellipse(seeds, middle, axes, 0, 0, 360, 1, -1)
        for spot, label in zip(marked.points * scale, marked.labels, strict=True):
            x, y = (min(int(v), side - 1) for v in spot)
            cv2.circle(seeds if label else barred, (x, y), radius, 1, -1)
        seeds[barred > 0] = 0
        return seeds, barred

    def _match_itself(
        self, views: ViewFeatures, prepared: Tensor, mask: np.ndarray, run: StageRunner | None
    ) -> np.ndarray:
        """Logits (S, S) of what looks like the query mask (S, S)."""
        query = torch.from_numpy(mask).to(self.model.device).float()[None]
        memory = self.model.encode_query_memory(views, query, run)
        prompts = self.model.make_prompts(views, query[None], views)
        attended = self.model.attend_view(prepared, memory, run)
        nothing = torch.zeros(1, dtype=torch.bool, device=attended.device)
        prediction = self.model.predict(
            attended, attended, nothing, views, tuple(x.flatten(0, 1) for x in prompts), "none", run
        )
        side = self.model.config.image_size
        large = F.interpolate(prediction.logits[:, None], size=(side, side), mode="bilinear")
        return large[0, 0].float().cpu().numpy()

    def _kept(self, logits: np.ndarray, seeds: np.ndarray, barred: np.ndarray) -> np.ndarray:
        """What was found and hangs together with the seeds; (S, S) uint8."""
        found = ((logits > 0) & (barred == 0)) | (seeds > 0)
        _, parts = cv2.connectedComponents(found.astype(np.uint8))
        kept = np.isin(parts, np.unique(parts[seeds > 0])) & found
        if kept.mean() > LARGEST:
            return seeds
        return np.asarray(kept, dtype=np.uint8)

    def _answer(self, full: Tensor, views: ViewFeatures) -> Prediction:
        """A mask (S, S) as a prediction."""
        side = self.model.config.mask_size
        small = F.interpolate(full[None, None], size=(side, side), mode="area")[0]
        there = bool(full.any())
        logits = (2 * small - 1) * _LOGIT if there else torch.full_like(small, NO_OBJECT_LOGIT)
        score = full.new_full((1,), _LOGIT if there else -_LOGIT)
        pointer = self.model.no_obj_ptr.float()
        return Prediction(logits, torch.ones_like(score), score, pointer)
