"""Sweeps that search: rounds, pruning, confirmation, and the end of what there is to propose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.config import STAGE_METRICS, TrialConfig
from harness.options import Request
from harness.plan import make_plan
from harness.sweep import run_sweep
from harness.tracker import NullTracker
from tests.support import TINY, make_study_file
from tests.sweeping import INLINE, InterruptedTracker, QuietDisplay, numbers, run, searching_plan

pytestmark = pytest.mark.usefixtures("quickly_reported")


def _search_space(trial: Any) -> TrialConfig:
    return replace(
        TINY, latent_size=trial.suggest_int("latent_size", 1, 9), architecture=trial.suggest_categorical("a", ["linear"])
    )


def test_a_search_runs_in_rounds_and_resumes(tmp_path: Path) -> None:
    """A sampler's study trains what it proposes; cut off within a round it goes on with the same proposals and numbers."""
    changes = {"grid": {}, "sampler": "tpe", "trials": 6, "round_size": 4, "objectives": ("reconstruction_loss",)}
    file = replace(make_study_file(tmp_path, **changes), search_space=_search_space)
    plan = make_plan(file, Request(device="cpu"))
    whole = run(plan)
    tracker = InterruptedTracker(2, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run(plan, tracker=tracker)
    resumed = run(plan, tracker=tracker)
    assert resumed.kept == 2
    assert resumed.summary.finished == 6
    assert numbers(resumed) == numbers(whole)


@pytest.mark.parametrize("trainer", ["stacked", "plain"])
def test_a_pruner_ends_hopeless_trials_early(tmp_path: Path, trainer: str) -> None:
    """After a third or two of their epochs; the others have the numbers that they have without one."""
    pruned_plan = searching_plan(tmp_path, pruner="median")
    pruned_plan = replace(pruned_plan, placement=replace(pruned_plan.placement, trainer=trainer))
    tracker = NullTracker()
    outcome = run(pruned_plan, tracker=tracker)
    records = {number: each for number, each in tracker.sweeps[pruned_plan.identity].records.items() if each.status == "pruned"}
    assert outcome.summary.pruned == len(records) > 0
    assert outcome.summary.finished == 12 - len(records)
    assert min(records) >= 6
    for record in records.values():
        epochs = [log.epoch for log in tracker.epochs[record.run_id]]
        assert epochs == list(range(1, len(epochs) + 1))
        assert len(epochs) in (2, 4)
        assert f"pruned after {len(epochs)} of 6 epochs" in record.reason
        assert (record.run_id, "curves/training.csv") in tracker.files
        assert tracker.epochs[record.run_id][1].val_mse == record.metrics[STAGE_METRICS[0]]
    if trainer == "plain":  # in a stack the last bits depend on how many others there are
        whole = numbers(run(replace(searching_plan(tmp_path), placement=pruned_plan.placement)))
        for config, metrics in numbers(outcome).items():
            assert {name: value for name, value in metrics.items() if name not in STAGE_METRICS} == whole[config]


@pytest.mark.parametrize("cut", [1, 8])
def test_a_search_with_a_pruner_and_a_confirmation_resumes_with_the_same_numbers(tmp_path: Path, cut: int) -> None:
    """Cut off after any number of trials it proposes, gives up and confirms what an uninterrupted one does."""
    changes = {"sampler": "tpe", "pruner": "median", "confirm": 2, "confirm_seeds": 2}
    plan = searching_plan(tmp_path, **changes)
    undisturbed, tracker = NullTracker(), InterruptedTracker(cut, KeyboardInterrupt)
    whole = run(plan, tracker=undisturbed)
    with pytest.raises(KeyboardInterrupt):
        run(plan, tracker=tracker)
    resumed = run(plan, tracker=tracker)
    assert numbers(resumed) == numbers(whole)
    assert resumed.summary.total == whole.summary.total == 12 + 4
    ends = [
        {number: each.status for number, each in kept.sweeps[plan.identity].records.items()} for kept in (tracker, undisturbed)
    ]
    assert ends[0] == ends[1]
    assert run(plan, tracker=tracker).was_finished


def test_the_best_trials_of_a_search_come_again_from_fresh_seeds(tmp_path: Path) -> None:
    """In rows of their own, with intervals; a longer search keeps those that it confirms again, and the bar shows them."""
    tracker, display = NullTracker(), QuietDisplay()
    plan = searching_plan(tmp_path, confirm=2, confirm_seeds=3)
    outcome = run_sweep(plan, INLINE, tracker, display)
    assert display.done == pytest.approx(display.units)
    singles, again = ([row for row in outcome.summary.rows if len(row.trials) == count] for count in (1, 3))
    assert (len(singles), len(again)) == (12, 2)
    best = sorted(row.metrics["val/mse"].mean for row in singles)[:2]
    confirmed = [next(s for s in singles if s.point["learning_rate"] == row.point["learning_rate"]) for row in again]
    assert sorted(row.metrics["val/mse"].mean for row in confirmed) == best
    assert all(record.trial.config.seed > 0 for row in again for record in row.trials)
    longer = replace(plan, study=replace(plan.study, trials=14))
    assert run(longer, tracker=tracker).kept == 12 + 6


def test_a_search_whose_space_is_exhausted_says_so(tmp_path: Path) -> None:
    """It ends with what there was; the same command does nothing more, and says it again."""
    file = make_study_file(tmp_path, grid={}, sampler="random", trials=9, round_size=4)

    def space(trial: Any) -> TrialConfig:
        return replace(TINY, architecture="linear", latent_size=trial.suggest_int("latent_size", 1, 3))

    plan, tracker, display = make_plan(replace(file, search_space=space), Request(device="cpu")), NullTracker(), QuietDisplay()
    outcome = run_sweep(plan, INLINE, tracker, display)
    assert sorted(config.latent_size for config in numbers(outcome)) == [1, 2, 3]
    again = QuietDisplay()
    assert run_sweep(plan, INLINE, tracker, again).was_finished
    for notes in (display.notes, again.notes):
        assert [note for note in notes if "ended SHORT, with 3 of 9 trials" in note] == notes[-1:]
