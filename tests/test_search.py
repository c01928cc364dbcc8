"""Grids and samplers: every trial an Optuna trial, and a resumed sweep proposes what an uninterrupted one would have."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from harness.config import TrialRecord
from harness.rules import UserError
from harness.samplers import SAMPLERS, check_sampler
from tests.searching import open_search, pretend, run, sampler_study


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("cut", [1, 8, 11])
def test_a_resumed_search_proposes_what_an_uninterrupted_one_would_have(sampler: str, cut: int) -> None:
    """Cut off after any number of trials, within a round or between two, every sampler goes on the same way."""
    study = sampler_study(sampler)
    whole = {record.trial.number: record for record in run(open_search(study, {}), {})}
    some = dict(list(whole.items())[:cut])
    resumed = dict(some)
    list(run(open_search(study, dict(some)), resumed))
    assert {number: record.trial.config for number, record in resumed.items()} == {
        number: record.trial.config for number, record in whole.items()
    }
    assert len(resumed) == 14


@pytest.mark.parametrize("sampler", [name for name, sampler in SAMPLERS.items() if sampler.several_objectives])
def test_samplers_take_several_objectives_where_they_say_so(sampler: str) -> None:
    """Two objectives in opposite directions, and Optuna holds a value for each of every finished trial."""
    study = sampler_study(sampler, ("val/mse", "transfer_accuracy"), trials=10)
    search = open_search(study, {})
    check_sampler(study)
    list(run(search, {}))
    search.next_round()
    assert [way.name for way in search.study.directions] == ["MINIMIZE", "MAXIMIZE"]
    complete = [trial for trial in search.study.trials if trial.state == TrialState.COMPLETE]
    assert all(len(trial.values) == 2 for trial in complete)
    assert len(complete) == 9


def test_a_sampler_for_one_objective_refuses_several() -> None:
    """The error names the samplers that take several."""
    with pytest.raises(UserError, match=r"'cmaes' takes one objective and the study has 2: use one of random, tpe"):
        check_sampler(sampler_study("cmaes", ("val/mse", "transfer_accuracy")))


def test_an_unknown_sampler_is_named_with_the_nearest() -> None:
    """One line with the allowed ones."""
    with pytest.raises(UserError, match=r"unknown sampler 'tpee': allowed are .*did you mean 'tpe'"):
        check_sampler(sampler_study("tpee"))


def test_a_model_based_sampler_learns_of_results_and_of_failures() -> None:
    """After all rounds Optuna holds every value and every failure, in the order of the numbers; a failure has no value.

    To the sampler it is a trial that was stopped; in the study that is shown it has failed.
    """
    search, ended = open_search(sampler_study("tpe", trials=18), {}), dict[int, TrialRecord]()
    list(run(search, ended))
    for study, state in ((search._asked, TrialState.PRUNED), (search.study, TrialState.FAIL)):
        assert len(study.trials) == 18
        for trial in study.trials:
            record = ended[trial.number]
            assert trial.state == (state if record.status == "failed" else TrialState.COMPLETE)
            assert trial.values == (None if record.status == "failed" else [record.metrics["val/mse"]])


def test_what_stands_in_for_the_value_of_a_failed_trial_is_seen_by_the_sampler_only() -> None:
    """It is the mean of the others, in a trial that violates a constraint; the study that is shown has neither."""
    search, ended = open_search(sampler_study("gp", trials=12), {}), dict[int, TrialRecord]()
    list(run(search, ended))
    search._mark_failures(12)
    values = [record.metrics["val/mse"] for number, record in ended.items() if number != 8]
    told, shown = search._asked.trials[8], search.study.trials[8]
    assert (told.state, told.constraints) == (TrialState.COMPLETE, {"failed": 1.0})
    assert told.value == pytest.approx(sum(values) / len(values))
    assert (shown.state, shown.values, shown.constraints) == (TrialState.FAIL, None, {})
    assert search._asked.best_trial.constraints == {"failed": -1.0}


def failures_at_the_end(sampler: str, objectives: tuple[str, ...] = ("val/mse",)) -> int:
    """Of the last 12 of 28 trials, in a search where all that looks best cannot be trained."""
    study = sampler_study(sampler, objectives, trials=28)
    search, ended = open_search(study, {}), dict[int, TrialRecord]()
    while trials := search.next_round():
        for trial in trials:
            rate = trial.config.learning_rate
            metrics = {"val/mse": -math.log(rate), "transfer_accuracy": rate}
            ended[trial.number] = TrialRecord("run", trial, "failed" if rate > 3e-3 else "finished", metrics)
            search.tell(ended[trial.number])
    return sum(ended[number].status == "failed" for number in range(16, 28))


@pytest.mark.slow
@pytest.mark.parametrize("objectives", [("val/mse",), ("val/mse", "transfer_accuracy")])
@pytest.mark.parametrize("sampler", [name for name, sampler in SAMPLERS.items() if sampler.failures != "left out"])
def test_a_model_keeps_away_from_where_trials_fail(
    sampler: str, objectives: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It proposes far fewer that fail than it would if their failures were left out."""
    found = failures_at_the_end(sampler, objectives)
    monkeypatch.setitem(SAMPLERS, sampler, replace(SAMPLERS[sampler], failures="left out"))
    assert found < failures_at_the_end(sampler, objectives) / 2


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_search_in_which_all_fails_goes_on_to_its_end(sampler: str) -> None:
    """There is nothing to learn but that."""
    search, asked = open_search(sampler_study(sampler, trials=24), {}), 0
    while trials := search.next_round():
        for trial in trials:
            search.tell(TrialRecord("run", trial, "failed"))
        asked += len(trials)
    assert asked == 24


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_failed_trial_that_finishes_in_a_later_attempt_changes_no_other_proposal(sampler: str) -> None:
    """The others were proposed in the knowledge that it failed: the search goes on from that."""
    whole = {record.trial.number: record for record in run(open_search(sampler_study(sampler, trials=14), {}), {})}
    ended = {number: record for number, record in whole.items() if record.status == "finished"}
    assert len(ended) == 13
    search = open_search(sampler_study(sampler, trials=14), dict(ended))
    while trials := search.next_round():
        for trial in (trial for trial in trials if trial.number not in ended):
            ended[trial.number] = replace(pretend(trial), status="finished", failed_before=True)
            search.tell(ended[trial.number])
    assert {number: record.trial for number, record in ended.items()} == {n: record.trial for n, record in whole.items()}
    longer = open_search(sampler_study(sampler, trials=18), ended)
    assert [trial.number for trial in longer.next_round() if trial.number not in ended] == [*range(14, 16)]
