"""A sweep as an Optuna study: in memory for any of its plots, and in a storage for its dashboard."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from harness import compare
from harness.config import StudyConfig
from harness.rules import UserError
from tests.stored import Stored, many_trials, one_line


@pytest.fixture(autouse=True)
def _store(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store with real sweeps is the one of the environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stored.uri)


def test_a_grid_is_a_study_of_its_axes(stored: Stored) -> None:
    """Each trial with what was varied, the metrics asked for, its run and its times; the best one is the best."""
    study, frame = compare.optuna_study("tiny", ["reconstruction_loss"]), compare.load("tiny").set_index("trial")
    assert study.metric_names == ["reconstruction_loss"]
    assert [trial.number for trial in study.trials] == list(range(12))
    for trial in study.trials:
        row = frame.loc[trial.number]
        assert trial.params == {"architecture": row["architecture"], "latent_size": row["latent_size"], "seed": row["seed"]}
        assert trial.value == row["reconstruction_loss"]
        assert trial.user_attrs["run_id"] == row["run_id"]
        assert trial.user_attrs["transfer_accuracy"] == row["transfer_accuracy"]
        assert trial.duration is not None
        assert trial.duration.total_seconds() > 0
    assert study.best_trial.number == frame["reconstruction_loss"].idxmin()
    assert set(optuna.importance.get_param_importances(study)) == {"architecture", "latent_size", "seed"}


def test_a_search_is_the_study_that_it_was(stored: Stored) -> None:
    """What the sampler proposed, in its own ranges, for the objectives that it had; without what only confirms the best."""
    study, frame = compare.optuna_study("tuned"), compare.load("tuned").set_index("trial")
    assert study.metric_names == ["val/mse", "transfer_accuracy"]
    assert [way.name for way in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    for trial in study.trials:
        row = frame.loc[trial.number]
        assert trial.params == {"latent_size": row["latent_size"], "learning_rate": row["learning_rate"]}
        assert trial.values == [row["val/mse"], row["transfer_accuracy"]]
        assert trial.distributions["learning_rate"] == optuna.distributions.FloatDistribution(1e-3, 1e-2, log=True)
    assert study.best_trials
    assert len(study.trials) == 4 < len(frame)
    with pytest.raises(UserError, match="all of these trials confirm others"):
        compare.optuna_study("tuned", where="trial >= 1000000")


def test_failed_trials_are_failed_ones() -> None:
    """With the reason."""
    finished, failed = compare.optuna_study("failing").trials
    assert (finished.state, failed.state) == (TrialState.COMPLETE, TrialState.FAIL)
    assert "in epoch" in failed.user_attrs["reason"]


def test_without_a_word_of_the_sweep_the_objective_is_that_of_studies(stored: Stored, tmp_path: Path) -> None:
    """Of a sweep that has not ended, for one."""
    copy = stored.copied(tmp_path)
    copy.change("DELETE FROM tags WHERE key = 'harness.about' AND run_uuid = ?", stored.grid_run)
    default = StudyConfig(question="?", grid={"latent_size": (2,)}).objectives
    assert compare.optuna_study("tiny", tracking_uri=copy.uri).metric_names == list(default)


def test_a_storage_gets_each_trial_once(stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written again it is as it was; with more trials it gets those; several sweeps are several studies."""
    words, address = ["tiny", "--metric", "reconstruction_loss", "--optuna-storage"], "sqlite:///optuna.db"
    assert compare.main([*words, address]) == 0
    assert "12 of its 12 trials written now" in capsys.readouterr().out
    assert compare.main([*words, address]) == 0
    assert "0 of its 12 trials written now" in capsys.readouterr().out
    more = many_trials(stored, tmp_path, 15)
    assert compare.main([*words, address, "--tracking-uri", more.uri]) == 0
    assert "3 of its 15 trials written now" in capsys.readouterr().out
    study = optuna.load_study(study_name=f"tiny-{stored.grid}", storage=address)
    assert (len(study.trials), study.metric_names) == (15, ["reconstruction_loss"])
    first = compare.optuna_study("tiny", ["reconstruction_loss"]).trials[0]
    assert (study.trials[0].params, study.trials[0].value, study.trials[0].user_attrs) == (
        first.params,
        first.value,
        first.user_attrs,
    )
    capsys.readouterr()
    assert compare.main(["tuned", stored.longer, "--optuna-storage", address]) == 0
    assert "4 of its 4 trials written now" in capsys.readouterr().out
    assert len(optuna.get_all_study_names(address)) == 3


def test_a_storage_with_other_objectives_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """And is left as it was."""
    assert compare.main(["tiny", "--optuna-storage", "sqlite:///optuna.db"]) == 0
    assert compare.main(["tiny", "--metric", "transfer_accuracy", "--optuna-storage", "sqlite:///optuna.db"]) == 2
    assert "has the objectives val/mse: name the same with --metric" in one_line(capsys.readouterr().err)


def test_mlflows_own_file_is_refused(stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Optuna's tables in it would break it."""
    copy = stored.copied(tmp_path)
    assert compare.main(["tiny", "--optuna-storage", copy.uri]) == 2
    assert "is a store of MLflow's: give Optuna one of its own" in one_line(capsys.readouterr().err)
    with sqlite3.connect(copy.database) as connection:
        assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'studies'").fetchall()
    connection.close()


def test_a_password_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither where all is well nor in an error."""
    assert compare.main(["tiny", "--optuna-storage", "postgresql://me:secret@127.0.0.1:9/nothing"]) == 2
    err = one_line(capsys.readouterr().err)
    assert "secret" not in err
    assert "--optuna-storage postgresql://me:***@127.0.0.1:9/nothing cannot be used" in err


def test_an_objective_without_direction_is_refused() -> None:
    """With those that have one."""
    with pytest.raises(UserError, match="unknown objective 'floor/pca_mse': allowed are"):
        compare.optuna_study("tiny", ["floor/pca_mse"])
