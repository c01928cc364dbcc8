"""Intervals over replicates. Pure functions on numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Interval:
    """A mean and how well it is known.

    Attributes:
        mean: Arithmetic mean.
        low: Lower end of the confidence interval; NaN for a single value.
        high: Upper end.
        count: Number of values.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def half_width(self) -> float:
        """Half the length of the interval; NaN for a single value."""
        return (self.high - self.low) / 2


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
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
    reach = _quantile((1 + confidence) / 2, count - 1) * math.sqrt(variance / count)
    return Interval(mean, mean - reach, mean + reach, count)


@cache
def _quantile(probability: float, freedom: int) -> float:
    """Of Student's t distribution; SciPy takes a tenth of a millisecond for one, and a table needs few but very often."""
    from scipy import stats  # takes a third of a second to import: only who needs an interval pays it

    return float(stats.t.ppf(probability, freedom))
