"""What the trackers of one view have in common: frames that can be prompted, and tracks."""

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
        """The first frame stepped is 0."""


Track = TypeVar("Track")
Frame = TypeVar("Frame", bound=Numbered)


class NetworkViewTracker(Generic[Track, Frame]):
    """The state of a :class:`lmeec_core.prompts.ViewTracker` that a network computes.

    Args:
        model: the network.
        conditioning_frames: how many prompted frames are kept per object, the newest ones.
        max_objects: refuse more objects than this, a bound on memory.
        hold: frames that can be prompted, the newest ones.
        runner: computes the stages; None is the model's own (:func:`lmeec_core.engine.use_engine`).

    Raises:
        InputError: a number below 1.
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
        """What computes the stages."""
        return self._runner or self.model.runner or self.model.compute

    @property
    def objects(self) -> tuple[str, ...]:
        """Ids of the objects, in the order in which they were marked."""
        return tuple(self._tracks)

    @property
    def held_frames(self) -> tuple[int, ...]:
        """Numbers of the frames that can be prompted, oldest first; the first stepped was 0."""
        return tuple(frame.number for frame in self._frames)

    @property
    def next_number(self) -> int:
        """The number of the frame that is stepped next."""
        return self._frames[-1].number + 1 if self._frames else 0
