"""Numbers in datasets: which image each tick shows, the rate, and statistics of columns."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lmeec_core.datasets.clock import Tally, rate_of, resample
from lmeec_core.datasets.stats import QUANTILES, ImageStats, column_stats, merged
from lmeec_core.viewing.moments import Moment, View

RNG = np.random.default_rng(5)


def moment(number: int, seconds: float) -> Moment:
    return Moment(number, seconds, View("ego", None, {}), [])


@given(st.lists(st.floats(0.001, 0.4), min_size=0, max_size=40), st.integers(1, 60), st.booleans())
def test_every_tick_shows_the_nearest_moment(steps: list[float], fps: int, back: bool) -> None:
    times = [0.0, *np.cumsum(steps)]
    given_ = [moment(i, s) for i, s in enumerate(times)]
    if back and len(given_) > 2:
        given_.insert(2, moment(99, 0.0))  # a clock that jumps back
    tally = Tally()
    shown = list(resample(given_, fps, tally))
    assert [tick for tick, _ in shown] == list(range(len(shown))) and tally.ticks == len(shown)
    assert len(shown) - 1 <= times[-1] * fps + 0.5 and len(shown) > times[-1] * fps - 0.5
    for tick, one in shown:
        assert abs(one.seconds - tick / fps) <= min(abs(s - tick / fps) for s in times) + 1e-9
    used = {one.frame for _, one in shown}
    assert tally.moments == len(given_) == len(used) + tally.unused
    assert tally.ticks == len(used) + tally.repeated
    problems, notes = tally.texts(fps, given=False)
    assert bool(problems or notes) == bool(tally.unused or tally.repeated)
    assert bool(tally.texts(fps, given=True)[0]) == (tally.longest > max(1.0, 2 / fps))


def test_the_rate_is_the_median_steps() -> None:
    assert rate_of([moment(i, s) for i, s in enumerate((0, 0.033, 0.067, 0.5, 0.533))]) == 30
    assert rate_of([moment(0, 0), moment(1, 7.0)]) == 1 == rate_of([moment(0, 0)])


def test_statistics_are_numpys() -> None:
    values = RNG.normal(size=(50, 3, 4))
    found = column_stats(values)
    for name, share in QUANTILES.items():
        assert np.allclose(found[name], np.quantile(values, share, axis=0))
    parts = [column_stats(values[:20]), column_stats(values[20:])]
    whole = merged(parts)
    for name in ("min", "max", "mean", "std", "count"):
        assert np.allclose(whole[name], found[name]), name
    images = RNG.integers(0, 256, (5, 16, 12, 3), dtype=np.uint8)
    counted = ImageStats()
    for image in images:
        counted.add(image)
    some = images[:, ::4, ::4] / 255.0
    result = counted.result()
    assert np.allclose(np.ravel(result["mean"]), some.mean(axis=(0, 1, 2)))
    assert np.allclose(np.ravel(result["std"]), some.std(axis=(0, 1, 2)))
    assert np.allclose(np.ravel(result["q50"]), np.quantile(some, 0.5, axis=(0, 1, 2)), atol=0.05)
