"""What a sweep came to: tables of means with intervals, and the numbers behind its pictures. Reads records, writes nothing."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from harness import figures
from harness.artifacts import STRIPS_FILE
from harness.config import Trial, TrialConfig, TrialRecord
from harness.figures import LineFigure, Series
from harness.measures import HEADLINES, METRICS, TRANSFER_MODES
from harness.statistics import Interval, mean_interval

ReadFile = Callable[[str, str], bytes]
"""From a run id and a path to the file's content."""

FLOORS = {"floor/pca_mse": "PCA", "floor/random_projection_mse": "random projection", "floor/mean_image_mse": "mean image"}
LABEL_FLOORS = {"transfer/raw_pixels_accuracy": "raw pixels", "transfer/pca_accuracy": "PCA scores"}
MOST_SERIES = 7
COMPARED_SIZES = (10, 20)
X_LABEL = "latent size d"


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
    """

    axes: tuple[str, ...]
    rows: tuple[Row, ...]
    best: dict[str, TrialRecord]
    finished: int
    failed: tuple[TrialRecord, ...]
    total: int


def summarize(records: Iterable[TrialRecord], axes: Sequence[str], total: int) -> Summary:
    """Groups replicates and finds the best.

    Args:
        records: The ended trials, in any order.
        axes: The fields by which the table is grouped.
        total: Trials when all are done.
    """
    ordered = sorted(records, key=lambda record: record.trial.number)
    finished = [record for record in ordered if record.status == "finished"]
    groups: dict[TrialConfig, list[TrialRecord]] = {}
    for record in finished:
        groups.setdefault(record.trial.config.replicate_of, []).append(record)
    rows = tuple(
        Row({axis: getattr(config, axis) for axis in axes}, tuple(members), _intervals(members))
        for config, members in groups.items()
    )
    best = {name: found for name in HEADLINES if (found := best_trial(finished, name))}
    return Summary(tuple(axes), rows, best, len(finished), tuple(each for each in ordered if each.status == "failed"), total)


def best_trial(records: Iterable[TrialRecord], metric: str) -> TrialRecord | None:
    """The finished trial that is best in a metric, by the metric's own direction; nothing where none has it."""
    able = [record for record in records if record.status == "finished" and metric in record.metrics]
    sign = -1 if METRICS[metric].direction == "up" else 1
    return min(able, key=lambda record: sign * record.metrics[metric], default=None)


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
        varied |= json.loads(trial.proposal)["params"]
    more = [f"{name}={_short(value)}" for name, value in varied.items() if name not in ("architecture", "latent_size", "seed")]
    return " ".join([config.architecture, f"d={config.latent_size}", *more, f"seed={config.seed}"])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def as_json(summary: Summary) -> dict[str, Any]:
    """The summary as JSON-like content; a number that is not defined is null."""
    return {
        "trials": {"total": summary.total, "finished": summary.finished, "failed": len(summary.failed)},
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


def trials_frame(records: Iterable[TrialRecord]) -> pd.DataFrame:
    """All ended trials as a table: number, run, status, the configuration and every metric."""
    ordered = sorted(records, key=lambda record: record.trial.number)
    return pd.DataFrame([_frame_row(record) for record in ordered])


def _frame_row(record: TrialRecord) -> dict[str, Any]:
    return {
        "trial": record.trial.number,
        "run_id": record.run_id,
        "status": record.status,
        **asdict(record.trial.config),
        **{name: record.metrics.get(name) for name in METRICS},
    }


def sweep_files(summary: Summary, records: Sequence[TrialRecord], read_file: ReadFile) -> dict[str, bytes]:
    """The files of a whole sweep: tables always, pictures where the latent size was varied."""
    tables = {
        "summary.json": json.dumps(as_json(summary), indent=2).encode(),
        "trials.csv": trials_frame(records).to_csv(index=False).encode(),
    }
    sizes = {row.trials[0].trial.config.latent_size for row in summary.rows}
    if len(sizes) < 2:
        return tables
    curves = transfer_curve_panels(summary, read_file)
    pictures = {
        "figures/reconstruction_loss.png": figures.line_figure(loss_figure(summary)),
        "figures/max_latent_correlation.png": figures.line_figure(correlation_figure(summary)),
        "figures/transfer_accuracy.png": figures.line_panels(
            _title("Do the latents help with a handful of labels?", summary), accuracy_panels(summary)
        ),
        "figures/transfer_curves.png": figures.line_panels(
            _title(f"Few-label training by epoch, {_curve_architecture(summary)}", summary, bands=False), curves
        ),
        "figures/interpolation.png": interpolation_picture(summary, read_file),
    }
    return tables | pictures


def loss_figure(summary: Summary) -> LineFigure:
    """Reconstruction loss against latent size for each architecture, with the floors."""
    title = _title("How many latent dimensions are needed?", summary)
    lines = _lines(summary, "reconstruction_loss")
    return LineFigure(title, X_LABEL, _label("reconstruction_loss"), lines, _floor_lines(summary.rows, FLOORS), log_y=True)


def correlation_figure(summary: Summary) -> LineFigure:
    """Largest latent correlation against latent size for each architecture, with its chance level."""
    chance = _floor_lines(summary.rows, {"latent/max_abs_corr_null95": "chance (95 %)"})
    title = _title("Are the latents redundant?", summary)
    lines = _lines(summary, "max_latent_correlation")
    return LineFigure(title, X_LABEL, _label("max_latent_correlation"), lines, chance, y_range=(0, 1))


def accuracy_panels(summary: Summary) -> list[LineFigure]:
    """Transfer accuracy against latent size by mode, a panel an architecture, with the floors."""
    return [
        LineFigure(
            name,
            X_LABEL,
            _label("transfer_accuracy"),
            [_line(mode, rows, f"transfer/{mode}_accuracy") for mode in TRANSFER_MODES],
            _floor_lines(rows, LABEL_FLOORS),
            y_range=(0, 1),
        )
        for name, rows in _series(summary).items()
    ]


def transfer_curve_panels(summary: Summary, read_file: ReadFile) -> list[LineFigure]:
    """Train and test loss by epoch, a panel a mode, for a small, a middle and a large latent size of one architecture."""
    by_size = _best_by_size(_shown_rows(summary))
    sizes = sorted(by_size)
    chosen = sorted({sizes[0], sizes[-1], min(sizes, key=lambda size: abs(size - COMPARED_SIZES[0]))})
    frames = {size: [_read_curves(record, read_file) for record in by_size[size].trials] for size in chosen}
    return [
        LineFigure(
            mode,
            "epoch",
            "cross-entropy (nats), mean of draws and seeds",
            [
                _curve(
                    f"d = {size}, {part}",
                    [frame[f"transfer/{mode}/{part}_loss"] for frame in frames[size]],
                    color,
                    part == "train",
                )
                for color, size in enumerate(chosen)
                for part in ("test", "train")
            ],
        )
        for mode in TRANSFER_MODES
    ]


def interpolation_picture(summary: Summary, read_file: ReadFile) -> bytes:
    """The same pairs decoded at a small and at a large latent size, one below the other."""
    by_size = _best_by_size(_shown_rows(summary))
    sizes = sorted(by_size)
    small, large = (min(sizes, key=lambda size: abs(size - wanted)) for wanted in COMPARED_SIZES)
    compared = [small, large] if small != large else [sizes[0], sizes[-1]]
    strips = {size: _read_strips(by_size[size].trials[0], read_file) for size in compared}
    pairs = strips[compared[0]][1]
    lines = [
        (f"{first} to {second}, d = {size}", strips[size][0][index] / 255)
        for index, (first, second) in enumerate(pairs)
        for size in compared
    ]
    steps = len(lines[0][1])
    heading = [f"{1 - step / (steps - 1):.3g}" for step in range(steps)]
    config = by_size[small].trials[0].trial.config
    note = f"{config.dataset}, {config.architecture}, seed {config.seed}: decoded a E(x1) + (1 - a) E(x2), columns by a"
    return figures.image_rows(lines, heading, note)


def _label(metric: str) -> str:
    return f"{metric} ({METRICS[metric].unit})"


def _title(question: str, summary: Summary, bands: bool = True) -> str:
    seeds = max(len(row.trials) for row in summary.rows)
    what = f"{seeds} seeds" if seeds > 1 else "one seed"
    bands_are = ", bands: 95 % intervals" if bands and seeds > 1 else ""
    return f"{question} ({summary.rows[0].trials[0].trial.config.dataset}, {what}{bands_are})"


def _intervals(members: Sequence[TrialRecord]) -> dict[str, Interval]:
    names = [name for name in METRICS if all(name in member.metrics for member in members)]
    return {name: mean_interval([member.metrics[name] for member in members]) for name in names}


def _json_interval(value: Interval) -> dict[str, float | int | None]:
    return {name: None if isinstance(number, float) and math.isnan(number) else number for name, number in asdict(value).items()}


def _size(row: Row) -> int:
    return row.trials[0].trial.config.latent_size


def _series(summary: Summary) -> dict[str, list[Row]]:
    """Rows that make one line: those that differ in latent size only.

    Where that makes too many lines there is one an architecture, of the rows that are best on the validation split.
    """
    full: dict[str, list[Row]] = {}
    short: dict[str, list[Row]] = {}
    for row in sorted(summary.rows, key=_size):
        config = row.trials[0].trial.config
        more = [f"{name}={row.point[name]}" for name in summary.axes if name not in ("architecture", "latent_size")]
        full.setdefault(", ".join([config.architecture, *more]), []).append(row)
        short.setdefault(config.architecture, []).append(row)
    if len(full) <= MOST_SERIES:
        return full
    return {f"{name}, best of each d": list(_best_by_size(rows).values()) for name, rows in short.items()}


def _best_by_size(rows: Sequence[Row]) -> dict[int, Row]:
    """For each latent size the row that is best on the validation split."""
    by_size: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: (_size(row), row.metrics["val/mse"].mean)):
        by_size.setdefault(_size(row), row)
    return by_size


def _shown_rows(summary: Summary) -> list[Row]:
    """The rows of the architecture whose curves and strips are shown: the first of the study."""
    return [row for row in summary.rows if row.trials[0].trial.config.architecture == _curve_architecture(summary)]


def _lines(summary: Summary, metric: str) -> list[Series]:
    return [_line(name, rows, metric) for name, rows in _series(summary).items()]


def _line(label: str, rows: Sequence[Row], metric: str) -> Series:
    able = [row for row in rows if metric in row.metrics]
    values = [row.metrics[metric] for row in able]
    return Series(
        label, [_size(row) for row in able], [v.mean for v in values], [v.low for v in values], [v.high for v in values]
    )


def _floor_lines(rows: Sequence[Row], names: Mapping[str, str]) -> list[Series]:
    """One line a floor, from the best row of each latent size: floors do not depend on the architecture."""
    best = _best_by_size(rows)
    lines = []
    for metric, label in names.items():
        sizes = [size for size, row in best.items() if metric in row.metrics]
        lines.append(Series(label, sizes, [best[size].metrics[metric].mean for size in sizes]))
    return lines


def _curve_architecture(summary: Summary) -> str:
    """The architecture whose curves are shown: the first of the study."""
    return summary.rows[0].trials[0].trial.config.architecture


def _curve(label: str, curves: Sequence[Sequence[float]], color: int, dashed: bool) -> Series:
    mean = np.mean(np.array(curves, dtype=float), axis=0)
    return Series(label, list(range(1, len(mean) + 1)), mean.tolist(), color=color, dashed=dashed)


def _read_curves(record: TrialRecord, read_file: ReadFile) -> dict[str, list[float]]:
    frame = pd.read_csv(io.BytesIO(read_file(record.run_id, "curves/transfer.csv")))
    return {str(name): frame[name].tolist() for name in frame.columns}


def _read_strips(record: TrialRecord, read_file: ReadFile) -> tuple[Any, list[list[int]]]:
    with np.load(io.BytesIO(read_file(record.run_id, STRIPS_FILE)), allow_pickle=False) as arrays:
        return arrays["strips"], arrays["classes"].tolist()
