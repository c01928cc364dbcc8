"""What a sweep came to, in tables of means with intervals. Reads records, writes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from harness.config import HEADLINES, Trial, TrialConfig, TrialRecord
from harness.confirmation import is_confirmation
from harness.measures import METRICS
from harness.statistics import Interval, mean_interval

if TYPE_CHECKING:
    from pandas import DataFrame as DataFrame


@dataclass(frozen=True)
class Row:
    """Replicates of one configuration.

    Attributes:
        point: Its values on the axes of the table.
        trials: The trials that finished.
        metrics: Over those trials.
    """

    point: dict[str, Any]
    trials: tuple[TrialRecord, ...]
    metrics: dict[str, Interval]


@dataclass(frozen=True)
class Summary:
    """A sweep in numbers.

    Attributes:
        axes: The fields that the table has columns for.
        rows: One a configuration, in the order of the trials.
        best: For each headline metric the trial that is best in it.
        finished: Trials.
        failed: Trials that ended without a result.
        total: Trials when all are done.
        pruned: Trials that the search gave up.
    """

    axes: tuple[str, ...]
    rows: tuple[Row, ...]
    best: dict[str, TrialRecord]
    finished: int
    failed: tuple[TrialRecord, ...]
    total: int
    pruned: int = 0


def summarize(records: Iterable[TrialRecord], axes: Sequence[str], total: int) -> Summary:
    """Groups replicates and finds the best. A search's trial is no replicate of those that confirm it: it was chosen.

    Args:
        records: The ended trials, in any order.
        axes: The fields by which the table is grouped.
        total: Trials when all are done, without those that confirm others.
    """
    ordered = sorted(records, key=lambda record: record.trial.number)
    finished = [record for record in ordered if record.status == "finished"]
    groups: dict[tuple[TrialConfig, bool], list[TrialRecord]] = {}
    for record in finished:
        groups.setdefault((record.trial.config.replicate_of, is_confirmation(record.trial.number)), []).append(record)
    rows = tuple(
        Row({axis: getattr(config, axis) for axis in axes}, tuple(members), _intervals(members))
        for (config, _), members in groups.items()
    )
    best = {name: found for name in HEADLINES if (found := best_trial(finished, name))}
    failed, pruned = ([each for each in ordered if each.status == end] for end in ("failed", "pruned"))
    total += sum(is_confirmation(record.trial.number) for record in ordered)
    return Summary(tuple(axes), rows, best, len(finished), tuple(failed), total, len(pruned))


def best_trial(records: Iterable[TrialRecord], metric: str) -> TrialRecord | None:
    """The finished trial that is best in a metric, by the metric's own direction; nothing where none has it."""
    able = [record for record in records if record.status == "finished" and metric in record.metrics]
    return min(able, key=lambda record: METRICS[metric].rank(record.metrics[metric]), default=None)


def table_axes(varied: Sequence[str], records: Sequence[TrialRecord]) -> tuple[str, ...]:
    """The columns of the table: architecture and latent size, then what else was varied or differs between trials."""
    configs = [record.trial.config for record in records]
    differing = [each.name for each in fields(TrialConfig) if len({getattr(config, each.name) for config in configs}) > 1]
    own = ("depth", "width", "kernel_size", "activation", "batch_norm", "output_activation")
    several = len({config.architecture for config in configs}) > 1
    rest = [name for name in dict.fromkeys([*varied, *differing]) if name in varied or not (several and name in own)]
    return tuple(name for name in dict.fromkeys(["architecture", "latent_size", *rest]) if name != "seed")


def trial_name(trial: Trial, axes: Sequence[str]) -> str:
    """What tells a trial from the others of its sweep, for people.

    Args:
        trial: Of a grid, or with the proposal of a sampler.
        axes: The grid's.
    """
    config = trial.config
    varied: dict[str, Any] = {name: getattr(config, name) for name in axes}
    if trial.proposal:
        varied |= json.loads(trial.proposal).get("params", {})
    more = [
        f"{name}={short_text(value)}" for name, value in varied.items() if name not in ("architecture", "latent_size", "seed")
    ]
    return " ".join([config.architecture, f"d={config.latent_size}", *more, f"seed={config.seed}"])


def short_text(value: Any) -> str:
    """A field's value as people read it: three digits that count of a number that is no whole one."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def as_json(summary: Summary) -> dict[str, Any]:
    """The summary as JSON-like content; a number that is not defined is null."""
    return {
        "trials": {
            "total": summary.total,
            "finished": summary.finished,
            "failed": len(summary.failed),
            "pruned": summary.pruned,
        },
        "rows": [
            {
                **row.point,
                "seeds": len(row.trials),
                "metrics": {name: _json_interval(value) for name, value in row.metrics.items()},
            }
            for row in summary.rows
        ],
        "best": {name: {"value": record.metrics[name], "run_id": record.run_id} for name, record in summary.best.items()},
        "failed": [{"trial": record.trial.number, "run_id": record.run_id, "reason": record.reason} for record in summary.failed],
    }


def trials_frame(records: Iterable[TrialRecord]) -> DataFrame:
    """All ended trials as a table: number, run, status, the configuration and every metric."""
    return as_frame(trial_row(record) for record in sorted(records, key=lambda record: record.trial.number))


def as_frame(rows: Iterable[dict[str, Any]]) -> DataFrame:
    """Rows with the same columns as a table, without the metrics that only other studies measure."""
    from pandas import DataFrame  # takes half a second to load: only who makes a table needs it

    frame = DataFrame(list(rows))
    return frame.drop(columns=[name for name in frame if _is_of_others(str(name)) and frame[name].isna().all()])


def _is_of_others(name: str) -> bool:
    return name in METRICS and bool(METRICS[name].group)


def trial_row(record: TrialRecord) -> dict[str, Any]:
    """What a table of trials has of one: number, run, status, the configuration and every metric, by name."""
    return {
        "trial": record.trial.number,
        "run_id": record.run_id,
        "status": record.status,
        **asdict(record.trial.config),
        **{name: record.metrics.get(name) for name in METRICS},
    }


def table_files(summary: Summary, records: Iterable[TrialRecord]) -> dict[str, bytes]:
    """The tables of a sweep as files, contents by path."""
    return {
        "summary.json": json.dumps(as_json(summary), indent=2).encode(),
        "trials.csv": trials_frame(records).to_csv(index=False).encode(),
    }


def _intervals(members: Sequence[TrialRecord]) -> dict[str, Interval]:
    names = [name for name in METRICS if all(name in member.metrics for member in members)]
    return {name: mean_interval([member.metrics[name] for member in members]) for name in names}


def _json_interval(value: Interval) -> dict[str, float | int | None]:
    return {name: None if isinstance(number, float) and math.isnan(number) else number for name, number in vars(value).items()}
