"""Sweeps and groups side by side: every number against pandas, SciPy and statsmodels, on sweeps made up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.comparison import Table, compare, default_axes, finding
from harness.config import Trial, TrialRecord
from harness.rules import UserError
from harness.tables import trials_frame
from tests.made_up import made_up_sweep

LOSS = "reconstruction_loss"


def changed(records: Sequence[TrialRecord], factor: float = 1.0, **fields: Any) -> list[TrialRecord]:
    """The same trials with other fields, and losses so many times as large."""
    return [
        replace(
            each,
            trial=Trial(each.trial.number, replace(each.trial.config, **fields)),
            metrics=each.metrics | {LOSS: each.metrics[LOSS] * factor},
        )
        for each in records
    ]


def by_point(table: Table) -> dict[Any, Any]:
    """The entries of the last sweep, by what they are grouped by."""
    return {line.point: line.entries[-1] for line in table.lines}


def test_each_configuration_is_compared_with_the_first_seed_by_seed() -> None:
    """Means, intervals, differences, paired t tests and Holm's correction are those of SciPy and statsmodels."""
    records = made_up_sweep()
    table = compare([records], LOSS)
    assert (table.axes, table.baseline, table.comparisons) == (("architecture", "latent_size"), ("base", 2), 20)
    wide = trials_frame(records).pivot_table(index=["architecture", "latent_size"], columns="seed", values=LOSS)
    first = wide.loc[("base", 2)]
    expected = {point: stats.ttest_rel(row, first).pvalue for point, row in wide.iterrows() if point != ("base", 2)}
    corrected = dict(zip(expected, multipletests(list(expected.values()), method="holm")[1], strict=True))
    for point, entry in by_point(table).items():
        row = wide.loc[point]
        low, high = stats.t.interval(0.95, 2, row.mean(), stats.sem(row))
        assert (entry.value.mean, entry.value.low, entry.value.high) == pytest.approx((row.mean(), low, high))
        if point == ("base", 2):
            assert entry.difference is None
            continue
        found = entry.difference
        low, high = stats.t.interval(0.95, 2, (row - first).mean(), stats.sem(row - first))
        assert (found.difference.mean, found.difference.low, found.difference.high) == pytest.approx(
            ((row - first).mean(), low, high)
        )
        assert (found.p_value, found.corrected) == pytest.approx((expected[point], corrected[point]))


def test_seeds_are_the_replicates_of_a_group() -> None:
    """By architecture: seven latent sizes are averaged seed by seed, and three seeds are three replicates, not 21."""
    records = made_up_sweep()
    table = compare([records], LOSS, ["architecture"])
    means = trials_frame(records).groupby(["architecture", "seed"])[LOSS].mean().unstack()
    for (name,), entry in by_point(table).items():
        low, high = stats.t.interval(0.95, 2, means.loc[name].mean(), stats.sem(means.loc[name]))
        assert (entry.trials, entry.value.count) == (21, 3)
        assert (entry.value.low, entry.value.high) == pytest.approx((low, high))
    found = by_point(table)["heavy",].difference
    assert found.p_value == pytest.approx(stats.ttest_rel(means.loc["heavy"], means.loc["base"]).pvalue)
    assert finding(by_point(table)["heavy",], LOSS) == "better"


def test_the_baseline_is_chosen_by_an_expression() -> None:
    """It is one of the groups; which one changes the differences and not the means."""
    records = made_up_sweep(seeds=4)
    table = compare([records], LOSS, baseline="architecture = 'heavy' and latent_size = 30")
    assert table.baseline == ("heavy", 30)
    entry = by_point(table)["base", 2]
    assert entry.difference.difference.mean == pytest.approx(entry.value.mean - by_point(table)["heavy", 30].value.mean)
    assert finding(entry, LOSS) == "worse"
    with pytest.raises(UserError, match="is true for 7 groups: allowed is one"):
        compare([records], LOSS, baseline="architecture = 'heavy'")
    with pytest.raises(UserError, match=r"--baseline .* selects none of 21 groups: latent_size is 2, 5"):
        compare([records], LOSS, baseline="latent_size = 3")


def test_sweeps_are_compared_with_the_first_group_by_group() -> None:
    """Also where a field is another in all of a sweep; a group that one sweep lacks has no difference."""
    before = made_up_sweep(("base", "deep"), seeds=3)
    after = changed(made_up_sweep(("base",), seeds=3, noise=0.05), 0.9, epochs=99)
    table = compare([before, after], LOSS)
    assert table.axes == ("architecture", "latent_size")
    assert table.baseline is None
    assert table.comparisons == 7
    frames = [
        trials_frame(records).query("architecture == 'base'").set_index(["latent_size", "seed"])[LOSS]
        for records in (before, after)
    ]
    for size in (2, 30):
        difference = (frames[1] - frames[0]).loc[size]
        found = by_point(table)["base", size].difference
        assert found.difference.mean == pytest.approx(difference.mean())
        assert found.p_value == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    assert by_point(table)["deep", 2] == replace(by_point(table)["deep", 2], value=None, trials=0, difference=None)


def test_a_missing_trial_costs_as_little_as_it_can() -> None:
    """One seed without a latent size is left out, and so is a latent size that only one of many seeds has; both sides match."""
    whole = made_up_sweep(("base", "deep"), sizes=(2, 5, 10), seeds=3)
    records = [each for each in whole if each.trial.number != 16]  # deep, d = 5, seed 2
    frame = trials_frame(records).set_index(["architecture", "seed", "latent_size"])[LOSS]
    entry = by_point(compare([records], LOSS, ["architecture"]))["deep",]
    assert (entry.trials, entry.value.count) == (8, 2)
    assert entry.value.mean == pytest.approx(frame.loc["deep", :1].mean())
    assert entry.difference.difference.mean == pytest.approx((frame.loc["deep", :1] - frame.loc["base", :1]).mean())
    few = [each for each in whole if each.trial.config.latent_size != 10 or each.trial.config.seed == 0]
    frame = trials_frame(few).set_index(["architecture", "seed", "latent_size"])[LOSS]
    entry = by_point(compare([few], LOSS, ["architecture"]))["deep",]
    assert entry.value.count == 3
    assert entry.value.mean == pytest.approx(frame.loc["deep"].loc[:, [2, 5]].mean())


def test_trials_without_replicates_have_a_mean_and_no_interval() -> None:
    """One seed; and seeds that share no configuration."""
    single = by_point(compare([made_up_sweep(seeds=1)], LOSS))["deep", 5]
    assert math.isnan(single.value.low)
    assert finding(single, LOSS) == "one seed"
    scattered = [
        each
        for each in made_up_sweep(("base",), sizes=(2, 5, 10))
        if each.trial.config.latent_size == (2, 5, 10)[each.trial.config.seed]
    ]
    entry = compare([scattered], LOSS, ["architecture"]).lines[0].entries[0]
    assert (entry.trials, entry.value.count) == (3, 1)
    assert entry.value.mean == pytest.approx(trials_frame(scattered)[LOSS].mean())


def test_a_configuration_that_was_trained_twice_counts_once() -> None:
    """As samplers that propose it again do."""
    records = made_up_sweep(("base",), sizes=(2, 5))
    again = [replace(each, trial=replace(each.trial, number=each.trial.number + 99)) for each in records]
    once, twice = (compare([each], LOSS) for each in (records, records + again))
    assert [line.entries[0].value for line in once.lines] == [line.entries[0].value for line in twice.lines]
    assert [line.entries[0].trials for line in twice.lines] == [6, 6]


def test_the_axes_are_what_was_varied_and_not_what_an_architecture_has_of_its_own() -> None:
    """Depth and width follow from the architecture; the loss does not; what differs between sweeps alone is no axis."""
    records = made_up_sweep(("base", "deep"), sizes=(2, 10))
    assert default_axes([records]) == ("architecture", "latent_size")
    assert default_axes([records, changed(records, epochs=5)]) == ("architecture", "latent_size")
    assert default_axes([records + changed(records, loss="bce")]) == ("architecture", "latent_size", "loss")
    assert default_axes([records + changed(made_up_sweep(("base",), sizes=(2,)), width=8)]) == (
        "architecture",
        "latent_size",
        "width",
    )


def test_groups_come_in_order() -> None:
    """Numbers rising whatever the order of the trials, words as they came, in both sweeps."""
    first, second = made_up_sweep(("heavy", "base"), sizes=(20, 3)), made_up_sweep(("base",), sizes=(9,))
    points = [line.point for line in compare([first, second], LOSS).lines]
    assert points == [("heavy", 3), ("heavy", 20), ("base", 3), ("base", 9), ("base", 20)]


@pytest.mark.parametrize(
    ("metric", "factor", "word"),
    [(LOSS, 0.5, "better"), (LOSS, 2.0, "worse"), ("transfer_accuracy", 1.0, "unresolved"), ("floor/pca_mse", 1.0, "unresolved")],
)
def test_a_finding_follows_the_metrics_own_direction(metric: str, factor: float, word: str) -> None:
    """Of a difference that is resolved; nothing is said of one that is not."""
    before = made_up_sweep(("base",), sizes=(2,), seeds=6, noise=0.01)
    after = changed(made_up_sweep(("base",), sizes=(2,), seeds=6, noise=0.02), factor)
    assert finding(compare([before, after], metric).lines[0].entries[1], metric) == word


def test_a_metric_without_direction_is_higher_or_lower() -> None:
    """No floor is better than another."""
    before = made_up_sweep(("base",), sizes=(2,), seeds=4)
    after = [replace(each, metrics=each.metrics | {"floor/pca_mse": 0.2 + 0.001 * each.trial.config.seed}) for each in before]
    assert finding(compare([before, after], "floor/pca_mse").lines[0].entries[1], "floor/pca_mse") == "higher"
    assert finding(compare([after, before], "floor/pca_mse").lines[0].entries[1], "floor/pca_mse") == "lower"


def test_failed_trials_are_not_compared() -> None:
    """Nor those that lack the metric."""
    records = made_up_sweep(("base",), sizes=(2, 5))
    failed = [replace(records[0], status="failed"), replace(records[1], metrics={}), *records[2:]]
    assert [line.entries[0].trials for line in compare([failed], LOSS).lines] == [2, 2]


@pytest.mark.parametrize(
    ("metric", "axes", "parts"),
    [
        ("reconstruction_los", [], ["unknown metric", "did you mean 'reconstruction_loss'?"]),
        (LOSS, ["latent-size"], ["unknown field to group by 'latent-size'", "did you mean 'latent_size'?"]),
        ("test/r2", [], ["no trial that was selected has a test/r2"]),
    ],
)
def test_what_cannot_be_compared_is_one_line(metric: str, axes: list[str], parts: list[str]) -> None:
    """With the nearest name."""
    records = [replace(each, metrics={LOSS: 0.5}) for each in made_up_sweep()]
    with pytest.raises(UserError) as error:
        compare([records], metric, axes)
    assert [part for part in parts if part not in str(error.value)] == []


def test_order_of_trials_makes_no_difference() -> None:
    """The same table to the last bit, whoever read the runs first."""
    records = made_up_sweep()
    shuffled = [records[index] for index in pd.Series(range(len(records))).sample(frac=1, random_state=3)]
    one, other = (compare([each], LOSS, ["latent_size"]) for each in (records, shuffled))
    assert one == other
