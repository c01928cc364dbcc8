"""Intervals over replicates against SciPy and calculations by hand."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.statistics import (
    Interval,
    Paired,
    above_zero,
    compare_paired,
    correct,
    holm,
    knee,
    mean_interval,
    non_inferior,
    replicates_for_width,
    replicates_to_tell,
    trend,
)

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


@settings(max_examples=25)
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


FIRST, SECOND = [5.1, 4.9, 6.0, 5.6, 5.8], [4.8, 4.9, 5.1, 5.0, 5.5]


def test_the_paired_test_is_that_of_scipy() -> None:
    """Its p value, and the interval of the differences."""
    found, expected = compare_paired(FIRST, SECOND), stats.ttest_rel(FIRST, SECOND)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


@pytest.mark.parametrize(("difference", "p_value"), [(0.0, 1.0), (1.0, 0.0)])
def test_differences_that_do_not_vary_need_no_test(difference: float, p_value: float) -> None:
    """They are nothing, or beyond doubt; no warning of a division by zero."""
    assert compare_paired([2 + difference] * 3, [2.0] * 3).p_value == p_value


def test_one_pair_has_no_p_value() -> None:
    """Nor an interval."""
    found = compare_paired([1.0], [2.0])
    assert found.difference.mean == -1
    assert math.isnan(found.p_value)
    assert math.isnan(found.difference.low)


@pytest.mark.parametrize("seed", range(4))
def test_holms_correction_is_that_of_statsmodels(seed: int) -> None:
    """In the order given, ties and ends included."""
    p_values = np.random.default_rng(seed).choice([0.0, 1e-9, 0.004, 0.01, 0.01, 0.03, 0.2, 1.0], size=1 + 4 * seed).tolist()
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_holms_correction_by_hand() -> None:
    """0.01, 0.04, 0.03 of three: 0.01 * 3, then 0.03 * 2, then the larger of 0.04 and the step before (Holm 1979)."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_a_family_is_corrected_in_its_order_and_what_has_no_p_value_stays() -> None:
    """Four comparisons, one of a single pair."""
    family = [Paired(Interval(0, -1, 1, 3), p, p) for p in (0.01, math.nan, 0.04, 0.03)]
    assert [each.corrected for each in correct(family)] == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)


def test_non_inferiority_is_scipys_one_sided_test_against_the_margin() -> None:
    """The differences plus the margin are above 0."""
    differences = np.array(FIRST) - np.array(SECOND)
    expected = stats.ttest_1samp(-differences, -0.9, alternative="greater").pvalue
    assert non_inferior(SECOND, FIRST, 0.9) == pytest.approx(expected)


def test_a_mean_above_zero_is_tested_by_scipy_from_one_side() -> None:
    """One replicate has no p value, and equal ones leave no doubt."""
    values = [0.1, 0.3, -0.05]
    assert above_zero(values) == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater").pvalue)
    assert math.isnan(above_zero([0.1]))
    assert (above_zero([0.1, 0.1]), above_zero([0.0, 0.0])) == (0, 1)
    assert math.isnan(holm([math.nan, math.nan])[0])


def test_what_is_as_good_is_not_inferior_and_what_is_worse_by_the_margin_may_be() -> None:
    """Without any spread there is no doubt; with one pair there is nothing else."""
    assert non_inferior([1.0, 2.0], [1.0, 2.0], 0.1) == 0
    assert non_inferior([1.0, 2.0], [1.25, 2.25], 0.25) == 1
    assert math.isnan(non_inferior([1.0], [1.0], 0.1))


def test_the_number_of_replicates_has_the_power_that_it_promises() -> None:
    """By simulation: with as many, a paired t test finds the difference in about four of five studies."""
    differences = [0.2, 1.0, 1.8]  # mean 1, standard deviation 0.8
    count = replicates_to_tell(differences)
    assert count == 8
    samples = np.random.default_rng(0).normal(1.0, 0.8, (20_000, count))
    share = (stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05).mean()
    assert 0.8 <= share < 0.88


@pytest.mark.parametrize("shift", [0.1, -0.3, 7.0])
def test_differences_that_agree_up_to_rounding_are_one_difference(shift: float) -> None:
    """What is left of the spread is noise of float64, of which no test can be made."""
    differences = shift * np.array([1, 1 + 4e-16, 1 - 4e-16])
    assert np.ptp(differences) > 0
    assert compare_paired(differences, [0.0] * 3).p_value == 0
    assert above_zero(differences) == (0 if shift > 0 else 1)


@pytest.mark.parametrize("effect", [0.21, 0.5, 1.25, 5.0, 12.5, 40.0])
def test_the_number_of_replicates_is_the_first_with_the_power(effect: float) -> None:
    """From small effects to those that two replicates show: SciPy's noncentral t distribution there and one below."""
    count = replicates_to_tell([effect - 1, effect, effect + 1])  # standard deviation 1
    assert count is not None
    limits = [(n, stats.t.isf(0.025, n - 1)) for n in (count, count - 1) if n > 1]
    powers = [stats.nct.sf(limit, n - 1, effect * math.sqrt(n)) for n, limit in limits]
    assert powers[0] >= 0.8
    assert all(power < 0.8 for power in powers[1:])


def test_no_number_of_replicates_is_named_for_what_they_cannot_tell() -> None:
    """No difference at all, one replicate, or a difference that is small beside the spread."""
    assert replicates_to_tell([1.0]) is None
    assert replicates_to_tell([1.0, -1.0]) is None
    assert replicates_to_tell([1.0, -0.98]) is None
    assert replicates_to_tell([1.0, 1.0]) == 2


def test_the_number_of_replicates_brings_the_interval_down_to_the_width() -> None:
    """The first whose half width, with the standard deviation seen, is small enough; by SciPy's quantiles."""
    values = [1.0, 2.0, 4.0]
    count = replicates_for_width(mean_interval(values), 0.8)
    spread = np.std(values, ddof=1)
    widths = {n: stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n) for n in range(2, 40)}
    assert count == next(n for n, width in widths.items() if width <= 0.8)
    assert replicates_for_width(mean_interval([1.0]), 0.8) is None


SIZES = (2, 5, 10, 15, 20, 25, 30)


def broken(at: float, seeds: int, noise: float, seed: int = 0) -> np.ndarray:
    """Curves that bend, with noise of its own on every point."""
    x = np.array(SIZES, dtype=float)
    line = 6 - 0.2 * np.minimum(x, at) - 0.02 * np.maximum(0, x - at)
    return line + noise * np.random.default_rng(seed).normal(size=(seeds, len(x)))


@pytest.mark.parametrize("at", [6.0, 10.0, 13.5, 20.0])
def test_the_knee_of_a_broken_line_is_where_it_is_broken(at: float) -> None:
    """And its slopes are those of the line."""
    found = knee(SIZES, broken(at, seeds=2, noise=0.0))
    assert found is not None
    assert found.at.mean == pytest.approx(at, abs=0.05)
    assert (found.before, found.after) == pytest.approx((-0.2, -0.02), abs=0.002)
    assert found.at.half_width == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "studies"), [(3, 300), (6, 60)])
def test_the_interval_of_the_knee_covers_the_truth_as_often_as_it_says(seeds: int, studies: int) -> None:
    """In simulated studies; with few seeds a bootstrap alone would cover far less."""
    found = [knee(SIZES, broken(11.0, seeds, noise=0.05, seed=number)) for number in range(studies)]
    covered = np.mean([each is not None and not each.at.excludes(11.0) for each in found])
    assert 0.9 <= covered <= 1.0


def test_the_interval_of_a_mean_covers_the_truth_as_often_as_it_says() -> None:
    """In 4,000 simulated studies of three seeds."""
    samples = np.random.default_rng(1).normal(2.0, 1.0, (4000, 3))
    assert np.mean([not mean_interval(row).excludes(2.0) for row in samples]) == pytest.approx(0.95, abs=0.015)


def test_an_interval_that_is_cut_off_at_the_smallest_size_is_made_of_plain_numbers() -> None:
    """So that it can be written as JSON."""
    found = knee(SIZES, broken(4.0, 2, noise=0.5, seed=3))
    assert found is not None
    assert found.at.low == SIZES[0]
    assert {type(end) for end in (found.at.mean, found.at.low, found.at.high)} == {float}


def test_one_seed_gives_a_knee_without_an_interval() -> None:
    """Nothing is known of the spread."""
    found = knee(SIZES, broken(11.0, seeds=1, noise=0.01))
    assert found is not None
    assert math.isnan(found.at.low)


ACCELERATING, STRAIGHT_LINE = [2 - 0.001 * x**2 for x in SIZES], [2 - 0.05 * x for x in SIZES]


@pytest.mark.parametrize("curve", [[1.0, 0.9, 0.8, 0.7], [1, 2, 3, 4, 5, 6, 7], ACCELERATING, STRAIGHT_LINE, [1.0] * 7])
def test_no_knee_is_seen_where_there_is_none(curve: list[float]) -> None:
    """Too few sizes, a rising curve, one that falls the faster the longer, a straight line, a flat one."""
    assert knee(SIZES[: len(curve)], [curve, curve]) is None


def test_the_trend_is_spearmans_and_its_interval_that_of_bonett_and_wright() -> None:
    """By hand for rho = 0.9 and n = 5: the standard error of atanh(rho) is sqrt((1 + 0.81 / 2) / 2)."""
    found = trend([1, 2, 3, 4, 5], [1, 2, 3, 5, 4])
    assert found is not None
    assert found.rho.mean == pytest.approx(0.9)
    reach = 1.959964 * math.sqrt(1.405 / 2)
    assert (found.rho.low, found.rho.high) == pytest.approx(
        (math.tanh(math.atanh(0.9) - reach), math.tanh(math.atanh(0.9) + reach))
    )
    assert found.p_value == pytest.approx(stats.spearmanr([1, 2, 3, 4, 5], [1, 2, 3, 5, 4]).pvalue)


def test_the_interval_of_a_trend_covers_the_truth_as_often_as_it_says() -> None:
    """In 1,000 simulated samples of 21 points of a bivariate normal with r = 0.5, whose Spearman is 6 / pi asin(r / 2)."""
    generator = np.random.default_rng(2)
    truth = 6 / math.pi * math.asin(0.25)
    samples = (generator.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=21) for _ in range(1000))
    found = [trend(each[:, 0], each[:, 1]) for each in samples]
    assert np.mean([each is not None and not each.rho.excludes(truth) for each in found]) == pytest.approx(0.95, abs=0.02)


def test_no_trend_is_seen_in_few_points_or_in_none_that_vary() -> None:
    """Instead of a warning."""
    assert trend([1, 2, 3, 4], [1, 2, 3, 4]) is None
    assert trend([1, 2, 3, 4, 5], [1, 1, 1, 1, 1]) is None
