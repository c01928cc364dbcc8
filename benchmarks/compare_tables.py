"""From the outings of a comparison to its tables: pure functions on records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import median
from typing import Any

from benchmarks.contestants import CONTESTANTS, OURS, PLAIN
from benchmarks.outings import Outing, TrialRun

Key = tuple[str, int, int]


@dataclass(frozen=True)
class Comparison:
    """All that was measured.

    Attributes:
        settings: The work, in words.
        machine: Cores, threads and versions.
        peaks: Operations per second of one thread's matrix product, by round.
        operations: Of the training of a trial, validation included, by ``architecture/latent_size``.
        outings: Of every contestant in every round.
        science: The harness with its plain trainer, where it was run.
    """

    settings: dict[str, Any]
    machine: dict[str, Any]
    peaks: list[float]
    operations: dict[str, float]
    outings: list[Outing]
    science: list[Outing] = field(default_factory=list)

    @property
    def contestants(self) -> list[str]:
        """Those that ran, in the order of the table of contestants."""
        ran = {outing.contestant for outing in self.outings}
        return [name for name in CONTESTANTS if name in ran]

    def rounds(self) -> list[dict[str, Outing]]:
        """The outings by contestant, a mapping a round."""
        numbers = sorted({outing.round for outing in self.outings})
        return [{each.contestant: each for each in self.outings if each.round == number} for number in numbers]


def read_comparison(content: Mapping[str, Any]) -> Comparison:
    """Reads what ``dataclasses.asdict`` made of a comparison."""
    return Comparison(**{**content, **{name: [_read_outing(each) for each in content[name]] for name in ("outings", "science")}})


def _read_outing(content: Mapping[str, Any]) -> Outing:
    return Outing(**{**content, "trials": [TrialRun(**trial) for trial in content["trials"]]})


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        title: What it shows.
        columns: Their heads.
        rows: Cells as text.
        left: Columns that are set to the left.
        note: What its numbers mean.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    left: int = 1
    note: str = ""

    def markdown(self) -> str:
        """As a Markdown table below its title."""
        rule = [":--" if index < self.left else "--:" for index in range(len(self.columns))]
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.columns, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, *(["", self.note] if self.note else []), ""])


def make_tables(comparison: Comparison) -> list[Table]:
    """How fast everyone is."""
    tables = [speed_table(comparison)]
    if PLAIN in comparison.contestants:
        tables += [time_to_loss_table(comparison), time_to_loss_by_point(comparison)]
    return [*tables, peak_table(comparison)]


def speed_table(comparison: Comparison) -> Table:
    """The same work: trials per minute, and the harness's over everybody's in the same round."""
    rows = []
    for name in comparison.contestants:
        outings = [each[name] for each in comparison.rounds()]
        ratios = [each[OURS].trials_per_minute / each[name].trials_per_minute for each in comparison.rounds()]
        seconds, rate = (
            spread((each.seconds for each in outings), ".1f"),
            spread((each.trials_per_minute for each in outings), ".1f"),
        )
        rows.append([CONTESTANTS[name].title, str(outings[0].side_by_side), seconds, rate, spread(ratios, ".2f")])
    return Table(
        "The same work",
        ["contestant", "at a time", "seconds", "trials a minute", "harness faster"],
        rows,
        note=(
            "Median (smallest to largest) of the rounds. Seconds are of the whole process. The last column is the harness's "
            "trials a minute over the contestant's in the same round; trials at a time are as many as could be."
        ),
    )


def spread(values: Iterable[float], form: str) -> str:
    """Median, and the smallest and the largest where they are not one value."""
    given = list(values)
    if not given:
        return "-"
    middle = f"{median(given):{form}}"
    return middle if len(given) == 1 else f"{middle} ({min(given):{form}} to {max(given):{form}})"


def seconds_to_reach(trial: TrialRun, target: float) -> float:
    """Seconds of training until the validation loss is first at the target or below; infinity if it never is."""
    reached = (passed for passed, loss in zip(accumulate(trial.seconds), trial.val_mse, strict=True) if loss <= target)
    return next(reached, math.inf)


def times_to_loss(outing: Outing, targets: Mapping[Key, float]) -> dict[Key, float]:
    """Seconds that each trial takes to its target, divided by the trials that run at a time.

    One that never gets there counts with all of its training, which is the least that it would take; the harness's own
    with infinity. Neither makes the harness look better than it is.
    """
    return {trial.key: _counted_seconds(trial, targets[trial.key], outing) / outing.side_by_side for trial in outing.trials}


def _counted_seconds(trial: TrialRun, target: float, outing: Outing) -> float:
    most = math.inf if outing.contestant == OURS else sum(trial.seconds)
    return min(seconds_to_reach(trial, target), most)


def final_losses(outing: Outing) -> dict[Key, float]:
    """The validation loss after the last epoch of every trial."""
    return {trial.key: trial.val_mse[-1] for trial in outing.trials}


@dataclass(frozen=True)
class TimesToLoss:
    """One round's seconds to the plain script's final validation loss, by contestant and trial."""

    seconds: dict[str, dict[Key, float]]

    def ratios(self, name: str, point: tuple[str, int] | None = None) -> list[float]:
        """A contestant's seconds over the harness's for every trial, or for those of one configuration."""
        ours, theirs = self.seconds[OURS], self.seconds[name]
        return [1.0 if name == OURS else theirs[key] / ours[key] for key in ours if point in (None, key[:2])]


def all_times_to_loss(comparison: Comparison) -> list[TimesToLoss]:
    """Of every round; the targets are those of the plain script in the same round."""
    return [
        TimesToLoss({name: times_to_loss(outing, final_losses(outings[PLAIN])) for name, outing in outings.items()})
        for outings in comparison.rounds()
    ]


def time_to_loss_table(comparison: Comparison) -> Table:
    """How long each contestant takes to the plain script's final validation loss."""
    rounds = all_times_to_loss(comparison)
    rows = []
    for name in comparison.contestants:
        seconds = spread((median(each.seconds[name].values()) for each in rounds), ".2f")
        ratios = spread((median(each.ratios(name)) for each in rounds), ".2f")
        rows.append([CONTESTANTS[name].title, reached(comparison, name), seconds, ratios])
    return Table(
        "Time to the plain script's final validation loss",
        ["contestant", "reach it", "seconds a trial", "harness faster"],
        rows,
        note=(
            "Seconds of training and validation until val/mse is first as low as the script's after its last epoch, same "
            "architecture, latent size and seed, same round; divided by the trials at a time. A trial that never gets there "
            "counts with all of its training, the harness's own with infinity. Medians over the trials, then median "
            "(smallest to largest) of the rounds."
        ),
    )


def reached(comparison: Comparison, name: str) -> str:
    """How many of a contestant's trials get to the plain script's final validation loss."""
    times = [
        seconds_to_reach(trial, final_losses(outings[PLAIN])[trial.key])
        for outings in comparison.rounds()
        for trial in outings[name].trials
    ]
    return f"{sum(time < math.inf for time in times)} of {len(times)}"


def time_to_loss_by_point(comparison: Comparison) -> Table:
    """The same by configuration: the median ratio over seeds and rounds."""
    rounds = all_times_to_loss(comparison)
    rivals = [name for name in comparison.contestants if name != OURS]
    rows = []
    for point in points_of(comparison.outings[0]):
        ratios = [median(ratio for each in rounds for ratio in each.ratios(name, point)) for name in rivals]
        rows.append([point[0], str(point[1]), *(f"{ratio:.2f}" for ratio in ratios)])
    return Table(
        "The same by configuration: how many times faster the harness is",
        ["architecture", "latent size", *(CONTESTANTS[name].title for name in rivals)],
        rows,
        note="Medians over seeds and rounds.",
    )


def points_of(outing: Outing) -> list[tuple[str, int]]:
    """The configurations that were run, each once."""
    return list(dict.fromkeys(trial.point for trial in outing.trials))


def operations_per_second(outing: Outing, operations: Mapping[str, float]) -> float:
    """Of one core in training: the operations of the plain model's steps over the core-seconds that they took."""
    done = sum(operations[f"{trial.architecture}/{trial.latent_size}"] for trial in outing.trials)
    return done / (outing.threads * sum(sum(trial.seconds) for trial in outing.trials))


def peak_table(comparison: Comparison) -> Table:
    """The share of one thread's matrix product that training reaches on a core."""
    rows = []
    for name in comparison.contestants:
        rates = [operations_per_second(each[name], comparison.operations) for each in comparison.rounds()]
        shares = [100 * rate / peak for rate, peak in zip(rates, comparison.peaks, strict=True)]
        cells = [str(comparison.rounds()[0][name].threads), spread((rate / 1e9 for rate in rates), ".1f"), spread(shares, ".1f")]
        rows.append([CONTESTANTS[name].title, *cells])
    peak = spread((each / 1e9 for each in comparison.peaks), ".1f")
    return Table(
        "Share of the matrix-product peak that training reaches",
        ["contestant", "threads a trial", "GFLOP/s a core", "% of the peak"],
        rows,
        note=(
            f"Peak: {peak} GFLOP/s, one thread, float32, 1,024 x 1,024. Operations are those of the plain model's training "
            "steps and validation, whatever a contestant really computes; seconds are those of training and validation."
        ),
    )
