"""How far two cameras' clocks are apart, from the motion that they see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmeec_core.sync.offsets import Motion, estimate_offset


def walk(seed: int, seconds: float = 12.0) -> np.ndarray:
    """How fast something moves, 1000 values a second: a smooth random course."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=int(seconds * 1000))
    kernel = np.hanning(250)
    course = np.convolve(steps, kernel / kernel.sum(), mode="same")
    return np.abs(course - course.mean())


def motion(
    course: np.ndarray, offset: float = 0.0, rate: float = 30.0, gain: float = 1.0
) -> Motion:
    """What a camera sees of a course: its stamp t stands for the moment t + offset."""
    found = Motion()
    for t in np.arange(1.5, len(course) / 1000 - 1.5, 1 / rate):
        found.stamps.append(round(t * 1e9) + 1_700_000_000_000_000_000)
        found.values.append(gain * float(course[round((t + offset) * 1000)]) * 1000)
    return found


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 999), st.floats(-0.8, 0.8), st.sampled_from([15.0, 25.0, 30.0]))
def test_the_offset_is_found(seed: int, offset: float, rate: float) -> None:
    """Whatever the second camera's rate, and however large things are in it."""
    course = walk(seed)
    found = estimate_offset(motion(course), motion(course, offset, rate, gain=3.0))
    assert found is not None and not found.doubt
    assert found.seconds == pytest.approx(offset, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_motions_that_have_nothing_to_do_with_each_other(seed: int) -> None:
    found = estimate_offset(motion(walk(seed)), motion(walk(seed + 100)))
    assert found is not None and found.doubt


def test_a_motion_that_repeats_itself() -> None:
    course = 1 + np.sin(np.arange(12_000) / 1000 * 2 * np.pi / 0.4)
    found = estimate_offset(motion(course), motion(course, 0.1))
    assert found is not None and "they are periodic" in found.doubt


def test_too_little_to_compare() -> None:
    assert estimate_offset(Motion(), motion(walk(0))) is None
    assert estimate_offset(motion(walk(0)), motion(walk(0, 5.0))) is None
    still = motion(np.zeros(12_000))
    assert estimate_offset(still, still) is None


def test_images_of_a_moving_thing() -> None:
    """Five frames behind, as some wearable cameras are; seen smaller, on another background."""
    places = np.cumsum(walk(3)[::33]) / 3 % 60
    rng = np.random.default_rng(1)
    behind, cameras = 5, []
    for size, late in ((30, 0), (20, behind)):
        ground = rng.integers(60, 90, (80, 120, 3), dtype=np.uint8)
        camera = Motion()
        for k in range(10, 300):
            image = ground.copy()
            x = int(places[k - late])
            image[20 : 20 + size, x : x + size] = 255
            camera.add(k * 33_000_000, image)
        cameras.append(camera)
    found = estimate_offset(*cameras)
    assert found is not None and not found.doubt, found
    assert found.seconds == pytest.approx(-behind * 0.033, abs=0.012)
