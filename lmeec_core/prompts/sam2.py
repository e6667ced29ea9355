"""SAM 2.1 in one view: objects are marked once, and then tracked frame by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmeec_core.config import RELEASE_POINTER_WINDOW
from lmeec_core.encoded import View, encoded
from lmeec_core.errors import InputError
from lmeec_core.model import LMEEC, Prediction, ViewFeatures
from lmeec_core.model.prompted import (
    decode_prompt,
    encode_prompted_memory,
    fresh_tokens,
    use_mask,
)
from lmeec_core.model.stages import StageRunner
from lmeec_core.preprocessing import prepare_masks
from lmeec_core.prompts.base import NetworkViewTracker
from lmeec_core.prompts.checks import (
    Marked,
    check_frame,
    check_limits,
    check_prompt,
    check_room,
)
from lmeec_core.tracker import Correspondence

BOX_LABELS = (2, 3)
"""Labels of a box's upper left and lower right corners; points have 0 or 1."""


class Tracked(Correspondence):
    """One object on one frame, in the view in which it was marked."""

    __slots__ = ()


@dataclass(slots=True)
class _Moment:
    """The data stored about an object on one frame."""

    number: int
    memory: Tensor | None  # (P, memory_dim) bfloat16; None once it is too old to be attended to
    pointer: Tensor  # (C,)
    found: Tracked | None  # None once the frame is not held
    prompted: bool = False  # not tracked again when an earlier frame is corrected


@dataclass(frozen=True, slots=True)
class _Track:
    """An object's memory, oldest first; replaced as a whole."""

    conditioning: tuple[_Moment, ...] = ()
    recent: tuple[_Moment, ...] = ()

    @property
    def moments(self) -> tuple[_Moment, ...]:
        """Conditioning and recent moments."""
        return (*self.conditioning, *self.recent)

    def at(self, number: int) -> _Moment | None:
        """The moment on a frame, if stored."""
        return next((m for m in self.moments if m.number == number), None)

    def before(self, number: int) -> tuple[list[_Moment], list[_Moment]]:
        """Conditioning and other moments before a frame, oldest first."""
        return (
            [m for m in self.conditioning if m.number < number],
            [m for m in self.recent if m.number < number],
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        kept = [t for m in self.moments for t in (m.memory, m.pointer)]
        kept += [m.found.logits for m in self.moments if m.found is not None]
        return sum(tensor.nbytes for tensor in kept if tensor is not None)


class _Frame(NamedTuple):
    """A frame that can be prompted."""

    number: int
    size: tuple[int, int]
    views: ViewFeatures  # one view
    prepared: Tensor  # (1, P, C), from :meth:`LMEEC.prepare_targets`


class PromptTracker(NetworkViewTracker[_Track, _Frame]):
    """Tracks objects marked by points, boxes or masks, in the view in which they were marked.

    It computes the same as SAM 2's video predictor: the frame of an object's first prompt
    conditions all later ones; the memories of the last six frames and the object pointers of the
    last fifteen are kept; a prompt on a frame on which the object was tracked corrects its mask.
    Objects can be added, removed and corrected at any time, and are processed as one batch. Memory
    use does not grow over time.

    Args:
        model: a SAM 2.1 network with weights (:func:`lmeec_core.load_model`); its MV-MoE is not
            used.
        conditioning_frames: number of prompted frames kept per object, the newest ones.
        condition_on_corrections: whether a corrected frame also becomes a conditioning frame
            (SAM 2's default: no).
        num_frames: number of frames of the recording, if known; sets the object pointers' window
            and time scale, as in SAM 2. None (a live stream) means 16 or more.
        max_objects: maximum number of objects, which limits memory use.
        hold: number of frames that can be prompted, the newest ones.
        runner: computes the stages; None: the model's own (:func:`lmeec_core.engine.use_engine`).

    Raises:
        InputError: the network does not accept prompts, or a number is below 1.
    """

    def __init__(
        self,
        model: LMEEC,
        conditioning_frames: int = 4,
        condition_on_corrections: bool = False,
        num_frames: int | None = None,
        max_objects: int = 32,
        hold: int = 4,
        runner: StageRunner | None = None,
    ) -> None:
        if not model.takes_prompts:
            raise InputError(
                "this network accepts no prompts (its embedding needs a query mask); a SAM 2.1 "
                "preset such as base_plus expected, or lmeec_core.prompts.view_tracker(model), "
                "which makes the right tracker for any network"
            )
        check_limits(num_frames=num_frames)
        super().__init__(model, conditioning_frames, max_objects, hold, runner)
        self.condition_on_corrections = condition_on_corrections
        self._window = min(num_frames or RELEASE_POINTER_WINDOW, RELEASE_POINTER_WINDOW)

    @property
    def memory_bytes(self) -> int:
        """Size of the memory of all objects, in bytes."""
        return sum(track.nbytes for track in self._tracks.values())

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
        frame = _Frame(self.next_number, view.size, view.features, view.prepared)
        with self.model.autocast():
            moments = self._follow(self._tracks, frame)
        self._frames.append(frame)
        self._tracks = {
            name: self._remembered(track, moments[name]) for name, track in self._tracks.items()
        }
        return {name: moment.found for name, moment in moments.items() if moment.found is not None}

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
        points of the first and starts from its mask. From an earlier frame, the object is tracked
        again up to the newest one, as if the prompt had not been late; frames that were prompted
        themselves are not changed.

        Arguments, result and errors are those of :meth:`lmeec_core.prompts.ViewTracker.prompt`.
        """
        number = check_frame(object_id, frame, self.held_frames)
        check_room(object_id, self._tracks, self.max_objects)
        current, *later = (one for one in self._frames if one.number >= number)
        marked = check_prompt(object_id, points, labels, box, mask, current.size)
        track = self._tracks.get(object_id, _Track())
        with self.model.autocast():
            prediction = self._mark(track, marked, current)
            memory = encode_prompted_memory(self.model, current.views, prediction, self.runner)
            (moment,) = self._moments(prediction, memory, current, prompted=True)
            first = not any(track.before(number))
            again = number in (m.number for m in track.conditioning)
            conditions = first or again or self.condition_on_corrections
            track = self._remembered(track, moment, conditions)
            for one in later:
                kept = track.at(one.number)
                if kept is None or not kept.prompted:
                    track = self._remembered(
                        track, self._follow({object_id: track}, one)[object_id]
                    )
        self._tracks[object_id] = track
        newest = track.at(self._frames[-1].number)
        assert newest is not None and newest.found is not None
        return newest.found

    # -- the step ----------------------------------------------------------------------------

    def _mark(self, track: _Track, marked: Marked, frame: _Frame) -> Prediction:
        """The prediction for a prompt on its frame."""
        if marked.mask is not None:
            size, device = self.model.config.image_size, self.model.device
            return use_mask(self.model, frame.views, prepare_masks([marked.mask], size, device))
        before = any(track.before(frame.number))
        tokens = self._attend([track], frame) if before else fresh_tokens(self.model, frame.views)
        known = track.at(frame.number)
        previous = None if known is None or known.found is None else known.found.logits[None]
        places = self._places(marked, frame.size)
        return decode_prompt(self.model, tokens, frame.views, places, previous)

    def _follow(self, tracks: Mapping[str, _Track], frame: _Frame) -> dict[str, _Moment]:
        """Track objects in a frame, as one batch."""
        if not tracks:
            return {}
        several = frame.views.map(lambda x: x.expand(len(tracks), -1, -1, -1))
        tokens = self._attend(list(tracks.values()), frame)
        prediction = decode_prompt(self.model, tokens, several)
        memory = self.model.encode_target_memory(
            several, prediction.logits, prediction.presence_logit, self.runner
        )
        return dict(zip(tracks, self._moments(prediction, memory, frame), strict=True))

    def _places(self, marked: Marked, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Corners and points as fractions of the image (1, n, 2), and their labels (1, n)."""
        spots, kinds = marked.points, list(marked.labels)
        if marked.box is not None:
            spots, kinds = np.concatenate((marked.box, spots)), [*BOX_LABELS, *kinds]
        height, width = size
        # As in SAM 2: the centre of a pixel of the model's input.
        device, side = self.model.device, self.model.config.image_size
        pixels = torch.tensor(spots / (width, height) * side, dtype=torch.float32, device=device)
        return ((pixels + 0.5) / side)[None], torch.tensor([kinds], device=device)

    def _attend(self, tracks: Sequence[_Track], frame: _Frame) -> Tensor:
        """Tokens (N, P, C) of a frame after attention to each object's memory."""
        groups: dict[tuple[int, int], list[int]] = {}
        memories = [self._memory(track, frame.number) for track in tracks]
        for i, (features, _, pointers) in enumerate(memories):
            groups.setdefault((len(features), len(pointers)), []).append(i)
        tokens = frame.prepared.new_empty((len(tracks), *frame.prepared.shape[1:]))
        for index in groups.values():
            features, positions, pointers = (
                torch.stack(part) for part in zip(*(memories[i] for i in index), strict=True)
            )
            prepared = frame.prepared.expand(len(index), -1, -1)
            attended = self.model.attend_frames(
                prepared, features, positions, pointers, self.runner
            )
            tokens[index] = attended.to(tokens.dtype)
        return tokens

    def _memory(self, track: _Track, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """An object's memory before a frame: features (m, P, memory_dim), positional encodings of
        all tokens (L, memory_dim), and object pointers (n, C)."""
        conditioning, recent = track.before(number)
        slots = self.model.config.memory_slots
        near = [m for m in recent if number - m.number < slots and m.memory is not None]
        rows = [slots - 1] * len(conditioning) + [number - m.number - 1 for m in near]
        recalled = [m for m in reversed(recent) if number - m.number < self._window]
        pointed = [*conditioning, *recalled]
        features = torch.stack([m.memory for m in (*conditioning, *near) if m.memory is not None])
        frames_back = tuple(number - m.number for m in pointed)
        position = self.model.memory_positions(
            tuple(rows), frames_back, self._window, self.model.image_position.dtype
        )
        return features, position, torch.stack([m.pointer for m in pointed])

    def _remembered(self, track: _Track, moment: _Moment, conditions: bool = False) -> _Track:
        """A track with a frame added or corrected; frames that are too old are dropped."""
        conditioning = [m for m in track.conditioning if m.number != moment.number]
        recent = [m for m in track.recent if m.number != moment.number]
        (conditioning if conditions else recent).append(moment)
        # A held frame may be corrected, and then attends to the frames before it.
        last = max(m.number for m in (*track.moments, moment))
        slots, held = self.model.config.memory_slots, self._hold - 1
        for old in (*conditioning, *recent):
            if last - old.number > held:
                old.found = None
        for old in recent:
            if last - old.number >= slots + held:
                old.memory = None
        conditioning = sorted(conditioning, key=lambda m: m.number)[-self.conditioning_frames :]
        recent = sorted(recent, key=lambda m: m.number)
        return _Track(
            tuple(conditioning), tuple(m for m in recent if last - m.number < self._window + held)
        )

    def _moments(
        self, prediction: Prediction, memory: Tensor, frame: _Frame, prompted: bool = False
    ) -> list[_Moment]:
        """The moments to store for each object of a batch on a frame."""
        numbers = torch.stack((prediction.presence_logit, prediction.predicted_iou)).tolist()
        stored = memory.to(torch.bfloat16)
        return [
            _Moment(
                frame.number,
                stored[i],
                prediction.pointer[i],
                Tracked(
                    prediction.logits[i],
                    numbers[0][i],
                    numbers[1][i],
                    prediction.pointer[i].float(),
                    frame.size,
                ),
                prompted,
            )
            for i in range(len(stored))
        ]
