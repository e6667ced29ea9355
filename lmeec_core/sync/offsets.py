"""Estimates the offset between two cameras' clocks from the motion that both see."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

LONGEST = 1.0
"""Maximum offset in the search, seconds."""
SHORTEST_RECORDING = 3.0
"""Minimum common time for an estimate, seconds."""
LEAST_CORRELATION = 0.5
"""Minimum correlation of the two motions for a trusted offset."""
LEAST_LEAD = 0.1
"""Minimum difference in correlation from any other peak for a trusted offset."""
STEP = 0.01
"""Step between the offsets that are compared, seconds."""
WIDTH = 64
"""Width to which images are reduced, in pixels: to measure motion of the view, not pixel noise."""


class Motion:
    """How much a camera's picture changes from image to image.

    Attributes:
        stamps: midpoints between the stamps of consecutive images, nanoseconds, increasing.
        values: mean absolute difference from the image before, per second.
    """

    def __init__(self) -> None:
        self.stamps: list[int] = []
        self.values: list[float] = []
        self._last: tuple[int, NDArray[np.float32]] | None = None

    def add(self, stamp_ns: int, image: NDArray[np.uint8]) -> None:
        """Add the next image, uint8 (H, W, 3); an image that is not newer is ignored."""
        if self._last is not None and stamp_ns <= self._last[0]:
            return
        height = max(1, round(WIDTH * image.shape[0] / image.shape[1]))
        small = cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
        if self._last is not None and self._last[1].shape == grey.shape:
            seconds = (stamp_ns - self._last[0]) / 1e9
            # The change took place between the two images.
            self.stamps.append((stamp_ns + self._last[0]) // 2)
            self.values.append(float(np.abs(grey - self._last[1]).mean()) / seconds)
        self._last = stamp_ns, grey


@dataclass(frozen=True)
class Offset:
    """An estimated offset.

    Attributes:
        seconds: the time to add to the second camera's stamps: its image with stamp t shows the
            same moment as the first camera's image with stamp t + seconds.
        correlation: correlation of the two motions at this offset, -1 to 1.
        doubt: why it cannot be trusted; empty if it can.
    """

    seconds: float
    correlation: float
    doubt: str = ""


def estimate_offset(first: Motion, second: Motion) -> Offset | None:
    """The offset at which the motions of two cameras correlate best.

    Returns:
        None if there is too little to compare: less than 3 s in common, or no motion.
    """
    if min(len(first.stamps), len(second.stamps)) < 2:
        return None
    start = min(first.stamps[0], second.stamps[0])
    times = [(np.array(one.stamps) - start) / 1e9 for one in (first, second)]
    values = [np.log1p(np.array(one.values)) for one in (first, second)]
    common = min(t[-1] for t in times) - max(t[0] for t in times)
    if common < SHORTEST_RECORDING:
        return None
    longest = min(LONGEST, common / 3)
    offsets = np.arange(-round(longest / STEP), round(longest / STEP) + 1) * STEP
    found = np.array([_correlation(times, values, offset) for offset in offsets])
    if np.isnan(found).all():
        return None
    found = np.nan_to_num(found, nan=-1.0)
    best = int(found.argmax())
    seconds = offsets[best] + STEP * _vertex(found[best - 1 : best + 2])
    return Offset(float(seconds), float(found[best]), _doubt(found, best))


def _correlation(
    times: list[NDArray[np.float64]], values: list[NDArray[np.float64]], offset: float
) -> float:
    """Correlation of the motions with the second one's stamps shifted; NaN without motion."""
    moved = times[1] + offset
    grid = np.arange(max(times[0][0], moved[0]), min(times[0][-1], moved[-1]), STEP)
    one, other = np.interp(grid, times[0], values[0]), np.interp(grid, moved, values[1])
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / size if size > 1e-9 else float("nan")


def _vertex(three: NDArray[np.float64]) -> float:
    """Where between -1 and 1 the parabola through three neighbours is highest."""
    if len(three) < 3:
        return 0.0
    bend = three[0] - 2 * three[1] + three[2]
    return 0.0 if bend >= 0 else float(np.clip(0.5 * (three[0] - three[2]) / bend, -1, 1))


def _doubt(found: NDArray[np.float64], best: int) -> str:
    if best in (0, len(found) - 1):
        return f"it is at the limit of the search ({LONGEST:g} s)"
    if found[best] < LEAST_CORRELATION:
        return f"the correlation is only {found[best]:.2f}, {LEAST_CORRELATION:g} expected"
    peaks = (found[1:-1] > found[:-2]) & (found[1:-1] >= found[2:])
    others = [i + 1 for i in np.flatnonzero(peaks) if i + 1 != best]
    if others and found[best] - found[others].max() < LEAST_LEAD:
        rival = (others[int(found[others].argmax())] - best) * STEP
        return f"the motions correlate as well {abs(rival):.2f} s away: they are periodic"
    return ""
