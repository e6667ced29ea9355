"""From points, a box or a mask to the mask of an object, with the compact network.

A small head, trained on the bundled weights, makes the mask. With other weights, the view is
matched with itself: the area around the click is the query mask, the same view is the target view,
and the mask found becomes the next query mask.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lmeec_core.checkpoint import bundled_weights, read_state_dict
from lmeec_core.compact import CompactLMEEC
from lmeec_core.compact.click_head import ClickHead, Hints
from lmeec_core.compact.features import EmbeddedFeatures
from lmeec_core.encoded import EncodedView
from lmeec_core.model import NO_OBJECT_LOGIT, Prediction
from lmeec_core.model.stages import StageRunner
from lmeec_core.preprocessing import colours, prepare_masks
from lmeec_core.prompts.checks import Marked

logger = logging.getLogger(__name__)

HEAD = "nano_clicks"
"""Name of the head's weights, which come with the package."""
ROUNDS = 3
"""Number of iterations, each of which starts from the mask of the one before."""
DISC = 0.02
"""Radius of the area around a click that belongs to the object, as a share of the image's side."""
LARGEST = 0.5
"""Maximum area of a mask made from points, as a share of the image."""
_CERTAIN, _DOUBT = 10.0, 0.5  # logits of given masks, and of pixels decided by a rule

Array = npt.NDArray[Any]


def bundled_head(model: CompactLMEEC) -> ClickHead | None:
    """The head that comes with the package; None if it was trained on other weights."""
    path = bundled_weights(HEAD)
    if path is None:
        return None
    weights = read_state_dict(path)
    head = ClickHead(model.config)
    head.of_network = weights["of_network"]
    if not head.belongs_to(model):
        logger.warning(
            "the head that turns clicks into masks was trained on the bundled weights, not on "
            "these: clicks are matched within the view instead, which is less accurate"
        )
        return None
    counts = {k: v for k, v in head.state_dict().items() if k.endswith("num_batches_tracked")}
    head.load_state_dict(weights | counts)
    return head.requires_grad_(False).eval().to(model.device)


class Marker:
    """Turns prompts into masks.

    Args:
        model: a compact network.
    """

    def __init__(self, model: CompactLMEEC) -> None:
        self.model = model

    @cached_property
    def head(self) -> ClickHead | None:
        """The head that turns points and boxes into masks; None if it was trained on another
        network."""
        return bundled_head(self.model)

    def mark(
        self, view: EncodedView, marked: Marked, before: Tensor | None, run: StageRunner | None
    ) -> Prediction:
        """The mask of a marked object in one view.

        Args:
            view: the view.
            marked: the prompt.
            before: (s, s) logits of the mask that the prompt corrects (see :meth:`builds_on`), or
                None.
            run: computes the stages.

        Returns:
            the prediction for one object. The mask covers at most :data:`LARGEST` of the image,
            unless a mask or a box was given.
        """
        side = self.model.config.mask_size
        if marked.mask is not None:
            full = prepare_masks([marked.mask], self.model.config.image_size, self.model.device)
            small = F.interpolate(full[None], size=(side, side), mode="area")[0, 0]
            return self._answer((2 * small - 1) * _CERTAIN, 1.0)
        if before is not None:
            marked = self._built_on(before.float().cpu().numpy() > 0, marked, view.size)
        seeds, barred = self._seeds(marked, view.size)
        if self.head is not None:
            logits, score = self._decode(self.head, view, marked, before)
        else:
            logits, score = self._match_itself(view, seeds, barred, run)
        largest = LARGEST if marked.box is None else 1.0
        return self._answer(_kept(logits, seeds, barred, largest), score)

    def builds_on(self, before: Tensor, marked: Marked, size: tuple[int, int]) -> bool:
        """Whether a prompt of points corrects the mask ``before`` (logits, (s, s)) instead of
        marking something new: it has no positive point, or a positive point is in the mask or
        closer to it than half the square root of its area."""
        own = before.float().cpu().numpy() > 0
        if not own.any() or marked.box is not None or marked.mask is not None:
            return False
        if 1 not in marked.labels:
            return True
        far = cv2.distanceTransform((~own).astype(np.uint8), cv2.DIST_L2, 5)
        spots = marked.points[np.array(marked.labels) == 1] * len(own) / (size[1], size[0])
        x, y = np.minimum(spots.astype(int), len(own) - 1).T
        return bool((far[y, x] <= 0.5 * np.sqrt(own.sum())).any())

    def _built_on(
        self, own: npt.NDArray[np.bool_], marked: Marked, size: tuple[int, int]
    ) -> Marked:
        """A prompt that corrects a mask (s, s), with one more positive point deep in the mask."""
        _, barred = self._seeds(marked, size)
        left = own & (barred == 0)
        if not left.any():
            return marked
        spot = np.array(deepest(left)) / len(own) * (size[1], size[0])
        return marked._replace(
            points=np.concatenate((marked.points, spot[None])), labels=(*marked.labels, 1)
        )

    def _seeds(self, marked: Marked, size: tuple[int, int]) -> tuple[Array, Array]:
        """Pixels that certainly are on the object, and pixels that are not: (s, s) uint8 each."""
        side = self.model.config.mask_size
        scale = side / np.array((size[1], size[0]))
        seeds, barred = np.zeros((2, side, side), np.uint8)
        radius = max(1, round(DISC * side))
        if marked.box is not None:
            x0, y0 = np.minimum(np.floor(marked.box[0] * scale), side - 1).astype(int)
            x1, y1 = np.ceil(marked.box[1] * scale).astype(int)
            barred[:] = 1
            barred[y0:y1, x0:x1] = 0
            if 1 not in marked.labels:
                middle = (int((x0 + x1) // 2), int((y0 + y1) // 2))
                axes = (int(max(1, (x1 - x0) // 4)), int(max(1, (y1 - y0) // 4)))
                cv2.ellipse(seeds, middle, axes, 0, 0, 360, 1, -1)
        spots = np.minimum((marked.points * scale).astype(int), side - 1).tolist()
        for (x, y), label in zip(spots, marked.labels, strict=True):
            cv2.circle(seeds if label else barred, (x, y), radius, 1, -1)
        for (x, y), label in zip(spots, marked.labels, strict=True):
            barred[y, x] = 1 - label  # the clicked pixel itself, even if other points are close
        seeds[barred > 0] = 0
        return seeds, barred

    def _decode(
        self, head: ClickHead, view: EncodedView, marked: Marked, before: Tensor | None
    ) -> tuple[Array, float]:
        """The head's logits (s, s), and its predicted IoU."""
        device = self.model.device
        height, width = view.size
        scale = np.array((width, height))
        points = torch.tensor(marked.points / scale, dtype=torch.float32, device=device)[None]
        labels = torch.tensor([marked.labels], device=device)
        if not marked.labels:
            points, labels = points.new_zeros(1, 1, 2), labels.new_full((1, 1), -1)
        box = np.zeros(4) if marked.box is None else (marked.box / scale).ravel()
        boxes = torch.tensor(box, dtype=torch.float32, device=device)[None]
        previous = None if before is None else before.float().sigmoid()[None]
        with torch.autocast(device.type, enabled=False):
            seen = head.look(colours(view.inputs), cast(EmbeddedFeatures, view.features))
            for _ in range(ROUNDS):
                maps = head.maps(seen, Hints(points, labels, boxes), previous)
                logits, score = head(seen.shared, seen.fine, maps)
                previous = logits.sigmoid()
        return logits[0].cpu().numpy(), float(score.sigmoid())

    def _match_itself(
        self, view: EncodedView, seeds: Array, barred: Array, run: StageRunner | None
    ) -> tuple[Array, float]:
        """Logits (s, s) from matching the view with itself, and the predicted IoU. The query mask
        is made of the seeds first, then of the mask found."""
        side, query = self.model.config.image_size, seeds
        logits, score = np.zeros_like(seeds, np.float32), 0.0
        for _ in range(ROUNDS):
            large = cv2.resize(query, (side, side), interpolation=cv2.INTER_NEAREST)
            mask = torch.from_numpy(large).to(self.model.device).float()[None]
            memory = self.model.encode_query_memory(view.features, mask, run)
            prompts = self.model.make_prompts(view.features, mask[None], view.features)
            attended = self.model.attend_view(view.prepared, memory, run)
            nothing = torch.zeros(1, dtype=torch.bool, device=attended.device)
            prediction = self.model.predict(
                attended, attended, nothing, view.features,
                tuple(x.flatten(0, 1) for x in prompts), "none", run,
            )  # fmt: skip
            logits, score = (
                prediction.logits[0].float().cpu().numpy(),
                float(prediction.predicted_iou),
            )
            query = (_kept(logits, seeds, barred, LARGEST) > 0).astype(np.uint8)
        return logits, score

    def _answer(self, logits: Array | Tensor, score: float) -> Prediction:
        """A prediction from logits (s, s); the object is absent if none is above 0."""
        own = torch.as_tensor(logits, device=self.model.device)[None]
        there = bool((own > 0).any())
        if not there:
            own = torch.full_like(own, NO_OBJECT_LOGIT)
        numbers = own.new_tensor([[score], [_CERTAIN if there else -_CERTAIN]])
        return Prediction(own, numbers[0], numbers[1], self.model.no_obj_ptr.float())


def _kept(logits: Array, seeds: Array, barred: Array, largest: float) -> Array:
    """Logits (s, s) reduced to the connected parts of the mask that contain seeds; if these cover a
    larger share of the image than ``largest``, only the seeds remain."""
    found = ((logits > 0) & (barred == 0)) | (seeds > 0)
    _, parts = cv2.connectedComponents(found.astype(np.uint8))
    kept = np.isin(parts, np.unique(parts[seeds > 0])) & found
    if kept.mean() > largest:
        kept = seeds > 0
    near = cv2.dilate(kept.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    outside = np.where(near, np.minimum(logits, -_DOUBT), -_CERTAIN)
    return np.where(kept, np.maximum(logits, _DOUBT), outside).astype(np.float32)


def deepest(mask: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The point (x, y) of a mask that is furthest from its edge, in pixels."""
    padded = np.pad(mask.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) + 0.5, float(y) + 0.5
