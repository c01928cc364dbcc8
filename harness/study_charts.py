"""The charts of single studies: each is made where a sweep has what it shows, numbers first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from harness.crossing_findings import floors_of, label_curves, label_groups, label_sizes
from harness.evaluation import TRANSFER_MODES
from harness.evidence import Evidence
from harness.figures import Chart, HeatMap, LineFigure, Series
from harness.lines import Line
from harness.pictures import LABEL_FLOORS, X_LABEL
from harness.prefix_findings import nested_and_separate
from harness.statistics import Interval, mean_interval
from harness.tables import Row

PATHS = {"linear": "codes on a line", "spherical": "codes on an arc", "decoded": "the pairs' own codes"}
PATH_FLOORS = {"blend": "blended pixels", "data": "data"}
Maker = Callable[[Evidence], Sequence[Chart]]


def study_charts(evidence: Evidence) -> dict[str, Chart]:
    """Those that this sweep has the numbers for, by name."""
    return {chart.name: chart for make in CHARTS for chart in make(evidence)}


def label_charts(evidence: Evidence) -> list[Chart]:
    """Accuracy against the number of labels by mode, a panel a latent size."""
    groups = label_groups(evidence)
    panels = [
        LineFigure(
            f"{name}, d = {size}" if len(groups) > 1 else f"d = {size}",
            "labelled images",
            "accuracy (share of test images)",
            [_against_labels(rows, size, mode) for mode in TRANSFER_MODES],
            [_series(label, {x: [y] for x, y in curve.items()}) for label, curve in _floors(rows, size).items()],
            y_range=(0, 1),
            log_x=True,
        )
        for name, rows in groups.items()
        for size in label_sizes(rows)
    ]
    return [Chart("label_efficiency", "How many labels does each way need?", panels)] if panels else []


def _floors(rows: Sequence[Row], size: int) -> dict[str, dict[float, float]]:
    return floors_of(rows, size, LABEL_FLOORS)


def _against_labels(rows: Sequence[Row], size: int, mode: str) -> Series:
    curves, _ = label_curves(rows, size, f"transfer/{mode}_accuracy")
    points = sorted({x for curve in curves.values() for x in curve})
    return _series(mode, {x: [curve[x] for curve in curves.values() if x in curve] for x in points})


def path_charts(evidence: Evidence) -> list[Chart]:
    """Distance and confidence of midpoints against latent size, by path."""
    line = evidence.best
    if line.block("interpolation/linear_confidence") is None:
        return []
    distance, confidence = (
        LineFigure(
            judge,
            X_LABEL,
            words,
            [_against_size(line, f"interpolation/{path}_{judge}", name) for path, name in PATHS.items()],
            _path_floors(line, judge),
            y_range=ends,
        )
        for judge, words, ends in (
            ("distance", "distance from training images (times that of data)", None),
            ("confidence", "largest probability of the judge", (0.0, 1.0)),
        )
    )
    title = f"Midpoints between codes, {line.label}"
    return [Chart("paths_distance", title, [distance]), Chart("paths_confidence", title, [confidence])]


def _path_floors(line: Line, judge: str) -> list[Series]:
    found = [_against_size(line, f"interpolation/{path}_{judge}", name) for path, name in PATH_FLOORS.items()]
    return [Series(each.label, each.x, each.y) for each in found if each.x]


def prefix_charts(evidence: Evidence) -> list[Chart]:
    """Loss from the first k units of one training, and of trainings with k units each; a panel a line."""
    pairs = nested_and_separate(evidence)
    figures = [_prefix_figure(nested, separate, nested.label if len(pairs) > 1 else "") for nested, separate in pairs]
    return [Chart("prefixes", "Can one training give the whole curve?", figures)] if figures else []


def _prefix_figure(nested: Line, separate: Line, title: str) -> LineFigure:
    largest = [record for (size, _), record in nested.trials.items() if size == nested.sizes[-1]]
    names = sorted({name for record in largest for name in record.metrics if name.startswith("prefix/mse_")}, key=_units)
    curve = {_units(name): [record.metrics[name] for record in largest if name in record.metrics] for name in names}
    lines = [
        _series("one training, first k units", curve),
        _against_size(separate, "reconstruction_loss", "a training for each k"),
    ]
    floor = _against_size(separate, "floor/pca_mse", "PCA")
    return LineFigure(
        title, "latent units k", "squared error per pixel", lines, [Series(floor.label, floor.x, floor.y)], log_y=True
    )


def _units(name: str) -> float:
    return float(name.rpartition("_")[2])


def agreement_charts(evidence: Evidence) -> list[Chart]:
    """Agreement of every two seeds as heat maps, a panel a latent size, and its mean against latent size with chance."""
    found = evidence.agreements
    if not found:
        return []
    maps = [
        Chart(
            f"agreement_{name.split()[-1].lower()}",
            f"Agreement between seeds: {name}",
            [HeatMap(f"d = {size}", "seed", each.matrix) for size, each in by_size.items()],
        )
        for name, by_size in found.items()
    ]
    lines = [_of_intervals(name, {size: each.mean for size, each in by_size.items()}) for name, by_size in found.items()]
    chance = [
        Series(f"{name}, by chance", [*by_size], [each.chance for each in by_size.values()]) for name, by_size in found.items()
    ]
    figure = LineFigure("", X_LABEL, "agreement between two seeds", lines, chance, y_range=(0, 1))
    return [Chart("agreement", "Do different seeds find the same latents?", [figure]), *maps]


def _against_size(line: Line, metric: str, label: str) -> Series:
    block = line.block(metric)
    return _series(label, {size: list(block.at(size)) for size in block.sizes} if block else {})


def _series(label: str, values: Mapping[float, Sequence[float]]) -> Series:
    return _of_intervals(label, {x: mean_interval(each) for x, each in values.items()})


def _of_intervals(label: str, found: Mapping[float, Interval]) -> Series:
    ends = [(each.low, each.high) for each in found.values()]
    shown = all(each.count > 1 for each in found.values())
    low, high = ([end[0] for end in ends], [end[1] for end in ends]) if shown else ([], [])
    return Series(label, [*found], [each.mean for each in found.values()], low, high)


CHARTS: tuple[Maker, ...] = (label_charts, path_charts, prefix_charts, agreement_charts)
