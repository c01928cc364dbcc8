"""A grid as an Optuna study: every point is a trial of it."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState

from harness.config import StudyConfig
from harness.plan import grid_trials
from harness.search import GridSearch
from tests.searching import pretend
from tests.support import TINY


def test_every_point_of_a_grid_is_a_trial_of_the_optuna_study() -> None:
    """Numbers, parameters, values and failures agree between the table and Optuna, for a part that had ended before too."""
    study = StudyConfig(question="?", base=TINY, grid={"architecture": ("base", "linear"), "latent_size": (2, 5, 7)}, seeds=3)
    trials = grid_trials(study)
    ended = {number: pretend(trials[number]) for number in (0, 3, 8, 17)}
    search = GridSearch(study, ["down"], trials, ended)
    todo = [trial for trial in search.next_round() if trial.number not in ended]
    assert len(todo) == 14
    for trial in reversed(todo):
        search.tell(pretend(trial))
    assert search.next_round() == []
    assert len(search.study.trials) == 18
    for trial, known in zip(trials, search.study.trials, strict=True):
        config, record = trial.config, pretend(trial)
        assert known.params == {"architecture": config.architecture, "latent_size": config.latent_size, "seed": config.seed}
        assert known.state == (TrialState.FAIL if record.status == "failed" else TrialState.COMPLETE)
        assert known.values == (None if record.status == "failed" else [record.metrics["val/mse"]])
    assert isinstance(optuna.importance.get_param_importances(search.study), dict)


def test_a_point_of_a_grid_that_is_under_way_is_a_running_trial_of_the_study() -> None:
    """Optuna knows of it from the beginning, with its axes; one that had ended before keeps its state and its values."""
    study = StudyConfig(question="?", base=TINY, grid={"latent_size": (2, 5, 7)}, seeds=3)
    trials = grid_trials(study)
    search = GridSearch(study, ["down"], trials, {number: pretend(trials[number]) for number in (1, 8)})
    search.next_round()
    known = search.study.trials
    assert [trial.number for trial in known] == list(range(9))
    assert [trial.state.name for trial in known] == ["RUNNING", "COMPLETE", *["RUNNING"] * 6, "FAIL"]
    assert known[0].distributions["latent_size"] == optuna.distributions.CategoricalDistribution((2, 5, 7))
    assert all((trial.datetime_complete is not None) == trial.state.is_finished() for trial in known)
    search.tell(pretend(trials[0]))
    assert search.study.best_trial.number == min((0, 1), key=lambda number: pretend(trials[number]).metrics["val/mse"])


def test_a_grid_can_be_copied_to_another_storage() -> None:
    """Whatever storage a study is copied to for looking at it takes every trial as it is."""
    study = StudyConfig(question="?", base=TINY, grid={"latent_size": (2, 5)}, seeds=2)
    search = GridSearch(study, ["down"], grid_trials(study), {})
    for trial in search.next_round():
        search.tell(pretend(trial))
    copy = optuna.create_study(study_name="copy", storage="sqlite:///optuna.db")
    copy.add_trials(search.study.trials)
    assert [(trial.params, trial.values) for trial in copy.trials] == [
        (trial.params, trial.values) for trial in search.study.trials
    ]


def test_a_grid_that_has_ended_gives_no_round() -> None:
    """There is nothing left to train."""
    study = StudyConfig(question="?", base=TINY, grid={"latent_size": (2, 5)}, seeds=1)
    trials = grid_trials(study)
    assert GridSearch(study, ["down"], trials, {trial.number: pretend(trial) for trial in trials}).next_round() == []
