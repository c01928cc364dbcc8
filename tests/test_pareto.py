"""Fronts and hypervolumes by hand and against counting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.pareto import front, hypervolume

POINTS = st.integers(1, 4).flatmap(lambda size: st.lists(st.tuples(*[st.integers(0, 6)] * size), min_size=1, max_size=12))


def test_the_front_by_hand() -> None:
    """(1, 3), (2, 2) and (3, 1) beat (3, 3) and none of them another; of two equal points both stay."""
    assert front([(3, 3), (1, 3), (2, 2), (3, 1), (2, 2)]) == [1, 2, 3, 4]
    assert front([(5,), (4,), (4,)]) == [1, 2]
    assert front([]) == []


@settings(max_examples=100)
@given(POINTS)
def test_every_point_is_on_the_front_or_dominated_by_one_that_is(points: list[tuple[int, ...]]) -> None:
    """And no point of the front is dominated by any."""
    chosen = front(points)
    for place, point in enumerate(points):
        beaten = [other for other in points if other != point and all(a <= b for a, b in zip(other, point, strict=True))]
        assert (place in chosen) == (not beaten)
        assert place in chosen or any(points[each] in beaten for each in chosen)


def test_the_hypervolume_by_hand() -> None:
    """Two boxes of 2 x 1 and 1 x 2 up to (3, 3) that share a unit square cover 3; a point beyond the reference adds nothing."""
    assert hypervolume([(1, 2), (2, 1)], (3, 3)) == 3
    assert hypervolume([(1, 2), (2, 1), (0, 9), (3, 0)], (3, 3)) == 3
    assert hypervolume([], (1, 1)) == 0
    assert hypervolume([(0.25,), (0.5,)], (1,)) == 0.75


@settings(max_examples=60)
@given(POINTS)
def test_the_hypervolume_counts_the_cells_that_are_dominated(points: list[tuple[int, ...]]) -> None:
    """On a grid of whole numbers it is the number of unit cells above some point."""
    size = len(points[0])
    cells = np.array(list(itertools.product(range(7), repeat=size)))
    covered = (cells[:, None] >= np.array(points)[None]).all(axis=2).any(axis=1).sum()
    assert hypervolume(points, (7,) * size) == pytest.approx(covered)
