"""A comparison in words: sheets of text cells, and the lines around them, for every format that it is written in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.comparison import Entry, Point, Table, finding
from harness.differences import Difference
from harness.measures import METRICS
from harness.statistics import Interval
from harness.sweeps import StoredSweep

DIGITS = 4
"""That count, of the largest number of a sheet."""

SHORT_ID = 8
"""Digits of an identity that tell sweeps apart."""

MOST_DECIMALS = 6
SMALLEST_P = 1e-4
DIRECTIONS = {"down": "lower is better", "up": "higher is better", "": "no better direction"}


@dataclass(frozen=True)
class Comparison:
    """Sweeps side by side.

    Attributes:
        store: Address of the store, as it may be shown.
        sweeps: With the trials that were selected.
        tables: One a metric.
        differing: What is not the same for all sweeps.
    """

    store: str
    sweeps: tuple[StoredSweep, ...]
    tables: tuple[Table, ...]
    differing: tuple[Difference, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """What tells the sweeps apart, as short as it can be."""
        parts = [(sweep.study, sweep.dataset) for sweep in self.sweeps]
        places = [place for place in range(2) if len({part[place] for part in parts}) > 1]
        short = [" on ".join(part[place] for place in places) for part in parts]
        if len(set(short)) == len(short) > 1:
            return tuple(short)
        identities = [sweep.identity for sweep in self.sweeps]
        return tuple(_shortened(identities) or _shortened([sweep.parent.run_id for sweep in self.sweeps]))


def _shortened(names: Sequence[str]) -> list[str]:
    """The beginnings of names; empty where those are not enough to tell them apart."""
    short = [name[:SHORT_ID] for name in names]
    return short if len(set(short)) == len(short) else []


@dataclass(frozen=True)
class Sheet:
    """A table as text.

    Attributes:
        title: Above it.
        columns: Their headings.
        rows: The cells.
        left: So many columns are set to the left, the others to the right.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int


def sheet(comparison: Comparison, table: Table) -> Sheet:
    """The sheet of a metric: the axes, a mean with its interval for each sweep, and the differences."""
    labels = comparison.labels
    compared = [place for place in range(len(labels)) if any(line.entries[place].difference for line in table.lines)]
    alone = len(labels) == 1
    columns = [*table.axes, "seeds", *(["mean"] if alone else labels)]
    for place in compared:
        columns += ["difference" if len(labels) < 3 else f"{labels[place]} - {labels[0]}", "p", "finding"]
    write = _writer(table)
    rows = [
        (
            *map(value_text, line.point),
            "/".join(dict.fromkeys(str(entry.value.count) if entry.value else "-" for entry in line.entries)),
            *(interval_text(entry.value, write) for entry in line.entries),
            *(text for place in compared for text in _difference_cells(line.entries[place], table, write, line.point)),
        )
        for line in table.lines
    ]
    return Sheet(title(table), tuple(columns), tuple(rows), len(table.axes))


def differing_sheet(comparison: Comparison) -> Sheet:
    """What is not the same for all sweeps."""
    rows = [(each.what, *each.values) for each in comparison.differing]
    return Sheet("In what they differ", ("", *comparison.labels), tuple(rows), 1 + len(comparison.labels))


def shortened(table: Table, most: int) -> Table:
    """A table with no more lines than that: the best in the first sweep that has them, in the order that they had."""
    if len(table.lines) <= most:
        return table
    rank = METRICS[table.metric].rank
    best = sorted(table.lines, key=lambda line: rank(next(entry.value.mean for entry in line.entries if entry.value)))[:most]
    return replace(table, lines=tuple(line for line in table.lines if line in best or line.point == table.baseline))


def others(comparison: Comparison) -> list[str]:
    """A line for each study that has older sweeps, which the name could have meant."""
    lines, named = [], {sweep.identity for sweep in comparison.sweeps}
    for sweep in comparison.sweeps:
        identities = dict.fromkeys(other.tags["harness.sweep"] for other in sweep.others)
        if more := [identity for identity in identities if identity not in named]:
            lines.append(f"{sweep.study} has other sweeps, older ones: {', '.join(more)} (--list)")
    return lines


def title(table: Table) -> str:
    """The metric, its unit, and which way is better."""
    metric = METRICS[table.metric]
    unit = f"{metric.unit}, " if metric.unit else ""
    return f"{table.metric} ({unit}{DIRECTIONS[metric.direction]})"


def about(sweep: StoredSweep, label: str = "") -> str:
    """A sweep in a line."""
    failed = sum(record.status == "failed" for record in sweep.records)
    seeds = len({record.trial.config.seed for record in sweep.records})
    counts = [
        f"{len(sweep.records)} trials",
        "1 seed" if seeds == 1 else f"{seeds} seeds",
        *([f"{failed} failed"] if failed else []),
    ]
    state = "" if sweep.parent.has_ended else ", not finished yet"
    start = f"{label}: " if label and not sweep.identity.startswith(label) else ""
    return f"{start}{sweep.title}, sweep {sweep.identity}: {', '.join(counts)}{state} (run {sweep.parent.run_id})"


def heading(comparison: Comparison) -> str:
    """What is compared."""
    return " against ".join(comparison.labels) if len(comparison.sweeps) > 1 else comparison.sweeps[0].title


def note(comparison: Comparison) -> str:
    """How the numbers are to be read."""
    table = comparison.tables[0]
    first = "Mean and 95 % interval over seeds; trials of a group that differ otherwise are averaged seed by seed first."
    if not any(each.comparisons for each in comparison.tables):
        return first
    counts = dict.fromkeys(str(each.comparisons) for each in comparison.tables)
    reference = comparison.labels[0] if table.baseline is None else point_text(table.axes, table.baseline)
    numbers = " or ".join(counts)
    how = "seed by seed, over the seeds and configurations that both have. p: paired t test, corrected for"
    return f"{first} Difference: from {reference}, {how} the {numbers} comparisons of a table (Holm)."


def point_text(axes: Sequence[str], point: Point) -> str:
    """A group in words."""
    return ", ".join(f"{name} = {value_text(value)}" for name, value in zip(axes, point, strict=True))


def value_text(value: Any) -> str:
    """A value of a configuration."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def interval_text(value: Interval | None, write: str, sign: str = "") -> str:
    """A mean, with a sign where it is a difference, and half its interval, in a format."""
    if value is None:
        return "-"
    mean = format(value.mean, sign + write)
    return mean if math.isnan(value.half_width) else f"{mean} ± {format(value.half_width, write)}"


def p_text(value: float) -> str:
    """A p value."""
    if not math.isfinite(value):
        return "-"
    return f"< {SMALLEST_P:g}" if value < SMALLEST_P else f"{value:.4f}"


def _difference_cells(entry: Entry, table: Table, write: str, point: Point) -> tuple[str, str, str]:
    if entry.difference is None:
        return ("baseline" if point == table.baseline else "-", "", "")
    return (
        interval_text(entry.difference.difference, write, "+"),
        p_text(entry.difference.corrected),
        finding(entry, table.metric),
    )


def _writer(table: Table) -> str:
    """The format of all numbers of a table: as many decimals as leave its largest mean four digits."""
    largest = max((abs(entry.value.mean) for line in table.lines for entry in line.entries if entry.value), default=0.0)
    places = DIGITS - 1 - math.floor(math.log10(largest)) if largest > 0 else DIGITS
    return f".{min(MOST_DECIMALS, max(0, places))}f"
