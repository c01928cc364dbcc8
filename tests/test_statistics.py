"""Intervals over replicates against SciPy and calculations by hand."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.statistics import Interval, mean_interval

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_interval_is_that_of_scipy(count: int, confidence: float) -> None:
    """Student's t interval around the mean with the standard error of the sample."""
    values = np.random.default_rng(count).normal(3, 2, count)
    low, high = stats.t.interval(confidence, count - 1, loc=values.mean(), scale=stats.sem(values))
    found = mean_interval(values.tolist(), confidence)
    assert astuple(found) == pytest.approx((values.mean(), low, high, count))


def test_three_values_by_hand() -> None:
    """1, 2, 3: mean 2, standard error 1 / sqrt(3), and t = 4.302653 with two degrees of freedom."""
    found = mean_interval([1, 2, 3])
    reach = 4.302653 / math.sqrt(3)
    assert astuple(found) == pytest.approx((2, 2 - reach, 2 + reach, 3), rel=1e-6)
    assert found.half_width == pytest.approx(reach, rel=1e-6)


def test_a_single_replicate_has_a_mean_and_no_interval() -> None:
    """Nothing is known about the spread of one value, so the ends are NaN and not the value."""
    found = mean_interval([0.25])
    assert (found.mean, found.count) == (0.25, 1)
    assert all(map(math.isnan, (found.low, found.high, found.half_width)))


@pytest.mark.parametrize("value", [0.0, 0.1, -3e5])
def test_equal_replicates_have_an_interval_of_no_length(value: float) -> None:
    """The interval of a constant is the constant."""
    assert mean_interval([value] * 7) == Interval(value, value, value, 7)


def test_a_higher_confidence_reaches_further() -> None:
    """The 99 % interval contains the 95 % one, which is the default."""
    values = [0.1, 0.4, 0.2, 0.35]
    assert mean_interval(values) == mean_interval(values, 0.95)
    wide, narrow = mean_interval(values, 0.99), mean_interval(values)
    assert wide.low < narrow.low < narrow.high < wide.high


@settings(max_examples=25, deadline=None, database=None)
@given(NUMBERS)
def test_the_interval_lies_around_the_mean(values: list[float]) -> None:
    """The mean is NumPy's, lies within the values, and halves the interval."""
    found = mean_interval(values)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert found.low <= found.mean <= found.high
    assert found.high - found.mean == pytest.approx(found.mean - found.low, rel=1e-6, abs=1e-6)
    assert found.half_width == pytest.approx(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1), rel=1e-6, abs=1e-6)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of 500 intervals at 80 % the share that holds the true mean is within four standard errors of 0.8."""
    samples = np.random.default_rng(0).normal(1, 3, (500, 4))
    intervals = [mean_interval(sample.tolist(), 0.8) for sample in samples]
    covered = np.mean([each.low <= 1 <= each.high for each in intervals])
    assert covered == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 500))
