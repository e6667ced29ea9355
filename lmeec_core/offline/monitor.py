"""The progress bar of `lmeec track`: frames of all units, rate and time left."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

POLL_SECONDS = 0.5


class Counted(Protocol):
    """A piece of work whose frames are counted."""

    @property
    def key(self) -> str:
        """A unique name."""

    @property
    def frames(self) -> int:
        """Maximum number of frames."""


T = TypeVar("T", bound=Counted)


class RateColumn(ProgressColumn):
    """Frames per second."""

    def render(self, task: Task) -> Text:
        """The rate of the last seconds."""
        speed = task.finished_speed or task.speed
        return Text("- frames/s" if speed is None else f"{speed:.1f} frames/s")


class TrackMonitor(Generic[T]):
    """A progress bar over units, for any kind of worker. Use it in a with statement.

    Worker processes write their progress to files; a thread reads them.

    Args:
        console: where the bar is shown, if it is a terminal.
        progress_file: the file to which a worker process writes the number of frames done.
        units: the units to compute.
        what: what to call the units.
    """

    def __init__(
        self,
        console: Console,
        progress_file: Callable[[T], Path],
        units: Sequence[T],
        what: str = "units",
    ) -> None:
        columns = (
            TextColumn("frames"), BarColumn(), MofNCompleteColumn(), RateColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[units]}"),
        )  # fmt: skip
        self._console = console
        self._progress_file = progress_file
        self._what = what
        self._units = {unit.key: unit for unit in units}
        self._counts = dict.fromkeys(self._units, 0)
        self._finished = 0
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task(
            "track", total=sum(unit.frames for unit in units), units=self._text()
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def at(self, unit: T, frames: int) -> None:
        """Set the number of frames done in a unit."""
        self._counts[unit.key] = min(frames, unit.frames)
        self._show()

    def done(self, unit: T) -> None:
        """Count a unit as finished, successfully or not."""
        self._counts[unit.key] = unit.frames
        self._finished += 1
        self._show()

    def retried(self, unit: T, reason: str) -> None:
        """Print that a unit is being retried, and why."""
        self._console.print(f"[yellow]retrying:[/] {unit}: {reason}", highlight=False)

    def _text(self) -> str:
        return f"{self._finished} of {len(self._units)} {self._what}"

    def _show(self) -> None:
        self._bar.update(self._task, completed=sum(self._counts.values()), units=self._text())

    def _poll(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            for unit in list(self._units.values()):
                with suppress(OSError, ValueError):
                    done = int(self._progress_file(unit).read_text())
                    if done > self._counts[unit.key]:
                        self.at(unit, done)

    def __enter__(self) -> TrackMonitor[T]:
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._bar.stop()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))
