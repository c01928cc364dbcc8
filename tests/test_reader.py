"""What is read back from a store: the same from the file as through MLflow."""

from __future__ import annotations

import gc
import math
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from harness.config import Trial, TrialRecord, TrialResult
from harness.reader import StoredRun, StoreReader, open_reader, read_children
from harness.rules import UserError
from harness.track import MlflowTracker
from tests.tracked import CONFIG, INFO, LOGS, RESULT, begin

FAILED = TrialResult(CONFIG, "failed", reason="no memory")


pytestmark = pytest.mark.usefixtures("store_here")


@pytest.fixture(params=["file", "mlflow"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreReader]:
    """Each way of reading."""
    if request.param == "mlflow":
        monkeypatch.setattr("harness.reader.read_children", lambda *arguments: None)
    return open_reader(None)


def test_a_sweep_is_found_and_read_with_its_trials(reader: StoreReader) -> None:
    """By study and by identity, newest first; ended trials in the order of their numbers, with records, tags, times and files."""
    tracker = MlflowTracker(None)
    sweep, second = begin(tracker, number=1)
    first = tracker.start_trial(sweep, Trial(0, CONFIG, '{"a": 1}'), "trial 0", {})
    tracker.start_trial(sweep, Trial(2, CONFIG), "cut off", {})
    tracker.log_epochs(second, [replace(LOGS[0], val_mse=RESULT.metrics["val/mse"])])
    written = tracker.finish_trial(second, Trial(1, CONFIG), RESULT)
    tracker.finish_trial(first, Trial(0, CONFIG, '{"a": 1}'), FAILED)
    fresh = tracker.open_sweep(INFO, fresh=True)
    other = tracker.open_sweep(replace(INFO, identity="another"))
    assert {run.run_id for run in reader.sweeps("tiny")} == {sweep.run_id, fresh.run_id, other.run_id}
    newest, parent = reader.sweeps("tiny", INFO.identity)
    assert (newest.run_id, parent.run_id, parent.name) == (fresh.run_id, sweep.run_id, INFO.title)
    assert reader.newest_sweep(parent.experiment_id, INFO.identity) == newest
    failed, finished = reader.trials(parent)
    assert failed.record == TrialRecord(first, Trial(0, CONFIG, '{"a": 1}'), "failed", reason="no memory")
    assert replace(finished.record, metrics={}) == replace(written, metrics={})
    assert written.metrics.items() <= finished.record.metrics.items()
    assert (finished.name, finished.tags["harness.group"]) == ("trial 1", "0-0")
    assert finished.ended is not None
    assert parent.began <= finished.began <= finished.ended
    assert reader.read_file(second, "top.csv") == b"a,b\n"
    assert len(reader.children(parent)) == 3
    assert reader.trials(newest) == []


def test_a_study_without_sweeps_has_none(reader: StoreReader) -> None:
    """Nor has one of which the store has never heard."""
    MlflowTracker(None).open_sweep(INFO)
    assert reader.sweeps("tiny", "another") == []
    assert reader.sweeps("never") == []


def test_a_run_that_somebody_put_below_a_sweep_is_no_trial(reader: StoreReader, client: MlflowClient) -> None:
    """It is neither read nor cleared away when the sweep goes on."""
    sweep, _ = begin(MlflowTracker(None))
    own = client.create_run(sweep.experiment_id, tags={"mlflow.parentRunId": sweep.run_id}).info.run_id
    (parent,) = reader.sweeps("tiny")
    assert [run.number for run in reader.children(parent)] == [0]
    MlflowTracker(None).open_sweep(INFO)
    assert client.get_run(own).info.lifecycle_stage == "active"


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """Who reads gets one line and an empty folder stays empty."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"there is no tracking store sqlite:///empty/mlflow\.db: go to the folder that has it"):
        open_reader("sqlite:///empty/mlflow.db")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_file_that_a_run_lacks_is_one_line() -> None:
    """The error names the store."""
    _, run_id = begin(MlflowTracker(None))
    with pytest.raises(UserError, match=r"the tracking store sqlite:///mlflow\.db cannot be used: .*nothing\.csv"):
        open_reader(None).read_file(run_id, "nothing.csv")


def test_more_trials_than_a_page_are_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """With pages of two, five trials come back."""
    monkeypatch.setattr("harness.reader.read_children", lambda *arguments: None)
    monkeypatch.setattr("harness.reader.RUNS_A_PAGE", 2)
    tracker = MlflowTracker(None)
    sweep = tracker.open_sweep(INFO, fresh=False)
    for number in range(5):
        trial = Trial(number, CONFIG)
        tracker.finish_trial(tracker.start_trial(sweep, trial, "t", {}), trial, TrialResult(CONFIG, "finished", {"val/mse": 0.1}))
    assert tracker.open_sweep(INFO, fresh=False).records.keys() == set(range(5))


def test_ended_trials_are_all_found_while_cut_off_ones_are_cleared_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of three, six ended trials and two that were cut off: deleting those loses none of the others."""
    monkeypatch.setattr("harness.reader.read_children", lambda *arguments: None)
    monkeypatch.setattr("harness.reader.RUNS_A_PAGE", 3)
    tracker = MlflowTracker(None)
    sweep = tracker.open_sweep(INFO)
    for number in range(8):
        run_id = tracker.start_trial(sweep, Trial(number, CONFIG), "t", {})
        if number not in (4, 7):
            tracker.finish_trial(run_id, Trial(number, CONFIG), TrialResult(CONFIG, "finished", {"val/mse": 0.1}))
    reopened = tracker.open_sweep(INFO)
    assert reopened.records.keys() == {0, 1, 2, 3, 5, 6}
    assert reopened.attempts == {4: 1, 7: 1}


def test_a_sweep_read_from_the_file_is_what_mlflow_reads(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished, failed, running and deleted runs, those of another sweep, and numbers of others that are not finite."""
    tracker = MlflowTracker(None)
    sweep, finished = begin(tracker)
    tracker.log_epochs(finished, LOGS)
    tracker.finish_trial(finished, Trial(0, CONFIG), RESULT)
    client.log_metric(finished, "added/nan", math.nan)
    failed, running, deleted = (tracker.start_trial(sweep, Trial(number, CONFIG, '{"a": 1}'), "t", {}) for number in (1, 2, 3))
    tracker.finish_trial(failed, Trial(1, CONFIG, '{"a": 1}'), TrialResult(CONFIG, "failed", reason="no memory"))
    client.delete_run(deleted)
    other = tracker.open_sweep(INFO, fresh=True)
    tracker.start_trial(other, Trial(0, CONFIG), "t", {})
    reader = open_reader(None)
    parent = next(run for run in reader.sweeps("tiny") if run.run_id == sweep.run_id)
    read = reader.children(parent)
    monkeypatch.setattr("harness.reader.read_children", lambda *arguments: None)
    asked = reader.children(parent)
    assert {run.run_id for run in read} == {finished, failed, running}
    for run, same in zip(sorted(read, key=by_id), sorted(asked, key=by_id), strict=True):
        finite = {name: value for name, value in same.metrics.items() if name != "added/nan"}
        assert run == replace(same, metrics=finite)
        assert not run.has_ended or run.record == same.record


def by_id(run: StoredRun) -> str:
    """For sorting."""
    return run.run_id


def test_garbage_is_collected_again_after_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only while MLflow reads is it left, also where reading fails, and it stays off where it was off."""
    reader, seen = open_reader(None), []
    monkeypatch.setattr(
        "mlflow.tracking.MlflowClient.search_runs", lambda *arguments, **named: seen.append(gc.isenabled()) or 1 / 0
    )
    with pytest.raises(UserError, match="division by zero"):
        reader.newest_sweep("1", "0")
    assert (seen, gc.isenabled()) == ([False], True)
    gc.disable()
    try:
        with pytest.raises(UserError, match="division by zero"):
            reader.newest_sweep("1", "0")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_children_are_read_from_a_file_with_known_tables_only(tmp_path: Path, empty_store: Path) -> None:
    """Of any other store there is nothing to say: MLflow is asked then."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    assert read_children(f"sqlite:///{tmp_path}/mlflow.db", "0") == []
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("ALTER TABLE latest_metrics RENAME COLUMN is_nan TO is_not")
    connection.close()
    (tmp_path / "words.db").write_text("no database at all, but some words that are longer than a hundred characters" * 3)
    for uri in (
        "http://127.0.0.1:1",
        f"sqlite:///{tmp_path}/missing.db",
        f"sqlite:///{tmp_path}/mlflow.db",
        f"sqlite:///{tmp_path}/words.db",
    ):
        assert read_children(uri, "0") is None
    assert not (tmp_path / "missing.db").exists()
