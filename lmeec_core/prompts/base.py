"""The common part of the trackers of one view: frames that can be prompted, and tracks."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

from lmeec_core.model import LMEEC
from lmeec_core.model.stages import StageRunner
from lmeec_core.prompts.checks import check_limits


class Numbered(Protocol):
    """A frame that can be prompted."""

    @property
    def number(self) -> int:
        """Frame number; the first frame is 0."""


Track = TypeVar("Track")
Frame = TypeVar("Frame", bound=Numbered)


class NetworkViewTracker(Generic[Track, Frame]):
    """The state of a :class:`lmeec_core.prompts.ViewTracker` that uses a network.

    Args:
        model: the network.
        conditioning_frames: number of prompted frames kept per object, the newest ones.
        max_objects: maximum number of objects, which limits memory use.
        hold: number of frames that can be prompted, the newest ones.
        runner: computes the stages; None: the model's own (:func:`lmeec_core.engine.use_engine`).

    Raises:
        InputError: a number is below 1.
    """

    def __init__(
        self,
        model: LMEEC,
        conditioning_frames: int,
        max_objects: int,
        hold: int,
        runner: StageRunner | None,
    ) -> None:
        check_limits(conditioning_frames=conditioning_frames, max_objects=max_objects, hold=hold)
        self.model = model
        self.conditioning_frames, self.max_objects = conditioning_frames, max_objects
        self._hold, self._runner = hold, runner
        self.reset()

    def reset(self) -> None:
        """Forget every object, and all frames."""
        self._tracks: dict[str, Track] = {}
        self._frames: deque[Frame] = deque(maxlen=self._hold)

    def forget(self, object_id: str) -> bool:
        """Forget one object; returns whether it was known."""
        return self._tracks.pop(object_id, None) is not None

    @property
    def runner(self) -> StageRunner:
        """The runner that computes the stages."""
        return self._runner or self.model.runner or self.model.compute

    @property
    def objects(self) -> tuple[str, ...]:
        """Ids of the objects, in the order in which they were marked."""
        return tuple(self._tracks)

    @property
    def held_frames(self) -> tuple[int, ...]:
        """Numbers of the frames that can be prompted, oldest first; the first frame was 0."""
        return tuple(frame.number for frame in self._frames)

    @property
    def next_number(self) -> int:
        """The number of the next frame."""
        return self._frames[-1].number + 1 if self._frames else 0
