"""The numbers behind the tables and pictures of a sweep, on records made by hand."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from harness import pictures, tables
from harness.config import Trial, TrialConfig, TrialRecord
from harness.measures import METRICS
from harness.models import resolve
from harness.tables import Summary, summarize, table_axes, trial_name, trials_frame

CURVES = "epoch,{names}\n1,{first}\n2,{second}\n"


def record(number: int, config: TrialConfig, **metrics: float) -> TrialRecord:
    """A finished trial with numbers that follow from its configuration, and those given."""
    size = config.latent_size
    values = dict.fromkeys(METRICS, 0.5)
    values |= {"reconstruction_loss": 1 / size + 0.01 * config.seed, "val/mse": 1 / size, "floor/pca_mse": 2 / size}
    values |= {name.replace("__", "/"): value for name, value in metrics.items()}
    return TrialRecord(f"run-{number}", Trial(number, config), "finished", values)


def grid(
    architectures: tuple[str, ...] = ("base", "deep"), sizes: tuple[int, ...] = (2, 10, 20), seeds: int = 2, **fields: Any
) -> list[TrialRecord]:
    """The records of a grid, seed by seed."""
    points = itertools.product(range(seeds), architectures, sizes)
    configs = [resolve(TrialConfig(architecture=name, latent_size=size, seed=seed, **fields)) for seed, name, size in points]
    return [record(number, config) for number, config in enumerate(configs)]


def summary_of(records: list[TrialRecord], *varied: str) -> Summary:
    """Their summary."""
    return summarize(records, table_axes(varied, records), len(records))


def read_file(run_id: str, path: str) -> bytes:
    """Files that tell the run apart: losses of its number, and strips of its grey level."""
    number = int(run_id.partition("-")[2])
    if path.endswith(".csv"):
        names = [f"transfer/{mode}/{part}_loss" for mode in pictures.TRANSFER_MODES for part in ("train", "test")]
        return CURVES.format(
            names=",".join(names), first=",".join([str(number)] * 6), second=",".join([str(number + 1)] * 6)
        ).encode()
    buffer = io.BytesIO()
    np.savez(buffer, strips=np.full((2, 3, 1, 8, 8), number, dtype=np.uint8), classes=np.array([[1, 2], [3, 4]]))
    return buffer.getvalue()


def test_replicates_make_one_row_with_their_mean() -> None:
    """Two seeds of one configuration are a row; its mean is theirs."""
    summary = summary_of(grid(), "architecture", "latent_size")
    assert [(row.point["architecture"], row.point["latent_size"]) for row in summary.rows] == list(
        itertools.product(("base", "deep"), (2, 10, 20))
    )
    assert summary.rows[1].metrics["reconstruction_loss"].mean == pytest.approx(0.1 + 0.005)
    assert summary.rows[1].metrics["reconstruction_loss"].count == 2


def test_the_loss_figure_has_a_line_an_architecture_and_the_floors() -> None:
    """The latent size is x, y the mean over seeds, the floor its own."""
    figure = pictures.loss_figure(summary_of(grid(), "architecture", "latent_size"))
    assert [line.label for line in figure.series] == ["base", "deep"]
    assert figure.series[0].x == [2, 10, 20]
    assert figure.series[0].y == pytest.approx([0.505, 0.105, 0.055])
    pca = next(line for line in figure.floors if line.label == "PCA")
    assert pca.y == pytest.approx([1.0, 0.2, 0.1])
    assert "2 seeds" in figure.title
    assert figure.log_y


def test_the_correlation_and_accuracy_figures_lie_between_0_and_1() -> None:
    """A correlation and a share have no values outside, whatever an interval's ends are."""
    summary = summary_of(grid(), "architecture", "latent_size")
    assert pictures.correlation_figure(summary).y_range == (0, 1)
    panels = pictures.accuracy_panels(summary)
    assert [panel.title for panel in panels] == ["base", "deep"]
    assert [line.label for line in panels[0].series] == list(pictures.TRANSFER_MODES)
    assert all(panel.y_range == (0, 1) for panel in panels)


def test_another_axis_gives_lines_of_its_own_while_they_can_be_told_apart() -> None:
    """Two losses times two architectures are four lines."""
    records = [
        *grid(),
        *[replace(each, trial=Trial(50 + each.trial.number, replace(each.trial.config, loss="bce"))) for each in grid()],
    ]
    figure = pictures.loss_figure(summary_of(records, "architecture", "latent_size", "loss"))
    assert {line.label for line in figure.series} == {
        f"{name}, loss={loss}" for name in ("base", "deep") for loss in ("mse", "bce")
    }


def test_of_very_many_configurations_the_best_of_each_size_is_drawn() -> None:
    """A search with as many learning rates as trials gives one line, by validation, and says so."""
    rates = [0.001 * factor for factor in range(1, 10)]
    configs = [resolve(TrialConfig(latent_size=size, learning_rate=rate)) for rate in rates for size in (2, 10)]
    records = [
        record(
            number, config, val__mse=config.learning_rate, reconstruction_loss=10 * config.learning_rate, floor__pca_mse=number
        )
        for number, config in enumerate(configs)
    ]
    figure = pictures.loss_figure(summary_of(records))
    (line,) = figure.series
    assert (line.label, line.x) == ("base, best of each d", [2, 10])
    assert line.y == pytest.approx([0.01, 0.01])
    assert next(floor for floor in figure.floors if floor.label == "PCA").y == [0, 1]


def test_curves_are_means_over_seeds_of_a_small_a_middle_and_a_large_size() -> None:
    """The first architecture's runs, their mean by epoch, test solid and train dashed in one colour."""
    records = grid(sizes=(2, 10, 15, 20))
    panels = pictures.transfer_curve_panels(summary_of(records, "architecture", "latent_size"), read_file)
    assert [panel.title for panel in panels] == list(pictures.TRANSFER_MODES)
    lines = panels[0].series
    assert [line.label for line in lines] == [f"d = {size}, {part}" for size in (2, 10, 20) for part in ("test", "train")]
    assert lines[0].x == [1, 2]
    first, second = (
        each
        for each in range(len(records))
        if records[each].trial.config == replace(records[0].trial.config, seed=records[each].trial.config.seed)
    )
    assert lines[0].y == pytest.approx([(first + second) / 2, (first + second) / 2 + 1])
    assert (lines[0].dashed, lines[1].dashed, lines[0].color) == (False, True, lines[1].color)


def test_the_architecture_that_is_shown_is_chosen_once_and_not_for_every_row() -> None:
    """It is a mean over all rows: chosen for each, a sweep of thousands of trials takes half a minute to close."""
    summary = summary_of(grid(), "architecture", "latent_size")
    assert len(summary.rows) > 3
    with patch.object(pictures, "_curve_architecture", wraps=pictures._curve_architecture) as choice:
        pictures.transfer_curve_panels(summary, read_file)
    choice.assert_called_once()


def test_the_interpolation_picture_compares_ten_with_twenty() -> None:
    """Each pair is there twice; a study of other sizes compares its smallest with its largest."""
    asked: list[str] = []

    def remember(run_id: str, path: str) -> bytes:
        asked.append(run_id)
        return read_file(run_id, path)

    picture = pictures.interpolation_picture(summary_of(grid(("base",)), "latent_size"), remember)
    assert Image.open(io.BytesIO(picture)).height > 4 * 48
    assert asked == ["run-1", "run-2"]
    asked.clear()
    pictures.interpolation_picture(summary_of(grid(("base",), sizes=(40, 50)), "latent_size"), remember)
    assert asked == ["run-0", "run-1"]


def test_a_sweep_of_one_latent_size_has_tables_and_no_pictures() -> None:
    """There is nothing to draw against."""
    records = grid(("base", "deep"), sizes=(10,))
    summary = summary_of(records, "architecture")
    assert pictures.picture_files(summary, pictures.charts(summary, read_file), (), read_file) == {}
    assert tables.table_files(summary, records).keys() == {"summary.json", "trials.csv"}


def test_the_table_has_the_same_columns_for_kept_and_for_new_trials() -> None:
    """Numbers that only a store adds to a record are not in it."""
    kept = record(0, resolve(TrialConfig()), train__learning_rate=0.1)
    frame = trials_frame([record(1, resolve(TrialConfig(seed=1))), kept])
    assert "train/learning_rate" not in frame.columns
    assert frame["trial"].tolist() == [0, 1]
    assert set(METRICS) <= set(frame.columns)


def test_undefined_numbers_are_null_in_json() -> None:
    """One seed has a mean and no interval."""
    content = tables.as_json(summary_of(grid(seeds=1), "architecture", "latent_size"))
    interval = content["rows"][0]["metrics"]["reconstruction_loss"]
    assert interval == {"mean": pytest.approx(0.5), "low": None, "high": None, "count": 1}
    assert not any(isinstance(value, float) and math.isnan(value) for value in interval.values())


def test_a_trial_is_named_by_what_tells_it_from_the_others() -> None:
    """The grid's axes, or what a sampler proposed."""
    config = resolve(TrialConfig(latent_size=7, learning_rate=0.012345, seed=2))
    assert trial_name(Trial(0, config), ("latent_size", "batch_norm")) == "base d=7 batch_norm=True seed=2"
    proposal = '{"params": {"latent_size": 7, "learning_rate": 0.012345}}'
    assert trial_name(Trial(0, config, proposal), ()) == "base d=7 learning_rate=0.0123 seed=2"


def test_the_columns_are_what_was_varied() -> None:
    """Architecture and size always, other fields where they differ; an architecture's own fields only where they were varied."""
    assert table_axes(("architecture", "latent_size"), grid()) == ("architecture", "latent_size")
    assert table_axes(("depth",), grid()) == ("architecture", "latent_size", "depth")
    mixed = [*grid(("base",)), *grid(("base",), learning_rate=0.1)]
    assert table_axes((), mixed) == ("architecture", "latent_size", "learning_rate")
