"""Stored sweeps and trials by what a user calls them, and the nearest name for what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.reader import StoreReader, open_reader
from harness.rules import UserError
from harness.sweeps import all_sweeps, find_sweep, find_trial
from tests.stored import Stored


@pytest.fixture
def reader(stored: Stored) -> StoreReader:
    """Of the store with real sweeps."""
    return open_reader(stored.uri)


def test_a_name_is_the_newest_sweep_of_the_study(stored: Stored, reader: StoreReader) -> None:
    """With its trials in order; the older one is named as another that it could have been."""
    sweep = find_sweep(reader, "tiny")
    assert (sweep.identity, sweep.parent.run_id, sweep.title) == (stored.grid, stored.grid_run, "tiny on digits")
    assert [record.trial.number for record in sweep.records] == list(range(12))
    assert [other.tags["harness.sweep"] for other in sweep.others] == [stored.longer]
    assert sweep.varied == ("architecture", "latent_size", "seed")


def test_an_identity_or_a_run_is_that_sweep(stored: Stored, reader: StoreReader) -> None:
    """An older one too; a failed trial is one of it."""
    assert find_sweep(reader, stored.longer).records[0].trial.config.epochs == 3
    assert find_sweep(reader, stored.grid_run).identity == stored.grid
    failing = find_sweep(reader, stored.failing)
    assert [record.status for record in failing.records] == ["finished", "failed"]
    assert find_sweep(reader, "tuned").objectives == ("val/mse", "transfer_accuracy")


def test_trials_are_selected_by_an_expression(stored: Stored, reader: StoreReader) -> None:
    """On number, run, status, fields and metrics."""
    sweep = find_sweep(reader, stored.grid)
    chosen = sweep.where("architecture = 'linear' and latent_size < 3 and status = 'finished' and \"val/mse\" > 0")
    assert {(each.trial.config.architecture, each.trial.config.latent_size) for each in chosen.records} == {("linear", 2)}
    assert len(chosen.records) == 3
    assert len(sweep.where("").records) == 12


def test_all_sweeps_are_listed_the_newest_first(stored: Stored, reader: StoreReader) -> None:
    """Whatever their study."""
    assert [run.tags["harness.sweep"] for _, run in all_sweeps(reader)] == [
        stored.failing,
        stored.tuned,
        stored.grid,
        stored.longer,
    ]


def test_an_unknown_sweep_is_one_line_with_the_nearest(stored: Stored, reader: StoreReader) -> None:
    """Of names, identities and runs; a trial's run leads to its sweep."""
    with pytest.raises(
        UserError, match=r"unknown study, sweep or run 'tinny': studies are failing, tuned, tiny; did you mean 'tiny'\?"
    ):
        find_sweep(reader, "tinny")
    wrong = ("0" if stored.grid[5] != "0" else "1").join((stored.grid[:5], stored.grid[6:]))
    with pytest.raises(UserError, match=f"did you mean '{stored.grid}'"):
        find_sweep(reader, wrong)
    trial = stored.run_ids(stored.grid)[7]
    with pytest.raises(UserError, match=f'is the run of one trial: name its sweep {stored.grid}, with --where "trial = 7"'):
        find_sweep(reader, trial)


@pytest.mark.parametrize("word", ["", "'", "x' or tags.a = '", "a/b", "\u2028", "😀" * 300])
def test_any_word_is_found_or_one_line(word: str, reader: StoreReader) -> None:
    """Also one that would mean something in a filter."""
    with pytest.raises(UserError, match="unknown study, sweep or run"):
        find_sweep(reader, word)


def test_a_trial_is_found_by_its_run_and_nothing_else(stored: Stored, reader: StoreReader) -> None:
    """A part of an id, or one with a slip, leads to the whole; a sweep's run to one of its trials."""
    run_id = stored.run_ids(stored.grid)[3]
    assert find_trial(reader, run_id).number == 3
    for near in (run_id[:9], run_id[:8] + "_" + run_id[9:]):
        with pytest.raises(UserError, match=f"there is no run '{near}' in sqlite:.*; did you mean '{run_id}'"):
            find_trial(reader, near)
    with pytest.raises(UserError, match=r"is a whole sweep: name the run of one of its trials, such as [0-9a-f]{32}"):
        find_trial(reader, stored.grid_run)


def test_a_trial_without_a_result_is_one_line(stored: Stored, tmp_path: Path) -> None:
    """It was interrupted."""
    copy = stored.copied(tmp_path)
    run_id = copy.run_ids(copy.grid)[0]
    copy.change("UPDATE runs SET status = 'KILLED' WHERE run_uuid = ?", run_id)
    with pytest.raises(UserError, match=r"has no result \(its run is KILLED\)"):
        find_trial(open_reader(copy.uri), run_id)
