"""What `lmeec track` and `lmeec view` need of a kind of recording; takes and bags are two kinds."""

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
"""From direction, name of the take and its objects (None: not known) to its predictions."""


@dataclass
class Viewed:
    """A recording that is open to be looked at.

    Attributes:
        moments: in order of time; single images that cannot be read are told to ``problems``.
        count: of the moments, at most.
        name: of the recording, for the video's file.
        truth: the true masks are drawn, too.
    """

    moments: Iterable[Moment]
    count: int
    name: str
    truth: bool


class RecordingSource(Protocol):
    """A kind of recording. Instances go to worker processes, so they hold no open files."""

    def plan(self, options: TrackOptions) -> Work:
        """Look at the recordings and cut them into units.

        Raises:
            InputError: they cannot be read at all, or an option does not fit their kind.
        """

    def track(
        self, unit: Unit, settings: Settings, problems: list[str], notices: list[str]
    ) -> Iterator[FrameRecord]:
        """Go through a unit with the tracker.

        Args:
            unit: one of `plan`.
            settings: of the plan.
            problems: takes what is left out, in words.
            notices: takes what is worth saying besides.
        """

    def open(
        self,
        options: ViewOptions,
        predictions: FindPredictions,
        problems: list[str],
        notes: list[str],
    ) -> Viewed:
        """Open a recording to look at it.

        Args:
            options: which one, and what of it.
            predictions: gives what is drawn on the target cameras.
            problems: takes what is not shown, in words; until the last moment has been taken.
            notes: takes what is worth saying besides.

        Raises:
            InputError: it or the predictions cannot be read.
        """

    def mask_predictions(self, path: Path, problems: list[str]) -> Predictions:
        """Masks that are stored in a recording of this kind.

        Raises:
            InputError: there are none.
        """
