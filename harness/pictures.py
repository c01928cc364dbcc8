"""The pictures of a whole sweep: the numbers first, each figure a function of the summary."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from harness import figures
from harness.artifacts import STRIPS_FILE
from harness.config import TrialRecord
from harness.evaluation import TRANSFER_MODES
from harness.figures import Chart, HeatMap, LineFigure, Series
from harness.lines import rows_by_line, size_of
from harness.measures import METRICS
from harness.recorded import reading
from harness.tables import Row, Summary
from harness.workers import Spread

ReadFile = Callable[[str, str], bytes]
"""From a run id and a path to the file's content."""

Drawn = Iterable[dict[str, bytes]]
"""A chart's pictures by their kinds, for one chart after the other."""

FLOORS = {"floor/pca_mse": "PCA", "floor/random_projection_mse": "random projection", "floor/mean_image_mse": "mean image"}
LABEL_FLOORS = {"transfer/raw_pixels_accuracy": "raw pixels", "transfer/pca_accuracy": "PCA scores"}
LINE_COLUMNS = ("panel", "line", "x", "y", "low", "high")
MOST_SERIES = 7
COMPARED_SIZES = (10, 20)
X_LABEL = "latent size d"


def charts(summary: Summary, read_file: ReadFile) -> dict[str, Chart]:
    """The figures of a sweep by name; none where the latent size was not varied."""
    if len({size_of(row) for row in summary.rows}) < 2:
        return {}
    made = [
        _loss_chart(summary),
        _correlation_chart(summary),
        Chart("transfer_accuracy", _title("Do the latents help with a handful of labels?", summary), accuracy_panels(summary)),
        Chart("manifold_distance", _title("Do midpoints look like data?", summary), [distance_figure(summary)]),
        Chart(
            "transfer_curves",
            _title(f"Few-label training by epoch, {_curve_architecture(summary)}", summary, bands=False),
            transfer_curve_panels(summary, read_file),
        ),
        Chart("latent_correlations", f"Correlation of the latents ({_shown_config(summary)})", heat_maps(summary, read_file)),
    ]
    return {chart.name: chart for chart in made}


def picture_files(summary: Summary, charts: Mapping[str, Chart], drawn: Drawn, read_file: ReadFile) -> dict[str, bytes]:
    """The pictures of a sweep as files, contents by path: every chart as PNG, as SVG and with its numbers, and the strips."""
    if not charts:
        return {}
    return {"figures/interpolation.png": interpolation_picture(summary, read_file), **chart_files(charts, drawn)}


def begin_to_draw(charts: Mapping[str, Chart], spread: Spread) -> Drawn:
    """The pictures of all charts; who asks for one waits for it."""
    return spread(figures.draw, charts.values())


def chart_files(charts: Mapping[str, Chart], drawn: Drawn) -> dict[str, bytes]:
    """Every chart as PNG, as SVG and with its numbers, contents by path."""
    files: dict[str, bytes] = {}
    for (name, chart), pictures in zip(charts.items(), drawn, strict=True):
        files |= {f"figures/{name}.{kind}": content for kind, content in pictures.items()}
        files[f"figures/{name}.csv"] = chart_csv(chart)
    return files


def chart_csv(chart: Chart) -> bytes:
    """The numbers of a chart, a line a point or a cell."""
    rows: list[Sequence[Any]] = []
    for panel in chart.panels:
        if isinstance(panel, HeatMap):
            rows += [(panel.title, i, j, value) for i, line in enumerate(panel.matrix.tolist()) for j, value in enumerate(line)]
        else:
            rows += [(panel.title, *point) for line in (*panel.series, *panel.floors) for point in _points(line)]
    heads = ("panel", "row", "column", "value") if isinstance(chart.panels[0], HeatMap) else LINE_COLUMNS
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows([heads, *rows])
    return buffer.getvalue().encode()


def _points(line: Series) -> list[tuple[Any, ...]]:
    ends = zip(line.low, line.high, strict=True) if len(line.low) else [("", "")] * len(line.x)
    return [(line.label, x, y, low, high) for x, y, (low, high) in zip(line.x, line.y, ends, strict=True)]


def _loss_chart(summary: Summary) -> Chart:
    figure = loss_figure(summary)
    return Chart("reconstruction_loss", figure.title, [figure])


def _correlation_chart(summary: Summary) -> Chart:
    figure = correlation_figure(summary)
    return Chart("max_latent_correlation", figure.title, [figure])


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


def distance_figure(summary: Summary) -> LineFigure:
    """Distance of decoded midpoints from the data against latent size, with that of data itself."""
    lines = _lines(summary, "interpolation/manifold_distance")
    sizes = sorted({size_of(row) for row in summary.rows})
    floor = [Series("data", sizes, [1.0] * len(sizes))]
    return LineFigure("manifold distance", X_LABEL, _label("interpolation/manifold_distance"), lines, floor)


def heat_maps(summary: Summary, read_file: ReadFile) -> list[HeatMap]:
    """Correlation matrices of a small, a middle and a large latent size of one architecture."""
    by_size = _best_by_size(_shown_rows(summary))
    return [
        HeatMap(f"d = {size}", "latent unit", _read_matrix(by_size[size].trials[0], read_file)) for size in _chosen_sizes(by_size)
    ]


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
    chosen = _chosen_sizes(by_size)
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


def _chosen_sizes(by_size: Mapping[int, Row]) -> list[int]:
    """A small, a middle and a large one."""
    sizes = sorted(by_size)
    return sorted({sizes[0], sizes[-1], min(sizes, key=lambda size: abs(size - COMPARED_SIZES[0]))})


def _shown_config(summary: Summary) -> str:
    config = _shown_rows(summary)[0].trials[0].trial.config
    return f"{config.dataset}, {config.architecture}, seed {config.seed}"


def _label(metric: str) -> str:
    return f"{metric} ({METRICS[metric].unit})"


def _title(question: str, summary: Summary, bands: bool = True) -> str:
    seeds = max(len(row.trials) for row in summary.rows)
    what = f"{seeds} seeds" if seeds > 1 else "one seed"
    bands_are = ", bands: 95 % intervals" if bands and seeds > 1 else ""
    return f"{question} ({summary.rows[0].trials[0].trial.config.dataset}, {what}{bands_are})"


def _series(summary: Summary) -> dict[str, list[Row]]:
    """Rows that make one line: those that differ in latent size only.

    Where that makes too many lines there is one an architecture, of the rows that are best on the validation split.
    """
    full = rows_by_line(summary.rows, summary.axes)
    if len(full) <= MOST_SERIES:
        return full
    short: dict[str, list[Row]] = {}
    for row in (row for rows in full.values() for row in rows):
        short.setdefault(row.trials[0].trial.config.architecture, []).append(row)
    return {f"{name}, best of each d": list(_best_by_size(rows).values()) for name, rows in short.items()}


def _best_by_size(rows: Sequence[Row]) -> dict[int, Row]:
    """For each latent size the row that is best on the validation split."""
    by_size: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: (size_of(row), row.metrics["val/mse"].mean)):
        by_size.setdefault(size_of(row), row)
    return by_size


def _shown_rows(summary: Summary) -> list[Row]:
    """The rows of the architecture whose curves, matrices and strips are shown."""
    shown = _curve_architecture(summary)
    return [row for row in summary.rows if row.trials[0].trial.config.architecture == shown]


def _lines(summary: Summary, metric: str) -> list[Series]:
    return [_line(name, rows, metric) for name, rows in _series(summary).items()]


def _line(label: str, rows: Sequence[Row], metric: str) -> Series:
    able = [row for row in rows if metric in row.metrics]
    values = [row.metrics[metric] for row in able]
    return Series(
        label, [size_of(row) for row in able], [v.mean for v in values], [v.low for v in values], [v.high for v in values]
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
    """The architecture whose curves are shown: the one with the lowest validation loss, as a geometric mean over its rows."""
    logs: dict[str, list[float]] = {}
    for row in summary.rows:
        logs.setdefault(row.trials[0].trial.config.architecture, []).append(math.log(row.metrics["val/mse"].mean))
    return min(logs, key=lambda name: sum(logs[name]) / len(logs[name]))


def _curve(label: str, curves: Sequence[Sequence[float]], color: int, dashed: bool) -> Series:
    mean = np.mean(np.array(curves, dtype=float), axis=0)
    return Series(label, list(range(1, len(mean) + 1)), mean.tolist(), color=color, dashed=dashed)


def _read_curves(record: TrialRecord, read_file: ReadFile) -> dict[str, list[float]]:
    path = "curves/transfer.csv"
    with reading(record.run_id, path):
        lines = list(csv.DictReader(read_file(record.run_id, path).decode().splitlines()))
        return {name: [float(line[name]) for line in lines] for name in lines[0]}


def _read_matrix(record: TrialRecord, read_file: ReadFile) -> Any:
    path = "latents/correlation.csv"
    with reading(record.run_id, path):
        _, *rows = csv.reader(read_file(record.run_id, path).decode().splitlines())
        return np.array([row[1:] for row in rows], dtype=float).reshape(len(rows), len(rows))


def _read_strips(record: TrialRecord, read_file: ReadFile) -> tuple[Any, list[list[int]]]:
    content = read_file(record.run_id, STRIPS_FILE)
    with reading(record.run_id, STRIPS_FILE), np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return arrays["strips"], arrays["classes"].tolist()
