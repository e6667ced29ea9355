"""Tracks marked objects in one view with the compact network, by matching with marked frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmeec_core.compact import CompactLMEEC
from lmeec_core.encoded import EncodedView, View, encoded
from lmeec_core.errors import InputError
from lmeec_core.guided_filter import Guide, guides
from lmeec_core.model import LMEEC, NO_OBJECT_LOGIT, Prediction, ViewFeatures
from lmeec_core.model.stages import StageRunner
from lmeec_core.prompts.base import NetworkViewTracker
from lmeec_core.prompts.checks import (
    Marked,
    check_frame,
    check_prompt,
    check_room,
)
from lmeec_core.prompts.marking import Marker
from lmeec_core.prompts.sam2 import Tracked


@dataclass(frozen=True, eq=False)
class _Reference:
    """A frame on which an object was marked."""

    number: int
    views: ViewFeatures  # one view
    mask: Tensor  # (S, S) of 0 and 1
    memory: Tensor  # (1, P, width) of view and mask


_Track = tuple[_Reference, ...]
"""The frames on which an object was marked, oldest first. Frames on which it was only found are not
used, because the tracker would keep following a wrong mask."""


class _Frame(NamedTuple):
    """A frame that can be prompted."""

    number: int
    view: EncodedView
    guide: Guide | None
    found: dict[str, Tracked]  # the objects on it


class MatchingPromptTracker(NetworkViewTracker[_Track, _Frame]):
    """Tracks objects marked by points, boxes or masks, in the view in which they were marked.

    For networks that match (:class:`lmeec_core.compact.CompactLMEEC`): the frames on which an
    object was marked are its query views, and the current frame is their target view. An object
    that is not recognised in a frame is judged absent there. All objects are processed as one
    batch. Memory use does not grow over time.

    Args:
        model: a compact network with weights (:func:`lmeec_core.load_model`).
        conditioning_frames: number of marked frames kept per object, the newest ones; a frame is
            matched with all of them.
        max_objects: maximum number of objects, which limits memory use.
        hold: number of frames that can be prompted, the newest ones.
        runner: computes the stages; None: the model's own (:func:`lmeec_core.engine.use_engine`).

    Raises:
        InputError: the network does not match by embeddings, or a number is below 1.
    """

    def __init__(
        self,
        model: LMEEC,
        conditioning_frames: int = 4,
        max_objects: int = 32,
        hold: int = 8,
        runner: StageRunner | None = None,
    ) -> None:
        if not isinstance(model, CompactLMEEC):
            raise InputError(
                "this network does not match by embeddings; a compact one (preset nano) expected, "
                "or lmeec_core.prompts.view_tracker(model), which makes the right tracker for any "
                "network"
            )
        super().__init__(model, conditioning_frames, max_objects, hold, runner)
        self._marker = Marker(model)

    def forget(self, object_id: str) -> bool:
        """Forget one object; returns whether it was known."""
        for frame in self._frames:
            frame.found.pop(object_id, None)
        return super().forget(object_id)

    @property
    def memory_bytes(self) -> int:
        """Size of the held frames and the objects' references, in bytes."""
        views = [frame.view for frame in self._frames]
        tensors = [t for view in views for t in (view.inputs, view.prepared)]
        tensors += [one.logits for frame in self._frames for one in frame.found.values()]
        references = {id(one): one for track in self._tracks.values() for one in track}
        tensors += [t for one in references.values() for t in (one.mask, one.memory)]
        features = [view.features for view in views]
        features += [one.views for one in references.values()]
        for part in {id(one): one for one in features}.values():
            tensors += list(vars(part).values())
        return sum(tensor.nbytes for tensor in tensors)

    @torch.inference_mode()
    def step(self, image: View) -> dict[str, Tracked]:
        """Process the next frame and track every object in it.

        Args:
            image: RGB uint8 (H, W, 3) of any size, or a view encoded by this network.

        Returns:
            each object's :class:`Tracked`; empty while no object is marked.

        Raises:
            InputError: the image is invalid; the tracker is unchanged.
        """
        view = encoded(self.model, "image", image, self.runner)
        frame = _Frame(self.next_number, view, guides(self.model.config, view.inputs)[0], {})
        with self.model.autocast():
            found = self._follow(self._tracks, frame)
        frame.found.update(found)
        self._frames.append(frame)
        return found

    @torch.inference_mode()
    def prompt(
        self,
        object_id: str,
        points: npt.ArrayLike | None = None,
        labels: Sequence[int] | None = None,
        box: npt.ArrayLike | None = None,
        mask: npt.NDArray[Any] | None = None,
        frame: int | None = None,
    ) -> Tracked:
        """Mark an object, or correct its mask.

        All points on a frame are given together: a second call for the same frame replaces the
        first. On an earlier frame, the object is marked there and tracked to the newest frame.

        Arguments, result and errors are those of :meth:`lmeec_core.prompts.ViewTracker.prompt`.
        """
        number = check_frame(object_id, frame, self.held_frames)
        check_room(object_id, self._tracks, self.max_objects)
        first, *later = (one for one in self._frames if one.number >= number)
        marked = check_prompt(object_id, points, labels, box, mask, first.view.size)
        before = self._before(object_id, marked, first)
        with self.model.autocast():
            prediction = self._marker.mark(first.view, marked, before, self.runner)
            results = [self._marked(prediction, first, marked)]
            track = [one for one in self._tracks.get(object_id, ()) if one.number != number]
            if results[0].visible():  # an empty mask means that the object is absent
                track.append(self._refer(first, self._full(prediction.logits)[0]))
            kept = tuple(sorted(track, key=lambda one: one.number)[-self.conditioning_frames :])
            marks = {one.number for one in kept}
            results += [
                one.found[object_id]
                if one.number in marks
                else self._follow({object_id: kept}, one)[object_id]
                for one in later
            ]
        for one, result in zip((first, *later), results, strict=True):
            one.found[object_id] = result
        self._tracks[object_id] = kept
        return results[-1]

    def _marked(self, prediction: Prediction, frame: _Frame, marked: Marked) -> Tracked:
        """The result for a prompt: refined with the image if the refined mask fits all points."""
        plain = self._collect(prediction, frame, None)[0]
        if marked.mask is not None or frame.guide is None or not plain.visible():
            return plain
        fitted = replace(plain, guide=frame.guide)
        height, width = frame.view.size
        x, y = np.minimum(marked.points.astype(int), (width - 1, height - 1)).T
        on = np.array(marked.labels, dtype=bool)
        before, after = plain.mask(), fitted.mask()
        overlap = (before & after).sum() >= 0.5 * (before | after).sum()
        return fitted if overlap and (after[y, x] == on).all() else plain

    def _before(self, object_id: str, marked: Marked, frame: _Frame) -> Tensor | None:
        """The logits of the mask that a prompt corrects; None if it marks something new.

        Raises:
            InputError: there are only negative points, and no mask that they could correct.
        """
        found = frame.found.get(object_id)
        if (
            found is not None
            and found.visible()
            and self._marker.builds_on(found.logits, marked, frame.view.size)
        ):
            return found.logits
        if marked.labels and 1 not in marked.labels and marked.box is None:
            raise InputError(
                f"prompt for {object_id!r}: only points that are not on the object given, but the "
                "object has no mask on this frame; a point on it, a box or a mask expected"
            )
        return None

    # -- the step ----------------------------------------------------------------------------

    def _follow(self, tracks: dict[str, _Track], frame: _Frame) -> dict[str, Tracked]:
        """The objects on a frame, each from its best reference."""
        found = dict.fromkeys(tracks, self._absent(frame))
        sought = [name for name, track in tracks.items() if track]
        if not sought:
            return found
        answers = self._match([one for name in sought for one in tracks[name]], frame)
        presence, iou = answers.presence_logit.tolist(), answers.predicted_iou.tolist()
        chosen, first = [], 0
        for name in sought:
            own = range(first, first + len(tracks[name]))
            first = own.stop
            chosen.append(max(own, key=lambda i: (presence[i] > 0, iou[i])))
        best = Prediction(*(part[chosen] for part in answers))
        return found | dict(zip(sought, self._collect(best, frame, frame.guide), strict=True))

    def _match(self, references: Sequence[_Reference], frame: _Frame) -> Prediction:
        """The prediction from each reference for a frame."""
        count = len(references)
        together = [one.views for one in references]
        views = type(together[0])(
            *(torch.cat([getattr(one, name) for one in together]) for name in vars(together[0]))
        )
        masks = torch.stack([one.mask for one in references])[:, None]
        targets = frame.view.features.map(lambda x: x.expand(count, -1, -1, -1))
        prompts = self.model.make_prompts(views, masks, targets)
        memory = torch.cat([one.memory for one in references])
        prepared = frame.view.prepared.expand(count, -1, -1)
        attended = self.model.attend_view(prepared, memory, self.runner)
        nothing = torch.zeros(count, dtype=torch.bool, device=attended.device)
        return self.model.predict(
            attended, attended, nothing, targets, tuple(x.flatten(0, 1) for x in prompts),
            "none", self.runner,
        )  # fmt: skip

    def _refer(self, frame: _Frame, mask: Tensor) -> _Reference:
        """A reference made of a frame and a mask (S, S)."""
        features = frame.view.features
        memory = self.model.encode_query_memory(features, mask[None], self.runner)
        return _Reference(frame.number, features, mask, memory)

    def _full(self, logits: Tensor) -> Tensor:
        """Logits (N, s, s) as masks (N, S, S) of 0 and 1."""
        side = self.model.config.image_size
        large = torch.nn.functional.interpolate(logits[:, None], size=(side, side), mode="bilinear")
        return (large[:, 0] > 0).float()

    def _collect(self, prediction: Prediction, frame: _Frame, guide: Guide | None) -> list[Tracked]:
        numbers = torch.stack((prediction.presence_logit, prediction.predicted_iou)).tolist()
        return [
            Tracked(
                prediction.logits[i],
                numbers[0][i],
                numbers[1][i],
                prediction.pointer[i].float(),
                frame.view.size,
                guide=guide if numbers[0][i] > 0 else None,
            )
            for i in range(len(prediction.logits))
        ]

    def _absent(self, frame: _Frame) -> Tracked:
        """The result for an object without references, which is absent."""
        side, device = self.model.config.mask_size, self.model.device
        return Tracked(
            torch.full((side, side), NO_OBJECT_LOGIT, device=device),
            NO_OBJECT_LOGIT,
            0.0,
            torch.zeros(self.model.config.hidden_dim, device=device),
            frame.view.size,
        )
