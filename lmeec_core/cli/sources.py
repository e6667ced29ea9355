"""Which kind of recording a path holds, and the source that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmeec_core.bags import layout
from lmeec_core.cli.plugins import plugins
from lmeec_core.errors import InputError
from lmeec_core.recordings import FindPredictions, RecordingSource, Viewed


@dataclass(frozen=True)
class TakeSource:
    """Takes: a :class:`~lmeec_core.recordings.RecordingSource`."""

    def plan(self, options: Any) -> Any:
        """See :class:`~lmeec_core.recordings.RecordingSource`."""
        from lmeec_core.offline.take_plan import plan_takes

        _check_no_bag(options)
        return plan_takes(self, options)

    def track(
        self, unit: Any, settings: Any, problems: list[str], notices: list[str]
    ) -> Iterator[Any]:
        """See :class:`~lmeec_core.recordings.RecordingSource`."""
        from lmeec_core.offline.compute import track_take

        return track_take(unit, settings, problems)

    def open(
        self, options: Any, predictions: FindPredictions, problems: list[str], notes: list[str]
    ) -> Viewed:
        """See :class:`~lmeec_core.recordings.RecordingSource`."""
        from lmeec_core.viewing.take_view import open_take_view

        _check_no_bag(options)
        return open_take_view(options, predictions, problems)

    def mask_predictions(self, path: Path, problems: list[str]) -> Any:
        """Takes hold no predictions.

        Raises:
            InputError: always.
        """
        raise InputError(f"{path}: a take holds no predictions; a result file or a bag of masks")


def source_of(path: Path) -> RecordingSource:
    """The source that reads the recording.

    Raises:
        InputError: it is a bag, and the part that reads bags is not installed.
    """
    return bag_source() if is_bag(path) else TakeSource()


def bag_source() -> RecordingSource:
    """The source that reads bags, in the ROS package: it pairs and decodes as the node does.

    Raises:
        InputError: that part is not installed.
    """
    for plugin in plugins():
        return plugin.bag_source()
    raise InputError("bags are read by the node's package, which is not installed here")


def is_bag(path: Path) -> bool:
    """Whether a path is a bag, complete or not; takes do not need the extra [bags]."""
    if any((path / name).is_file() for name in ("annotation.json", "split.json")):
        return False
    return layout.is_bag(path)


def _check_no_bag(options: Any) -> None:
    if options.params is not None or options.node is not None:
        raise InputError(
            f"{options.source}: is no bag (a folder with metadata.yaml, .mcap or .db3 files, or "
            "such a file); --params and --node belong to bags: a take has its cameras in folders"
        )
