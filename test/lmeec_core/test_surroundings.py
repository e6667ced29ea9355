"""What surroundings say: views of cells that all look different, so that each has one like."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lmeec_core.compact.surroundings import SURROUNDINGS_SIZE, surroundings

SIDE = 20  # patches; 2g = 40
OBJECT, RING, FAR = range(3)
BEST, SHARE, ENTROPY, NEAR, BORDER, EXTENT = range(6)


def _view(offset: int = 0) -> Tensor:
    """(1, D, 40, 40): each patch has a vector of its own; shifted to the right by patches."""
    own = torch.eye(2 * SIDE * SIDE)
    numbers = torch.arange(SIDE * SIDE).unflatten(0, (SIDE, SIDE)).roll(offset, dims=1)
    if offset:
        numbers[:, :offset] += SIDE * SIDE  # what comes into the picture was nowhere
    return _fine(own[numbers].permute(2, 0, 1)[None])


def _fine(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)


def _mask(row: int, column: int) -> Tensor:
    """(1, 40, 40) with two by two patches."""
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, row : row + 2, column : column + 2] = 1
    return _fine(mask)


def _seen(mask: Tensor, found: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the whole views, and (regions, figures) there and back."""
    seen = surroundings(mask, found, _view(), target, 30.0)
    assert seen.shape == (1, SURROUNDINGS_SIZE) and seen.isfinite().all()
    there, back = seen[0, 3:].unflatten(0, (2, 3, 6))
    return seen[0, :3], there, back


def test_a_shifted_view() -> None:
    whole, there, back = _seen(_mask(9, 9), _mask(9, 12), _view(3))
    assert whole.tolist() == pytest.approx([0.85] * 3, abs=0.01)  # three of twenty columns are new
    for figures in (there, back):
        assert torch.allclose(figures[:2, [BEST, SHARE]], torch.ones(2, 2), atol=0.01)
        assert figures[OBJECT, ENTROPY] == pytest.approx(math.log(4), abs=0.01)
        # the object is two patches wide, and the ring lies two to four patches from it
        assert figures[RING, ENTROPY] == pytest.approx(math.log(10**2 - 6**2), abs=0.01)
        assert figures[[OBJECT, RING], NEAR].tolist() == pytest.approx([1, 1], abs=0.01)
        assert figures[FAR, NEAR] == pytest.approx(0, abs=0.01)
    assert 0.85 < there[FAR, SHARE] < 0.95  # a part of it has left the picture
    assert there[OBJECT, BORDER] == pytest.approx((SIDE - 13) / SIDE, abs=1e-3)
    assert back[OBJECT, BORDER] == pytest.approx((SIDE - 10) / SIDE, abs=1e-3)
    # standard deviation of two neighbours in each axis
    assert there[OBJECT, EXTENT] == pytest.approx(math.sqrt(2) * 0.5 / SIDE, abs=1e-3)


def test_an_object_that_is_hidden_and_a_find_in_the_wrong_place() -> None:
    target = _view()
    target[..., 18:22, 18:22] = _view(19)[..., 18:22, 18:22]  # something new lies before it
    _, hidden, _ = _seen(_mask(9, 9), _mask(9, 9), target)
    assert hidden[OBJECT, SHARE] < 0.01 and hidden[OBJECT, BEST] < 0.01
    assert hidden[RING, SHARE] == pytest.approx(1, abs=0.01)
    _, wrong, home = _seen(_mask(9, 9), _mask(1, 1), target)
    assert wrong[RING, NEAR] < 0.2 < 0.9 < hidden[RING, NEAR]
    assert home[OBJECT, SHARE] == pytest.approx(1, abs=0.01)  # in the query view, but elsewhere
    assert home[OBJECT, NEAR] < 0.01


def test_sums_of_other_orders_and_empty_masks_change_nothing_much() -> None:
    torch.manual_seed(0)
    views = torch.nn.functional.normalize(torch.randn(2, 3, 16, 12, 12), dim=2)
    mask, found = torch.rand(2, 3, 12, 12)
    together = surroundings(mask, found, *views, torch.tensor(20.0))
    alone = torch.cat(
        [surroundings(*(x[i : i + 1] for x in (mask, found, *views)), 20.0) for i in range(3)]
    )
    assert torch.allclose(together, alone, atol=1e-5)
    zero = torch.zeros(1, 12, 12)
    nothing = surroundings(zero, zero, torch.zeros(1, 4, 12, 12), torch.zeros(1, 4, 12, 12), 400.0)
    assert nothing.isfinite().all()
