"""Does the fast trainer give the same science? Tables of its numbers beside those of its plain twin."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from benchmarks.compare_tables import Comparison, Table, points_of
from benchmarks.contestants import OURS
from benchmarks.outings import Outing

METRICS = ("val/mse", "reconstruction_loss", "max_latent_correlation", "transfer_accuracy")


@dataclass(frozen=True)
class Agreement:
    """One metric of one configuration with either trainer of the harness.

    Attributes:
        stacked: Mean over the seeds.
        plain: Mean over the seeds.
        largest: Largest difference between two trials of the same seed.
        between_seeds: Standard deviation over the plain trainer's seeds; NaN for one seed.
    """

    stacked: float
    plain: float
    largest: float
    between_seeds: float

    @property
    def difference(self) -> float:
        """Of the means."""
        return abs(self.stacked - self.plain)


def agreement(stacked: Outing, plain: Outing, point: tuple[str, int], metric: str) -> Agreement:
    """Compares the two trainers at one configuration."""
    own, other = (
        {trial.seed: trial.metrics[metric] for trial in outing.trials if trial.point == point and metric in trial.metrics}
        for outing in (stacked, plain)
    )
    between = stdev(other.values()) if len(other) > 1 else math.nan
    largest = max(abs(own[seed] - other[seed]) for seed in own)
    return Agreement(fmean(own.values()), fmean(other.values()), largest, between)


def science_tables(comparison: Comparison) -> list[Table]:
    """One table a metric, and one that sums them up; none where the plain trainer was not run."""
    if not comparison.science:
        return []
    stacked, plain = comparison.rounds()[0][OURS], comparison.science[0]
    found = {metric: {point: agreement(stacked, plain, point, metric) for point in points_of(plain)} for metric in METRICS}
    return [_science_summary(found), *(_science_table(metric, rows) for metric, rows in found.items())]


def _science_summary(found: Mapping[str, Mapping[tuple[str, int], Agreement]]) -> Table:
    return Table(
        "Same science: largest differences between the stacked and the plain trainer",
        ["metric", "of means", "of a seed", "spread"],
        [[metric, *_summary_cells(list(rows.values()))] for metric, rows in found.items()],
        note=(
            "Largest over all configurations, of the means over the seeds and of two trials of the same seed; spread: the "
            "median configuration's standard deviation over the plain trainer's seeds."
        ),
    )


def _summary_cells(rows: Sequence[Agreement]) -> list[str]:
    spreads = [row.between_seeds for row in rows if not math.isnan(row.between_seeds)]
    numbers = max(row.difference for row in rows), max(row.largest for row in rows), median(spreads) if spreads else math.nan
    return [_small(number) for number in numbers]


def _science_table(metric: str, rows: Mapping[tuple[str, int], Agreement]) -> Table:
    return Table(
        f"{metric}, stacked and plain",
        ["architecture", "latent size", "stacked", "plain", "of means", "of a seed", "spread"],
        list(_science_rows(rows)),
    )


def _science_rows(rows: Mapping[tuple[str, int], Agreement]) -> Iterator[list[str]]:
    for (architecture, latent_size), row in rows.items():
        means, others = (row.stacked, row.plain), (row.difference, row.largest, row.between_seeds)
        yield [architecture, str(latent_size), *(f"{value:.4f}" for value in means), *(_small(value) for value in others)]


def _small(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"
