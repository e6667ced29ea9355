"""O-MaMa as a method: each object's mask is chosen among the candidates of a target view.

By default it uses the features of the network that comes with the package, which needs no download.
The published features are DINOv2's, and the published matcher is loaded from a checkpoint.
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

from lmeec_core.checkpoint import CheckpointError, load_model
from lmeec_core.config import PrecisionName
from lmeec_core.correspondence import Mask
from lmeec_core.methods.candidates.settings import CandidateSettings
from lmeec_core.methods.conditions import TextEncoder
from lmeec_core.methods.omama.features import EncoderFeatures, Features, SeenView
from lmeec_core.methods.omama.match import embed_asked, embed_given
from lmeec_core.methods.omama.network import OMaMa
from lmeec_core.methods.omama.settings import OMaMaSettings
from lmeec_core.methods.omama.texts import ObjectTexts, read_texts, text_note
from lmeec_core.methods.omama.weights import BUNDLED, LoadedMatcher, read_facts, read_matcher
from lmeec_core.methods.pairs import FoundMask, Image, PairTracker
from lmeec_core.model import LMEEC
from lmeec_core.takes import is_ego

Candidates = Callable[[Image], Mask]
"""Makes candidates bool (N, h, w) of an image uint8 (H, W, 3); h and w may be smaller than the
image's, in its proportions."""

PLAIN_PRESENCE = (54.0, 0.946)
"""Presence is sigmoid(steepness * (similarity - middle)); this one is for the features of nano
without a matcher, fitted on simulated takes."""

CONFIDENT = 0.7
"""Minimum presence of a chosen candidate that is remembered."""
REMEMBERED = 8
"""Maximum number of frames over which a remembered appearance is averaged."""
SHARE = 0.5
"""Weight of the remembered appearance in the similarity by which a candidate is chosen."""


@dataclass(frozen=True, slots=True, eq=False)
class ChosenMask(FoundMask):
    """A candidate chosen for an object; empty without candidates."""

    similarity: float = -1.0
    """With the object, -1 .. 1."""
    curve: tuple[float, float] = PLAIN_PRESENCE
    """Steepness and middle of the presence over the similarity."""

    @property
    def presence(self) -> float:
        """Probability that the candidate is the object; 0 without one."""
        steepness, middle = self.curve
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
    """Chooses a candidate for each object in every step.

    With ``follow``, an object's appearance in a target view (the mean embedding of the candidates
    chosen for it in frames with a presence of at least :data:`CONFIDENT`) has the same weight as
    its appearance in the query view. The presence depends only on the query view. Without
    ``follow``, each step is independent. With descriptions of objects, the choice also depends on
    them; the presence does not.

    Args:
        features: the frozen network that describes images.
        matcher: compares descriptors; None: features are compared directly.
        candidates: makes the candidates of a target image; None if :meth:`offer` gives them.
        query, targets, max_objects: see :class:`lmeec_core.CorrespondenceTracker`.
        follow: see above.
        texts: descriptions of objects; None: none.

    Raises:
        CheckpointError: the matcher is for the other direction.
    """

    def __init__(
        self,
        features: Features,
        matcher: LoadedMatcher | None,
        candidates: Candidates | None,
        query: str,
        targets: Sequence[str],
        max_objects: int = 32,
        follow: bool = False,
        texts: ObjectTexts | None = None,
    ) -> None:
        super().__init__(None, query, targets, max_objects)
        if matcher is not None:
            matcher.check_direction(query)
        self._features, self._matcher, self._candidates = features, matcher, candidates
        self._follow, self._offered = follow, dict[str, Mask]()
        self._texts = texts
        self._looks: dict[tuple[str, str], tuple[Tensor, int]] = {}
        """By target and object: the mean embedding, and the number of frames."""

    def forget(self, object_id: str) -> bool:
        """See :class:`PairTracker`."""
        self._looks = {key: look for key, look in self._looks.items() if key[1] != object_id}
        return super().forget(object_id)

    def reset(self) -> None:
        """See :class:`PairTracker`."""
        self._looks.clear()
        super().reset()

    def offer(self, candidates: Mapping[str, Mask]) -> None:
        """Set candidates (N, h, w) for the next step's target images, by camera, instead of
        generating them; a target without an entry has none."""
        self._offered = dict(candidates)

    @torch.inference_mode()
    def search(
        self, query: Image, masks: Mapping[str, Mask], views: Mapping[str, Image]
    ) -> dict[str, dict[str, FoundMask]]:
        """See :class:`PairTracker`."""
        if not masks or not views:
            return {target: {} for target in views}
        ego = [is_ego(camera) for camera in (self.query, *views)]
        own, *seen = self._features.see([query, *views.values()], ego)
        asked = own.describe(np.stack(list(masks.values())))
        return {
            target: self._chosen(target, image, list(masks), asked, own, view)
            for view, (target, image) in zip(seen, views.items(), strict=True)
        }

    def _chosen(
        self, target: str, image: Image, names: list[str], asked: Tensor, own: SeenView,
        view: SeenView,
    ) -> dict[str, FoundMask]:  # fmt: skip
        """The candidates chosen in one target view, by object."""
        curve = self._matcher.presence if self._matcher else PLAIN_PRESENCE
        if self._candidates is None:
            given = self._offered.pop(target, np.zeros((0, *image.shape[:2]), bool))
        else:
            given = self._candidates(image)
        given = given[given.any(axis=(1, 2))]
        size = (image.shape[0], image.shape[1])
        if not len(given):
            return dict.fromkeys(names, ChosenMask(np.zeros(size, bool), None, -1.0, curve))
        described = view.describe(given)
        ours, theirs = self._embedded(asked, own, described, view)
        similarity = ours @ theirs.T
        scores = self._with_memory(target, names, similarity, theirs)
        if self._texts is not None:
            scores = self._texts.scores(names, curve[0] * scores, asked, described)
        best = scores.argmax(dim=1).tolist()
        found: dict[str, FoundMask] = {}
        for row, (name, i) in enumerate(zip(names, best, strict=True)):
            one = ChosenMask(enlarge(given[i], size), None, float(similarity[row, i]), curve)
            if self._follow and one.visible(CONFIDENT):
                self._remember(target, name, theirs[i])
            found[name] = one
        return found

    def _embedded(
        self, asked: Tensor, own: SeenView, given: Tensor, view: SeenView
    ) -> tuple[Tensor, Tensor]:
        """Unit vectors of the objects and of the candidates from their descriptors."""
        if self._matcher is None:
            return own.plain(asked), view.plain(given)
        model: OMaMa = self._matcher.model
        return embed_asked(model, asked, view.tokens), embed_given(model, given, own.tokens)

    def _with_memory(
        self, target: str, names: list[str], similarity: Tensor, candidates: Tensor
    ) -> Tensor:
        """Similarities (M, N), including the remembered appearance of objects that have one."""
        mixed = similarity.clone()
        for row, name in enumerate(names):
            look = self._looks.get((target, name))
            if look is not None:
                remembered = candidates @ F.normalize(look[0], dim=0)
                mixed[row] = (1 - SHARE) * mixed[row] + SHARE * remembered
        return mixed

    def _remember(self, target: str, name: str, embedding: Tensor) -> None:
        mean, count = self._looks.get((target, name), (torch.zeros_like(embedding), 0))
        count = min(count + 1, REMEMBERED)
        self._looks[target, name] = (mean + (embedding - mean) / count, count)


def enlarge(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask at another size, its edges interpolated."""
    height, width = size
    large = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large > 0.5)


@dataclass(frozen=True)
class OMaMaMethod:
    """The data that trackers share; see :class:`OMaMaTracker`."""

    model: LMEEC
    """The network of the other settings, which may compute features and candidates."""
    features: Features
    matcher: LoadedMatcher | None
    candidates: Candidates | None
    follow: bool = False
    texts: ObjectTexts | None = None
    notes: tuple[str, ...] = ()
    """Remarks about settings without effect."""

    def tracker(
        self,
        query: str,
        targets: Sequence[str],
        num_frames: int | None = None,
        max_objects: int = 32,
    ) -> OMaMaTracker:
        """A tracker; the number of frames has no effect."""
        return OMaMaTracker(
            self.features, self.matcher, self.candidates, query, targets, max_objects, self.follow,
            self.texts,
        )  # fmt: skip


def needs_dinov2(settings: OMaMaSettings) -> bool:
    """Whether the matcher was trained with DINOv2's features: a released one, or according to its
    file.

    Raises:
        CheckpointError: the file cannot be read.
    """
    if settings.matcher in ("", BUNDLED):
        return False
    return read_facts(Path(settings.matcher)).get("features", "dinov2") == "dinov2"


def load(
    preset: str = "nano",
    checkpoint: str | Path | None = None,
    device: str = "auto",
    precision: PrecisionName = "fp32",
    seed: int | None = None,
    require_mv_moe: bool = True,
    candidates: Candidates | CandidateSettings | None = None,
    omama: OMaMaSettings | None = None,
    text: Mapping[str, str] | None = None,
    text_encoder: TextEncoder | None = None,
) -> OMaMaMethod:
    """Load the method.

    Args:
        preset, checkpoint, device, precision, seed, require_mv_moe: of the network whose features
            are used, and which makes the candidates, see :func:`lmeec_core.load_model`.
        candidates: makes the candidate masks, or the settings of their source; None: the defaults.
        omama: features and matcher; None: the defaults.
        text: descriptions of the objects' appearance, by object, used to choose candidates.
        text_encoder: encodes the descriptions; None: the one of the settings.

    Raises:
        CheckpointError: weights that cannot be used, or a matcher for other features.
        InputError: texts that cannot be used, see :func:`read_texts`.
    """
    settings = omama or OMaMaSettings()
    model = load_model(preset, checkpoint, device, precision, seed, require_mv_moe)
    made: Candidates | None
    if candidates is None or isinstance(candidates, CandidateSettings):
        made = (candidates or CandidateSettings()).generator(model)
    else:
        made = candidates
    features: Features = EncoderFeatures(model)
    if settings.features == "dinov2" or (settings.features == "auto" and needs_dinov2(settings)):
        from lmeec_core.methods.omama.dinov2 import load_dinov2

        if not settings.matcher:
            raise CheckpointError(
                "omama.matcher: nothing given, a matcher's checkpoint expected with the features "
                "of dinov2"
            )
        features = load_dinov2(settings.weights or None, device)
    matcher = None
    if settings.matcher:
        matcher = read_matcher(settings.matcher, features, model.device)
    texts, note = None, None
    if text:
        texts = read_texts(text, settings, features, model.device, text_encoder)
        note = text_note(text, settings)
    notes = (note,) if note else ()
    return OMaMaMethod(model, features, matcher, made, settings.follow, texts, notes)
