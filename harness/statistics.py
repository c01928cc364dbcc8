"""Intervals, paired tests, knee, trend and non-inferiority over replicates. Pure functions on numbers.

Replicates are the trials of one configuration from several seeds. Two configurations are compared seed by seed: the same seed
means the same order of the images and the same labelled draws, so that much of the noise is common to both and goes away. SciPy
and statsmodels are loaded by whoever asks first: they take a second, which ``--help`` need not wait for.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

CONFIDENCE = 0.95
POWER = 0.8
"""Chance of finding what is there, for which numbers of replicates are estimated."""

MOST_REPLICATES = 200
"""Beyond which a difference is taken to be too small for anyone to resolve."""

EXHAUSTIVE, RESAMPLES = 5**5, 2000
"""Resamples of the bootstrap: all there are where that is no more than the first, else so many at random."""

KNEE_POINTS = 5
"""Sizes that a broken line needs at the least: it has four parameters."""

KNEE_STEPS = 400
"""Places between the second and the last but one size at which the line may break."""

ROUNDING = 1e-12
"""A spread, as a share of the numbers, that is rounding."""

STRAIGHT = 1e-9
"""A change of slope, as a share of it, that is rounding."""


@dataclass(frozen=True)
class Interval:
    """A mean, or another estimate, and how well it is known.

    Attributes:
        mean: Arithmetic mean of the replicates, or the estimate.
        low: Lower end of the confidence interval; NaN for a single replicate.
        high: Upper end.
        count: Number of replicates.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def half_width(self) -> float:
        """Half the length of the interval; NaN for a single value."""
        return (self.high - self.low) / 2

    def mapped(self, function: Callable[[float], float]) -> Interval:
        """The same on another scale, by a function that only rises or only falls."""
        low, high = sorted((function(self.low), function(self.high)))
        return Interval(function(self.mean), low, high, self.count)

    def excludes(self, value: float) -> bool:
        """Whether the value is outside; never so where there is no interval."""
        return value < self.low or value > self.high


@dataclass(frozen=True)
class Paired:
    """Two configurations compared replicate by replicate.

    Attributes:
        difference: First minus second.
        p_value: Two-sided, of the paired t test; NaN for a single pair.
        corrected: The same after Holm's correction for all comparisons of its family.
    """

    difference: Interval
    p_value: float
    corrected: float


@dataclass(frozen=True)
class Knee:
    """Where a falling curve bends.

    Attributes:
        at: On the x axis.
        before: Change of y for each unit of x up to there.
        after: The same beyond.
    """

    at: Interval
    before: float
    after: float

    def first_past(self, sizes: Sequence[int]) -> int:
        """The first of some rising sizes that is not before the bend; the last where all are."""
        return next((size for size in sizes if size >= self.at.mean), sizes[-1])


@dataclass(frozen=True)
class Trend:
    """A rank correlation.

    Attributes:
        rho: Spearman's, with its interval; ``count`` is the number of points.
        p_value: Two-sided.
    """

    rho: Interval
    p_value: float


def mean_interval(values: Sequence[float] | Array, confidence: float = CONFIDENCE) -> Interval:
    """Mean and Student's t interval of independent replicates (Student 1908).

    Args:
        values: One number a replicate; at least one.
        confidence: Coverage of the interval.
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Interval(mean, math.nan, math.nan, count)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    reach = t_quantile((1 + confidence) / 2, count - 1) * math.sqrt(variance / count)
    return Interval(mean, mean - reach, mean + reach, count)


def compare_paired(first: Sequence[float] | Array, second: Sequence[float] | Array) -> Paired:
    """Paired t test (Student 1908) of two configurations; not corrected for others.

    Args:
        first: One number a replicate.
        second: Of the same replicates in the same order.
    """
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    p_value = _paired_p(differences)
    return Paired(mean_interval(differences), p_value, p_value)


def _paired_p(differences: Array) -> float:
    if len(differences) < 2:
        return math.nan
    if not _varies(differences):  # t is 0 / 0, or infinite
        return 1.0 if differences[0] == 0 else 0.0
    from scipy import stats

    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _varies(values: Array) -> bool:
    """Whether numbers differ by more than rounding: on rounding alone SciPy warns of what is left of the spread."""
    return bool(np.ptp(values) > ROUNDING * np.abs(values).max())


def correct(family: Sequence[Paired]) -> list[Paired]:
    """Corrects the p values of comparisons that are made together (Holm 1979); those that have none stay as they are."""
    able = [index for index, each in enumerate(family) if math.isfinite(each.p_value)]
    corrected = holm([family[index].p_value for index in able])
    by_index = dict(zip(able, corrected, strict=True))
    return [Paired(each.difference, each.p_value, by_index.get(index, math.nan)) for index, each in enumerate(family)]


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected step by step (Holm 1979), in the order given: any one below alpha is wrong with that chance at most.

    Where there is one replicate only all are NaN, and stay so.
    """
    if not p_values or any(math.isnan(value) for value in p_values):
        return list(p_values)
    values = np.asarray(p_values, dtype=float)  # statsmodels collects garbage at every call, which takes long with torch loaded
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(steps, 1.0)
    return [float(value) for value in corrected]


def non_inferior(values: Sequence[float] | Array, best: Sequence[float] | Array, margin: float) -> float:
    """Tests whether a configuration is worse than another by less than a margin, seed by seed.

    Args:
        values: One number a replicate, the higher the better.
        best: Of the same replicates, those of the configuration to compare with.
        margin: The largest loss that does not matter; above 0.

    Returns:
        One-sided p value of the hypothesis that it is worse by the margin or more; NaN for a single pair.
    """
    return above_zero(np.asarray(values, dtype=float) - np.asarray(best, dtype=float) + margin)


def above_zero(values: Sequence[float] | Array) -> float:
    """Tests whether the mean of replicates is above 0, by Student's t.

    Returns:
        One-sided p value of the hypothesis that it is 0 or below; NaN for a single one.
    """
    replicates = np.asarray(values, dtype=float)
    if len(replicates) < 2:
        return math.nan
    if not _varies(replicates):
        return 0.0 if replicates[0] > 0 else 1.0
    from scipy import stats

    return float(stats.ttest_1samp(replicates, 0.0, alternative="greater").pvalue)


def replicates_to_tell(differences: Sequence[float] | Array, alpha: float = 1 - CONFIDENCE, power: float = POWER) -> int | None:
    """Estimates how many replicates a paired t test needs to find a difference of the size and spread seen.

    Args:
        differences: One number a replicate.
        alpha: Level of the test.
        power: Chance of finding it.

    Returns:
        The number; nothing where it cannot be told from two replicates at the least, or is above ``MOST_REPLICATES``.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or values.mean() == 0:
        return None
    spread = float(values.std(ddof=1))
    effect = abs(float(values.mean())) / spread if spread else math.inf
    return _first_count(lambda count: _power(effect, count, alpha) >= power)


def _power(effect: float, count: int, alpha: float) -> float:
    """Of a two-sided one-sample t test, the difference found with its right sign: the noncentral t distribution's upper tail.

    The lower one is next to nothing wherever there is power, and not a number in SciPy far from the middle.
    """
    if math.isinf(effect):
        return 1.0
    from statsmodels.stats.power import TTestPower

    return float(TTestPower().power(effect, count, alpha / 2, alternative="larger"))


def replicates_for_width(interval: Interval, half_width: float) -> int | None:
    """Estimates how many replicates bring a t interval of the spread seen down to a half width; nothing above the most."""
    if interval.count < 2 or not interval.half_width > 0:
        return None
    spread = interval.half_width / t_quantile((1 + CONFIDENCE) / 2, interval.count - 1) * math.sqrt(interval.count)
    return _first_count(lambda n: t_quantile((1 + CONFIDENCE) / 2, n - 1) * spread / math.sqrt(n) <= half_width)


def _first_count(is_enough: Callable[[int], bool]) -> int | None:
    """The smallest number of replicates that is enough, as every larger one is; nothing where the most are not."""
    counts = range(2, MOST_REPLICATES + 1)
    place = bisect_left(counts, True, key=is_enough)
    return counts[place] if place < len(counts) else None


def knee(x: Sequence[float], curves: Sequence[Sequence[float]] | Array) -> Knee | None:
    """Finds where falling curves bend: the breakpoint of a broken line (Muggeo 2003).

    The line is fitted to the mean of the replicates by least squares, in the units of x and y: in logarithms of one or both a
    curve that levels off has its bend elsewhere, or nowhere, and real losses did not hold it still between seeds. The interval
    is the bootstrap's over whole replicates (Efron 1979); its standard error is too small for few of them by
    sqrt((n - 1) / n) and is enlarged by that, with Student's quantile (Hesterberg 2015).

    Args:
        x: (m,), rising.
        curves: (n, m), a row a replicate.

    Returns:
        Nothing for fewer than ``KNEE_POINTS`` sizes, or where the curve does not fall or falls faster behind the bend.
    """
    sizes, values = np.asarray(x, dtype=float), np.asarray(curves, dtype=float)
    if len(sizes) < KNEE_POINTS:
        return None
    places, bases = _broken_lines(sizes)
    mean = values.mean(axis=0)
    at = float(_breaks(mean[None], places, bases)[0])
    _, before, bend = np.linalg.lstsq(_design(sizes, at), mean, rcond=None)[0]
    if before >= 0 or bend <= STRAIGHT * abs(before):
        return None
    ends = (float(sizes[0]), float(sizes[-1]))
    return Knee(_bootstrapped(at, values, places, bases, ends), float(before), float(before + bend))


def _design(x: Array, at: float) -> Array:
    return np.stack([np.ones_like(x), x, np.maximum(0.0, x - at)], axis=1)


def _broken_lines(x: Array) -> tuple[Array, Array]:
    """Where the line may break, (p,), and an orthonormal basis of the broken lines of each place, (p, m, 3)."""
    places = np.linspace(x[1], x[-2], KNEE_STEPS + 1)
    return places, np.stack([np.linalg.qr(_design(x, at))[0] for at in places])


def _breaks(curves: Array, places: Array, bases: Array) -> Array:
    """For each curve, (n, m), the place at which a broken line comes nearest, (n,)."""
    explained = np.square(np.einsum("nm,pmk->npk", curves, bases)).sum(axis=2)
    found: Array = places[explained.argmax(axis=1)]
    return found


def _bootstrapped(at: float, curves: Array, places: Array, bases: Array, ends: tuple[float, float]) -> Interval:
    count = len(curves)
    if count < 2:
        return Interval(at, math.nan, math.nan, count)
    found = _breaks(curves[_resamples(count)].mean(axis=1), places, bases)
    error = float(found.std()) * math.sqrt(count / (count - 1))
    reach = t_quantile((1 + CONFIDENCE) / 2, count - 1) * error
    return Interval(at, max(ends[0], at - reach), min(ends[1], at + reach), count)


def _resamples(count: int) -> npt.NDArray[Any]:
    """Replicates drawn with replacement, (resamples, count): all there are, or some with a fixed seed."""
    if count**count <= EXHAUSTIVE:
        return np.array(list(itertools.product(range(count), repeat=count)))
    return np.random.default_rng(0).integers(count, size=(RESAMPLES, count))


def trend(x: Sequence[float] | Array, y: Sequence[float] | Array) -> Trend | None:
    """Spearman's rank correlation with the interval of Bonett and Wright (2000).

    Returns:
        Nothing for fewer than five points, or where one of the two does not vary.
    """
    count = len(x)
    if count < 5 or np.ptp(np.asarray(x)) == 0 or np.ptp(np.asarray(y)) == 0:
        return None
    from scipy import stats

    found = stats.spearmanr(x, y)
    rho = float(found.statistic)
    centre = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, rho)))
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt((1 + rho**2 / 2) / (count - 3))
    return Trend(Interval(rho, math.tanh(centre - reach), math.tanh(centre + reach), count), float(found.pvalue))


def warm_up() -> None:
    """Loads what intervals and tests need, most of a second: for who will need one soon and has nothing else to do."""
    from scipy import stats  # noqa: F401


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """Of Student's t distribution; SciPy takes a tenth of a millisecond for one, and a table needs few but very often."""
    from scipy import stats  # see ``warm_up``

    return float(stats.t.ppf(probability, freedom))
