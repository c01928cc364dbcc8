"""Stores that sweeps are kept in: where they are, what else is in them, and what is wrong with them."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from harness.config import Trial
from harness.journal import Write
from harness.reader import open_reader
from harness.rules import UserError
from harness.track import MlflowTracker
from harness.tracker import Publication
from tests.tracked import CONFIG, INFO, LOGS, RESULT, begin

pytestmark = pytest.mark.usefixtures("store_here")


def test_files_lie_beside_the_store_and_plain_mlflow_finds_them(tmp_path: Path) -> None:
    """With nothing set, the fluent API in the same folder downloads what was written."""
    _, run_id = begin(tracker := MlflowTracker(None))
    tracker.finish_trial(run_id, Trial(0, CONFIG), RESULT)
    assert (tmp_path / "mlruns" / "tiny" / run_id / "artifacts" / "top.csv").read_bytes() == b"a,b\n"
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="pictures/one.bin")
    assert Path(path).read_bytes() == b"\x00\x01"


PUBLICATION = Publication(("mlflow.sharedViewState.0123", "{}"), "tiny-digits", "", "The best one")


def test_the_best_model_is_registered_once_under_an_alias(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the run's files as they are; the same sweep finished again makes no second version."""
    tracker = MlflowTracker(None)
    sweep, run_id = begin(tracker)
    tracker.finish_trial(run_id, Trial(0, CONFIG), replace(RESULT, artifacts={"model/config.json": b"{}"}))
    for _ in range(2):
        assert tracker.publish(sweep, replace(PUBLICATION, run_id=run_id)) == ()
    version = client.get_model_version_by_alias("tiny-digits", "best")
    assert (version.run_id, str(version.version), version.description) == (run_id, "1", "The best one")
    assert client.get_experiment(sweep.experiment_id).tags["mlflow.sharedViewState.0123"] == "{}"
    monkeypatch.setattr("mlflow.tracking._model_registry.utils._get_registry_uri_from_context", lambda: client.tracking_uri)
    folder = Path(mlflow.artifacts.download_artifacts("models:/tiny-digits@best"))
    assert (folder / "config.json").read_bytes() == b"{}"


def test_of_the_best_models_of_several_sweeps_the_last_has_the_alias(client: MlflowClient) -> None:
    """One that has a version already takes it from no newer one, when its sweep is finished again."""
    tracker = MlflowTracker(None)
    sweep, first = begin(tracker)
    tracker.finish_trial(first, Trial(0, CONFIG), RESULT)
    _, second = begin(tracker, number=1)
    tracker.finish_trial(second, Trial(1, CONFIG), RESULT)
    for run_id in (first, second, first):
        assert tracker.publish(sweep, replace(PUBLICATION, run_id=run_id)) == ()
    assert client.get_model_version_by_alias("tiny-digits", "best").run_id == second
    assert len(client.search_model_versions("name = 'tiny-digits'")) == 2


def test_a_store_without_a_registry_is_no_reason_to_fail(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be done is said, in a sentence each; the rest is done."""
    tracker = MlflowTracker(None)
    sweep, run_id = begin(tracker)

    def refuse(*_: Any) -> None:
        raise mlflow.MlflowException("no registry here")

    monkeypatch.setattr(MlflowClient, "create_registered_model", refuse)
    (note,) = tracker.publish(sweep, replace(PUBLICATION, run_id=run_id))
    assert note.startswith("note: the best model is not in MLflow: ")
    assert "no registry here" in note
    assert client.get_experiment(sweep.experiment_id).tags["mlflow.sharedViewState.0123"] == "{}"


def test_a_file_of_a_run_is_where_it_is_said_to_be(tmp_path: Path) -> None:
    """From this folder, where it lies below it."""
    tracker = MlflowTracker(None)
    _, run_id = begin(tracker)
    tracker.finish_trial(run_id, Trial(0, CONFIG), RESULT)
    located = tracker.locate(run_id, "top.csv")
    assert not Path(located).is_absolute()
    assert (tmp_path / located).read_bytes() == b"a,b\n"


def test_readers_do_not_block_a_writer() -> None:
    """The store is in write-ahead mode: with a reader's transaction open a trial is written at once."""
    tracker = MlflowTracker(None)
    sweep = tracker.open_sweep(INFO, fresh=False)
    reader = sqlite3.connect("mlflow.db", isolation_level=None)
    assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    reader.execute("BEGIN")
    before = reader.execute("SELECT count(*) FROM runs").fetchone()
    tracker.finish_trial(tracker.start_trial(sweep, Trial(0, CONFIG), "t", {}), Trial(0, CONFIG), RESULT)
    assert reader.execute("SELECT count(*) FROM runs").fetchone() == before
    reader.close()


def test_mlruns_and_store_of_an_environment_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``MLFLOW_TRACKING_URI`` is honoured, and the files lie beside that store."""
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "elsewhere" / "runs.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere/runs.db")
    _, run_id = begin(tracker := MlflowTracker(None))
    tracker.finish_trial(run_id, Trial(0, CONFIG), RESULT)
    assert (tmp_path / "elsewhere" / "mlruns" / "tiny" / run_id / "artifacts" / "top.csv").exists()
    assert not (tmp_path / "mlruns").exists()


def test_an_experiment_of_a_server_is_refused_in_one_sentence(client: MlflowClient) -> None:
    """Where ``mlflow ui`` made the experiment, its files can only be written by a server: the error says so."""
    client.create_experiment("tiny", artifact_location="mlflow-artifacts:/7")
    with pytest.raises(UserError, match=r"experiment 'tiny' keeps its files at mlflow-artifacts:/7, which only an MLflow server"):
        MlflowTracker(None).open_sweep(INFO, fresh=False)


def test_an_experiment_in_the_trash_is_said_to_be_there(client: MlflowClient) -> None:
    """The error names the command that restores it."""
    client.delete_experiment(client.create_experiment("tiny"))
    with pytest.raises(UserError, match="mlflow experiments restore -x"):
        MlflowTracker(None).open_sweep(INFO, fresh=False)


def test_a_store_that_was_moved_is_refused(tmp_path: Path) -> None:
    """The files' place is fixed in the store: when the folder has moved, one line says so, and the old folder stays away."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    shutil.copy(tmp_path / "mlflow.db", old)
    begin(tracker := MlflowTracker(f"sqlite:///{old}/mlflow.db"))
    assert tracker.open_sweep(INFO).notes == ()
    old.rename(new)
    with pytest.raises(UserError, match="there is no such folder: move it back"):
        MlflowTracker(f"sqlite:///{new}/mlflow.db").open_sweep(INFO)
    assert not old.exists()


def test_a_store_that_was_copied_is_pointed_out(tmp_path: Path) -> None:
    """Where the old folder is still there the files go there, and the user is told."""
    (tmp_path / "old").mkdir()
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "old")
    begin(MlflowTracker(f"sqlite:///{tmp_path}/old/mlflow.db"))
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    (note,) = MlflowTracker(f"sqlite:///{tmp_path}/new/mlflow.db").open_sweep(INFO).notes
    assert f"keeps its files at file://{tmp_path}/old/mlruns/tiny" in note


def test_a_store_that_breaks_during_a_sweep_is_named(tmp_path: Path) -> None:
    """Whatever MLflow raises becomes one line with the store and the cause."""
    _, run_id = begin(tracker := MlflowTracker(None))
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    connection.execute("DROP TABLE metrics")
    connection.commit()
    connection.close()
    with pytest.raises(UserError, match=r"the tracking store sqlite:///mlflow\.db cannot be used: .*no such table"):
        tracker.log_epochs(run_id, LOGS)


def _open_store(folder: str) -> int:
    return len(
        MlflowTracker(f"sqlite:///{folder}/mlflow.db").open_sweep(replace(INFO, study=f"s{Path.cwd()}"), fresh=True).run_id
    )


@pytest.mark.slow
def test_several_processes_may_start_on_a_missing_store(tmp_path: Path) -> None:
    """Three at once, and all three write: the tables are made once, under a lock."""
    (tmp_path / "mlflow.db").unlink()
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(_open_store, [str(tmp_path)] * 3) == [32, 32, 32]


@pytest.mark.slow
def test_a_store_from_an_empty_one_that_was_kept_is_as_mlflow_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tables, and its own first experiment; one that is damaged is made anew, and one that cannot be kept is not missed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = tmp_path / "cache" / "harness" / "stores" / f"mlflow-{mlflow.__version__}.db"
    made: dict[str, Any] = {}
    for name in ("first", "from the first", "from a damaged one", "kept nowhere"):
        if name == "from a damaged one":
            kept.write_bytes(kept.read_bytes()[:2048])
        if name == "kept nowhere":
            (tmp_path / "file").touch()
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        before = kept.stat().st_ino if kept.exists() else None
        client = MlflowTracker(f"sqlite:///{folder}/mlflow.db")._client
        (experiment,) = client.search_experiments()
        assert (experiment.name, experiment.artifact_location) == ("Default", str(folder / "mlruns" / "0"))
        with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
            tables = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
            own = [table for kind, table, _ in tables if kind == "table"]
            counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in own]  # noqa: S608
        # MLflow writes the lines of a table in one order today and in another tomorrow.
        made[name] = [(*names, sorted((sql or "").replace(",", "").splitlines())) for *names, sql in tables], counts
        assert (kept.stat().st_ino == before) == (name in ("from the first", "kept nowhere"))
    for each in made.values():
        assert each == made["first"]
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_where_a_run_has_its_files_is_asked_at_most_once(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that was begun here never; of all trials of a sweep that is read, not once more than their numbers."""
    sweep, run_id = begin(tracker := MlflowTracker(None))
    asked: list[str] = []
    plain = MlflowClient.get_run

    def get_run(self: MlflowClient, run_id: str) -> Any:
        asked.append(run_id)
        return plain(self, run_id)

    monkeypatch.setattr(MlflowClient, "get_run", get_run)
    tracker.finish_trial(run_id, Trial(0, CONFIG), RESULT)
    assert tracker.read_file(run_id, "top.csv") == b"a,b\n"
    assert asked == []
    another = MlflowTracker(None)
    assert [another.read_file(run_id, path) for path in ("top.csv", "pictures/one.bin")] == [b"a,b\n", b"\x00\x01"]
    assert asked == [run_id]
    reader = open_reader(None)
    (parent,) = reader.sweeps(INFO.study, INFO.identity)
    assert parent.run_id == sweep.run_id
    assert [reader.read_file(trial.run_id, "top.csv") for trial in reader.trials(parent)] == [b"a,b\n"]
    assert asked == [run_id]


@pytest.mark.parametrize("count", [1, 996, 997, 2400])
def test_numbers_params_and_tags_of_any_amount_are_all_written(count: int, client: MlflowClient) -> None:
    """MLflow takes a thousand at a time: with four params and tags 996 numbers, the rest after them."""
    _, run_id = begin(tracker := MlflowTracker(None))
    points = [("m", step / 3, 1000 + step, step) for step in range(count)]
    content = {"metrics": points, "params": {"p": "1", "q": "2"}, "tags": {"t": "3", "u": "4"}}
    tracker._runs.write(Write("batch", run_id, content))
    written = [(each.key, each.value, each.timestamp, each.step) for each in client.get_metric_history(run_id, "m")]
    assert written == points
    data = client.get_run(run_id).data
    assert {"p": "1", "q": "2"}.items() <= data.params.items()
    assert {"t": "3", "u": "4"}.items() <= data.tags.items()
