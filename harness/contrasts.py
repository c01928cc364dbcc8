"""Two lines of a sweep compared seed by seed: how much less, or how many times as much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.lines import Line, together
from harness.statistics import Interval, Paired, compare_paired, correct


@dataclass(frozen=True)
class Contrast:
    """A line against another, a metric averaged over the latent sizes that both have.

    Attributes:
        line: The one that is compared.
        change: Of ratios how many times the other's, the geometric mean over sizes; else the difference from it.
        test: Of the differences, of logarithms where it is a ratio.
        differences: One a seed.
        level: The other's mean.
        run_ids: Of both.
    """

    line: Line
    change: Interval
    test: Paired
    differences: tuple[float, ...]
    level: float
    run_ids: tuple[str, ...]


def contrast(line: Line, other: Line, metric: str, as_ratio: bool = False) -> Contrast | None:
    """Compares a line with another one; nothing where they have no sizes and seeds in common."""
    blocks = together([(line, [metric]), (other, [metric])])
    if not blocks:
        return None
    own, others = blocks
    scale = np.log if as_ratio else np.asarray
    first, second = (scale(block.values).mean(axis=1) for block in (own, others))
    test = compare_paired(first, second)
    change = _exponentials(test.difference) if as_ratio else test.difference
    level = float(others.values.mean())
    return Contrast(line, change, test, tuple(map(float, first - second)), level, own.run_ids + others.run_ids)


def _exponentials(value: Interval) -> Interval:
    return Interval(math.exp(value.mean), math.exp(value.low), math.exp(value.high), value.count)


def contrasts(lines: Sequence[Line], other: Line, metric: str, as_ratio: bool = False) -> list[Contrast]:
    """Compares lines with one other; p values are corrected for all of them (Holm)."""
    found = [each for line in lines if (each := contrast(line, other, metric, as_ratio))]
    tests = correct([each.test for each in found])
    return [
        Contrast(each.line, each.change, test, each.differences, each.level, each.run_ids)
        for each, test in zip(found, tests, strict=True)
    ]


def runs_of(found: Sequence[Contrast]) -> tuple[str, ...]:
    """All runs that contrasts rest on, each once."""
    return tuple(dict.fromkeys(run_id for each in found for run_id in each.run_ids))
