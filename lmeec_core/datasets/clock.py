"""Resamples the moments of a recording to a constant rate."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lmeec_core.viewing.moments import Moment

MAX_FPS = 240
GAP_SECONDS = 1.0
"""Seconds without a new frame after which a gap is reported as a problem."""


@dataclass
class Tally:
    """Counts of moments that resampling dropped or repeated.

    Attributes:
        moments: number of moments read.
        ticks: number of ticks.
        unused: number of moments that no tick shows, because another one is nearer.
        first_unused: the frame number of the first unused moment.
        repeated: number of ticks that repeat the moment of the tick before.
        longest: duration of the longest run of repeated ticks, seconds.
    """

    moments: int = 0
    ticks: int = 0
    unused: int = 0
    first_unused: int | None = None
    repeated: int = 0
    longest: float = 0.0

    def texts(self, fps: int, given: bool) -> tuple[list[str], list[str]]:
        """Texts about problems, and notes.

        Args:
            fps: ticks per second.
            given: whether the user chose ``fps``; then unused frames are only noted.
        """
        problems: list[str] = []
        notes: list[str] = []
        if self.unused:
            text = (
                f"{self.unused} of {self.moments} frames fall between the ticks of {fps} Hz (the "
                f"first is frame {self.first_unused})"
            )
            (notes if given else problems).append(text + ("" if given else "; --fps sets the rate"))
        if self.repeated:
            text = (
                f"{self.repeated} of {self.ticks} ticks repeat the frame before; the longest gap "
                f"lasts {self.longest:.2f} s"
            )
            (problems if self.longest > max(GAP_SECONDS, 2 / fps) else notes).append(text)
        return problems, notes


def resample(moments: Iterable[Moment], fps: int, tally: Tally) -> Iterator[tuple[int, Moment]]:
    """The nearest moment for every tick k / fps, from the first moment to the last.

    Only two moments are kept at a time. Moments that are not later than the one before are dropped.

    Args:
        moments: in order of time; the first is at 0 s.
        fps: ticks per second.
        tally: counts dropped and repeated moments.

    Yields:
        The tick's number and its moment.
    """
    tick = used = 0
    current: Moment | None = None

    def shown(until: float) -> Iterator[tuple[int, Moment]]:
        nonlocal tick, used
        assert current is not None
        while tick < until * fps:
            used += 1
            tick += 1
            tally.ticks += 1
            yield tick - 1, current
        if not used:
            _unused(tally, current)
        tally.repeated += max(0, used - 1)
        tally.longest = max(tally.longest, (used - 1) / fps)
        used = 0

    for moment in moments:
        tally.moments += 1
        if current is not None:
            if moment.seconds <= current.seconds:
                _unused(tally, moment)
                continue
            yield from shown((current.seconds + moment.seconds) / 2)
        current = moment
    if current is not None:
        yield from shown(current.seconds + 0.5 / fps)


def _unused(tally: Tally, moment: Moment) -> None:
    tally.unused += 1
    if tally.first_unused is None:
        tally.first_unused = moment.frame


def rate_of(first: Sequence[Moment]) -> int:
    """Frames per second of a recording's first moments: an integer from 1 to MAX_FPS."""
    steps = [b.seconds - a.seconds for a, b in zip(first, first[1:], strict=False)]
    step = statistics.median(steps) if steps else 1.0
    return min(MAX_FPS, max(1, round(1 / step))) if step > 0 else 1
