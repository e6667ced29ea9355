"""The comparison that the exporter and the tests trust: nothing that is no number passes.

That the exporter uses it is tested where there is a graph, in test_graph_engines.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmeec_core.engine.compare import difference, largest

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8)


@given(NUMBERS, st.data(), st.sampled_from([math.nan, math.inf, -math.inf]), st.booleans())
def test_no_number_is_infinitely_far(
    values: list[float], data: st.DataObject, broken: float, first: bool
) -> None:
    assert difference(values, values) == 0
    other = list(values)
    other[data.draw(st.integers(0, len(values) - 1))] = broken
    pair = (other, values) if first else (values, other)
    assert difference(*pair) == math.inf
    assert difference(other, other) == math.inf


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5), st.integers(0, 5))
def test_the_largest_of_several_sees_nan(values: list[float], place: int) -> None:
    assert largest(values) == max(values)
    assert largest([*values[:place], math.nan, *values[place:]]) == math.inf


def test_relative_to_the_reference_or_to_what_is_small() -> None:
    assert difference([1.0, 5.0], [1.0, 4.0]) == 0.25
    assert difference(torch.tensor([0.002]), np.array([0.001]), 0.01) == pytest.approx(0.1)
    assert difference([0.1], [0.0]) == math.inf and difference([0.0], [0.0]) == 0
    for pair in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(ValueError, match="shapes"):
            difference(*pair)
