"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from harness import wording
from harness.statistics import Interval


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (wording.percent(0.123), "12 %"),
        (wording.percent(0.0234), "2.3 %"),
        (wording.decimal(0.0084321), "0.00843"),
        (wording.points(-0.031), "3.1 points"),
        (wording.accuracy(1.04), "1.000"),
        (wording.correlation(-0.2), "0.00"),
        (wording.times(1.01), "as many"),
        (wording.times(3.92), "3.92 times as many"),
        (wording.times(149.6), "150 times as many"),
        (wording.p_value(0.0004), "p < 0.001"),
        (wording.p_value(0.0234), "p = 0.023"),
        (wording.tested(0.0234), " (p = 0.023)"),
        (wording.tested(math.nan), ""),
        (wording.judged(0.0234), " (p = 0.023)"),
        (wording.judged(0.234), " (p = 0.23, which is not resolved)"),
        (wording.judged(math.nan), " (not resolved)"),
        (wording.same_draws(5), "with the same 5 draws of labels"),
        (wording.listed([]), ""),
        (wording.listed(["a"]), "a"),
        (wording.listed(["a", "b", "c"]), "a, b and c"),
        (wording.sizes([2, 5, 10]), "d = 2, 5 and 10"),
    ],
)
def test_numbers_have_the_digits_that_count(found: str, expected: str) -> None:
    """Shares, differences, ratios, p values and lists."""
    assert found == expected


def test_an_interval_has_its_unit_once() -> None:
    """And a single replicate has none at all."""
    assert wording.estimate(Interval(0.2, 0.15, 0.25, 3), wording.percent) == "20 % (95 % interval 15 to 25 %)"
    assert wording.estimate(Interval(2.0, 1.5, 2.5, 3), wording.tenths) == "2.0 (95 % interval 1.5 to 2.5)"
    assert wording.estimate(Interval(2.0, math.nan, math.nan, 1), wording.tenths) == "2.0"
    assert [wording.tenths(value) for value in (-0.04, 0.04, -0.06)] == ["0.0", "0.0", "-0.1"]


def test_what_is_not_resolved_says_what_would_do() -> None:
    """More seeds, and how many where that can be told."""
    assert wording.unresolved(1, None).endswith("take --seeds 3 at the least")
    assert wording.unresolved(3, 8) == "is not resolved with 3 seeds; about 8 would do"
    assert wording.unresolved(3, None) == "is not resolved with 3 seeds; many more would be needed"
    assert wording.unresolved(3, 2) == "is not resolved with 3 seeds; about 4 would do"  # as many were not enough


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ""),
        (["base"], "base"),
        (["base", "deep"], "base and deep"),
        (["base", "deep", "heavy"], "base, deep and heavy"),
        (["base, labels=10"], "base, labels=10"),
        (["base, labels=10", "deep"], "base, labels=10; and deep"),
        (["base, labels=10", "base, labels=20", "2 more"], "base, labels=10; base, labels=20; and 2 more"),
    ],
)
def test_words_that_have_commas_are_listed_with_semicolons(words: list[str], expected: str) -> None:
    """So that it can be seen where one name ends."""
    assert wording.listed(words) == expected
