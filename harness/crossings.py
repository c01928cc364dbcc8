"""Where one curve overtakes another, and between which points that is sure: pure functions on replicates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.statistics import Interval, mean_interval

Curve = Mapping[float, float]
"""From x to y, such as from a number of labels to an accuracy."""


@dataclass(frozen=True)
class Crossing:
    """Where a curve is above another from then on.

    Attributes:
        at: Where the mean difference turns positive for good; infinity where it does not, the first x where it always is.
        low: From here on the interval of the difference reaches above 0: the curve may have overtaken.
        high: From here on the whole interval is above 0: the curve has overtaken; infinity where it never surely does.
        differences: The mean difference and its interval at each x.
    """

    at: float
    low: float
    high: float
    differences: dict[float, Interval]


def overtakes(upper: Sequence[Curve], lower: Sequence[Curve]) -> Crossing:
    """Where the ``upper`` curves get above the ``lower`` ones, seed by seed.

    The interval is that of all points at which the paired difference cannot be told from 0 (a test turned into a region,
    as Fieller's), read off between the points on a logarithmic x; it needs at least two replicates, and is NaN with one. All is
    NaN where the curves have no points in common.

    Args:
        upper: A curve for each replicate, at the same points x > 0.
        lower: As many, the replicates in the same order.
    """
    points = sorted(set.intersection(*(set(curve) for curve in (*upper, *lower))))
    differences = {x: mean_interval([mine[x] - theirs[x] for mine, theirs in zip(upper, lower, strict=True)]) for x in points}
    ends = ([getattr(interval, name) for interval in differences.values()] for name in ("mean", "high", "low"))
    at, low, high = (_turns_positive(points, values) for values in ends)
    return Crossing(at, low, high, differences)


def _turns_positive(points: Sequence[float], values: Sequence[float]) -> float:
    """Where values are above 0 for good; the first point where all are, infinity where the last one is not."""
    if not points or any(math.isnan(value) for value in values):
        return math.nan
    if values[-1] <= 0:
        return math.inf
    last = max((place for place, value in enumerate(values) if value <= 0), default=-1)
    if last < 0:
        return points[0]
    share = values[last] / (values[last] - values[last + 1])
    return math.exp(math.log(points[last]) + share * math.log(points[last + 1] / points[last]))
