"""Numbers as people read them in a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from harness.statistics import CONFIDENCE, Interval

Format = Callable[[float], str]


def decimal(value: float) -> str:
    """Three digits that count: 0.00843, 1.21, 30."""
    return f"{value:.3g}"


def tenths(value: float) -> str:
    """One digit behind the point, and no minus before a zero."""
    return f"{round(value, 1) + 0.0:.1f}"


def percent(value: float) -> str:
    """A share: 12 %, 2.3 %."""
    return f"{100 * value:.1f} %" if abs(value) < 0.0995 else f"{100 * value:.0f} %"


def points(value: float) -> str:
    """A difference of shares, in percentage points, without its sign."""
    return f"{abs(100 * value):.1f} points"


def accuracy(value: float) -> str:
    """A share of test images; an end of an interval that is none is cut off."""
    return f"{min(1.0, max(0.0, value)):.3f}"


def correlation(value: float) -> str:
    """An absolute correlation; an end of an interval that is none is cut off."""
    return f"{min(1.0, max(0.0, value)):.2f}"


def times(ratio: float) -> str:
    """A ratio of two numbers of things."""
    return "as many" if abs(ratio - 1) < 0.05 else f"{ratio:.3g} times as many"


def interval(value: Interval, write: Format) -> str:
    """The ends, in brackets, with their unit once; empty for a single replicate."""
    if math.isnan(value.low):
        return ""
    low, high = write(value.low), write(value.high)
    unit = high.partition(" ")[2]
    return f" (95 % interval {low.removesuffix(f' {unit}') if unit else low} to {high})"


def estimate(value: Interval, write: Format) -> str:
    """A mean with the ends of its interval."""
    return write(value.mean) + interval(value, write)


def p_value(value: float) -> str:
    """With what can be said of a small one."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def tested(value: float) -> str:
    """A p value in brackets; empty for a single replicate, which has none."""
    return "" if math.isnan(value) else f" ({p_value(value)})"


def judged(value: float) -> str:
    """The same, where a part of a sentence has to say for itself that it is not resolved."""
    if value < 1 - CONFIDENCE:
        return tested(value)
    return " (not resolved)" if math.isnan(value) else f" ({p_value(value)}, which is not resolved)"


def same_draws(count: int) -> str:
    """What intervals of accuracies over seeds leave out: all seeds are given the same labelled images."""
    return f"with the same {count} draws of labels" if count > 1 else "with the same draw of labels"


def listed(words: Sequence[str]) -> str:
    """Words in a row: a, b and c; with semicolons where one has a comma of its own."""
    between, last = ("; ", "; and ") if len(words) > 1 and any(", " in word for word in words) else (", ", " and ")
    return last.join(filter(None, [between.join(words[:-1]), *words[-1:]]))


def sizes(values: Sequence[int]) -> str:
    """Latent sizes: d = 2, 5 and 10."""
    return f"d = {listed([str(value) for value in values])}"


def seeds(count: int) -> str:
    """A number of replicates."""
    return "one seed" if count == 1 else f"{count} seeds"


def unresolved(count: int, needed: int | None) -> str:
    """What to do where the replicates do not settle a question, and it was estimated how many would."""
    if count < 2:
        return unsettled(count)
    more = f"about {max(needed, count + 1)} would do" if needed else "many more would be needed"
    return f"is not resolved with {seeds(count)}; {more}"


def unsettled(count: int) -> str:
    """The same where there is no estimate."""
    if count < 2:
        return "is not resolved with one seed, which says nothing of the spread; take --seeds 3 at the least"
    return f"is not resolved with {seeds(count)}; take more"
