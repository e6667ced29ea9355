"""The interface of a kind of recording for `lmeec track` and `lmeec view`: takes, and bags."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lmeec_core.offline.records import FrameRecord
    from lmeec_core.offline.units import Settings, TrackOptions, Unit, Work
    from lmeec_core.viewing.moments import Moment, Predictions
    from lmeec_core.viewing.options import ViewOptions


FindPredictions = Callable[[str, str, Collection[str] | None], "Predictions"]
"""Returns the predictions for a direction, a take's name and its objects (None: unknown)."""


@dataclass
class Viewed:
    """A recording opened for viewing.

    Attributes:
        moments: in order of time; images that cannot be read are reported in ``problems``.
        count: maximum number of moments.
        name: name of the recording, for the video's file name.
        truth: whether true masks are drawn as well.
        calibration: the file of the cameras' lenses and poses, if the recording has one.
    """

    moments: Iterable[Moment]
    count: int
    name: str
    truth: bool
    calibration: Path | None = None


class RecordingSource(Protocol):
    """A kind of recording. Instances go to worker processes, so they hold no open files."""

    def plan(self, options: TrackOptions) -> Work:
        """Inspect the recordings and divide them into units.

        Raises:
            InputError: they cannot be read at all, or an option does not fit their kind.
        """

    def track(
        self, unit: Unit, settings: Settings, problems: list[str], notices: list[str]
    ) -> Iterator[FrameRecord]:
        """Track a unit.

        Args:
            unit: one of `plan`.
            settings: of the plan.
            problems: receives a text for everything that is left out.
            notices: receives other remarks for the user.
        """

    def open(
        self,
        options: ViewOptions,
        predictions: FindPredictions,
        problems: list[str],
        notes: list[str],
    ) -> Viewed:
        """Open a recording for viewing.

        Args:
            options: which recording, and which part of it.
            predictions: the masks to draw on the target cameras' images.
            problems: receives a text for everything that is not shown, up to the last moment.
            notes: receives other remarks for the user.

        Raises:
            InputError: it or the predictions cannot be read.
        """
