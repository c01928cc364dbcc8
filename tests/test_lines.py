"""A sweep as lines and complete blocks of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.config import TrialRecord
from harness.lines import Block, Line, cut, lines_of
from tests.made_up import made_up_sweep, summary_of


def line_of(records: list[TrialRecord]) -> Line:
    """The only line of a sweep."""
    (line,) = lines_of(summary_of(records))
    return line


def without(records: list[TrialRecord], size: int, seed: int) -> list[TrialRecord]:
    """All but one trial, which has failed."""
    fails = [each for each in records if (each.trial.config.latent_size, each.trial.config.seed) == (size, seed)]
    return [replace(each, status="failed", metrics={}) if each in fails else each for each in records]


def test_each_combination_of_what_else_was_varied_is_a_line() -> None:
    """By rising latent size, whatever their order in the study."""
    records = made_up_sweep(("base", "heavy"), sizes=(10, 2, 5))
    lines = lines_of(summary_of(records))
    assert [line.label for line in lines] == ["base", "heavy"]
    assert [line.sizes for line in lines] == [(2, 5, 10)] * 2


def test_lines_are_named_in_few_digits_and_in_all_where_few_do_not_tell_them_apart() -> None:
    """As the rates that a search has drawn."""
    rates = (0.0025538670530546393, 0.01234, 0.012341)
    records = [record for rate in rates for record in made_up_sweep(("base",), (2, 5), seeds=1, learning_rate=rate)]
    numbered = [replace(record, trial=replace(record.trial, number=number)) for number, record in enumerate(records)]
    found = [line.label for line in lines_of(summary_of(numbered, "learning_rate", "latent_size"))]
    assert sorted(found) == ["base, learning_rate=0.00255", "base, learning_rate=0.01234", "base, learning_rate=0.012341"]


ONE_AT_A_TIME: list[dict[str, Any]] = [{}, {"batch_norm": False}, {"loss": "bce"}, {"activation": "gelu"}]


def labels_of(choices: Sequence[dict[str, Any]]) -> list[str]:
    """Of a sweep with a line for each."""
    records = [record for fields in choices for record in made_up_sweep(("base",), (2, 5), seeds=1, **fields)]
    numbered = [replace(record, trial=replace(record.trial, number=number)) for number, record in enumerate(records)]
    varied = ("batch_norm", "loss", "activation", "latent_size")
    return [line.label for line in lines_of(summary_of(numbered, *varied))]


def test_lines_that_change_one_choice_each_are_named_by_that_choice() -> None:
    """And the first one, which changes none, by its architecture alone."""
    expected = ["base", "base, batch_norm=False", "base, loss=bce", "base, activation=gelu"]
    assert labels_of(ONE_AT_A_TIME) == expected


def test_lines_of_which_one_changes_two_choices_are_named_by_all_of_them() -> None:
    """For then what is left out would have to be guessed."""
    found = labels_of([*ONE_AT_A_TIME, {"loss": "bce", "activation": "gelu"}])
    assert found[0] == "base, batch_norm=True, loss=mse, activation=relu"
    assert found[-1] == "base, batch_norm=True, loss=bce, activation=gelu"
    assert len(set(found)) == 5


def test_a_block_has_a_row_a_seed_and_a_column_a_size() -> None:
    """The numbers and the runs of the trials themselves."""
    records = made_up_sweep(("base",), sizes=(2, 5), seeds=2)
    block = line_of(records).block("reconstruction_loss")
    assert block is not None
    assert (block.sizes, block.seeds) == ((2, 5), (0, 1))
    losses = [record.metrics["reconstruction_loss"] for record in records]
    np.testing.assert_array_equal(block.values, np.array(losses).reshape(2, 2))
    assert block.run_ids == tuple(record.run_id for record in records)
    np.testing.assert_array_equal(block.at(5), losses[1::2])


def test_a_seed_that_lacks_a_size_is_left_out() -> None:
    """So that all comparisons are of the same seeds."""
    block = line_of(without(made_up_sweep(("base",), sizes=(2, 5), seeds=3), size=5, seed=1)).block("val/mse")
    assert block is not None
    assert block.seeds == (0, 2)
    assert block.values.shape == (2, 2)


def test_there_is_no_block_where_no_seed_has_all_sizes() -> None:
    """Nor of a metric that no trial has."""
    records = without(without(made_up_sweep(("base",), sizes=(2, 5), seeds=2), size=5, seed=1), size=2, seed=0)
    assert line_of(records).block("val/mse") is None
    assert line_of(records).block("no/such") is None


def test_metrics_are_added_and_subtracted() -> None:
    """Trial by trial."""
    line = line_of(made_up_sweep(("base",)))
    difference = line.block("max_latent_correlation", "-latent/max_abs_corr_null95")
    largest, chance = line.block("max_latent_correlation"), line.block("latent/max_abs_corr_null95")
    assert difference is not None
    assert largest is not None
    assert chance is not None
    np.testing.assert_array_equal(difference.values, largest.values - chance.values)


def test_a_block_is_cut_to_sizes_and_seeds() -> None:
    """Values and runs."""
    block = cut(Block((2, 5, 10), (0, 1), np.arange(6.0).reshape(2, 3), tuple("abcdef")), [5, 10], [1])
    assert (block.sizes, block.seeds, block.run_ids) == ((5, 10), (1,), ("e", "f"))
    np.testing.assert_array_equal(block.values, [[4.0, 5.0]])
