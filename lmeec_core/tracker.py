"""The tracker: one step per frame for N objects in K target views, as one batch.

Work that does not depend on the object or on the target is done once: each camera is encoded
once per step, a target's first self-attention once per step, an object's query memory once per
step, and its query bank is shared by all targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from lmeec_core.config import RELEASE_POINTER_WINDOW, MemoryConfig
from lmeec_core.correspondence import Correspondence, Found, Mask, exclusive_masks
from lmeec_core.encoded import EncodedView, Image, View, check_view, encode_views, size_of
from lmeec_core.errors import InputError
from lmeec_core.guided_filter import Guide, guides
from lmeec_core.memory import State, TrackMemory, strategy
from lmeec_core.model import LMEEC, NO_OBJECT_LOGIT, Prediction, ViewFeatures
from lmeec_core.model.results import concatenate
from lmeec_core.model.stages import StageRunner
from lmeec_core.preprocessing import check_mask, prepare_images, prepare_masks

__all__ = [
    "EMPTY_MASK",
    "NO_MASK",
    "Correspondence",
    "CorrespondenceTracker",
    "Found",
    "Image",
    "Mask",
    "exclusive_masks",
]

NO_MASK = "no query mask on this frame"
EMPTY_MASK = "empty query mask on this frame"


class _Encoded(NamedTuple):
    """The data computed from a step's images and masks, before any memory is read."""

    targets: ViewFeatures  # K views: the targets with an image
    prepared: Tensor  # (K, P, C)
    query_memory: Tensor  # (N, P, width)
    prompts: tuple[Tensor, ...]  # of N * K pairs, object by object, target by target
    inputs: Tensor  # (1 + K, 3, S, S), the query first
    pairs: list[int]  # N * K slots in the target banks and the pointers, in the same order


class CorrespondenceTracker:
    """Finds objects of a query view in target views, frame after frame.

    Memory per object and target view does not grow with time. Any camera can be the query camera,
    so both directions (ego to exo, exo to ego) work the same way.

    Args:
        model: a network with weights (:func:`lmeec_core.load_model`).
        query: the camera in which the objects' masks are given.
        targets: the cameras in which the objects are searched for.
        memory: see :class:`lmeec_core.MemoryConfig`.
        num_frames: number of frames of the recording, if known; sets the object pointers' window
            and time scale, as in the release. None (a live stream) means 16 or more.
        max_objects: maximum number of objects, which limits memory use.
        runner: computes the stages; None: the model's own (:func:`lmeec_core.engine.use_engine`).

    Raises:
        InputError: no target, a target named twice, or the query among the targets.
    """

    def __init__(
        self,
        model: LMEEC,
        query: str,
        targets: Sequence[str],
        memory: MemoryConfig | None = None,
        num_frames: int | None = None,
        max_objects: int = 32,
        runner: StageRunner | None = None,
    ) -> None:
        if isinstance(targets, str):
            raise InputError(f"targets: the text {targets!r} given, a list expected: [{targets!r}]")
        targets = tuple(targets)
        if not targets or len(set(targets)) != len(targets):
            raise InputError(f"targets: {targets!r} given, one or more different names expected")
        if query in targets:
            raise InputError(f"targets: {targets!r} contain the query camera {query!r}")
        if num_frames is not None and num_frames < 1:
            raise InputError(f"num_frames: {num_frames} given, at least 1 or None expected")
        self.model = model
        self.query = query
        self.targets = targets
        self.memory = memory or MemoryConfig()
        self.max_objects = max_objects
        self._runner = runner
        self._window = min(num_frames or RELEASE_POINTER_WINDOW, RELEASE_POINTER_WINDOW)
        self._tracks = self._empty()

    def reset(self) -> None:
        """Forget every object."""
        self._tracks = self._empty()

    def _empty(self) -> TrackMemory:
        return TrackMemory(
            len(self.targets), self.memory.capacity, strategy(self.memory), self._window - 1
        )

    def forget(self, object_id: str) -> bool:
        """Forget one object and free its place; returns whether it was known."""
        return self._tracks.forget(object_id)

    def memory_state(self) -> State:
        """Copies of the memory, for :meth:`restore`; :func:`lmeec_core.save_memory` writes it."""
        return self._tracks.state()

    @torch.inference_mode()
    def restore(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Replace the memory by the :meth:`memory_state` of a tracker with the same settings.

        Its tensors may be in another precision and on another device.

        Raises:
            InputError: too many objects, an unknown part, a wrong shape or type, or numbers that
                are not finite. The memory is unchanged after any error.
        """
        if len(state) > self.max_objects:
            raise InputError(f"{len(state)} objects, at most {self.max_objects} expected")
        config = self.model.config
        like = torch.empty(0, device=self.model.device, dtype=self.model.computed)
        after = self._empty()
        after.restore(state, config.stored_shape, config.hidden_dim, like)
        self._tracks = after

    @property
    def runner(self) -> StageRunner:
        """The runner of the stages."""
        return self._runner or self.model.runner or self.model.compute

    @property
    def objects(self) -> tuple[str, ...]:
        """Ids of all known objects, in the order in which they were added."""
        return tuple(self._tracks.slots)

    @property
    def memory_bytes(self) -> int:
        """Size of the memory, in bytes."""
        return self._tracks.nbytes

    @torch.inference_mode()
    def step(
        self, images: Mapping[str, View | None], masks: Mapping[str, npt.NDArray[Any] | None]
    ) -> Found:
        """Find the objects in the target views of one frame.

        A target without an image keeps its bank and pointers unchanged. The query bank, which all
        targets share, stores every frame with a mask, even if no target has an image. It is
        therefore the same whether targets are tracked together or one by one.

        Args:
            images: RGB uint8 (H, W, 3) of any size, for the query and every target camera; None
                for a target without an image on this frame. Unknown cameras are ignored. A view
                encoded by this network (:mod:`lmeec_core.encoded`) can replace an image.
            masks: masks in the query view, by object id: bool, or integers 0 and 1 or 255, (H, W)
                of any size with the query image's aspect ratio. None or an empty mask: the object
                is skipped on this frame, as is a known object without an entry. A new id starts
                with empty banks.

        Returns:
            for each target camera with an image and each known object a :class:`Correspondence`.

        Raises:
            InputError: a missing camera, a wrong shape, dtype or value, or too many objects;
                names it. The memory is unchanged after any error.
        """
        views = self._check_images(images)
        sought, skipped = self._check_masks(masks, size_of(views[self.query]))
        sizes = {name: size_of(views[name]) for name in self.targets if name in views}
        prediction, view_guides = None, {}
        after = self._tracks.copy()
        if sought:
            slots = after.place(list(sought))
            there = [k for k, name in enumerate(self.targets) if name in sizes]
            pairs = [after.pairs(slot)[k] for slot in slots for k in there]
            size, device = self.model.config.image_size, self.model.device
            query_masks = prepare_masks(list(sought.values()), size, device)
            with self.model.autocast():
                encoded = self._encode(list(views.values()), query_masks, pairs)
                prediction = self._predict(slots, encoded) if sizes else None
                self._remember(after, slots, encoded, prediction)
            after.slots.update(zip(sought, slots, strict=True))
            view_guides = dict(
                zip(sizes, guides(self.model.config, encoded.inputs[1:]), strict=True)
            )
        for name in skipped:
            after.slots.setdefault(name, after.place([name])[0])
        found = self._collect(
            list(sought), prediction, skipped, sizes, view_guides, list(after.slots)
        )
        # Everything is computed, and GPU errors would have been raised: nothing can fail any more.
        self._tracks = after
        return found

    # -- checks ------------------------------------------------------------------------------

    def _check_images(self, images: Mapping[str, View | None]) -> dict[str, View]:
        """The query view, then the views of the targets that have an image."""
        views = {}
        for name in (self.query, *self.targets):
            if name not in images:
                raise InputError(
                    f"image of camera {name!r} is missing; given: {sorted(images) or 'none'}"
                )
            image = images[name]
            if image is not None or name == self.query:
                views[name] = check_view(name, image, self.model)
        return views

    def _check_masks(
        self, masks: Mapping[str, npt.NDArray[Any] | None], size: tuple[int, int]
    ) -> tuple[dict[str, Mask], dict[str, str]]:
        sought: dict[str, Mask] = {}
        skipped = {name: NO_MASK for name in self._tracks.slots if name not in masks}
        for name, mask in masks.items():
            if not isinstance(name, str) or not name:
                raise InputError(f"object id {name!r}: a non-empty string expected")
            if mask is None:
                skipped[name] = NO_MASK
                continue
            checked = check_mask(name, mask, size)
            if checked.any():
                sought[name] = checked
            else:
                skipped[name] = EMPTY_MASK
        objects = set(self._tracks.slots) | set(masks)
        if len(objects) > self.max_objects:
            raise InputError(
                f"{len(objects)} objects, at most {self.max_objects} expected; forget some, or "
                f"raise max_objects"
            )
        return sought, skipped

    # -- the step ----------------------------------------------------------------------------

    def _encode(self, views: list[View], masks: Tensor, pairs: list[int]) -> _Encoded:
        """Encode all views (the query first) and the query masks."""
        inputs, features, prepared = self._features(views)
        query, targets = features.map(lambda x: x[:1]), features.map(lambda x: x[1:])
        queries = query.map(lambda x: x.expand(masks.shape[0], -1, -1, -1))
        query_memory = self.model.encode_query_memory(queries, masks, self.runner)
        if not pairs:  # no target has an image
            return _Encoded(targets, query_memory[:0], query_memory, (), inputs, pairs)
        prompts = self.model.make_prompts(query, masks[None], targets)
        return _Encoded(
            targets,
            self.model.prepare_targets(targets, self.runner) if prepared is None else prepared[1:],
            query_memory,
            tuple(x.transpose(0, 1).flatten(0, 1) for x in prompts),
            inputs,
            pairs,
        )

    def _features(self, views: list[View]) -> tuple[Tensor, ViewFeatures, Tensor | None]:
        """Model input and features of views; and what is prepared of them, if they were encoded."""
        images = [view for view in views if not isinstance(view, EncodedView)]
        if len(images) == len(views):
            config = self.model.config
            inputs = prepare_images(images, config.image_size, self.model.device)
            return inputs, self.model.encode_images(inputs, self.runner), None
        rest = iter(encode_views(self.model, images, self.runner))
        given = [view if isinstance(view, EncodedView) else next(rest) for view in views]
        features = concatenate([view.features for view in given])
        return (
            torch.cat([view.inputs for view in given]),
            features,
            torch.cat([view.prepared for view in given]),
        )

    def _predict(self, slots: list[int], encoded: _Encoded) -> Prediction:
        """Predictions of all pairs, object by object, target by target (B = N * K)."""
        count = len(slots)
        prepared = encoded.prepared.repeat(count, 1, 1)
        query_memory = encoded.query_memory.repeat_interleave(len(encoded.prepared), dim=0)
        view_specific = self.model.attend_view(prepared, query_memory, self.runner)
        pairs = encoded.pairs
        memory_aware, without_memory = view_specific, []
        for lengths, index in self._groups(pairs).items():
            if not sum(lengths):
                without_memory += index  # first frame: the view-specific feature alone
                continue
            attended = self._attend_memory([pairs[i] for i in index], prepared[index])
            if len(index) == len(pairs):
                memory_aware = attended
            else:
                if memory_aware is view_specific:
                    memory_aware = view_specific.clone()
                memory_aware[index] = attended.to(memory_aware.dtype)
        has_memory = torch.ones(len(pairs), dtype=torch.bool, device=prepared.device)
        has_memory[without_memory] = False
        return self.model.predict(
            memory_aware,
            view_specific,
            has_memory,
            encoded.targets.map(lambda x: x.repeat(count, 1, 1, 1)),
            encoded.prompts,
            self.memory.fusion,
            self.runner,
        )

    def _groups(self, pairs: list[int]) -> dict[tuple[int, int, int], list[int]]:
        """Pairs by the lengths of their memories; one group once all are full."""
        groups: dict[tuple[int, int, int], list[int]] = {}
        for i, pair in enumerate(pairs):
            groups.setdefault(self._tracks.lengths(pair), []).append(i)
        return groups

    def _attend_memory(self, pairs: list[int], prepared: Tensor) -> Tensor:
        """Memory-aware features of pairs whose memories are equally long."""
        objects = [self._tracks.object_of(pair) for pair in pairs]
        banks = [
            (frames, bank.rows(frames.shape[1], self.model.config.memory_slots))
            for bank, slots in ((self._tracks.query, objects), (self._tracks.target, pairs))
            if bank.length(slots[0])
            for frames in (bank.read(slots),)
        ]
        return self.model.attend_memory(
            prepared, banks, self._tracks.pointers.read(pairs), self._window, self.runner
        )

    def _remember(
        self,
        after: TrackMemory,
        slots: list[int],
        encoded: _Encoded,
        prediction: Prediction | None,
    ) -> None:
        """Write this frame to the memory used for the next frame."""
        if self.memory.query_bank:
            frames = self.model.stored_frames(encoded.query_memory)
            scores = frames.new_ones(len(slots))
            for update in after.query.plan(slots, frames, scores):
                after.query.commit(update)
        if prediction is None:
            return
        if self.memory.target_bank:
            views = encoded.targets.map(lambda x: x.repeat(len(slots), 1, 1, 1))
            frames = self.model.encode_target_memory(
                views, prediction.logits, prediction.presence_logit, self.runner
            )
            frames = self.model.stored_frames(frames)
            for update in after.target.plan(encoded.pairs, frames, prediction.predicted_iou):
                after.target.commit(update)
        after.pointers.push(encoded.pairs, prediction.pointer)

    def _collect(
        self,
        sought: list[str],
        prediction: Prediction | None,
        skipped: dict[str, str],
        sizes: dict[str, tuple[int, int]],
        view_guides: dict[str, Guide | None],
        order: list[str],
    ) -> Found:
        """The results, with the objects of each target in the given order."""
        found: Found = {name: {} for name in sizes}
        config = self.model.config
        if prediction is not None:
            # One transfer for all numbers, not one per correspondence.
            numbers = torch.stack((prediction.presence_logit, prediction.predicted_iou)).tolist()
            for i, (name, target) in enumerate((n, t) for n in sought for t in sizes):
                found[target][name] = Correspondence(
                    prediction.logits[i],
                    numbers[0][i],
                    numbers[1][i],
                    prediction.pointer[i].float(),
                    sizes[target],
                    guide=view_guides[target],
                )
        side = config.mask_size
        for name, reason in skipped.items():
            for target in sizes:
                found[target][name] = Correspondence(
                    torch.full((side, side), NO_OBJECT_LOGIT, device=self.model.device),
                    NO_OBJECT_LOGIT,
                    0.0,
                    torch.zeros(config.hidden_dim, device=self.model.device),
                    sizes[target],
                    reason,
                )
        return {
            target: {name: entries[name] for name in order if name in entries}
            for target, entries in found.items()
        }
