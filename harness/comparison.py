"""Sweeps, or the groups of one, side by side: means, differences and corrected p values. Numbers only.

The replicate is the seed. Trials of a group that differ in more than their seed (all latent sizes of an architecture, say) are
averaged seed by seed first, over the configurations that every seed has: as many trials as there are would be taken for as many
independent replicates otherwise. Two groups are compared on the configurations and seeds that both have. A search's trial
that was trained again from fresh seeds is left out, as it was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any

from harness.complete import complete_part
from harness.config import TrialConfig, TrialRecord
from harness.confirmation import without_chosen
from harness.measures import METRICS
from harness.rules import UserError, unknown
from harness.statistics import CONFIDENCE, Interval, Paired, compare_paired, correct, mean_interval
from harness.where import select

FIELDS = tuple(each.name for each in fields(TrialConfig))
FIRST_AXES = ("architecture", "latent_size")

Point = tuple[Any, ...]
"""Values on the axes of a table."""

BySeed = dict[int, dict[Point, float]]
"""The values of a group, by seed and by the fields in which its trials differ otherwise."""


@dataclass(frozen=True)
class Group:
    """The trials of a group.

    Attributes:
        values: Of the metric; the mean where a configuration was trained twice.
        trials: How many there are.
    """

    values: BySeed
    trials: int


NO_GROUP = Group({}, 0)


@dataclass(frozen=True)
class Entry:
    """A group of trials in a table.

    Attributes:
        value: Mean over the seeds; nothing where no trial has the metric.
        trials: How many have it.
        difference: From what it is compared with; nothing where there is nothing to compare.
    """

    value: Interval | None
    trials: int
    difference: Paired | None = None


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        point: The values on the table's axes.
        entries: One a sweep.
    """

    point: Point
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Table:
    """A metric of some sweeps.

    Attributes:
        metric: Its name.
        axes: The fields by which trials are grouped.
        lines: One a group.
        baseline: The group with which the others are compared; nothing where each sweep is compared with the first.
    """

    metric: str
    axes: tuple[str, ...]
    lines: tuple[Line, ...]
    baseline: Point | None = None

    @property
    def comparisons(self) -> int:
        """How many were made together, for which the p values are corrected."""
        return sum(entry.difference is not None for line in self.lines for entry in line.entries)


def compare(sweeps: Sequence[Sequence[TrialRecord]], metric: str, axes: Sequence[str] = (), baseline: str = "") -> Table:
    """Compares sweeps group by group with the first of them; of a single one the groups with each other.

    Args:
        sweeps: The trials of each.
        metric: What is compared.
        axes: The fields by which trials are grouped; what was varied where there are none.
        baseline: Of a single sweep, an expression of SQL on the axes that is true for the group with which the others are
            compared; the first group where it is empty.

    Raises:
        UserError: if there is no such metric or field, no trial has the metric, or the baseline is not one of the groups.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    able = ([each for each in records if metric in each.metrics and each.status == "finished"] for records in sweeps)
    finished = [without_chosen(records) for records in able]
    if not any(finished):
        raise UserError(f"no trial that was selected has a {metric}: choose another --metric, or other trials")
    chosen = _check_axes(axes) or default_axes(finished)
    rest = _varying_within(finished, chosen)
    groups = [_grouped(records, metric, chosen, rest) for records in finished]
    points = _in_order(groups)
    if len(groups) > 1:
        lines = [Line(point, _against_first([group.get(point, NO_GROUP) for group in groups])) for point in points]
        return _corrected(Table(metric, chosen, tuple(lines)))
    reference = _find_baseline(points, chosen, baseline)
    (group,) = groups
    lines = [Line(point, (_entry(group[point], NO_GROUP if point == reference else group[reference]),)) for point in points]
    return _corrected(Table(metric, chosen, tuple(lines), reference))


def default_axes(sweeps: Sequence[Sequence[TrialRecord]]) -> tuple[str, ...]:
    """Architecture, latent size, and what else a sweep has varied, but for the seed and what an architecture has of its own."""
    axes: tuple[str, ...] = FIRST_AXES
    while more := _varying_within(sweeps, axes):
        axes = (*axes, more[0])
    return axes


def finding(entry: Entry, metric: str) -> str:
    """In a word what a difference comes to."""
    if entry.difference is None:
        return ""
    if not math.isfinite(entry.difference.corrected):
        return "one seed"
    if entry.difference.corrected >= 1 - CONFIDENCE:
        return "unresolved"
    rises, direction = entry.difference.difference.mean > 0, METRICS[metric].direction
    if not direction:
        return "higher" if rises else "lower"
    return "better" if rises == (direction == "up") else "worse"


def _check_axes(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in FIELDS:
            raise unknown("field to group by", name, FIELDS)
    return tuple(dict.fromkeys(names))


def _varying_within(sweeps: Sequence[Sequence[TrialRecord]], axes: Sequence[str]) -> tuple[str, ...]:
    """The fields, but for the seed, in which trials of one group of one sweep differ."""
    names = [name for name in FIELDS if name != "seed" and name not in axes]
    seen: dict[tuple[int, Point], dict[str, set[Any]]] = {}
    for number, records in enumerate(sweeps):
        for config in (record.trial.config for record in records):
            values = seen.setdefault((number, _point(config, axes)), {name: set() for name in names})
            for name in names:
                values[name].add(getattr(config, name))
    return tuple(name for name in names if any(len(values[name]) > 1 for values in seen.values()))


def _point(config: TrialConfig, names: Sequence[str]) -> Point:
    return tuple(getattr(config, name) for name in names)


def _grouped(records: Iterable[TrialRecord], metric: str, axes: Sequence[str], rest: Sequence[str]) -> dict[Point, Group]:
    """The trials by group."""
    found: dict[Point, dict[tuple[int, Point], list[float]]] = {}
    for record in records:
        config = record.trial.config
        values = found.setdefault(_point(config, axes), {})
        values.setdefault((config.seed, _point(config, rest)), []).append(record.metrics[metric])
    return {point: _group(values) for point, values in found.items()}


def _group(values: Mapping[tuple[int, Point], Sequence[float]]) -> Group:
    by_seed: BySeed = {}
    for (seed, cell), each in values.items():
        by_seed.setdefault(seed, {})[cell] = fmean(each)
    return Group(by_seed, sum(map(len, values.values())))


def _in_order(groups: Sequence[Mapping[Point, object]]) -> list[Point]:
    """All groups: numbers rising, words as they came."""
    points = list(dict.fromkeys(point for group in groups for point in group))
    axes = [list(dict.fromkeys(values)) for values in zip(*points, strict=True)]
    return sorted(points, key=lambda point: [_rank(value, axis) for value, axis in zip(point, axes, strict=True)])


def _rank(value: Any, axis: Sequence[Any]) -> float:
    if value is None:
        return -math.inf
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else axis.index(value)


def _find_baseline(points: Sequence[Point], axes: Sequence[str], expression: str) -> Point:
    if not expression:
        return points[0]
    found = select([dict(zip(axes, point, strict=True)) for point in points], expression, "--baseline", "groups")
    if len(found) > 1:
        raise UserError(f"--baseline {expression!r} is true for {len(found)} groups: allowed is one, by {', '.join(axes)}")
    return points[found[0]]


def _against_first(groups: Sequence[Group]) -> tuple[Entry, ...]:
    return tuple(_entry(group, groups[0] if place else NO_GROUP) for place, group in enumerate(groups))


def _entry(group: Group, reference: Group) -> Entry:
    return Entry(_interval(group.values), group.trials, _difference(group.values, reference.values))


def _interval(values: BySeed) -> Interval | None:
    """Over the seeds; a mean alone where the trials have no configurations that make them replicates."""
    if not values:
        return None
    if means := _seed_means(values):
        return mean_interval(means)
    return Interval(fmean(value for cells in values.values() for value in cells.values()), math.nan, math.nan, 1)


def _difference(values: BySeed, reference: BySeed) -> Paired | None:
    """Seed by seed, over the configurations that both have; nothing where there are none."""
    seeds = [seed for seed in values if seed in reference]
    own = {seed: {cell: value for cell, value in values[seed].items() if cell in reference[seed]} for seed in seeds}
    means = _seed_means(own)
    if not means:
        return None
    others = {seed: {cell: reference[seed][cell] for cell in cells} for seed, cells in own.items()}
    return compare_paired(means, _seed_means(others))


def _seed_means(values: BySeed) -> list[float]:
    """The mean of each seed over the same configurations; seeds or configurations with missing trials are left out."""
    seeds, cells = complete_part(values)
    return [fmean(values[seed][cell] for cell in cells) for seed in seeds]


def _corrected(table: Table) -> Table:
    """Holm's correction over all comparisons of the table."""
    entries = [entry for line in table.lines for entry in line.entries]
    corrected = iter(correct([entry.difference for entry in entries if entry.difference]))
    lines = [
        replace(
            line, entries=tuple(replace(each, difference=next(corrected) if each.difference else None) for each in line.entries)
        )
        for line in table.lines
    ]
    return replace(table, lines=tuple(lines))
