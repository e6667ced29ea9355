"""SAM 2.1 in one view: an object is marked once and then tracked frame by frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmeec_core.config import RELEASE_POINTER_WINDOW
from lmeec_core.errors import InputError
from lmeec_core.model import LMEEC, Prediction, ViewFeatures
from lmeec_core.model.prompted import (
    decode_prompt,
    encode_prompted_memory,
    fresh_tokens,
    use_mask,
)
from lmeec_core.model.stages import StageRunner
from lmeec_core.preprocessing import check_image, prepare_images, prepare_masks
from lmeec_core.prompts.checks import (
    Marked,
    check_frame,
    check_limits,
    check_prompt,
    check_room,
)
from lmeec_core.tracker import Correspondence, Image

BOX_LABELS = (2, 3)
"""Labels of a box's upper left and lower right corner, behind 0 (not) and 1 (on the object)."""


class Tracked(Correspondence):
    """One object on one frame, in the view that it was marked in."""

    __slots__ = ()


@dataclass(slots=True)
class _Moment:
    """What is stored about an object on one frame."""

    number: int
    memory: Tensor | None  # (P, memory_dim) bfloat16; None once it is too old to be attended to
    pointer: Tensor  # (C,)


@dataclass(slots=True)
class _Track:
    """An object's memory."""

    conditioning: list[_Moment] = field(default_factory=list)
    recent: deque[_Moment] = field(default_factory=deque)
    logits: Tensor | None = None  # (s, s), of the newest frame

    def before(self, number: int) -> tuple[list[_Moment], list[_Moment]]:
        """Conditioning and other moments before a frame, oldest first."""
        return (
            [m for m in self.conditioning if m.number < number],
            [m for m in self.recent if m.number < number],
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        moments = [*self.conditioning, *self.recent]
        kept = [self.logits, *(m.memory for m in moments), *(m.pointer for m in moments)]
        return sum(tensor.nbytes for tensor in kept if tensor is not None)


class _Frame(NamedTuple):
    """The frame last stepped, to which prompts refer."""

    number: int
    size: tuple[int, int]
    views: ViewFeatures  # one view
    prepared: Tensor  # (1, P, C), from :meth:`LMEEC.prepare_targets`


class PromptTracker:
    """Tracks objects marked by points, boxes or masks, in the view in which they were marked.

    It computes what SAM 2's video predictor computes: the frame of an object's first prompt
    conditions all later ones, six frames before the current one and the object pointers of fifteen
    are remembered, and a prompt on a frame on which the object was tracked corrects it. Objects
    come, go and are corrected at any time; all of them are one batch. Memory is constant in time.

    Args:
        model: a network of SAM 2.1 with weights (:func:`lmeec_core.load_model`); its MV-MoE is not
            used.
        conditioning_frames: how many prompted frames are kept per object, the newest ones.
        condition_on_corrections: whether a corrected frame becomes a conditioning frame, too
            (SAM 2's default: no).
        num_frames: length of the recording where it is known, which sets the object pointers'
            window and time scale as SAM 2 does; None (a live stream) means 16 or more.
        max_objects: refuse more objects than this, a bound on memory.
        runner: computes the stages; None is the model's own (:func:`lmeec_core.engine.use_engine`).

    Raises:
        InputError: a network that takes no prompts, or a number below 1.
    """

    def __init__(
        self,
        model: LMEEC,
        conditioning_frames: int = 4,
        condition_on_corrections: bool = False,
        num_frames: int | None = None,
        max_objects: int = 32,
        runner: StageRunner | None = None,
    ) -> None:
        if not model.takes_prompts:
            raise InputError(
                "this network takes no prompts (its embedding needs a query mask); a preset of "
                "SAM 2.1, such as base_plus, expected, or lmeec_core.prompts.view_tracker(model), "
                "which makes the right tracker for any network"
            )
        check_limits(
            conditioning_frames=conditioning_frames, num_frames=num_frames, max_objects=max_objects
        )
        self.model = model
        self.conditioning_frames = conditioning_frames
        self.condition_on_corrections = condition_on_corrections
        self.max_objects = max_objects
        self._runner = runner
        self._window = min(num_frames or RELEASE_POINTER_WINDOW, RELEASE_POINTER_WINDOW)
        self.reset()

    def reset(self) -> None:
        """Forget every object, and the frame last stepped."""
        self._tracks: dict[str, _Track] = {}
        self._frame: _Frame | None = None

    def forget(self, object_id: str) -> bool:
        """Forget one object; returns whether it was known."""
        return self._tracks.pop(object_id, None) is not None

    @property
    def runner(self) -> StageRunner:
        """What computes the stages."""
        return self._runner or self.model.runner or self.model.compute

    @property
    def objects(self) -> tuple[str, ...]:
        """Ids of the objects, in the order in which they were marked."""
        return tuple(self._tracks)

    @property
    def held_frames(self) -> tuple[int, ...]:
        """Numbers of the frames that can be prompted: the one last stepped, the first being 0."""
        return () if self._frame is None else (self._frame.number,)

    @property
    def memory_bytes(self) -> int:
        """Bytes that the memory of all objects takes."""
        return sum(track.nbytes for track in self._tracks.values())

    @torch.inference_mode()
    def step(self, image: Image) -> dict[str, Tracked]:
        """Process the next frame and track every object in it.

        Args:
            image: RGB uint8 (H, W, 3) of any size.

        Returns:
            each object's :class:`Tracked`; empty while no object is marked.

        Raises:
            InputError: it is no such image; nothing has changed then.
        """
        picture = check_image("image", image)
        number = 0 if self._frame is None else self._frame.number + 1
        with self.model.autocast():
            inputs = prepare_images([picture], self.model.config.image_size, self.model.device)
            views = self.model.encode_images(inputs, self.runner)
            prepared = self.model.prepare_targets(views, self.runner)
            frame = _Frame(number, picture.shape[:2], views, prepared)
            if not self._tracks:
                self._frame = frame
                return {}
            tracks = list(self._tracks.values())
            several = views.map(lambda x: x.expand(len(tracks), -1, -1, -1))
            prediction = decode_prompt(self.model, self._attend(tracks, frame), several)
            memory = self.model.encode_target_memory(
                several, prediction.logits, prediction.presence_logit, self.runner
            )
            memory = memory.to(torch.bfloat16)
        found = self._collect(list(self._tracks), prediction, frame)
        self._frame = frame
        for i, track in enumerate(tracks):
            self._remember(track, _Moment(number, memory[i], prediction.pointer[i]))
            track.logits = prediction.logits[i]
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
        """Mark an object on the frame last stepped, or correct it there.

        All points of a frame are given together: a second call for the same frame replaces the
        points of the first and builds on its mask.

        Args:
            object_id: a new object starts here; one that was tracked on this frame is corrected.
            points: (n, 2), x and y in pixels of the image.
            labels: for each point 1 (on the object) or 0 (not on it); all 1 if left out.
            box: x0, y0, x1, y1 in pixels around the object; points may be given beside it.
            mask: (H, W) of any size, bool or 0 and 1 or 255; alone. It is taken as it is.
            frame: the frame last stepped, the only one in :attr:`held_frames`.

        Raises:
            InputError: no frame yet, no prompt or two kinds that exclude each other, a wrong
                shape or value, or too many objects; nothing has changed then.
        """
        check_frame(object_id, frame, self.held_frames)
        check_room(object_id, self._tracks, self.max_objects)
        current = self._frame
        assert current is not None  # a frame is held
        marked = check_prompt(object_id, points, labels, box, mask, current.size)
        track = self._tracks.get(object_id, _Track())
        starts = not any(track.before(current.number))
        with self.model.autocast():
            if marked.mask is not None:
                given = prepare_masks(
                    [marked.mask], self.model.config.image_size, self.model.device
                )
                prediction = use_mask(self.model, current.views, given)
            else:
                tokens = (
                    fresh_tokens(self.model, current.views)
                    if starts
                    else self._attend([track], current)
                )
                prediction = decode_prompt(
                    self.model,
                    tokens,
                    current.views,
                    self._places(marked, current.size),
                    None if track.logits is None else track.logits[None],
                )
            memory = encode_prompted_memory(self.model, current.views, prediction, self.runner)
        found = self._collect([object_id], prediction, current)
        moment = _Moment(current.number, memory[0].to(torch.bfloat16), prediction.pointer[0])
        if starts or self.condition_on_corrections:
            track.recent = deque(m for m in track.recent if m.number < current.number)
            earlier = [m for m in track.conditioning if m.number < current.number]
            track.conditioning = [*earlier, moment][-self.conditioning_frames :]
        else:
            self._remember(track, moment)
        track.logits = prediction.logits[0]
        self._tracks[object_id] = track
        return found[object_id]

    # -- the step ----------------------------------------------------------------------------

    def _places(self, marked: Marked, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Corners and points as shares of the image (1, n, 2), and their labels (1, n)."""
        spots, kinds = marked.points, list(marked.labels)
        if marked.box is not None:
            spots, kinds = np.concatenate((marked.box, spots)), [*BOX_LABELS, *kinds]
        height, width = size
        # SAM 2 takes the middle of a pixel of the model's input.
        device, side = self.model.device, self.model.config.image_size
        pixels = torch.tensor(spots / (width, height) * side, dtype=torch.float32, device=device)
        return ((pixels + 0.5) / side)[None], torch.tensor([kinds], device=device)

    def _attend(self, tracks: Sequence[_Track], frame: _Frame) -> Tensor:
        """Tokens (N, P, C) of a frame after they attended to each object's memory."""
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
        """An object's memory before a frame: features (m, P, memory_dim), the position of all its
        tokens (L, memory_dim), and object pointers (n, C)."""
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

    def _remember(self, track: _Track, moment: _Moment) -> None:
        """Add a frame, or replace the newest one by its correction; drop what is too old."""
        if track.recent and track.recent[-1].number == moment.number:
            track.recent.pop()
        track.recent.append(moment)
        slots = self.model.config.memory_slots
        # One more than is attended to, for corrections of the newest frame.
        for old in track.recent:
            if moment.number - old.number >= slots:
                old.memory = None
        while moment.number - track.recent[0].number >= self._window:
            track.recent.popleft()

    def _collect(
        self, names: Sequence[str], prediction: Prediction, frame: _Frame
    ) -> dict[str, Tracked]:
        numbers = torch.stack((prediction.presence_logit, prediction.predicted_iou)).tolist()
        return {
            name: Tracked(
                prediction.logits[i],
                numbers[0][i],
                numbers[1][i],
                prediction.pointer[i].float(),
                frame.size,
            )
            for i, name in enumerate(names)
        }
