"""O-MaMa as a method, with the features of the network that comes with the package.

The published matcher needs DINOv2's features (:func:`lmeec_core.methods.omama.match`). Here the
embedding of the compact network describes the query object and the candidate masks of each target
view, which needs no download; the candidate that is most alike is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmeec_core.checkpoint import load_model
from lmeec_core.compact import CompactLMEEC
from lmeec_core.compact.features import EmbeddedFeatures
from lmeec_core.compact.layers import masked_mean
from lmeec_core.config import PrecisionName
from lmeec_core.correspondence import Mask
from lmeec_core.methods.candidates import AutomaticMasks, Regions
from lmeec_core.methods.pairs import FoundMask, Image, PairTracker
from lmeec_core.model import LMEEC
from lmeec_core.preprocessing import prepare_images

Candidates = Callable[[Image], Mask]
"""Makes candidates bool (N, h, w) of an image uint8 (H, W, 3); h and w may be smaller than the
image's, in its proportions."""

PRESENCE = (54.0, 0.946)
"""Presence is sigmoid(steepness * (similarity - middle)); fitted on
simulated takes. (The published confidence, sigmoid of the cosine, calls every object visible.)"""


@dataclass(frozen=True, slots=True, eq=False)
class ChosenMask(FoundMask):
    """A candidate chosen for an object; empty without candidates."""

    similarity: float = -1.0
    """With the object, -1 .. 1."""

    @property
    def presence(self) -> float:
        """Probability that the candidate is the object; 0 without one."""
        steepness, middle = PRESENCE
        likely = 1 / (1 + np.exp(-steepness * (self.similarity - middle)))
        return float(likely) if self.found.any() else 0.0

    @property
    def score(self) -> float:
        """The similarity, 0 where it is negative."""
        return max(0.0, self.similarity)

    def visible(self, threshold: float = 0.5) -> bool:
        """Whether a candidate was found that is the object with at least this probability."""
        return bool(self.found.any()) and self.presence >= threshold

    def mask(self, threshold: float = 0.5) -> Mask:
        """The mask at the target image's size: bool (height, width), empty if not visible."""
        return self.found if self.visible(threshold) else np.zeros_like(self.found)


class OMaMaTracker(PairTracker):
    """Chooses a candidate for each object, anew in every step.

    Args:
        model: a network; the embedding of a compact one, the top features of another describe
            places.
        candidates: makes the candidates of a target image.
        query, targets, max_objects: see :class:`lmeec_core.CorrespondenceTracker`.
    """

    def __init__(
        self,
        model: LMEEC,
        candidates: Candidates,
        query: str,
        targets: Sequence[str],
        max_objects: int = 32,
    ) -> None:
        super().__init__(None, query, targets, max_objects)
        self.model, self._candidates = model, candidates

    @torch.inference_mode()
    def search(
        self, query: Image, masks: Mapping[str, Mask], views: Mapping[str, Image]
    ) -> dict[str, dict[str, FoundMask]]:
        """See :class:`PairTracker`."""
        if not masks or not views:
            return {target: {} for target in views}
        places = embed(self.model, [query, *views.values()])
        asked = describe(places[0], np.stack(list(masks.values())))
        found: dict[str, dict[str, FoundMask]] = {}
        for place, (target, image) in zip(places[1:], views.items(), strict=True):
            given = self._candidates(image)
            size = image.shape[:2]
            if len(given):
                greatest, best = (asked @ describe(place, given).T).max(dim=1)
                chosen = zip(masks, greatest.tolist(), best.tolist(), strict=True)
                found[target] = {
                    name: ChosenMask(enlarge(given[i], size), None, alike)
                    for name, alike, i in chosen
                }
            else:
                nothing = ChosenMask(np.zeros(size, bool))
                found[target] = dict.fromkeys(masks, nothing)
        return found


def embed(model: LMEEC, images: Sequence[Image]) -> Tensor:
    """Unit vectors (V, D, g, g) of the places of images, float32."""
    with model.autocast():
        inputs = prepare_images(list(images), model.config.image_size, model.device)
        views = model.encode_images(inputs, model.runner or model.compute)
    own = views.middle_embedding if isinstance(views, EmbeddedFeatures) else views.top
    return F.normalize(own.float(), dim=1)


def describe(places: Tensor, masks: Mask) -> Tensor:
    """Unit vectors (N, D) of objects in one view: the mean of their places.

    A place counts by the share of it that the mask covers, so that an object smaller than a place
    is described as well. (The surroundings as a second part, as in the published descriptor, made
    the choice no better with these features.)

    Args:
        places: (D, g, g), of :func:`embed`.
        masks: (N, H, W), none of them empty; N is 1 or more.
    """
    given = torch.from_numpy(np.ascontiguousarray(masks)).to(places.device)
    cover = F.interpolate(given[None].float(), size=tuple(places.shape[1:]), mode="area")
    return F.normalize(masked_mean(places[None], cover)[0], dim=-1)


def enlarge(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask at another size, its edges interpolated."""
    height, width = size
    large = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large > 0.5)


@dataclass(frozen=True)
class OMaMaMethod:
    """A network and the source of candidates."""

    model: LMEEC
    candidates: Candidates

    def tracker(
        self,
        query: str,
        targets: Sequence[str],
        num_frames: int | None = None,
        max_objects: int = 32,
    ) -> OMaMaTracker:
        """A tracker; the number of frames makes no difference."""
        return OMaMaTracker(self.model, self.candidates, query, targets, max_objects)


def load(
    preset: str = "nano",
    checkpoint: str | Path | None = None,
    device: str = "auto",
    precision: PrecisionName = "fp32",
    seed: int | None = None,
    require_mv_moe: bool = True,
    candidates: Candidates | None = None,
) -> OMaMaMethod:
    """Load the method.

    Args:
        preset, checkpoint, device, precision, seed, require_mv_moe: of the network whose features
            are used, see :func:`lmeec_core.load_model`.
        candidates: makes the candidate masks. None is
            :class:`~lmeec_core.methods.candidates.Regions` for a compact network, and
            :class:`~lmeec_core.methods.candidates.AutomaticMasks` for one that takes points.
    """
    model = load_model(preset, checkpoint, device, precision, seed, require_mv_moe)
    if candidates is None:
        candidates = Regions() if isinstance(model, CompactLMEEC) else AutomaticMasks(model)
    return OMaMaMethod(model, candidates)
