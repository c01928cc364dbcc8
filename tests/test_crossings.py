"""Where one curve overtakes another: by hand, and where it is not sure."""

from __future__ import annotations

import math

import pytest

from harness.crossings import overtakes
from harness.statistics import mean_interval

LABELS = (10.0, 100.0, 1000.0)


def curves(*rows: tuple[float, ...]) -> list[dict[float, float]]:
    """A curve for each replicate."""
    return [dict(zip(LABELS, row, strict=True)) for row in rows]


FLAT = curves((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_crossing_is_read_off_a_logarithmic_axis() -> None:
    """From 0.1 below at 10 to 0.1 above at 100 it is half way in logarithms, at 31.6; equal replicates leave no doubt."""
    found = overtakes(curves((0.4, 0.6, 0.9), (0.4, 0.6, 0.9)), FLAT)
    assert found.at == pytest.approx(math.sqrt(1000))
    assert (found.low, found.high) == (pytest.approx(found.at), pytest.approx(found.at))


def test_the_interval_is_where_the_paired_difference_may_be_nothing() -> None:
    """Its ends are where the two ends of Student's interval of the difference cross 0, worked out by hand."""
    upper = curves((0.40, 0.58, 0.9), (0.44, 0.62, 0.9), (0.36, 0.60, 0.9))
    found = overtakes(upper, [FLAT[0]] * 3)
    first, second = (mean_interval([curve[x] - 0.5 for curve in upper]) for x in LABELS[:2])
    assert found.low == pytest.approx(10 * 10 ** (first.high / (first.high - second.high)))
    assert found.low < found.at < found.high
    high = 10 * 10 ** (first.low / (first.low - second.low))
    assert found.high == pytest.approx(high)
    assert found.differences[10.0] == first


def test_replicates_are_paired() -> None:
    """Two curves that differ by the same at each seed leave no doubt, however much seeds differ."""
    lower = curves((0.1, 0.2, 0.3), (0.7, 0.8, 0.9))
    upper = [{x: y + 0.1 * (x - 50) / 50 for x, y in curve.items()} for curve in lower]
    found = overtakes(upper, lower)
    assert found.low == pytest.approx(found.high)
    assert 10 < found.low < 100


def test_a_curve_that_never_overtakes_does_so_at_infinity() -> None:
    """Also one that is above for a while and falls behind again; one that is always above does from the first point on."""
    assert overtakes(curves((0.6, 0.6, 0.4), (0.6, 0.6, 0.4)), FLAT).at == math.inf
    assert overtakes(FLAT, FLAT).at == math.inf
    assert overtakes(curves((0.6, 0.6, 0.6), (0.7, 0.7, 0.7)), FLAT).at == 10
    again = overtakes(curves((0.6, 0.4, 0.6), (0.6, 0.4, 0.6)), FLAT)
    assert again.at == pytest.approx(100 * math.sqrt(10))


def test_one_replicate_has_a_crossing_and_no_interval() -> None:
    """There is nothing to tell how sure it is."""
    found = overtakes(curves((0.4, 0.6, 0.9)), FLAT[:1])
    assert found.at == pytest.approx(math.sqrt(1000))
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_only_points_that_all_curves_have_count() -> None:
    """A trial that failed takes its point out for all."""
    upper = curves((0.4, 0.6, 0.9), (0.4, 0.6, 0.9))
    del upper[1][100.0]
    found = overtakes(upper, FLAT)
    assert list(found.differences) == [10.0, 1000.0]


def test_curves_without_common_points_have_no_crossing() -> None:
    """Nor an error."""
    found = overtakes([{10.0: 0.4}], [{100.0: 0.5}])
    assert math.isnan(found.at)
    assert found.differences == {}
